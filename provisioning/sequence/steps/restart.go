package steps

import (
	"context"
	"fmt"

	"branchpoint/provisioning/sequence"
)

// restart makes the disks ready for a restart. The restart itself comes when the branch has the run's last message:
// earlier, the branch would take the run for an interrupted one and begin it again.
func (r *Runner) restart(ctx context.Context) sequence.Result {
	if err := r.Close(ctx); err != nil {
		return failed(fmt.Errorf("unmount the installed system: %w", err))
	}
	return sequence.Result{Text: "The disks are written; the computer restarts when the branch has noted the end." + r.bootNext(ctx), Restart: true}
}
