package provisioning

import (
	"cmp"
	"slices"
)

// RunRecord is what status messages say of one run, in a size that does not grow with them. The zero value has heard of none.
type RunRecord struct {
	Site string `json:"site"`
	// Run is the run as its branch knows it. Where messages have no facts it is what they say: then not what it ran on.
	Run Run `json:"run"`
	// Step is the number of the last step that was told of, Title its name; 0 before the first.
	Step  int    `json:"step,omitempty"`
	Title string `json:"title,omitempty"`
	// ExitCode is that of the last message about a step, and Text that of the last message.
	ExitCode int    `json:"exitCode,omitempty"`
	Text     string `json:"text,omitempty"`

	// Which messages that is of, by their Sequence.
	Sequence      int `json:"sequence"`
	StepSequence  int `json:"stepSequence,omitempty"`
	FactsSequence int `json:"factsSequence,omitempty"`
}

// Note takes a message of the run in. They may come in any order, and more than once.
func (r *RunRecord) Note(m *StatusMessage) {
	if r.Run.ID == "" {
		r.Site = m.Site
		r.Run = Run{
			ID: m.Run, Computer: m.Computer, Advertisement: m.Advertisement, TaskSequence: m.TaskSequence,
			State: RunStarted, StartedAt: m.Time, UpdatedAt: m.Time,
		}
	}
	switch f := m.Facts; {
	case f != nil && m.Sequence > r.FactsSequence:
		r.FactsSequence = m.Sequence
		r.Run.State, r.Run.Cleared = f.State, f.Cleared
		if f.Spent || !r.Run.Spent { // what has erased stays so
			r.Run.Spent, r.Run.SpentAt = f.Spent, f.SpentAt
		}
		r.Run.Machine, r.Run.Unknown, r.Run.Allowance, r.Run.StartedAt, r.Run.UpdatedAt = f.Machine, f.Unknown, f.Allowance, f.StartedAt, f.UpdatedAt
	case f == nil && r.FactsSequence == 0:
		r.Run.Note(*m)
	case f == nil && m.erases() && !r.Run.Spent: // what was malformed of it was left out
		r.Run.Spent, r.Run.SpentAt = true, m.Time
	}
	if m.Sequence >= r.Sequence {
		r.Sequence, r.Text = m.Sequence, m.Text
	}
	if m.Step > 0 && m.Sequence >= r.StepSequence {
		r.StepSequence, r.Step, r.Title, r.ExitCode = m.Sequence, m.Step, m.Title, m.ExitCode
	}
}

// Note takes in what a message without facts says of the run; the first one makes a zero Run that run. Messages may come in any
// order, and more than once.
func (r *Run) Note(m StatusMessage) {
	if r.ID == "" {
		*r = Run{
			ID: m.Run, Computer: m.Computer, Advertisement: m.Advertisement, TaskSequence: m.TaskSequence,
			State: RunStarted, StartedAt: m.Time, UpdatedAt: m.Time,
		}
	}
	if m.Time.Before(r.StartedAt) {
		r.StartedAt = m.Time
	}
	if m.Time.After(r.UpdatedAt) {
		r.UpdatedAt = m.Time
	}
	if m.Machine != (Machine{}) {
		r.Machine = m.Machine
	}
	switch m.Code {
	case StatusStepStarted:
		if m.erases() && (!r.Spent || m.Time.Before(r.SpentAt)) {
			r.Spent, r.SpentAt = true, m.Time
		}
	case StatusSequenceDone:
		r.State = RunSucceeded // whatever tries of it failed
	case StatusSequenceFailed:
		if r.State == RunStarted {
			r.State = RunFailed
		}
	}
}

// erases reports whether a message says that a run begins to overwrite disks.
func (m *StatusMessage) erases() bool {
	return m.Code == StatusStepStarted && DestructiveAction(m.Action)
}

// SortRuns puts runs in the order in which they started.
func SortRuns(runs []Run) {
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID)) })
}

// Further is r with what other says beyond it of the same run, and true where that is something: that it has begun to erase,
// or has ended. Nothing that r says is taken back.
func (r Run) Further(other *Run) (Run, bool) {
	changed := false
	if other.Spent && !r.Spent {
		r.Spent, r.SpentAt, changed = true, other.SpentAt, true
	}
	if r.State == RunStarted && other.State != RunStarted {
		r.State, changed = other.State, true
	}
	if changed && other.UpdatedAt.After(r.UpdatedAt) {
		r.UpdatedAt = other.UpdatedAt
	}
	return r, changed
}

// MergeRuns adds to a branch's runs those that it does not know, and what it does not know of others (Run.Further), in the
// order in which they started.
func MergeRuns(own, more []Run) []Run {
	known := make(map[string]int, len(own))
	for i, r := range own {
		known[r.ID] = i
	}
	out := slices.Clone(own)
	for _, r := range more {
		if i, ok := known[r.ID]; ok {
			out[i], _ = out[i].Further(&r)
			continue
		}
		known[r.ID] = len(out)
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b Run) int { return a.StartedAt.Compare(b.StartedAt) })
	return out
}

// DestructiveAction reports whether a step of that action, as it stands in status messages, overwrites disks.
func DestructiveAction(action string) bool {
	for _, s := range []Step{{PartitionDisk: &PartitionDisk{}}, {ApplyOperatingSystemImage: &ApplyOperatingSystemImage{}}} {
		if s.Action() == action {
			return s.Destructive()
		}
	}
	return false
}
