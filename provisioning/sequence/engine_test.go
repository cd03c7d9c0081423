package sequence

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

// runnerFunc is a Runner.
type runnerFunc func(ctx context.Context, s provisioning.Step, progress func(Progress)) Result

func (f runnerFunc) Run(ctx context.Context, s provisioning.Step, progress func(Progress)) Result {
	return f(ctx, s, progress)
}

func (f runnerFunc) Close(context.Context) error { return nil }

// closer is a Runner that ends with close.
type closer struct {
	runnerFunc
	close func(ctx context.Context) error
}

func (c closer) Close(ctx context.Context) error { return c.close(ctx) }

func command(c string) provisioning.Step {
	return provisioning.Step{RunCommandLine: &provisioning.RunCommandLine{Command: c}}
}

var (
	partition = provisioning.Step{PartitionDisk: &provisioning.PartitionDisk{Partitions: []provisioning.Partition{{}}}}
	restart   = provisioning.Step{Restart: &provisioning.Restart{}}
)

func engine(t *testing.T, b *fakeBranch, r Runner, list ...provisioning.Step) (*Engine, context.Context, *[]Event) {
	t.Helper()
	a := &provisioning.Assignment{
		Run:  provisioning.Run{ID: strings.Repeat("0", 32), Advertisement: "adv"},
		Site: "S01", Computer: provisioning.Computer{Name: "pc-1"}, NextStatus: 7,
		Sequence: provisioning.TaskSequence{Name: "seq", Spec: provisioning.TaskSequenceSpec{Steps: list, Variables: map[string]string{"A": "1"}}},
	}
	q := NewQueue(b.deliver, quiet, noWait, nil)
	var seen []Event
	return &Engine{
		Assignment: a, Variables: NewVariables(a, nil), Runner: r, Queue: q, Observe: func(e Event) { seen = append(seen, e) },
		Log: quiet, Now: func() time.Time { return time.Unix(1700000000, 0) }, Random: rand.Reader,
	}, start(t, q), &seen
}

// codes are the messages' codes, with the step.
func codes(b *fakeBranch) []string {
	var out []string
	for _, m := range b.stored {
		out = append(out, fmt.Sprintf("%d/%d/%d", m.Code, m.Step, m.ExitCode))
	}
	return out
}

func TestEngineReportsEveryStep(t *testing.T) {
	b := &fakeBranch{}
	var ran []string
	e, ctx, seen := engine(t, b, runnerFunc(func(_ context.Context, s provisioning.Step, progress func(Progress)) Result {
		progress(Progress{Done: 1, Total: 2})
		ran = append(ran, s.Action())
		if s.Restart != nil {
			return Result{Restart: true}
		}
		return Result{ExitCode: 0, Output: "out\xff", Text: "text"}
	}), command("x"), partition, restart)
	out := e.Run(ctx)
	if out.Err != nil || !out.Restart {
		t.Fatalf("%+v", out)
	}
	if err := e.Queue.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"10002/0/0", "11140/0/0", "11133/1/0", "11134/1/0", "11133/2/0", "11134/2/0", "11133/3/0", "11134/3/0", "11142/0/0", "11143/0/0",
	}
	if got := codes(b); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for i, m := range b.stored {
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		if m.Sequence != 7+i || m.Computer != "pc-1" || m.Site != "S01" || m.Advertisement != "adv" || m.TaskSequence != "seq" {
			t.Errorf("%+v", m)
		}
	}
	if !slices.Equal(ran, []string{"runCommandLine", "partitionDisk", "restart"}) {
		t.Errorf("ran %v", ran)
	}
	kinds := 0
	for _, ev := range *seen {
		if ev.Kind == EventStepStarted || ev.Kind == EventStepEnded {
			kinds++
		}
	}
	if kinds != 6 || (*seen)[len(*seen)-1].Kind != EventSequenceDone {
		t.Errorf("events: %+v", *seen)
	}
}

