package main

import (
	"fmt"
	"strconv"
	"time"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) pxeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pxe",
		Short: "Order what sites' PXE service points do",
	}
	cmd.AddCommand(a.pxeClearCommand(), a.pxeApproveCommand())
	return cmd
}

func (a *app) pxeClearCommand() *cobra.Command {
	var in client.ClearRequest
	cmd := &cobra.Command{
		Use:     "clear COMPUTER… [--confirm N]",
		Short:   "Let required advertisements run again on computers where they have run (clear last PXE advertisement)",
		Example: "  branchpoint pxe clear desk-1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			in.Computers = args
			r, err := c.Clear(cmd.Context(), in)
			if err != nil {
				return err
			}
			for _, o := range r.Orders {
				fmt.Fprintf(a.stdout, "cleared    %s (order %d)\n", o.Computer, o.Number)
			}
			return nil
		},
	}
	confirmFlag(cmd, &in.Confirm)
	return cmd
}

func (a *app) pxeApproveCommand() *cobra.Command {
	var in client.ApprovalRequest
	var valid time.Duration
	cmd := &cobra.Command{
		Use:     "approve SITE NUMBER [--for 4h] [--confirm N]",
		Short:   "Let a site begin that many deployments that erase disks beyond its cap for an hour",
		Example: "  branchpoint pxe approve LON 20 --for 8h",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 {
				return usagef("pxe approve: %q is no number of deployments", args[1])
			}
			if valid < time.Minute {
				return usagef("pxe approve: --for is %s; write 1m or more", valid)
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			in.Site, in.Wipes, in.ValidMinutes = args[0], n, int(valid/time.Minute)
			r, err := c.Approve(cmd.Context(), in)
			if err != nil {
				return err
			}
			for _, o := range r.Orders {
				fmt.Fprintf(a.stdout, "approved   %d at %s until %s (order %d)\n", o.Wipes, o.Site, o.Expires.Local().Format(time.DateTime), o.Number)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&valid, "for", client.DefaultApproval, "how long it is good for")
	confirmFlag(cmd, &in.Confirm)
	return cmd
}
