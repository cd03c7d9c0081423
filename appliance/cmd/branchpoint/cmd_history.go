package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"branchpoint/provisioning"

	"github.com/spf13/cobra"
)

// historyOptions choose what of the history is shown.
type historyOptions struct {
	change, before uint64
	limit          int
	revision       int64
	json           bool
}

func (a *app) historyCommand() *cobra.Command {
	var o historyOptions
	cmd := &cobra.Command{
		Use:   "history [KIND NAME [--revision N]] [--change N] [--limit N] [--json]",
		Short: "Show who changed what when: every change, one change, or the revisions of one document",
		Example: "  branchpoint history\n  branchpoint history --change 7\n" +
			"  branchpoint history computer desk-1\n  branchpoint history computer desk-1 --revision 2",
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 && o.change != 0 || len(args) == 0 && o.revision != 0 {
				return usagef("history: write a kind and a name, or --change, or neither; --revision goes with a kind and a name")
			}
			if o.limit < 1 {
				return usagef("history: --limit is %d; write 1 or more", o.limit)
			}
			return a.history(cmd, args, o)
		},
	}
	cmd.Flags().Uint64Var(&o.change, "change", 0, "show the documents of the change of that `NUMBER`")
	cmd.Flags().Int64Var(&o.revision, "revision", 0, "show the document as it was in the revision of that `NUMBER`")
	cmd.Flags().IntVar(&o.limit, "limit", 50, "show at most so many changes")
	cmd.Flags().Uint64Var(&o.before, "before", 0, "show changes before that `NUMBER`")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (a *app) history(cmd *cobra.Command, args []string, o historyOptions) error {
	c, err := a.admin()
	if err != nil {
		return err
	}
	if len(args) == 0 && o.change == 0 {
		changes, err := c.Changes(cmd.Context(), o.before, o.limit)
		if err != nil {
			return err
		}
		if o.json {
			return printJSON(a.stdout, changes)
		}
		return showChanges(a.stdout, changes)
	}
	var revisions []provisioning.Revision
	var k provisioning.Key
	if o.change != 0 {
		revisions, err = c.ChangeRevisions(cmd.Context(), o.change)
	} else if k, err = parseKey(args); err == nil {
		revisions, err = c.Revisions(cmd.Context(), k)
	}
	switch {
	case err != nil:
		return err
	case o.revision != 0:
		return showRevision(a.stdout, revisions, k, o.revision)
	case o.json:
		return printJSON(a.stdout, revisions)
	}
	return showRevisions(a.stdout, revisions)
}

// who names an account in a table; changes older than accounts have none.
func who(by string) string {
	if by == "" {
		return "-"
	}
	return clean(by)
}

func showChanges(w io.Writer, changes []provisioning.Change) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHANGE\tTIME\tBY\tCOMMAND\tDOCUMENTS")
	for _, c := range changes {
		command := string(c.Command)
		if c.Note != "" {
			command += " " + clean(c.Note)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\n", c.Number, c.At.Local().Format(time.DateTime), who(c.By), command, c.Documents)
	}
	return t.Flush()
}

func showRevisions(w io.Writer, revisions []provisioning.Revision) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DOCUMENT\tREVISION\tCHANGE\tTIME\tBY\tCOMMAND\tEFFECT")
	for _, r := range revisions {
		effect := "changed"
		switch {
		case r.Deleted:
			effect = "deleted"
		case r.Revision == 1:
			effect = "created"
		}
		fmt.Fprintf(t, "%s %s\t%d\t%d\t%s\t%s\t%s\t%s\n", r.Kind, r.Name, r.Revision, r.Change, r.At.Local().Format(time.DateTime), who(r.By), r.Command, effect)
	}
	return t.Flush()
}

func showRevision(w io.Writer, revisions []provisioning.Revision, k provisioning.Key, revision int64) error {
	for _, r := range revisions {
		if r.Revision != revision {
			continue
		}
		if r.Deleted {
			return provisioning.Errorf(provisioning.CodeNotFound, "Look at the revision before it.", "%s %s was deleted with revision %d", k.Kind, k.Name, revision)
		}
		_, err := fmt.Fprint(w, r.Text)
		return err
	}
	return provisioning.Errorf(provisioning.CodeNotFound, fmt.Sprintf("See which there are: branchpoint history %s %s", k.Kind, k.Name),
		"there is no revision %d of %s %q", revision, k.Kind, k.Name)
}

// printJSON prints v as JSON for people and programs.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
