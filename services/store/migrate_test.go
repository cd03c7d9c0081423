package store

import (
	"database/sql"
	"io/fs"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/pressly/goose/v3"
)

// TestOldDatabase opens a database that the first version's tables are in, filled, and finds everything in its place.
func TestOldDatabase(t *testing.T) {
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
	if _, err := p.UpTo(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`INSERT INTO settings VALUES ('ca', x'01')`,
		`INSERT INTO changes (number, at) VALUES (1, '2026-11-20T12:00:00.000000000Z'), (2, '2026-11-20T12:00:00.000000001Z')`,
		`INSERT INTO documents VALUES ('Site', 'LON', 1, 1, 'one'), ('Site', 'PAR', 1, 1, 'par'), ('Site', 'LON', 2, 2, 'two')`,
		`INSERT INTO snapshots VALUES ('LON', 1, 7, 'core', x'02', x'03', '')`,
		`INSERT INTO status (site, id, run, computer, received_at, message) VALUES ('LON', 'i', 'r', 'desk-1', '', '{"id":"i","run":"r"}')`,
		`INSERT INTO status (site, id, run, computer, received_at, message) VALUES
			('LON', '1', 'wiped', 'desk-2', '', '{"id":"1","run":"wiped","advertisement":"a","taskSequence":"t","time":"2026-11-20T12:00:00Z","code":10002}'),
			('LON', '2', 'wiped', 'desk-2', '', '{"id":"2","run":"wiped","advertisement":"a","taskSequence":"t","time":"2026-11-20T12:01:00Z","code":11133,"action":"partitionDisk"}'),
			('LON', '3', 'wiped', 'desk-2', '', '{"id":"3","run":"wiped","advertisement":"a","taskSequence":"t","time":"2026-11-20T12:02:00Z","code":11143}')`,
		`INSERT INTO branch_state VALUES ('identity', x'04')`,
		`INSERT INTO runs VALUES ('r', 'desk-1', '', '{"id":"r","computer":"desk-1"}')`,
		`INSERT INTO outbox (id, run, sequence, message) VALUES ('m', 'r', 1, '{"id":"m"}')`,
		`INSERT INTO leases VALUES ('10.0.0.1', '{"address":"10.0.0.1"}')`,
	} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(q, err)
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
	ctx := t.Context()
	same := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", what, err, got, want)
		}
	}
	ca, err := s.Setting(ctx, "ca")
	same("setting", ca, []byte{1}, err)
	docs, err := s.Documents(ctx)
	same("documents", docs, []provisioning.Document{
		{Kind: "Site", Name: "LON", Revision: 2, Change: 2, Text: "two"}, {Kind: "Site", Name: "PAR", Revision: 1, Change: 1, Text: "par"},
	}, err)
	changes, err := s.Changes(ctx, 0, 10)
	same("changes", changes, []provisioning.Change{
		{Number: 2, At: noon.Add(1), Command: provisioning.CommandApply, Documents: 1}, {Number: 1, At: noon, Command: provisioning.CommandApply, Documents: 2},
	}, err)
	snapshot, err := s.SiteSnapshot(ctx, "LON")
	same("snapshot", snapshot, &provisioning.SiteSnapshot{Site: "LON", Epoch: 1, Number: 7, Core: "core", Signed: provisioning.SignedSnapshot{Payload: []byte{2}, Signature: []byte{3}}}, err)
	status, _, err := s.Status(ctx, provisioning.StatusFilter{})
	same("status", status[:1], []provisioning.StatusMessage{{ID: "i", Run: "r"}}, err)
	runs, err := siteRuns(ctx, s.db)
	same("runs", runs, []provisioning.SiteRun{{Site: "LON", Run: provisioning.Run{
		ID: "wiped", Computer: "desk-2", Advertisement: "a", TaskSequence: "t", State: provisioning.RunSucceeded, Spent: true, SpentAt: noon.Add(time.Minute),
		StartedAt: noon, UpdatedAt: noon.Add(2 * time.Minute),
	}}}, err)
	identity, err := s.LoadIdentity(ctx)
	same("identity", identity, []byte{4}, err)
	outbox, err := s.Undelivered(ctx, 10)
	same("outbox", outbox, []provisioning.StatusMessage{{ID: "m"}}, err)
	leases, err := s.Leases().Load(ctx)
	same("leases", len(leases), 1, err)
	// And it goes on from there.
	number, err := s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) {
		return []provisioning.Document{doc("LON", "three")}, nil
	})
	same("next change", number, uint64(3), err)
	revisions, err := s.Revisions(ctx, provisioning.Key{Kind: "Site", Name: "LON"}, 0, 100)
	if err != nil || len(revisions) != 3 || revisions[2].Text != "three" || revisions[2].By != "jo" || revisions[0].By != "" {
		t.Errorf("%+v %v", revisions, err)
	}
}
