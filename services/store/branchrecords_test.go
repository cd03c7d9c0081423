package store

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

func TestBranchRecords(t *testing.T) {
	s := openTemp(t)
	run := provisioning.Run{ID: strings.Repeat("1", 32), Computer: "pc-1", State: provisioning.RunStarted, StartedAt: noon, UpdatedAt: noon}
	found := provisioning.Computer{Name: "pc-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{"52:54:00:00:00:01"}}}
	change := provisioning.BranchChange{
		Snapshot: &provisioning.SignedSnapshot{Payload: []byte("{}"), Signature: []byte("s")},
		Runs:     []provisioning.Run{run}, Messages: []provisioning.StatusMessage{message("LON", run.ID, 1)},
		Discovered:  []provisioning.Computer{found, {Name: "pc-2"}},
		Inventories: map[string]provisioning.Inventory{"pc-1": {Serial: "S1"}},
		Allowances:  []provisioning.Allowance{{ID: "7", Wipes: 3, Used: 1, Expires: noon.Add(time.Hour), By: "jo"}},
		Obeyed:      []provisioning.SHA256{provisioning.SumSHA256([]byte("o"))},
		Woken: []provisioning.Woken{
			{Computer: "pc-1", Advertisement: "rollout", Opened: noon, Clear: 7, Tries: 1, Last: noon},
			{Computer: "pc-1", Advertisement: "gone", Tries: 4, Last: noon},
			{Computer: "pc-2", Advertisement: "rollout", Tries: 1, Last: noon},
		},
		Reports:          []provisioning.SiteReport{{ID: strings.Repeat("a", 32), Kind: provisioning.ReportDiscovered}, {ID: strings.Repeat("b", 32)}},
		PasswordAttempts: []byte("{}"),
	}
	if err := s.Commit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	again := provisioning.BranchChange{
		Forget: []string{"pc-2", "nobody"}, Obeyed: change.Obeyed, Reports: change.Reports[:1],
		Allowances:  []provisioning.Allowance{{ID: "7", Wipes: 3, Used: 2, Expires: noon.Add(time.Hour), By: "jo"}},
		Woken:       []provisioning.Woken{{Computer: "pc-2", Advertisement: "rollout", Tries: 2, Last: noon.Add(time.Hour)}},
		ForgetWoken: []provisioning.WakeKey{{Computer: "pc-1", Advertisement: "gone"}, {Computer: "nobody", Advertisement: "rollout"}},
	}
	if err := s.Commit(t.Context(), again); err != nil {
		t.Fatal("the same again:", err)
	}
	s = reopen(t, s)
	got, err := s.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := provisioning.BranchRecords{
		Runs: []provisioning.Run{run}, Discovered: []provisioning.Computer{found}, Inventories: change.Inventories, Allowances: again.Allowances, Obeyed: change.Obeyed,
		PasswordAttempts: []byte("{}"), Woken: []provisioning.Woken{change.Woken[0], again.Woken[0]},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if snapshot, err := s.LoadSnapshot(t.Context()); err != nil || string(snapshot.Payload) != "{}" {
		t.Errorf("snapshot %+v, %v", snapshot, err)
	}
	if m, err := s.Undelivered(t.Context(), 10); err != nil || len(m) != 1 {
		t.Errorf("%d messages, %v", len(m), err)
	}
	reports, err := s.UndeliveredReports(t.Context(), 10)
	if err != nil || len(reports) != 2 || reports[0].ID != change.Reports[0].ID {
		t.Fatalf("reports %+v, %v", reports, err)
	}
	if one, err := s.UndeliveredReports(t.Context(), 1); err != nil || len(one) != 1 {
		t.Errorf("asked for one report: %d, %v", len(one), err)
	}
	if err := s.DropReports(t.Context(), []string{reports[0].ID, "unknown"}); err != nil {
		t.Fatal(err)
	}
	if rest, err := s.UndeliveredReports(t.Context(), 10); err != nil || len(rest) != 1 || rest[0].ID != change.Reports[1].ID {
		t.Errorf("left are %+v, %v", rest, err)
	}
}

// TestBranchChangeIsOne: what cannot be stored to its end is not stored at all.
func TestBranchChangeIsOne(t *testing.T) {
	s := openTemp(t)
	if _, err := s.db.ExecContext(t.Context(), `CREATE TRIGGER fails BEFORE INSERT ON branch_reports BEGIN SELECT RAISE(ABORT, 'no'); END`); err != nil {
		t.Fatal(err)
	}
	err := s.Commit(t.Context(), provisioning.BranchChange{
		Snapshot: &provisioning.SignedSnapshot{Payload: []byte("{}")}, Runs: []provisioning.Run{{ID: "1"}}, Discovered: []provisioning.Computer{{Name: "pc"}},
		Reports: []provisioning.SiteReport{{ID: "x"}},
	})
	if err == nil {
		t.Fatal("it was stored")
	}
	got, err := s.Records(t.Context())
	if err != nil || len(got.Runs)+len(got.Discovered) > 0 {
		t.Errorf("stored is %+v, %v", got, err)
	}
	if snapshot, err := s.LoadSnapshot(t.Context()); err != nil || snapshot != nil {
		t.Errorf("the snapshot is stored: %v, %v", snapshot, err)
	}
}

func TestBranchIdentityAndHistory(t *testing.T) {
	s := openTemp(t)
	run := provisioning.Run{ID: strings.Repeat("1", 32), Computer: "pc-1", State: provisioning.RunStarted, StartedAt: noon, UpdatedAt: noon}
	first, second := message("LON", run.ID, 1), message("LON", run.ID, 2)
	if err := s.Record(t.Context(), run, []provisioning.StatusMessage{first, second}); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDelivered(t.Context(), []string{first.ID}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Records(t.Context()); err != nil || r.HistoryComplete {
		t.Fatal("a new history is complete:", r.HistoryComplete, err)
	}
	if err := s.Commit(t.Context(), provisioning.BranchChange{Identity: []byte("me"), HistoryComplete: true}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Undelivered(t.Context(), 10); err != nil || len(m) != 1 {
		t.Fatalf("%d messages wait, %v", len(m), err)
	}
	if err := s.Commit(t.Context(), provisioning.BranchChange{Resend: true}); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if r, err := s.Records(t.Context()); err != nil || !r.HistoryComplete {
		t.Error("the history is no longer complete:", err)
	}
	if id, err := s.LoadIdentity(t.Context()); err != nil || string(id) != "me" {
		t.Errorf("the identity is %q, %v", id, err)
	}
	if m, err := s.Undelivered(t.Context(), 10); err != nil || len(m) != 2 || m[0].ID != first.ID {
		t.Errorf("%d messages wait, %v", len(m), err)
	}
}
