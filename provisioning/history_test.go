package provisioning

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRunRecords(t *testing.T) {
	at := func(n int) time.Time { return time.Date(2026, 11, 20, 12, n, 0, 0, time.UTC) }
	say := func(run string, n, code int, action string) StatusMessage {
		return StatusMessage{Run: run, Computer: "pc-" + run, Advertisement: "ad", TaskSequence: "ts", Time: at(n), Sequence: n, Code: code, Action: action}
	}
	messages := []StatusMessage{
		say("b", 10, StatusPolicyReceived, ""),
		say("a", 1, StatusPolicyReceived, ""), say("a", 2, StatusStepStarted, "runCommandLine"), say("a", 3, StatusStepStarted, "partitionDisk"),
		say("a", 4, StatusSequenceFailed, ""), say("a", 5, StatusStepStarted, "partitionDisk"), say("a", 9, StatusSequenceDone, ""),
		say("c", 11, StatusStepStarted, "applyOperatingSystemImage"), say("c", 12, StatusSequenceFailed, ""), say("c", 13, StatusRestart, ""),
	}
	run := func(id string, state RunState, from, to, spent int) Run {
		r := Run{ID: id, Computer: "pc-" + id, Advertisement: "ad", TaskSequence: "ts", State: state, StartedAt: at(from), UpdatedAt: at(to)}
		if spent > 0 {
			r.Spent, r.SpentAt = true, at(spent)
		}
		return r
	}
	want := []Run{run("a", RunSucceeded, 1, 9, 3), run("b", RunStarted, 10, 10, 0), run("c", RunFailed, 11, 13, 11)}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		got := runsOf(append(slices.Clone(messages), messages[rng.IntN(len(messages))]))
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("in another order:\n%+v\nwant\n%+v", got, want)
		}
		rng.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	}
	own := []Run{{ID: "c", State: RunStarted, StartedAt: at(11)}}
	if got := MergeRuns(own, want); len(got) != 3 || got[2].State != RunFailed || !got[2].Spent || got[0].ID != "a" || got[1].ID != "b" {
		t.Errorf("merged to %+v", got)
	}
	ended := []Run{{ID: "c", State: RunSucceeded, Spent: true, SpentAt: at(12), StartedAt: at(11)}}
	if got := MergeRuns(ended, want); got[2] != ended[0] {
		t.Errorf("what it knows itself became %+v", got[2])
	}
	if len(own) != 1 || own[0].State != RunStarted {
		t.Error("merging changed what was given")
	}
}

// runsOf are the runs that messages tell of.
func runsOf(messages []StatusMessage) []Run {
	records := map[string]*RunRecord{}
	for i := range messages {
		r := records[messages[i].Run]
		if r == nil {
			r = &RunRecord{}
			records[messages[i].Run] = r
		}
		r.Note(&messages[i])
	}
	var out []Run
	for _, r := range records {
		out = append(out, r.Run)
	}
	SortRuns(out)
	return out
}

// TestRunFacts: what a branch knows of a run is believed rather than what can be told from the agent's messages, by the
// newest of them in whatever order they arrive.
func TestRunFacts(t *testing.T) {
	at := func(n int) time.Time { return time.Date(2026, 11, 20, 12, n, 0, 0, time.UTC) }
	run := Run{
		ID: "a", Computer: "pc-a", Advertisement: "ad", TaskSequence: "ts", State: RunStarted,
		Machine: Machine{MAC: "52:54:00:00:00:01", Arch: ArchUEFIx64}, StartedAt: at(30), UpdatedAt: at(30),
	}
	var messages []StatusMessage
	say := func(code, step, exit int, change func()) {
		change()
		n := len(messages) + 1
		run.UpdatedAt = at(30 + n)
		messages = append(messages, StatusMessage{
			Run: "a", Site: "LON", Computer: "pc-a", Advertisement: "ad", TaskSequence: "ts", Time: at(n), Sequence: n, Code: code,
			Step: step, Title: []string{"", "Erase", "Copy"}[step], ExitCode: exit, Text: string(rune('a' + n)), Facts: FactsOf(&run),
		})
	}
	say(StatusPolicyReceived, 0, 0, func() {})
	say(StatusStepStarted, 1, 0, func() { run.Spent, run.SpentAt, run.Allowance = true, at(32), "7-abc" })
	say(StatusStepFailed, 2, 5, func() {})
	say(StatusSequenceFailed, 0, 0, func() { run.State, run.Cleared = RunFailed, true })
	want := RunRecord{Site: "LON", Run: run, Step: 2, Title: "Copy", ExitCode: 5, Text: "e", Sequence: 4, StepSequence: 3, FactsSequence: 4}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var r RunRecord
		for _, m := range append(slices.Clone(messages), messages[rng.IntN(len(messages))]) {
			r.Note(&m)
		}
		if !reflect.DeepEqual(r, want) {
			t.Fatalf("in another order:\n%+v\nwant\n%+v", r, want)
		}
		rng.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	}
	for _, wrong := range []RunFacts{{State: "strange"}, {State: RunStarted, Machine: Machine{MAC: "x"}}, {State: RunStarted, Allowance: strings.Repeat("a", 65)}} {
		m := messages[0]
		m.ID, m.Run, m.Facts = strings.Repeat("0", 32), strings.Repeat("1", 32), &wrong
		if err := m.Validate(); CodeOf(err) != CodeInvalid {
			t.Errorf("%+v: %v", wrong, err)
		}
		m.Facts = FactsOf(&run)
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
	}
}