func TestEngineEndsAtTheFirstFailure(t *testing.T) {
	b := &fakeBranch{}
	ran := 0
	e, ctx, seen := engine(t, b, runnerFunc(func(context.Context, provisioning.Step, func(Progress)) Result {
		ran++
		return Result{ExitCode: 4, Err: provisioning.Errorf(provisioning.CodeInvalid, "Do this.", "it broke"), Output: "last words"}
	}), command("x"), restart)
	out := e.Run(ctx)
	if err := e.Queue.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if out.Err == nil || out.Restart || out.Step != 1 || ran != 1 {
		t.Fatalf("%+v, ran %d", out, ran)
	}
	if got, want := codes(b), []string{"10002/0/0", "11140/0/0", "11133/1/0", "11135/1/4", "11141/1/1"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if m := b.stored[3]; m.Text != "it broke. Do this." || m.Output != "last words" {
		t.Errorf("%+v", m)
	}
	if last := (*seen)[len(*seen)-1]; last.Kind != EventSequenceFailed || last.Err == nil {
		t.Errorf("%+v", last)
	}
}

// TestSuccessWaitsForTheDisks: the branch never offers a run again that has succeeded, so nobody hears of success before the
// disks hold what was written.
func TestSuccessWaitsForTheDisks(t *testing.T) {
	done := func(context.Context, provisioning.Step, func(Progress)) Result { return Result{Restart: true} }
	for name, c := range map[string]struct {
		err  error
		want []string
		says string
	}{
		"written": {nil, []string{"10002/0/0", "11140/0/0", "11133/1/0", "11134/1/0", "11142/0/0", "11143/0/0"}, "The task sequence succeeded."},
		"lost": {
			provisioning.Errorf(provisioning.CodeInternal, "Replace the disk.", "write back /: input/output error"),
			[]string{"10002/0/0", "11140/0/0", "11133/1/0", "11134/1/0", "11141/0/1"},
			"The task sequence failed after its last step: write back /: input/output error. Replace the disk.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fakeBranch{}
			var e *Engine
			var seen *[]Event
			var ctx context.Context
			r := closer{runnerFunc: done, close: func(ctx context.Context) error {
				// What is queued by now has been delivered: anything that tells of the end would be seen.
				if err := e.Queue.Flush(ctx); err != nil {
					t.Error(err)
				}
				if got := codes(b); len(got) != 4 {
					t.Errorf("before the disks were written the branch was told %v", got)
				}
				if last := (*seen)[len(*seen)-1]; last.Kind != EventStepEnded {
					t.Errorf("before the disks were written: %+v", last)
				}
				return c.err
			}}
			e, ctx, seen = engine(t, b, r, restart)
			out := e.Run(ctx)
			if err := e.Queue.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if !errors.Is(out.Err, c.err) || out.Restart != (c.err == nil) || out.Step != 0 {
				t.Errorf("%+v", out)
			}
			if got := codes(b); !slices.Equal(got, c.want) {
				t.Errorf("got %v", got)
			}
			if m := b.stored[len(b.stored)-1]; m.Text != c.says || m.Validate() != nil {
				t.Errorf("%+v, %v", m, m.Validate())
			}
		})
	}
}

func TestDestructiveStepWaitsForTheBranch(t *testing.T) {
	b := &fakeBranch{}
	began := false
	b.fail = func(call int, m []provisioning.StatusMessage) error {
		if began {
			t.Error("the destructive step began before its start was stored")
		}
		if call < 20 {
			return provisioning.Errorf(provisioning.CodeUnavailable, "", "down")
		}
		b.fail = nil
		return nil
	}
	e, ctx, _ := engine(t, b, runnerFunc(func(_ context.Context, s provisioning.Step, _ func(Progress)) Result {
		b.mu.Lock()
		defer b.mu.Unlock()
		began = true
		if !slices.ContainsFunc(b.stored, func(m provisioning.StatusMessage) bool {
			return m.Code == provisioning.StatusStepStarted && m.Action == "partitionDisk"
		}) {
			t.Error("the branch does not know that the step began")
		}
		return Result{}
	}), partition)
	if out := e.Run(ctx); out.Err != nil || !began {
		t.Fatalf("%+v %v", out, began)
	}
}

func TestDestructiveStepDoesNotBeginWhenRefused(t *testing.T) {
	b := &fakeBranch{fail: func(_ int, m []provisioning.StatusMessage) error {
		if slices.ContainsFunc(m, func(m provisioning.StatusMessage) bool { return m.Code == provisioning.StatusStepStarted }) {
			return provisioning.Errorf(provisioning.CodeConflict, "", "the run was cancelled")
		}
		return nil
	}}
	e, ctx, _ := engine(t, b, runnerFunc(func(context.Context, provisioning.Step, func(Progress)) Result {
		t.Error("the step began")
		return Result{}
	}), partition)
	if out := e.Run(ctx); out.Err == nil || !strings.Contains(out.Err.Error(), "cancelled") {
		t.Fatalf("%+v", out)
	}
}

