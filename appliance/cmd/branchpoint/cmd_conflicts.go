package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) conflictsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "conflicts [--json]",
		Short:   "Show conflicting records: machines that a site cannot tell from others, and gives nothing therefore",
		Example: "  branchpoint conflicts\n  branchpoint conflicts resolve LON 0123456789abcdef0123456789abcdef",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			conflicts, err := c.Conflicts(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, conflicts)
			}
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "SITE\tMAC ADDRESS\tSMBIOS GUID\tCOMPUTERS\tLAST SEEN\tWHAT\tID")
			for _, r := range conflicts {
				names := strings.Join(append(append([]string(nil), r.Conflict.ByMAC...), r.Conflict.ByGUID...), ",")
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Site, r.Conflict.Machine.MAC, dash(string(r.Conflict.Machine.GUID)), dash(names),
					r.LastSeen.Local().Format(time.DateTime), clean(r.Conflict.Text), r.ID)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(&cobra.Command{
		Use:   "resolve SITE ID",
		Short: "Take a conflicting record from the list, once the documents of its computers are right; it comes again if it is seen again",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			return c.Resolve(cmd.Context(), client.ResolveRequest{Site: args[0], ID: args[1]})
		},
	})
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
