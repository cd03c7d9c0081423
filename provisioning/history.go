package provisioning

import (
	"cmp"
	"slices"
)

// RunHistory rebuilds runs from status messages, as far as these say: what a run ran on they say once it erases. The zero value
// is ready.
type RunHistory struct{ runs map[string]*Run }

// Note takes a message in. They may come in any order, and more than once.
func (h *RunHistory) Note(m StatusMessage) {
	r, ok := h.runs[m.Run]
	if !ok {
		if h.runs == nil {
			h.runs = map[string]*Run{}
		}
		r = &Run{}
		h.runs[m.Run] = r
	}
	r.Note(m)
}

// Note takes in a message about the run, as RunHistory does; the first one makes a zero Run that run.
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
		if DestructiveAction(m.Action) && (!r.Spent || m.Time.Before(r.SpentAt)) {
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

// Runs returns the runs, in the order in which they started.
func (h *RunHistory) Runs() []Run {
	out := make([]Run, 0, len(h.runs))
	for _, r := range h.runs {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Run) int { return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID)) })
	return out
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
