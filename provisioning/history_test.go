package provisioning

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestRunHistory(t *testing.T) {
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
		var h RunHistory
		for _, m := range append(slices.Clone(messages), messages[rng.IntN(len(messages))]) {
			h.Note(m)
		}
		if got := h.Runs(); !reflect.DeepEqual(got, want) {
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