func TestEngineReportsPanics(t *testing.T) {
	b := &fakeBranch{}
	e, ctx, _ := engine(t, b, runnerFunc(func(context.Context, provisioning.Step, func(Progress)) Result { panic("oh") }), command("x"))
	out := e.Run(ctx)
	if err := e.Queue.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if out.Err == nil || !strings.Contains(out.Err.Error(), "oh") || !strings.Contains(b.stored[3].Output, "engine_test.go") {
		t.Fatalf("%+v %+v", out, b.stored)
	}
}

func TestInterruptedStepFails(t *testing.T) {
	b := &fakeBranch{}
	e, ctx, _ := engine(t, b, nil, command("x"))
	ctx, cancel := context.WithCancel(ctx)
	e.Runner = runnerFunc(func(context.Context, provisioning.Step, func(Progress)) Result {
		cancel()
		return Result{}
	})
	if out := e.Run(ctx); !errors.Is(out.Err, context.Canceled) {
		t.Fatalf("%+v", out)
	}
}

func TestVariables(t *testing.T) {
	a := &provisioning.Assignment{
		Site: "S01", Computer: provisioning.Computer{Name: "pc-1", Spec: provisioning.ComputerSpec{Variables: map[string]string{"room": "2", "Both": "computer", "OSDComputerName": "no"}}},
		Sequence: provisioning.TaskSequence{Name: "seq", Spec: provisioning.TaskSequenceSpec{Variables: map[string]string{"Both": "sequence", "Own": "%room%"}}},
	}
	v := NewVariables(a, map[string]string{"_SMSTSMake": "QEMU"})
	for in, want := range map[string]string{
		"%OSDComputerName%":                    "pc-1",
		"%_SMSTSMachineName%-%osdcomputername": "pc-1-%osdcomputername",
		"%both% %ROOM%":                        "computer 2",
		"%own%":                                "%room%",
		"100%% of 50% and 20 % x":              "100% of 50% and 20 % x",
		"date +%%Y%%m":                         "date +%Y%m",
		"%_smstsmake%":                         "QEMU",
		"":                                     "",
	} {
		if got, err := v.Expand(in); err != nil || got != want {
			t.Errorf("Expand(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"%nope%", "x%Y%m%d"} {
		if got, err := v.Expand(in); provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("Expand(%q) = %q, %v; want an error", in, got, err)
		}
	}
}

func TestExpandStepLeavesTheOriginal(t *testing.T) {
	v := Variables{"X": "y", "OSDCOMPUTERNAME": "pc-1"}
	s := provisioning.Step{Name: "%X%", PartitionDisk: &provisioning.PartitionDisk{Disk: provisioning.DiskSelector{Serial: "%X%"}, Partitions: []provisioning.Partition{{Label: "%X%"}}}}
	got, err := v.ExpandStep(s)
	if err != nil {
		t.Fatal(err)
	}
	if got.PartitionDisk.Disk.Serial != "y" || got.PartitionDisk.Partitions[0].Label != "y" || got.Name != "%X%" {
		t.Errorf("%+v", got.PartitionDisk)
	}
	if s.PartitionDisk.Disk.Serial != "%X%" || s.PartitionDisk.Partitions[0].Label != "%X%" {
		t.Error("the sequence itself was changed")
	}
	for _, s := range []provisioning.Step{
		{PartitionDisk: &provisioning.PartitionDisk{Partitions: []provisioning.Partition{{Mount: "%no%"}}}},
		{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Disk: provisioning.DiskSelector{Serial: "%no%"}}},
		{ApplyNetworkSettings: &provisioning.ApplyNetworkSettings{DNS: []string{"%no%"}}},
		{ApplyOperatingSystemSettings: &provisioning.ApplyOperatingSystemSettings{ComputerName: "%no%"}},
		command("%no%"),
	} {
		if _, err := v.ExpandStep(s); err == nil {
			t.Errorf("%s: no error", s.Action())
		}
	}
	got, err = v.ExpandStep(provisioning.Step{ApplyOperatingSystemSettings: &provisioning.ApplyOperatingSystemSettings{}})
	if err != nil || got.ApplyOperatingSystemSettings.ComputerName != "pc-1" {
		t.Errorf("computer name: %+v %v", got.ApplyOperatingSystemSettings, err)
	}
}
