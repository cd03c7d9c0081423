package provisioning

import (
	"cmp"
	"slices"
	"time"
)

// RunReport is what status messages say of one run.
type RunReport struct {
	Run           string `json:"run"`
	Site          string `json:"site"`
	Computer      string `json:"computer"`
	Advertisement string `json:"advertisement"`
	TaskSequence  string `json:"taskSequence"`
	// State is started as long as the run goes on, then succeeded or failed.
	State RunState `json:"state"`
	// Step is the number of the step the run is in, or ended in, from 1, and Title its name; 0 before the first.
	Step  int    `json:"step,omitempty"`
	Title string `json:"title,omitempty"`
	// StartedAt and UpdatedAt are the times of the first and last message, by the reporter's clock.
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	// Text is that of the last message.
	Text  string       `json:"text,omitempty"`
	Steps []StepReport `json:"steps,omitempty"`
}

// StepReport is what status messages say of one step of a run: of its last try, where there were several.
type StepReport struct {
	Number int    `json:"number"`
	Title  string `json:"title"`
	Action string `json:"action,omitempty"`
	// State is started, succeeded or failed.
	State     RunState  `json:"state"`
	StartedAt time.Time `json:"startedAt"`
	// EndedAt is zero as long as the step goes on.
	EndedAt  time.Time `json:"endedAt,omitzero"`
	ExitCode int       `json:"exitCode"`
	Text     string    `json:"text,omitempty"`
	Output   string    `json:"output,omitempty"`
}

// Duration is from the run's first message to its last, or to now while it goes on; never negative, whatever the
// reporter's clock did.
func (r *RunReport) Duration(now time.Time) time.Duration {
	end := r.UpdatedAt
	if r.State == RunStarted && now.After(end) {
		end = now
	}
	return max(0, end.Sub(r.StartedAt))
}

// Reports gathers messages, in any order and with repetitions, into one report for each run, newest first.
func Reports(messages []StatusMessage) []RunReport {
	type key struct{ site, run string }
	runs := map[key][]StatusMessage{}
	seen := map[[2]string]bool{}
	for _, m := range messages {
		if id := [2]string{m.Site, m.ID}; !seen[id] {
			seen[id] = true
			k := key{m.Site, m.Run}
			runs[k] = append(runs[k], m)
		}
	}
	out := make([]RunReport, 0, len(runs))
	for _, ms := range runs {
		// Sequence numbers decide: a client's clock may be set in the middle of a run.
		slices.SortFunc(ms, func(a, b StatusMessage) int {
			return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
		})
		out = append(out, report(ms))
	}
	SortReports(out)
	return out
}

// SortReports sorts reports by when their runs began, newest first.
func SortReports(reports []RunReport) {
	slices.SortFunc(reports, func(a, b RunReport) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Run, b.Run))
	})
}

// report makes the report of one run from its messages in order; there is at least one.
func report(ms []StatusMessage) RunReport {
	first, last := ms[0], ms[len(ms)-1]
	r := RunReport{
		Run: first.Run, Site: first.Site, Computer: first.Computer, Advertisement: first.Advertisement, TaskSequence: first.TaskSequence,
		State: RunStarted, StartedAt: first.Time, UpdatedAt: last.Time, Text: last.Text,
	}
	steps := map[int]StepReport{}
	for _, m := range ms {
		switch m.Code {
		case StatusPolicyReceived, StatusSequenceStarted:
			r.State = RunStarted // a run that is gone on with is no longer over
		case StatusSequenceDone:
			r.State = RunSucceeded
		case StatusSequenceFailed:
			r.State = RunFailed
		}
		if m.Step == 0 {
			continue
		}
		r.Step, r.Title = m.Step, m.Title
		s := steps[m.Step]
		switch m.Code {
		case StatusStepStarted:
			s = StepReport{State: RunStarted, StartedAt: m.Time}
		case StatusStepDone, StatusStepFailed:
			if s.StartedAt.IsZero() {
				s.StartedAt = m.Time // its start was lost
			}
			s.State, s.EndedAt, s.ExitCode, s.Text, s.Output = RunSucceeded, m.Time, m.ExitCode, m.Text, m.Output
			if m.Code == StatusStepFailed {
				s.State = RunFailed
			}
		default:
			continue
		}
		s.Number, s.Title, s.Action = m.Step, m.Title, m.Action
		steps[m.Step] = s
	}
	for _, s := range steps {
		r.Steps = append(r.Steps, s)
	}
	slices.SortFunc(r.Steps, func(a, b StepReport) int { return cmp.Compare(a.Number, b.Number) })
	return r
}
