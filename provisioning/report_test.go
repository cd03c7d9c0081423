package provisioning

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var reportStart = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

// said makes message number n of a run, n minutes after its start.
func said(run string, n, code, step, exit int) StatusMessage {
	m := StatusMessage{
		ID: fmt.Sprintf("%s-%d", run, n), Run: run, Site: "LON", Computer: "desk-1", Advertisement: "rollout", TaskSequence: "install",
		Time: reportStart.Add(time.Duration(n) * time.Minute), Sequence: n, Code: code, Step: step, ExitCode: exit, Text: fmt.Sprint("message ", n),
	}
	if step > 0 {
		m.Title = fmt.Sprint("Step ", step)
	}
	return m
}

func TestReports(t *testing.T) {
	begin := []StatusMessage{
		said("a", 1, StatusPolicyReceived, 0, 0), said("a", 2, StatusSequenceStarted, 0, 0),
		said("a", 3, StatusStepStarted, 1, 0), said("a", 4, StatusStepDone, 1, 0), said("a", 5, StatusStepStarted, 2, 0),
	}
	failed := append(slices.Clone(begin), said("a", 6, StatusStepFailed, 2, 7), said("a", 7, StatusSequenceFailed, 0, 0))
	for _, c := range []struct {
		name     string
		messages []StatusMessage
		state    RunState
		step     int
		last     RunState
		exit     int
		updated  int
	}{
		{"running", begin, RunStarted, 2, RunStarted, 0, 5},
		{"failed", failed, RunFailed, 2, RunFailed, 7, 7},
		{"succeeded", append(slices.Clone(begin), said("a", 6, StatusStepDone, 2, 0), said("a", 7, StatusSequenceDone, 0, 0), said("a", 8, StatusRestart, 0, 0)), RunSucceeded, 2, RunSucceeded, 0, 8},
		{"gone on with", append(slices.Clone(failed), said("a", 8, StatusSequenceStarted, 0, 0), said("a", 9, StatusStepStarted, 2, 0)), RunStarted, 2, RunStarted, 0, 9},
		{"start of step lost", append(slices.Clone(begin[:4]), said("a", 6, StatusStepFailed, 2, 7)), RunStarted, 2, RunFailed, 7, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			shuffled := slices.Clone(c.messages)
			slices.Reverse(shuffled)
			shuffled = append(shuffled, c.messages...) // everything twice
			rs := Reports(shuffled)
			if len(rs) != 1 {
				t.Fatalf("%d reports of one run", len(rs))
			}
			r := rs[0]
			if r.State != c.state || r.Step != c.step || len(r.Steps) != 2 {
				t.Errorf("state %s, step %d, %d steps", r.State, r.Step, len(r.Steps))
			}
			if s := r.Steps[1]; s.State != c.last || s.ExitCode != c.exit || s.Number != 2 || s.EndedAt.IsZero() != (c.last == RunStarted) {
				t.Errorf("step 2: %+v", s)
			}
			if want := reportStart.Add(time.Duration(c.updated) * time.Minute); !r.UpdatedAt.Equal(want) {
				t.Errorf("updated %s, want %s", r.UpdatedAt, want)
			}
		})
	}
}

func TestReportsOrder(t *testing.T) {
	b := said("b", 60, StatusPolicyReceived, 0, 0)
	other := said("a", 1, StatusPolicyReceived, 0, 0)
	other.Site = "PAR" // the same ids at another site are another run
	rs := Reports([]StatusMessage{said("a", 1, StatusPolicyReceived, 0, 0), b, other})
	if len(rs) != 3 || rs[0].Run != "b" || rs[1].Site != "LON" || rs[2].Site != "PAR" {
		t.Errorf("%+v", rs)
	}
	if len(Reports(nil)) != 0 {
		t.Error("reports of nothing")
	}
}

func TestReportDuration(t *testing.T) {
	r := RunReport{State: RunStarted, StartedAt: reportStart, UpdatedAt: reportStart.Add(time.Minute)}
	if d := r.Duration(reportStart.Add(time.Hour)); d != time.Hour {
		t.Error("running:", d)
	}
	r.State = RunSucceeded
	if d := r.Duration(reportStart.Add(time.Hour)); d != time.Minute {
		t.Error("over:", d)
	}
	r.UpdatedAt = reportStart.Add(-time.Minute)
	if d := r.Duration(reportStart); d != 0 {
		t.Error("clock set back:", d)
	}
}
