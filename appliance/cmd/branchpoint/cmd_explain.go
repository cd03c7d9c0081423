package main

import (
	"fmt"
	"time"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) explainCommand() *cobra.Command {
	var in client.ExplainRequest
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain MAC|COMPUTER [--site CODE] [--at TIME] [--guid GUID|none] [--firmware bios|uefi|http] [--json]",
		Short: "Show what a machine would get if it booted from the network, and why: every rule in order, with its outcome",
		Long: "Show what a machine would get if it booted from the network, and why: every rule in order, with its outcome. The site's appliance\n" +
			"decides by the same rules; its console explains by what it knows itself. Nothing is changed.",
		Example: "  branchpoint explain desk-1\n  branchpoint explain 52:54:00:12:34:56 --site LON --at \"2026-11-20 22:00\"",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			in.Machine = args[0]
			e, err := c.Explain(cmd.Context(), in)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, e)
			}
			fmt.Fprintf(a.stdout, "site %s, %s\n", e.Site, e.At.Local().Format(time.RFC3339))
			for _, line := range e.Lines() {
				fmt.Fprintln(a.stdout, "  "+clean(line))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&in.Site, "site", "", "where it would boot: site `CODE` (default the computer's own, or the only one there is)")
	cmd.Flags().StringVar(&in.At, "at", "", "`TIME`: RFC 3339, or in the site's time zone \"2026-11-20 22:00\" or 22:00 (default now)")
	cmd.Flags().StringVar(&in.GUID, "guid", "", "SMBIOS `GUID` that its firmware gives, or none (default what is known of it)")
	cmd.Flags().StringVar(&in.Firmware, "firmware", "", "`FIRMWARE`: bios, uefi, or http for UEFI HTTP Boot (default what is known of it, else uefi)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
