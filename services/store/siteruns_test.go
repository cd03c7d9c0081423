package store

import (
	"cmp"
	"database/sql"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/pressly/goose/v3"
)

// records are those of the runs that f chooses, by site and run.
func records(t *testing.T, s *Store, f provisioning.RunFilter) []provisioning.RunRecord {
	t.Helper()
	var out []provisioning.RunRecord
	if err := s.EachRun(t.Context(), f, func(r provisioning.RunRecord) error { out = append(out, r); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b provisioning.RunRecord) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Run.ID, b.Run.ID))
	})
	return out
}

// TestRunRecords: whatever batches messages come in, and however often, a run has one record, which says what all of them say.
func TestRunRecords(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	erase := message("LON", "1", 2)
	erase.Action, erase.Step, erase.Title, erase.Time = "partitionDisk", 1, "Erase", noon.Add(time.Minute)
	erase.Facts = provisioning.FactsOf(&provisioning.Run{
		State: provisioning.RunStarted, Spent: true, SpentAt: noon, Machine: provisioning.Machine{MAC: "52:54:00:00:00:01"}, StartedAt: noon, UpdatedAt: noon,
	})
	done := message("PAR", "1", 2)
	done.Code, done.Time, done.Text = provisioning.StatusSequenceDone, noon.Add(time.Hour), "done"
	again := message("LON", "1", 1)
	again.ID, again.Text, again.Sequence, again.Facts = erase.ID, "a message of a known id says nothing", 9, provisioning.FactsOf(&provisioning.Run{State: provisioning.RunFailed})
	for _, batch := range [][]provisioning.StatusMessage{{erase, message("LON", "1", 1), done}, {message("PAR", "1", 1), again}, {erase, done}} {
		if _, err := s.AppendStatus(ctx, noon, batch); err != nil {
			t.Fatal(err)
		}
	}
	run := func(state provisioning.RunState, until time.Time) provisioning.Run {
		return provisioning.Run{ID: "1", Computer: "desk-1", Advertisement: "a", TaskSequence: "t", State: state, StartedAt: noon, UpdatedAt: until}
	}
	want := []provisioning.RunRecord{
		{Site: "LON", Run: run(provisioning.RunStarted, noon), Step: 1, Title: "Erase", Text: "2", Sequence: 2, StepSequence: 2, FactsSequence: 2},
		{Site: "PAR", Run: run(provisioning.RunSucceeded, noon.Add(time.Hour)), Text: "done", Sequence: 2},
	}
	want[0].Run.Spent, want[0].Run.SpentAt, want[0].Run.Machine.MAC = true, noon, "52:54:00:00:00:01"
	if got := records(t, s, provisioning.RunFilter{}); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := records(t, s, provisioning.RunFilter{Site: "PAR"}); !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("of PAR: %+v", got)
	}
	if got := records(t, s, provisioning.RunFilter{Advertisement: "b"}); len(got) != 0 {
		t.Errorf("of another advertisement: %+v", got)
	}
	stop := errors.New("stop")
	if err := s.EachRun(ctx, provisioning.RunFilter{}, func(provisioning.RunRecord) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	messages, _, err := s.Status(ctx, provisioning.StatusFilter{TaskSequence: "t"})
	if err != nil || len(messages) != 4 {
		t.Errorf("%d messages: %v", len(messages), err)
	}
	for _, m := range messages {
		if m.Facts != nil {
			t.Error("facts are stored twice")
		}
	}
	if messages, _, err := s.Status(ctx, provisioning.StatusFilter{TaskSequence: "u"}); err != nil || len(messages) != 0 {
		t.Errorf("%d messages of another task sequence: %v", len(messages), err)
	}
}

// TestFillSiteRuns opens a database of a program that kept messages alone.
func TestFillSiteRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sub, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 6); err != nil {
		t.Fatal(err)
	}
	failed := message("LON", "1", 3)
	failed.Code, failed.Text, failed.Time = provisioning.StatusSequenceFailed, "no disk", noon.Add(time.Second)
	for _, m := range []provisioning.StatusMessage{failed, message("LON", "1", 1), message("PAR", "1", 1), message("LON", "2", 1)} {
		text, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), `INSERT INTO status (site, id, run, computer, received_at, message) VALUES (?, ?, ?, ?, '', ?)`,
			m.Site, m.ID, m.Run, m.Computer, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := records(t, s, provisioning.RunFilter{})
	if len(got) != 3 || got[0].Run.State != provisioning.RunFailed || got[0].Text != "no disk" || got[0].Run.UpdatedAt != noon.Add(time.Second) ||
		got[1].Run.Computer != "desk-2" || got[2].Site != "PAR" {
		t.Errorf("%+v", got)
	}
	// The newest by arrival stay the newest.
	if ms, _, err := s.Status(t.Context(), provisioning.StatusFilter{Runs: 1}); err != nil || len(ms) != 1 || ms[0].Run != "2" {
		t.Errorf("%+v, %v", ms, err)
	}
}
