package central

import (
	"context"
	"strconv"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// StatusQuery chooses runs.
type StatusQuery struct {
	Paging
	Computer     string `query:"computer" doc:"Only runs on this computer."`
	TaskSequence string `query:"taskSequence" doc:"Only runs of this task sequence."`
	Run          string `query:"run" doc:"Only the run of this id, with the output of its steps."`
}

func (c *Central) status(ctx context.Context, in *StatusQuery) (*answer[client.StatusReport], error) {
	before, err := in.number()
	if err != nil {
		return nil, err
	}
	return answered(c.Status(ctx, provisioning.StatusFilter{
		Computer: in.Computer, Run: in.Run, TaskSequence: in.TaskSequence, Before: before, Runs: in.Limit,
	}))
}

// Status reports the newest of the runs that f chooses and that the caller may see. Outputs of commands are left out unless a
// run is named.
func (c *Central) Status(ctx context.Context, f provisioning.StatusFilter) (client.StatusReport, error) {
	out := client.StatusReport{Time: c.cfg.Now().UTC()}
	var err error
	if f.Sees, err = c.seesRuns(ctx); err != nil {
		return out, err
	}
	messages, next, err := c.cfg.Store.Status(ctx, f)
	if f.Run == "" {
		for i := range messages {
			messages[i].Output = ""
		}
	}
	out.Runs = provisioning.Reports(messages)
	if next > 0 {
		out.Next = strconv.FormatUint(next, 10)
	}
	return out, err
}
