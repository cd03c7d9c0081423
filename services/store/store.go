// Package store keeps what must survive a restart, for central and for a branch. It is the only package that knows SQL.
// Every exported method is one transaction: after a crash or a full disk either all of it happened or nothing.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"branchpoint/provisioning"

	"github.com/pressly/goose/v3"
	"github.com/prometheus/client_golang/prometheus"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open database. Its methods may be called from many goroutines, and from several processes.
type Store struct {
	db      *sql.DB
	path    string
	alone   bool
	metrics *metrics
	failed  func(error)
	newest  newest
	// writer is taken while one of this process writes: those that wait hold no connection, of which there are few.
	writer chan struct{}
	// registry is where the metrics are registered; nil is nowhere.
	registry prometheus.Registerer
}

// Option changes how a database is opened.
type Option func(*Store)

// Alone says that this process alone has the database open. SQLite then keeps the index of its log in memory; shared with
// others it would be a mapped file, and a disk that fails would end the program by a fault rather than by an error.
func Alone() Option { return func(s *Store) { s.alone = true } }

// OnFailure has f called with every error of the database itself, such as a disk that is full or cannot be read: not with
// what callers did wrong, and not when their context ended. It must return soon.
func OnFailure(f func(error)) Option { return func(s *Store) { s.failed = f } }

// Open opens the SQLite database at path, makes it where there is none (mode 0600: it holds secrets), and brings its
// tables up to date. It fails with CodeCorrupt where the file is no database of ours, or a newer program's.
func Open(ctx context.Context, path string, options ...Option) (*Store, error) {
	s := &Store{path: path, metrics: newMetrics(), failed: func(error) {}, writer: make(chan struct{}, 1)}
	for _, o := range options {
		o(s)
	}
	if s.registry != nil {
		if err := s.registry.Register(s.metrics.errors); err != nil {
			return nil, provisioning.Errorf(provisioning.CodeInternal, "", "register the metrics of database %s: %w", path, err)
		}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "Check that the folder exists and is writable.", "open database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	query := url.Values{
		"_pragma": {"busy_timeout(20000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}
	if s.alone {
		query.Set("vfs", "unix-excl") // sqlite.org/vfs.html section 2.1
	}
	name := url.URL{Scheme: "file", Path: abs, RawQuery: query.Encode()}
	if s.db, err = sql.Open("sqlite", name.String()); err != nil {
		return nil, s.fail("open database", err)
	}
	s.db.SetMaxOpenConns(8)
	if err := s.migrate(ctx); err != nil {
		_ = s.db.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, s.db, sub, goose.WithDisableGlobalRegistry(true), goose.WithGoMigrations(fillRunRecords))
	if err != nil {
		return s.fail("prepare tables", err)
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return s.fail("read the version of the tables", err)
	}
	if current > target {
		return provisioning.Errorf(provisioning.CodeConflict, "Use that newer program, or restore a backup made by this one.",
			"database %s was written by a newer program (tables %d, this program knows %d)", s.path, current, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return s.fail("bring the tables up to date", err)
	}
	return nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Path is the database file's path as it was given to Open.
func (s *Store) Path() string { return s.path }

// fail says what was being done, in which file, and gives SQLite's failures their code. Errors that have one keep it.
func (s *Store) fail(doing string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*provisioning.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[provisioning.Problems](err); ok {
		return err
	}
	interrupted, ok := errors.AsType[*sqlite.Error](err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || ok && interrupted.Code()&0xff == sqlite3.SQLITE_INTERRUPT {
		return fmt.Errorf("%s: %s: %w", doing, s.path, err)
	}
	err = s.diagnose(doing, err)
	s.metrics.errors.WithLabelValues(string(provisioning.CodeOf(err))).Inc()
	s.failed(err)
	return err
}

// diagnose gives an error of the database its code and next step.
func (s *Store) diagnose(doing string, err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		switch e.Code() & 0xff { // the low octet is the primary code: sqlite.org/rescode.html
		case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
			return provisioning.Errorf(provisioning.CodeCorrupt, "Restore it from a backup, or move the file away to begin with an empty one.",
				"%s: %s is no intact database: %w", doing, s.path, err)
		case sqlite3.SQLITE_FULL:
			return provisioning.Errorf(provisioning.CodeNoSpace, "Free space on the disk that holds it.", "%s: the disk that holds %s is full: %w", doing, s.path, err)
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return provisioning.Errorf(provisioning.CodeUnavailable, "Try again; if it stays, see which program holds the file.", "%s: %s is in use: %w", doing, s.path, err)
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM:
			return provisioning.Errorf(provisioning.CodeUnavailable, "Check the disk and the file's rights.", "%s: %s: %w", doing, s.path, err)
		}
	}
	return fmt.Errorf("%s: %s: %w", doing, s.path, err)
}

// update runs do in a writing transaction, which no other writer overlaps.
func (s *Store) update(ctx context.Context, doing string, do func(tx *sql.Tx) error) error {
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return s.fail(doing, ctx.Err())
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return s.fail(doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing, before it the error is do's
	if err := do(tx); err != nil {
		return s.fail(doing, err)
	}
	return s.fail(doing, tx.Commit())
}

// view runs do in a reading transaction: all that it reads is from one moment, and no writer waits for it.
func (s *Store) view(ctx context.Context, doing string, do func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // the driver begins it deferred, without the writer's lock
	if err != nil {
		return s.fail(doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return s.fail(doing, do(tx))
}

// rows runs a query and calls scan for each row.
func rows(ctx context.Context, q querier, scan func(*sql.Rows) error, query string, args ...any) error {
	r, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if err := scan(r); err != nil {
			return err
		}
	}
	return r.Err()
}

// values returns the values of a query's only column, each stored as JSON.
func values[T any](ctx context.Context, s *Store, what, query string, args ...any) ([]T, error) {
	out := []T{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var text string
		if err := r.Scan(&text); err != nil {
			return err
		}
		v, err := decode[T](text)
		out = append(out, v)
		return err
	}, query, args...)
	return out, s.fail("read "+what, err)
}

// encode is how values are stored that are no columns, and decode reads them back.
func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func decode[T any](text string) (T, error) {
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, provisioning.Errorf(provisioning.CodeCorrupt, "", "decode what is stored: %w", err)
	}
	return v, nil
}

// stampForm has a fixed width, so that stamps sort as the times they are.
const stampForm = "2006-01-02T15:04:05.000000000Z"

// stamp is a time as it stands in the database, UTC.
func stamp(t time.Time) string { return t.UTC().Format(stampForm) }

func parseStamp(s string) (time.Time, error) { return time.Parse(stampForm, s) }
