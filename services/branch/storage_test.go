package branch

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// breaking is a store on a disk that can break.
type breaking struct {
	Store
	err atomic.Pointer[error]
}

func (b *breaking) broken() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (b *breaking) Commit(ctx context.Context, c provisioning.BranchChange) error {
	if err := b.broken(); err != nil {
		return err
	}
	return b.Store.Commit(ctx, c)
}

func TestSilentWhileNothingCanBeStored(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	var disk error
	s.cfg.Writable = func() error { return disk }
	a := agent(t, s.boot(t))
	disk = errors.New("the data disk is read-only")
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || d.Rule() != policy.RuleStorage || !strings.Contains(d.Why(), "the data disk is read-only") {
		t.Errorf("decision %+v", d)
	}
	_, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC})
	wantCode(t, err, provisioning.CodeUnavailable)
	if !strings.Contains(err.Error(), "the data disk is read-only") || provisioning.NextOf(err) == "" {
		t.Errorf("the agent is told %q, next %q", err, provisioning.NextOf(err))
	}
	disk = nil
	if _, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal("once it can be written again, with the same secret:", err)
	}
	disk = errors.New("the data disk is full")
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeUnavailable)
	disk = nil
	if _, err := a.Assignment(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestAgentsWaitForADiskThatFails: whatever the disk says, the agent must ask again, and nothing may count as done.
func TestAgentsWaitForADiskThatFails(t *testing.T) {
	s := enrolled(t)
	reg := prometheus.NewPedanticRegistry()
	if err := s.metrics.register(reg); err != nil {
		t.Fatal(err)
	}
	disk := &breaking{Store: s.cfg.Store}
	s.cfg.Store = disk
	s.listen(t)
	a := agent(t, s.boot(t))
	if _, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	fails := func(what string, do func() error) {
		t.Helper()
		for _, broken := range []error{
			errors.New("input/output error"),
			provisioning.Errorf(provisioning.CodeNoSpace, "", "the disk is full"),
			provisioning.Errorf(provisioning.CodeCorrupt, "", "it is no intact database"),
			provisioning.Errorf(provisioning.CodeUnavailable, "", "read-only file system"),
		} {
			disk.err.Store(&broken)
			err := do()
			if provisioning.CodeOf(err) != provisioning.CodeUnavailable || provisioning.NextOf(err) == "" {
				t.Errorf("%s with %q: the agent is told %v (%s)", what, broken, err, provisioning.CodeOf(err))
			}
		}
		disk.err.Store(nil)
	}
	fails("assignment", func() error { _, err := a.Assignment(t.Context()); return err })
	as, err := a.Assignment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin := []provisioning.StatusMessage{message(as, 1, provisioning.StatusStepStarted, "applyOperatingSystemImage")}
	fails("status", func() error { return a.Report(t.Context(), begin) })
	if d := s.Decide(t.Context(), desk); d.Resume != "" {
		t.Error("the run is spent, and its message was not stored")
	}
	if err := a.Report(t.Context(), begin); err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(t.Context(), desk); d.Resume != as.Run.ID {
		t.Errorf("decision %+v, want the run gone on with", d)
	}
	if err := a.Report(t.Context(), []provisioning.StatusMessage{message(as, 2, provisioning.StatusSequenceDone, "")}); err != nil {
		t.Fatal(err)
	}
	want := `
		# HELP branchpoint_branch_connections_dropped_total Agents' connections that were ended as there were too many, by reason.
# TYPE branchpoint_branch_connections_dropped_total counter
branchpoint_branch_connections_dropped_total{reason="driven-out"} 0
branchpoint_branch_connections_dropped_total{reason="too-many"} 0
branchpoint_branch_connections_dropped_total{reason="too-many-from-address"} 0
		# HELP branchpoint_branch_keys_state 1 for how the site's private keys are kept, 0 for the others: sealed to the TPM, plain, or locked: sealed and not to be opened.
		# TYPE branchpoint_branch_keys_state gauge
		branchpoint_branch_keys_state{state="locked"} 0
		branchpoint_branch_keys_state{state="plain"} 1
		branchpoint_branch_keys_state{state="sealed"} 0
# HELP branchpoint_branch_outbox_messages Status messages that central has not acknowledged.
		# TYPE branchpoint_branch_outbox_messages gauge
		branchpoint_branch_outbox_messages 2
		# HELP branchpoint_branch_passwords_total Passwords that were given at clients, by result: right, wrong, or too-early to be looked at.
		# TYPE branchpoint_branch_passwords_total counter
		branchpoint_branch_passwords_total{result="right"} 0
		branchpoint_branch_passwords_total{result="too-early"} 0
		branchpoint_branch_passwords_total{result="wrong"} 0
		# HELP branchpoint_branch_refusals_total Agents' requests that were refused, by request and the refusal's code.
		# TYPE branchpoint_branch_refusals_total counter
		branchpoint_branch_refusals_total{code="unavailable",request="assignment"} 4
		branchpoint_branch_refusals_total{code="unavailable",request="status"} 4
		# HELP branchpoint_branch_registrations_total Agents that exchanged a boot secret for a token.
		# TYPE branchpoint_branch_registrations_total counter
		branchpoint_branch_registrations_total 1
		# HELP branchpoint_branch_runs_total Runs that came into a state: started, succeeded or failed.
		# TYPE branchpoint_branch_runs_total counter
		branchpoint_branch_runs_total{state="failed"} 0
		branchpoint_branch_runs_total{state="started"} 1
		branchpoint_branch_runs_total{state="succeeded"} 1
		# HELP branchpoint_branch_snapshot_epoch The epoch of the snapshot in force; 0 if there is none.
		# TYPE branchpoint_branch_snapshot_epoch gauge
		branchpoint_branch_snapshot_epoch 1
		# HELP branchpoint_branch_snapshot_number The number of the snapshot in force; 0 if there is none.
		# TYPE branchpoint_branch_snapshot_number gauge
		branchpoint_branch_snapshot_number 1
		# HELP branchpoint_branch_central_contact_timestamp_seconds When central last answered, in seconds since 1970; 0 if it has not since the start.
		# TYPE branchpoint_branch_central_contact_timestamp_seconds gauge
		branchpoint_branch_central_contact_timestamp_seconds 0
	`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Deliver(ctx); close(done) }()
	<-s.central.got
	cancel()
	<-done
	if got := testutil.ToFloat64(s.metrics.lastContact); got == 0 {
		t.Error("central has answered, and the metrics do not say so")
	}
}

func TestAStoredSnapshotCountsAsInForce(t *testing.T) {
	s := enrolled(t)
	again := open(t, s.central, filepath.Clean(s.path))
	if got := testutil.ToFloat64(again.metrics.snapshotNum); got != 1 {
		t.Errorf("snapshot number %v after a restart", got)
	}
}
