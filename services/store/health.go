package store

import (
	"context"
	"database/sql"

	"branchpoint/provisioning"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what goes wrong with a database.
type metrics struct{ errors *prometheus.CounterVec }

func newMetrics() *metrics {
	m := &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "branchpoint_store_errors_total", Help: "Failures of the database itself, by code: a disk that is full or cannot be read or written, a damaged file.",
	}, []string{"code"})}
	for _, c := range []provisioning.Code{provisioning.CodeCorrupt, provisioning.CodeNoSpace, provisioning.CodeUnavailable, provisioning.CodeInternal} {
		m.errors.WithLabelValues(string(c)) // there from the beginning, so that the first failure is an increase
	}
	return m
}

// Metrics registers the database's metrics at reg.
func Metrics(reg prometheus.Registerer) Option { return func(s *Store) { s.registry = reg } }

// stateProbe is the value that Probe writes.
const stateProbe = "probe"

// Probe writes to the database, and waits until it is on the disk: whether it can be written is known by nothing less. What
// it fails with is what any other change would fail with.
func (s *Store) Probe(ctx context.Context) error {
	return s.update(ctx, "try whether the database can be written", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO branch_state (name, value) VALUES (?, zeroblob(1))
			ON CONFLICT (name) DO UPDATE SET value = CASE value WHEN x'00' THEN x'01' ELSE x'00' END`, stateProbe)
		return err
	})
}

// OutboxLength returns how many status messages were not marked as delivered.
func (s *Store) OutboxLength(ctx context.Context) (int, error) {
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM outbox WHERE delivered = 0`).Scan(&n)
	return n, s.fail("count status messages", err)
}

// Purge takes what was deleted or replaced out of the database's files: they are written anew without it, and the log is emptied. It
// needs as much room as the database has, twice for a moment. It fails with CodeUnavailable where the database is being read.
func (s *Store) Purge(ctx context.Context) error {
	const doing = "write the database anew"
	select {
	case s.writer <- struct{}{}:
		defer func() { <-s.writer }()
	case <-ctx.Done():
		return s.fail(doing, ctx.Err())
	}
	if _, err := s.db.ExecContext(ctx, `VACUUM`); err != nil {
		return s.fail(doing, err)
	}
	var busy, frames, done int // sqlite.org/pragma.html, wal_checkpoint
	if err := s.db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &done); err != nil {
		return s.fail(doing, err)
	}
	if busy != 0 {
		return provisioning.Errorf(provisioning.CodeUnavailable, "", "%s: %s is being read", doing, s.path)
	}
	return nil
}
