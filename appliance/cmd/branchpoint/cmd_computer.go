package main

import (
	"fmt"
	"text/tabwriter"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) computerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "computer",
		Short: "See which computers were never deployed",
	}
	cmd.AddCommand(a.unprovisionedCommand())
	return cmd
}

func (a *app) unprovisionedCommand() *cobra.Command {
	var site string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "unprovisioned [--site CODE] [--json]",
		Short: "List the known computers on which no operating system was ever deployed with success, and machines that nobody knows",
		Long: "List the known computers on which no task sequence that erases a disk has ever succeeded, with the last run on each, and machines\n" +
			"that sites have told of and that no record names.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			var whole client.UnprovisionedPage
			whole.Items, err = everyPage(func(p client.Page) ([]client.Deployment, string, error) {
				r, err := c.Unprovisioned(cmd.Context(), site, p)
				whole.Count = r.Count
				whole.Unknown = append(whole.Unknown, r.Unknown...)
				return r.Items, r.Next, err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, whole)
			}
			return a.showUnprovisioned(&whole)
		},
	}
	cmd.Flags().StringVar(&site, "site", "", "only computers that are limited to the site of that `CODE`, and machines that it has told of")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) showUnprovisioned(r *client.UnprovisionedPage) error {
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPUTER\tSITE\tLAST RUN\tSTEP\tEXIT CODE\tSTARTED\tLAST MESSAGE\tRUN\tTEXT")
	for i := range r.Items {
		d := r.Items[i]
		if d.Run == "" {
			d.State = "none"
		}
		fmt.Fprintln(t, deploymentRow(&d))
	}
	if err := t.Flush(); err != nil || len(r.Unknown) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout, "\nMachines that no record names:")
	fmt.Fprintln(t, "MAC ADDRESS\tSMBIOS GUID\tFIRMWARE\tSITE\tLAST SEEN\tTEXT")
	for _, u := range r.Unknown {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", u.Machine.MAC, dash(string(u.Machine.GUID)), u.Machine.Arch, u.Site, when(u.LastSeen), clean(u.Text))
	}
	return t.Flush()
}
