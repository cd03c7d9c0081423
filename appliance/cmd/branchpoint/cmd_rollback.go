package main

import (
	"strconv"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) rollbackCommand() *cobra.Command {
	var in client.RollbackRequest
	cmd := &cobra.Command{
		Use:   "rollback CHANGE | rollback KIND NAME REVISION [--dry-run] [--confirm N]",
		Short: "Go back to the whole configuration as it was after a change, or to one document as it was; history has the numbers",
		Long: "Go back to the whole configuration as it was after a change, or to one document as it was in a revision.\n" +
			"That is a new change, checked as any other, and can be rolled back itself.",
		Example: "  branchpoint rollback 7\n  branchpoint rollback computer desk-1 2",
		Args:    cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			switch len(args) {
			case 1:
				if in.Change, err = strconv.ParseUint(args[0], 10, 63); err != nil || in.Change == 0 {
					return usagef("rollback: %q is no number of a change; history shows them", args[0])
				}
			case 2:
				return usagef("rollback: write the number of a revision after the name; history %s %s shows them", args[0], args[1])
			default:
				if in.Document, err = parseKey(args); err != nil {
					return err
				}
				if in.Revision, err = strconv.ParseInt(args[2], 10, 64); err != nil || in.Revision < 1 {
					return usagef("rollback: %q is no number of a revision; history shows them", args[2])
				}
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			r, err := c.Rollback(cmd.Context(), in)
			if err != nil {
				return err
			}
			return a.showChange(r)
		},
	}
	cautionFlags(cmd, &in.Caution)
	return cmd
}

func (a *app) deleteCommand() *cobra.Command {
	var in client.DeleteRequest
	cmd := &cobra.Command{
		Use:     "delete KIND NAME… [--dry-run] [--confirm N]",
		Short:   "Delete documents: all of them, or none if one of them is still used",
		Example: "  branchpoint delete advertisement rollout",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args[1:] {
				k, err := parseKey([]string{args[0], name})
				if err != nil {
					return err
				}
				in.Documents = append(in.Documents, k)
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			r, err := c.Delete(cmd.Context(), in)
			if err != nil {
				return err
			}
			return a.showChange(r)
		},
	}
	cautionFlags(cmd, &in.Caution)
	return cmd
}
