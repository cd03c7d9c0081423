package main

import (
	"fmt"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Take in lists that other programs have written",
	}
	cmd.AddCommand(a.importComputersCommand())
	return cmd
}

func (a *app) importComputersCommand() *cobra.Command {
	var in client.ImportRequest
	cmd := &cobra.Command{
		Use:   "computers FILE.csv|- [--site CODE] [--collection NAME] [--dry-run] [--skip-errors] [--confirm N]",
		Short: "Import a list of computers: all of it, or nothing if a line of it is wrong",
		Long: "Import a list of computers (CSV). It begins with a line of headings, in any order: name, mac, smbios guid, source computer,\n" +
			"site, description, and var:NAME for a variable. Computers that are known already are changed; an empty cell changes nothing.",
		Example: "  branchpoint import computers new.csv --site LON --collection wave-1 --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := readFiles(args, a.stdin)
			if err != nil {
				return err
			}
			if len(files) != 1 {
				return usagef("import computers: %s is a folder; name one list", args[0])
			}
			in.File = files[0]
			c, err := a.admin()
			if err != nil {
				return err
			}
			r, err := c.ImportComputers(cmd.Context(), in)
			if err != nil {
				return err
			}
			for _, l := range r.Lines {
				line := fmt.Sprintf("%-9s  line %d  %s", l.Outcome, l.Line, clean(l.Computer))
				if len(l.Texts) > 0 {
					line += ": " + clean(strings.Join(l.Texts, "; "))
				}
				fmt.Fprintln(a.stdout, line)
			}
			if r.Change == 0 {
				a.warn(r.ChangeResult)
			}
			if r.Errors > 0 && !in.SkipErrors {
				return provisioning.Errorf(provisioning.CodeInvalid, "Correct them, or leave them out with --skip-errors.", "%d of %d lines have errors; nothing would be imported", r.Errors, len(r.Lines))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&in.Site, "site", "", "site `CODE` of new computers whose line names none")
	cmd.Flags().StringVar(&in.Collection, "collection", "", "make every computer of the list a member of the collection of that `NAME`")
	cmd.Flags().BoolVar(&in.SkipErrors, "skip-errors", false, "import the lines without errors though others have some")
	cautionFlags(cmd, &in.Caution)
	return cmd
}
