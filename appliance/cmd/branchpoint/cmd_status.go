package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var f provisioning.StatusFilter
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:     "status [--computer NAME] [--task-sequence NAME] [--run ID] [-v] [--json]",
		Short:   "Show deployments: one line for each run, with its steps where asked for",
		Example: "  branchpoint status\n  branchpoint status --computer desk-1 -v\n  branchpoint status --computer desk-1 --task-sequence install",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Run != "" && !provisioning.ValidID(f.Run) {
				return usagef("status: --run is %q; a run's id is 32 hexadecimal digits, as status --json shows it", f.Run)
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			r, err := c.Status(cmd.Context(), f)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.stdout)
				e.SetIndent("", "  ")
				return e.Encode(r)
			}
			if f.Run != "" && len(r.Runs) == 0 {
				return provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint status", "there is no run %s", f.Run)
			}
			if err := showStatus(a.stdout, r, verbose || f.Run != "" || f.Computer != "" && f.TaskSequence != ""); err != nil {
				return err
			}
			if r.Next != "" {
				fmt.Fprintf(a.stderr, "more with: branchpoint status --before %s\n", r.Next)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&f.Computer, "computer", "", "only runs on the computer of that `NAME`")
	cmd.Flags().StringVar(&f.TaskSequence, "task-sequence", "", "only runs of the task sequence of that `NAME`; with --computer, with every step")
	cmd.Flags().StringVar(&f.Run, "run", "", "only the run of that `ID`, with its steps and their output")
	cmd.Flags().Uint64Var(&f.Before, "before", 0, "only runs that were first reported before that `NUMBER`, which a shortened list ends with")
	cmd.Flags().IntVar(&f.Runs, "runs", 0, "at most so many runs, the newest (default 100)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show every step")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// stateWords are the states of runs and steps as people read them.
var stateWords = map[provisioning.RunState]string{
	provisioning.RunStarted: "running", provisioning.RunSucceeded: "succeeded", provisioning.RunFailed: "failed",
}

func showStatus(w io.Writer, r client.StatusReport, steps bool) error {
	if len(r.Runs) == 0 {
		_, err := fmt.Fprintln(w, "no deployments yet")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COMPUTER\tSITE\tTASK SEQUENCE\tSTATE\tSTEP\tSTARTED\tDURATION\tRUN")
	for _, run := range r.Runs {
		step := "-"
		if run.Step > 0 {
			step = fmt.Sprintf("%d %s", run.Step, clean(run.Title))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", run.Computer, run.Site, run.TaskSequence, stateWords[run.State], step,
			run.StartedAt.Local().Format(time.DateTime), run.Duration(r.Time).Round(time.Second), run.Run)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !steps {
		return nil
	}
	for _, run := range r.Runs {
		fmt.Fprintf(w, "\n%s, run %s\n", run.Computer, run.Run)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  STEP\tNAME\tSTATE\tEXIT CODE\tDURATION\tMESSAGE")
		for _, s := range run.Steps {
			exit, took := "-", "-"
			if !s.EndedAt.IsZero() {
				exit = fmt.Sprint(s.ExitCode)
				took = max(0, s.EndedAt.Sub(s.StartedAt)).Round(time.Second).String()
			}
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\n", s.Number, clean(s.Title), stateWords[s.State], exit, took, clean(s.Text))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, s := range run.Steps {
			if s.Output == "" {
				continue
			}
			fmt.Fprintf(w, "\n  last output of step %d:\n", s.Number)
			for line := range strings.Lines(s.Output) {
				fmt.Fprintf(w, "    %s\n", clean(strings.TrimRight(line, "\r\n")))
			}
		}
	}
	return nil
}

// clean keeps what a client reported from steering the administrator's terminal or the table.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

func (a *app) sitesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sites",
		Short: "Show which snapshot each site is given, and why a site is not given a newer one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			sites, err := c.Sites(cmd.Context())
			if err != nil {
				return err
			}
			t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "SITE\tSNAPSHOT\tLAST CONTACT\tPROBLEM")
			for _, s := range sites {
				fmt.Fprintf(t, "%s\t%d.%d\t%s\t%s\n", s.Site, s.Epoch, s.Number, when(s.LastContact), siteNote(&s))
			}
			return t.Flush()
		},
	}
}
