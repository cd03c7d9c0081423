package main

import (
	"fmt"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enrol-token",
		Short: "Enrolment tokens, with which appliances become a site's",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var site, output, address string
	var valid time.Duration
	var approval bool
	create := &cobra.Command{
		Use:     "create --site CODE [--valid 24h] [-o site.yaml]",
		Short:   "Make a token for one appliance of a site",
		Example: "  branchpoint enrol-token create --site LON --central central.example:8443 -o site.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if site == "" {
				return usagef("enrol-token create: say for which site with --site CODE")
			}
			f, err := client.ReadAdminFile(a.adminPath())
			if err != nil {
				return err
			}
			if address == "" {
				address = f.Address
			}
			c, err := client.NewAdmin(f, a.now)
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), site, valid, approval)
			if err != nil {
				return err
			}
			return a.showToken(t, address, output)
		},
	}
	create.Flags().StringVar(&site, "site", "", "site `CODE`")
	create.Flags().DurationVar(&valid, "valid", 24*time.Hour, "how long the token is good for, 1m to 2160h")
	create.Flags().BoolVar(&approval, "approve", false, "the appliance waits until its key was approved: branchpoint site approve")
	create.Flags().StringVarP(&output, "output", "o", "", "write it as the appliance's site.yaml to `FILE`")
	create.Flags().StringVar(&address, "central", "", "`HOST:PORT` under which the appliance reaches central (default: as this command does)")
	cmd.AddCommand(create)
	cmd.AddCommand(a.tokenListCommands()...)
	return cmd
}

// showToken prints a token, or writes it as site.yaml, which only its owner can read.
func (a *app) showToken(t client.Token, address, output string) error {
	text := siteYAML(t, address)
	if _, ps := provisioning.DecodeAppliance(provisioning.File{Name: "site.yaml", Text: []byte(text)}); len(ps) > 0 {
		return usagef("enrol-token create: --central %q: %s", address, ps[0].Message)
	}
	if output == "" {
		fmt.Fprint(a.stdout, text)
		return nil
	}
	if err := renameio.WriteFile(output, []byte(text), 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Choose another file, and make the token again.", "write %s: %w", output, err)
	}
	fmt.Fprintf(a.stdout, "wrote %s: site %s, token valid until %s\n", output, t.Site, t.ExpiresAt.Local().Format(time.DateTime))
	return nil
}

// siteYAML is the appliance's site.yaml for a token. Every value is of a form that needs no quotes inside.
func siteYAML(t client.Token, address string) string {
	return fmt.Sprintf(`# Settings of a Branchpoint appliance of site %[1]s. The token is good once, until %[5]s.
apiVersion: %[6]s
kind: %[7]s
spec:
  site: %[1]q
  central:
    address: %[2]q
    caSHA256: %[3]q
    enrolmentToken: %[4]q
`, t.Site, address, string(t.CASHA256), t.Token, t.ExpiresAt.UTC().Format(time.RFC3339), provisioning.APIVersion, provisioning.KindAppliance)
}
