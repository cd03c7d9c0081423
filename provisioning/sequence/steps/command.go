package steps

import (
	"context"
	"fmt"
	"slices"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// defaultTimeout is RunCommandLine's where the step names none.
const defaultTimeout = 60 * time.Minute

// runCommand runs a command line.
func (r *Runner) runCommand(ctx context.Context, c provisioning.RunCommandLine) sequence.Result {
	inTarget := c.In != provisioning.InBootImage
	if inTarget {
		if err := r.needInstalled(); err != nil {
			return failed(err)
		}
	}
	timeout := time.Duration(c.TimeoutMinutes) * time.Minute
	if timeout == 0 {
		timeout = defaultTimeout
	}
	e, err := r.system.Exec(ctx, Command{Args: []string{"sh", "-c", c.Command}, InTarget: inTarget, Timeout: timeout})
	if err != nil {
		return failed(provisioning.Errorf(provisioning.CodeInternal, "Check that there is a shell (sh) where the command is to run.", "start the command: %w", err))
	}
	res := sequence.Result{ExitCode: e.Code, Output: sequence.Tail(e.Output, provisioning.MaxStatusOutput)}
	success := c.SuccessCodes
	if len(success) == 0 {
		success = []int{0}
	}
	switch {
	case e.TimedOut:
		res.Err = provisioning.Errorf(provisioning.CodeUnavailable, "Give the step a longer timeoutMinutes, or find out what the command waits for.",
			"the command did not end within %s and was stopped", timeout)
	case !slices.Contains(success, e.Code):
		res.Err = provisioning.Errorf(provisioning.CodeInvalid, "Read the command's output; list exit codes that mean success in successCodes.",
			"the command ended with exit code %d", e.Code)
	default:
		res.Text = fmt.Sprintf("The command ended with exit code %d.", e.Code)
	}
	return res
}
