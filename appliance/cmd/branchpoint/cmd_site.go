package main

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func join(s []string) string { return strings.Join(s, ",") }

func (a *app) siteCommand() *cobra.Command {
	var why string
	approve := a.asked("approve CODE FINGERPRINT", "Approve the appliance that waits at a site with the key of that fingerprint", cobra.ExactArgs(2),
		func(cmd *cobra.Command, c *client.Admin, args []string) error {
			if err := c.ApproveSite(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "approved; the appliance of site %s goes on by itself\n", args[0])
			return nil
		})
	revoke := a.asked("revoke CODE --why TEXT", "Revoke a site's certificates: its appliance is refused at once, until it is enrolled with a new token", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Admin, args []string) error {
			r, err := c.RevokeSite(cmd.Context(), args[0], why)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "revoked %d certificates of site %s\n", r.Certificates, args[0])
			return nil
		})
	revoke.Flags().StringVar(&why, "why", "", "reason, for the audit log and the appliance's screen")
	return group("site", "Enrolment of sites, and the machines of their appliances", approve, revoke, a.siteHostsCommand(), a.siteForgetHostCommand())
}

func (a *app) siteHostsCommand() *cobra.Command {
	return a.asked("hosts", "List the machines that appliances and central run on, or ran on: none of them is ever a target", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Admin, _ []string) error {
			all, err := c.Hosts(cmd.Context())
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "SITE\tKEY\tSTATE\tSINCE\tMAC ADDRESSES\tSMBIOS GUID\tCOMPUTERS")
			for _, h := range all {
				state, macs := "was replaced or revoked", make([]string, len(h.MACAddresses))
				if h.InUse {
					state = "in use"
				}
				for i, m := range h.MACAddresses {
					macs[i] = string(m)
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(h.Site, "central"), orDash(h.Fingerprint), state, when(h.ToldAt),
					orDash(join(macs)), orDash(string(h.SMBIOSGUID)), orDash(join(h.Computers)))
			}
			return t.Flush()
		})
}

func (a *app) siteForgetHostCommand() *cobra.Command {
	var confirm string
	cmd := a.asked("forget-host CODE KEY [--confirm N]", "Let the machine of an appliance that was replaced or revoked be a target again", cobra.ExactArgs(2),
		func(cmd *cobra.Command, c *client.Admin, args []string) error {
			if err := c.ForgetHost(cmd.Context(), args[0], args[1], confirm); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "forgot the machine of the appliance of site %s with key %s\n", args[0], args[1])
			return nil
		})
	confirmFlag(cmd, &confirm)
	return cmd
}

// tokenListCommands are below enrol-token.
func (a *app) tokenListCommands() []*cobra.Command {
	list := a.asked("list", "List the enrolment tokens, and the appliances that wait for approval", cobra.NoArgs, func(cmd *cobra.Command, c *client.Admin, _ []string) error {
		all, err := c.Tokens(cmd.Context())
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tSITE\tSTATE\tEXPIRES\tKEY")
		for _, x := range all {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.ID, x.Site, x.State, when(x.ExpiresAt), orDash(x.Fingerprint))
		}
		return t.Flush()
	})
	revoke := a.asked("revoke ID", "Revoke an enrolment token; what was enrolled with it stays enrolled", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Admin, args []string) error {
		return c.RevokeToken(cmd.Context(), args[0])
	})
	return []*cobra.Command{list, revoke}
}

// siteNote is what a person should know of a site, "-" where there is nothing.
func siteNote(s *client.SiteState) string {
	var notes []string
	if s.Ahead {
		notes = append(notes, fmt.Sprintf("has seen snapshot %d.%d, newer than central's: central was restored from a backup; start a new epoch: branchpoint central root new-epoch", s.HasEpoch, s.HasNumber))
	}
	if s.Waiting != "" {
		notes = append(notes, "an appliance waits for approval, key "+s.Waiting)
	}
	if s.Enrolment == "revoked" {
		notes = append(notes, "revoked")
	}
	if s.Problem != "" {
		notes = append(notes, clean(s.Problem))
	}
	return orDash(strings.Join(notes, "; "))
}
