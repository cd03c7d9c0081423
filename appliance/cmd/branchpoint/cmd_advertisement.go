package main

import (
	"context"
	"fmt"
	"strconv"
	"text/tabwriter"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) advertisementCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "advertisement",
		Short: "See how far advertisements have come",
	}
	cmd.AddCommand(a.advertisementStatusCommand())
	return cmd
}

func (a *app) advertisementStatusCommand() *cobra.Command {
	var state string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [NAME [--state waiting|running|succeeded|failed]] [--json]",
		Short: "Count the computers that wait for each advertisement, run it, and on which it succeeded or failed; or list one's",
		Long: "Count the computers that wait for each advertisement, run it, and on which it succeeded or failed; with NAME, list them. A computer\n" +
			"counts once, by its newest run that was not cleared; one that an advertisement is for and on which it has not begun waits.",
		Example: "  branchpoint advertisement status\n  branchpoint advertisement status rollout --state failed",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && state != "" {
				return usagef("advertisement status: --state goes with a name")
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.showAdvertisements(cmd.Context(), c, asJSON)
			}
			return a.showDeployments(cmd.Context(), c, args[0], client.DeploymentState(state), asJSON)
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only computers in that `STATE`: waiting, running, succeeded or failed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// everyPage gathers a list that comes in parts.
func everyPage[T any](get func(client.Page) ([]T, string, error)) ([]T, error) {
	all := []T{}
	for after := ""; ; {
		some, next, err := get(client.Page{After: after})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if next == "" {
			return all, nil
		}
		after = next
	}
}

func (a *app) showAdvertisements(ctx context.Context, c *client.Admin, asJSON bool) error {
	all, err := everyPage(func(p client.Page) ([]client.AdvertisementStatus, string, error) {
		r, err := c.Advertisements(ctx, p)
		return r.Items, r.Next, err
	})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, all)
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ADVERTISEMENT\tPURPOSE\tTASK SEQUENCE\tWAITING\tRUNNING\tSUCCEEDED\tFAILED")
	for _, s := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\n", s.Name, s.Purpose, s.TaskSequence, waitingText(&s), s.Running, s.Succeeded, s.Failed)
	}
	return t.Flush()
}

// waitingText counts the computers that wait; for one that has expired none does.
func waitingText(s *client.AdvertisementStatus) string {
	if s.Expired {
		return "expired"
	}
	return strconv.Itoa(s.Waiting)
}

func (a *app) showDeployments(ctx context.Context, c *client.Admin, name string, state client.DeploymentState, asJSON bool) error {
	var page client.DeploymentPage
	all, err := everyPage(func(p client.Page) ([]client.Deployment, string, error) {
		var err error
		page, err = c.AdvertisementComputers(ctx, name, state, p)
		return page.Items, page.Next, err
	})
	if err != nil {
		return err
	}
	page.Items, page.Next = all, ""
	if asJSON {
		return printJSON(a.stdout, page)
	}
	s := &page.Advertisement
	fmt.Fprintf(a.stdout, "%s: %s waiting, %d running, %d succeeded, %d failed\n", s.Name, waitingText(s), s.Running, s.Succeeded, s.Failed)
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPUTER\tSITE\tSTATE\tSTEP\tEXIT CODE\tSTARTED\tLAST MESSAGE\tRUN\tTEXT")
	for i := range all {
		fmt.Fprintln(t, deploymentRow(&all[i]))
	}
	return t.Flush()
}

// deploymentRow is a computer's row: name, site, state, step, exit code, start, last message, run and text.
func deploymentRow(d *client.Deployment) string {
	step, exit, text := "-", "-", ""
	if d.Step > 0 {
		step, exit = fmt.Sprintf("%d %s", d.Step, clean(d.Title)), strconv.Itoa(d.ExitCode)
	}
	if d.State == client.Failed {
		text = clean(d.Text)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s", d.Computer, dash(d.Site), d.State, step, exit, when(d.StartedAt), when(d.UpdatedAt), dash(d.Run), text)
}
