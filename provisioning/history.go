package provisioning

import (
	"cmp"
	"slices"
)

// RunHistory rebuilds runs from status messages, as far as these say: what they ran on is not among it. The zero value is ready.
type RunHistory struct{ runs map[string]*Run }

// Note takes a message in. They may come in any order, and more than once.
func (h *RunHistory) Note(m StatusMessage) {
	r, ok := h.runs[m.Run]
	if !ok {
		if h.runs == nil {
			h.runs = map[string]*Run{}
		}
		r = &Run{
			ID: m.Run, Computer: m.Computer, Advertisement: m.Advertisement, TaskSequence: m.TaskSequence,
			State: RunStarted, StartedAt: m.Time, UpdatedAt: m.Time,
		}
		h.runs[m.Run] = r
	}
	if m.Time.Before(r.StartedAt) {
		r.StartedAt = m.Time
	}
	if m.Time.After(r.UpdatedAt) {
		r.UpdatedAt = m.Time
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

// MergeRuns adds to a branch's runs those that it does not know, in the order in which they started. What it knows itself
// stays as it is.
func MergeRuns(own, more []Run) []Run {
	known := make(map[string]bool, len(own))
	for _, r := range own {
		known[r.ID] = true
	}
	out := slices.Clone(own)
	for _, r := range more {
		if !known[r.ID] {
			known[r.ID] = true
			out = append(out, r)
		}
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
