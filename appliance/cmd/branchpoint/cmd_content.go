package main

import (
	"context"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"branchpoint/provisioning"
	"branchpoint/services/central"
	"branchpoint/services/content"
	contentclient "branchpoint/services/content/client"

	"github.com/spf13/cobra"
)

func (a *app) contentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "content",
		Short: "Content packages: the operating systems that images deploy",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "add NAME FILE",
			Short: "Add a disk image (raw, qcow2) or a root file system (tar), compressed or not, as the newest version of a package",
			Long: "Add a disk image (raw, qcow2) or a root file system (tar), compressed or not, as the newest version of a package. Only chunks\n" +
				"that central does not have travel. If it is interrupted nothing is kept; the same content again adds no version.",
			Example: "  branchpoint content add debian-13 debian-13.img",
			Args:    cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.addContent(cmd.Context(), args[0], args[1])
			},
		},
		&cobra.Command{
			Use:   "list",
			Short: "List every version of every package",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := a.admin()
				if err != nil {
					return err
				}
				refs, err := contentclient.New(c.URL(), c.HTTP()).List(cmd.Context())
				if err != nil {
					return err
				}
				if len(refs) == 0 {
					fmt.Fprintln(a.stdout, "no content yet")
					return nil
				}
				t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "PACKAGE\tVERSION\tFORMAT\tSIZE\tMANIFEST")
				for _, r := range refs {
					fmt.Fprintf(t, "%s\t%d\t%s\t%d MiB\t%.12s\n", r.Package, r.Version, r.Format, (r.Size+1<<20-1)>>20, r.Manifest)
				}
				return t.Flush()
			},
		},
	)
	return cmd
}

func (a *app) addContent(ctx context.Context, name, path string) error {
	admin, err := a.admin()
	if err != nil {
		return err
	}
	c := contentclient.New(admin.URL(), admin.HTTP())
	// A person is waiting: a central that is not there is said at once. One that goes away later may come back.
	c.Patience = 0
	if _, err := c.List(ctx); err != nil {
		return err
	}
	c.Patience = contentclient.DefaultPatience
	bar := content.NewBar(a.stderr, name)
	added, err := content.Add(ctx, c, name, path, bar.Update)
	bar.Finish(err)
	if err != nil {
		return err
	}
	what := "added"
	if added.Unchanged {
		what = "unchanged"
	}
	fmt.Fprintf(a.stdout, "%s %s version %d (%s)\n", what, added.Ref.Package, added.Ref.Version, added.Ref.Format)
	return nil
}

// centralContent is the content store as central asks for it.
type centralContent struct{ *content.Store }

func (c centralContent) Ref(_ context.Context, pkg string, version int) (provisioning.ContentRef, error) {
	return c.Store.Ref(pkg, version)
}

func (c centralContent) Packages(context.Context) (map[string]int, error) {
	refs, err := c.List()
	if err != nil {
		return nil, err
	}
	newest := map[string]int{}
	for _, r := range refs {
		newest[r.Package] = max(newest[r.Package], r.Version)
	}
	return newest, nil
}

// publishes tells central of new content. Central is opened after the store it asks, hence the pointer.
func publishes(ctx context.Context, c **central.Central, log *slog.Logger) func(provisioning.ContentRef) {
	return func(r provisioning.ContentRef) {
		log.Info("new content", "package", r.Package, "version", r.Version, "format", r.Format)
		if err := (*c).Publish(ctx); err != nil {
			log.Error("cannot publish snapshots", "error", err)
		}
	}
}
