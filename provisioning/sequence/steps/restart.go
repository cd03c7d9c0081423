package steps

import (
	"context"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// restart makes the disks ready for a restart. The restart itself comes when the branch has the run's last message:
// earlier, the branch would take the run for an interrupted one and begin it again.
func (r *Runner) restart(ctx context.Context) sequence.Result {
	if err := r.Close(ctx); err != nil {
		return failed(provisioning.Errorf(provisioning.CodeOf(err), "End what still uses the disk, then run the task sequence again.", "unmount the installed system: %w", err))
	}
	return sequence.Result{Text: "The disks are written; the computer restarts when the branch has noted the end." + r.bootNext(ctx), Restart: true}
}
