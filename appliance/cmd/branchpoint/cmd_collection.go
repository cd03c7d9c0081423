package main

import (
	"fmt"
	"text/tabwriter"

	"branchpoint/provisioning/collection"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) collectionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "collection",
		Short: "See who belongs to collections",
	}
	cmd.AddCommand(a.membersCommand(), a.previewCommand())
	return cmd
}

func (a *app) membersCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "members NAME [--json]",
		Short:   "List the computers that belong to a collection, and those that its query gives no answer about",
		Example: "  branchpoint collection members wave-1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			return a.showMembers(asJSON, func(p client.Page) (client.MemberPage, error) { return c.Members(cmd.Context(), args[0], p) })
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) previewCommand() *cobra.Command {
	var path string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "preview -f FILE|- [--json]",
		Short:   "List the computers that would belong to a collection that is not applied yet; nothing is stored",
		Example: "  branchpoint collection preview -f wave-2.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usagef("collection preview: name the file with -f FILE")
			}
			files, err := readFiles([]string{path}, a.stdin)
			if err != nil {
				return err
			}
			if len(files) != 1 {
				return usagef("collection preview: %s is a folder; name one file", path)
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			return a.showMembers(asJSON, func(p client.Page) (client.MemberPage, error) {
				return c.Preview(cmd.Context(), client.PreviewRequest{File: files[0], After: p.After, Limit: p.Limit})
			})
		},
	}
	cmd.Flags().StringVarP(&path, "filename", "f", "", "`FILE` with one Collection, or - for standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) showMembers(asJSON bool, get func(client.Page) (client.MemberPage, error)) error {
	var whole client.MemberPage
	all, err := everyPage(func(p client.Page) ([]collection.Membership, string, error) {
		var err error
		whole, err = get(p)
		return whole.Items, whole.Next, err
	})
	if err != nil {
		return err
	}
	whole.Items, whole.Next = all, ""
	if asJSON {
		return printJSON(a.stdout, whole)
	}
	fmt.Fprintf(a.stdout, "%s: %d of %d computers\n", whole.Collection, whole.Members, whole.Computers)
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, m := range all {
		if m.Member {
			fmt.Fprintf(t, "%s\t%s\n", m.Computer, clean(m.Reason))
		}
	}
	if err := t.Flush(); err != nil || whole.Failed == 0 {
		return err
	}
	fmt.Fprintf(a.stdout, "\nThe query gives no answer about %d computers, which are no members therefore:\n", whole.Failed)
	for _, m := range all {
		if !m.Member {
			fmt.Fprintf(t, "%s\t%s\n", m.Computer, clean(m.Reason))
		}
	}
	return t.Flush()
}
