package provisioning

import (
	"encoding/json"
	"fmt"
	"reflect"
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

// FuzzStatus: of whatever branches report, what passes is bounded, makes reports and a history of runs, in any order and
// twice the same ones, what is salvaged is valid, and a run of which a message says that it began to erase a disk is spent.
func FuzzStatus(f *testing.F) {
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	var run []StatusMessage
	for i, code := range []int{StatusPolicyReceived, StatusSequenceStarted, StatusStepStarted, StatusStepDone, StatusSequenceDone, StatusStepFailed, StatusSequenceFailed} {
		m := said(id(1), i+1, code, i/2, i)
		m.ID, m.Action = id(100+i), "partitionDisk"
		run = append(run, m)
	}
	for _, v := range []any{run, run[2:4], []StatusMessage{{}}, nil} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`[{"id":"00000000000000000000000000000001","run":"00000000000000000000000000000001","step":-1,"sequence":9223372036854775807,"code":11000,"time":"9999-12-31T23:59:59Z"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var texts []json.RawMessage
		if json.Unmarshal(b, &texts) != nil {
			return
		}
		var given, messages []StatusMessage
		for _, text := range texts {
			var m StatusMessage
			if json.Unmarshal(text, &m) == nil && m.Validate() == nil {
				given = append(given, m)
			}
			left, ok := SalvageStatus(text, reportStart)
			if err := left.Validate(); ok != (err == nil) {
				t.Fatalf("%s is salvaged (%v) as %+v: %v", text, ok, left, err)
			}
			if ok {
				given = append(given, left)
			}
		}
		spent, runs, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, m := range given {
			if known[m.ID] { // as central takes them
				continue
			}
			known[m.ID] = true
			m.Site = "LON" // a branch reports of itself alone
			m.Facts = nil  // what the messages say by themselves
			messages = append(messages, m)
			runs[m.Run] = true
			spent[m.Run] = spent[m.Run] || m.Code == StatusStepStarted && DestructiveAction(m.Action)
		}
		var twice []StatusMessage
		for i := range messages {
			twice = append(twice, messages[len(messages)-1-i], messages[len(messages)-1-i])
		}
		forth, back := runsOf(messages), runsOf(twice)
		for i, r := range forth {
			if o := back[i]; r.Spent != spent[r.ID] || r.ID != o.ID || r.State != o.State || r.Spent != o.Spent || !r.SpentAt.Equal(o.SpentAt) {
				t.Fatalf("%+v, and the other way round %+v", r, o)
			}
		}
		reports := Reports(messages)
		if len(reports) != len(runs) || len(forth) != len(runs) || !reflect.DeepEqual(reports, Reports(append(messages, messages...))) {
			t.Fatalf("%d runs, and reports %+v", len(runs), reports)
		}
	})
}
