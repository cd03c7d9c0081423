package central

import (
	"context"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// StatusQuery chooses runs.
type StatusQuery struct {
	Computer     string `query:"computer" doc:"Only runs on this computer."`
	TaskSequence string `query:"taskSequence" doc:"Only runs of this task sequence."`
	Run          string `query:"run" doc:"Only the run of this id, with the output of its steps."`
	Runs         int    `query:"runs" minimum:"0" maximum:"1000" doc:"How many runs at most, the newest; 0 means 100."`
}

func (c *Central) status(ctx context.Context, in *StatusQuery) (*answer[client.StatusReport], error) {
	return answered(c.Status(ctx, provisioning.StatusFilter{Computer: in.Computer, Run: in.Run, TaskSequence: in.TaskSequence, Runs: in.Runs}))
}

// Status reports the newest of the runs that f chooses and that the caller may see. Outputs of commands are left out unless a
// run is named.
func (c *Central) Status(ctx context.Context, f provisioning.StatusFilter) (client.StatusReport, error) {
	out := client.StatusReport{Time: c.cfg.Now().UTC()}
	var err error
	if f.Sees, err = c.seesRuns(ctx); err != nil {
		return out, err
	}
	messages, err := c.cfg.Store.Status(ctx, f)
	if f.Run == "" {
		for i := range messages {
			messages[i].Output = ""
		}
	}
	out.Runs = provisioning.Reports(messages)
	return out, err
}
