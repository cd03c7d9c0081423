package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"branchpoint/appliance"
	"branchpoint/appliance/image"
	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) applianceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "appliance",
		Short: "Run as the appliance (in branchpoint.img), or make the image of a site",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getppid() != 1 {
				return usagef("appliance: this runs in branchpoint.img only, started by its init; to make an image for a site: branchpoint appliance image --site CODE")
			}
			return appliance.Run(cmd.Context(), appliance.Options{
				Version: version, Consoles: consoles(), Log: slog.New(slog.NewTextHandler(appliance.OpenLog(), nil)), Now: a.now,
			})
		},
	}
	cmd.AddCommand(a.applianceImageCommand())
	return cmd
}

// consoles are the terminals of the appliance: the screen, and a serial line where there is one.
func consoles() []screen.Console {
	var out []screen.Console
	for _, c := range []struct {
		name   string
		redraw bool
	}{{"tty1", true}, {"ttyS0", false}} {
		if f, err := os.OpenFile("/dev/"+c.name, os.O_RDWR, 0); err == nil {
			out = append(out, screen.Console{Name: c.name, ReadWriter: f, Redraw: c.redraw})
		}
	}
	return out
}

func (a *app) applianceImageCommand() *cobra.Command {
	var site, address, source, output, network string
	var valid time.Duration
	cmd := &cobra.Command{
		Use:     "image --site CODE --image branchpoint.img --output FILE",
		Short:   "Make the appliance's file for a site, with an enrolment token inside",
		Example: "  branchpoint appliance image --site LON --central central.example:8443 --image branchpoint.img --output lon.img",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if site == "" || output == "" {
				return usagef("appliance image: --site and --output are needed")
			}
			f, err := client.ReadAdminFile(a.adminPath())
			if err != nil {
				return err
			}
			if address == "" {
				address = f.Address
			}
			var networkYAML []byte
			if network != "" {
				if networkYAML, err = os.ReadFile(network); err != nil {
					return provisioning.Errorf(provisioning.CodeNotFound, "", "read the network settings: %w", err)
				}
			}
			if err := copyImage(source, output); err != nil {
				return err
			}
			c, err := client.NewAdmin(f, a.now)
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), site, valid, false)
			if err != nil {
				os.Remove(output)
				return err
			}
			text := siteYAML(t, address) + networkSection(networkYAML)
			if _, ps := provisioning.DecodeAppliance(provisioning.File{Name: "site.yaml", Text: []byte(text)}); len(ps) > 0 {
				os.Remove(output)
				return ps
			}
			if err := image.Personalise(cmd.Context(), output, []byte(text)); err != nil {
				os.Remove(output)
				return fmt.Errorf("write site.yaml into %s: %w", output, err)
			}
			fmt.Fprintf(a.stdout, "wrote %s: the appliance of site %s; its token is good once, until %s\n", output, t.Site, t.ExpiresAt.Local().Format(time.DateTime))
			return nil
		},
	}
	cmd.Flags().StringVar(&site, "site", "", "site `CODE`")
	cmd.Flags().StringVar(&address, "central", "", "`HOST:PORT` under which the appliance reaches central (default: as this command does)")
	cmd.Flags().StringVar(&source, "image", "branchpoint.img", "the appliance's `FILE` as it was built")
	cmd.Flags().StringVar(&output, "output", "", "`FILE` to write; it holds a secret")
	cmd.Flags().StringVar(&network, "network", "", "`FILE` with the list that becomes the network section of site.yaml")
	cmd.Flags().DurationVar(&valid, "valid", 24*time.Hour, "how long the token is good for, 1m to 2160h")
	return cmd
}

// copyImage copies the image; the copy is for its owner's eyes only, and never overwrites anything.
func copyImage(source, output string) error {
	in, err := os.Open(source)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeNotFound, "Name the appliance's file with --image.", "open the appliance's file: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeConflict, "Choose a file that does not exist yet.", "create %s: %w", filepath.Clean(output), err)
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(output)
		return provisioning.Errorf(provisioning.CodeNoSpace, "Free space, and try again.", "copy the appliance's file: %w", err)
	}
	return nil
}

// networkSection indents a list as the section of site.yaml.
func networkSection(list []byte) string {
	if len(list) == 0 {
		return ""
	}
	text := "  network:\n"
	for line := range linesOf(string(list)) {
		text += "    " + line + "\n"
	}
	return text
}
