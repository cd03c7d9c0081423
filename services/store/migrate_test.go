package store

import (
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/pressly/goose/v3"
)

// fillOld makes a database with the tables of an older version, and fills it.
func fillOld(t *testing.T, path string, version int64, queries []string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, sub, goose.WithDisableGlobalRegistry(true), goose.WithGoMigrations(fillRunRecords))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	for _, q := range queries {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(q, err)
		}
	}
}

// TestRunOrderOfAnOldDatabase: runs of a database from before they were listed by their first message are listed by it; what appliances
// are recognised by, and to whom their secrets are encrypted, nobody has said yet.
func TestRunOrderOfAnOldDatabase(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "old.db")
	message := func(number int, run string) string {
		return fmt.Sprintf(`INSERT INTO status (number, site, id, run, computer, received_at, message) VALUES (%d, 'LON', 'm%[1]d', '%s', 'desk-1', '', '{"id":"m%[1]d","run":"%[2]s"}')`, number, run)
	}
	record := func(number int, run string) string {
		return fmt.Sprintf(`INSERT INTO run_records (site, id, number, computer, advertisement, task_sequence, record) VALUES ('LON', '%s', %d, 'desk-1', 'a', 't', '{"site":"LON","run":{"id":"%[1]s","computer":"desk-1"}}')`, run, number)
	}
	fillOld(t, path, 11, []string{
		message(1, "early"), message(2, "late"), message(3, "early"), record(3, "early"), record(2, "late"), record(9, "silent"), // whose messages are not kept
		`INSERT INTO site_certificates (sum, site, key, issued_at, expires_at, revoked_at, why) VALUES ('s', 'LON', 'k', '2026-11-20T12:00:00.000000000Z', '2027-11-20T12:00:00.000000000Z', '', '')`,
	})
	s, err := Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	first := map[string]int64{}
	err = rows(ctx, s.db, func(r *sql.Rows) error {
		var id string
		var n int64
		err := r.Scan(&id, &n)
		first[id] = n
		return err
	}, `SELECT id, first_number FROM run_records`)
	if want := map[string]int64{"early": 1, "late": 2, "silent": 9}; err != nil || !reflect.DeepEqual(first, want) {
		t.Errorf("%v, %v", first, err)
	}
	if to, err := s.Recipients(ctx); err != nil || len(to) != 0 && to["LON"] != "" {
		t.Errorf("%v, %v", to, err)
	}
	if err := s.PutRecipient(ctx, "s", "age1x"); err != nil {
		t.Error(err)
	}
	if to, err := s.Recipients(ctx); err != nil || to["LON"] != "age1x" {
		t.Errorf("%v, %v", to, err)
	}
	if x, err := s.SiteCertificates(ctx, "LON"); err != nil || len(x) != 1 || x[0].Key != "k" {
		t.Errorf("%+v, %v", x, err)
	}
	if all, err := s.Hosts(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if news, err := s.PutHost(ctx, "LON", "k", noon, provisioning.Hardware{MACAddresses: []provisioning.MAC{"52:54:00:00:00:01"}}); err != nil || !news {
		t.Error(news, err)
	}
}

// TestOldDatabase opens a database that the first version's tables are in, filled, and finds everything in its place.
func TestOldDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	fillOld(t, path, 3, []string{
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
	})

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
