package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"branchpoint/provisioning"
)

// The names of a branch's single values.
const (
	stateIdentity = "identity"
	stateSnapshot = "snapshot"
	stateHistory  = "history-complete"
	stateAttempts = "password-attempts"
)

// LoadIdentity returns the branch's identity as it was saved, nil if there is none.
func (s *Store) LoadIdentity(ctx context.Context) ([]byte, error) {
	return s.loadState(ctx, stateIdentity)
}

// SaveIdentity replaces the branch's identity.
func (s *Store) SaveIdentity(ctx context.Context, b []byte) error {
	return s.saveState(ctx, stateIdentity, b)
}

// LoadSnapshot returns the snapshot in force, nil if there is none.
func (s *Store) LoadSnapshot(ctx context.Context) (*provisioning.SignedSnapshot, error) {
	b, err := s.loadState(ctx, stateSnapshot)
	if b == nil || err != nil {
		return nil, err
	}
	var out provisioning.SignedSnapshot
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "decode stored snapshot: %w", err)
	}
	return &out, nil
}

// SaveSnapshot replaces the snapshot in force.
func (s *Store) SaveSnapshot(ctx context.Context, snapshot *provisioning.SignedSnapshot) error {
	return s.Commit(ctx, provisioning.BranchChange{Snapshot: snapshot})
}

func (s *Store) loadState(ctx context.Context, name string) ([]byte, error) {
	var b []byte
	err := s.db.QueryRowContext(ctx, `SELECT value FROM branch_state WHERE name = ?`, name).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return b, s.fail("read "+name, err)
}

func (s *Store) saveState(ctx context.Context, name string, b []byte) error {
	return s.update(ctx, "store "+name, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO branch_state (name, value) VALUES (?, ?)`, name, b)
		return err
	})
}

// Runs returns every run, in the order in which they started.
func (s *Store) Runs(ctx context.Context) ([]provisioning.Run, error) {
	return values[provisioning.Run](ctx, s, "runs", `SELECT run FROM runs ORDER BY started_at, id`)
}

// Record stores a run, new or changed, together with messages about it. Messages whose id is known are left as they
// are.
func (s *Store) Record(ctx context.Context, run provisioning.Run, messages []provisioning.StatusMessage) error {
	return s.Commit(ctx, provisioning.BranchChange{Runs: []provisioning.Run{run}, Messages: messages})
}

// RunMessages returns a run's messages in the order of their Sequence.
func (s *Store) RunMessages(ctx context.Context, run string) ([]provisioning.StatusMessage, error) {
	return s.messages(ctx, `SELECT message FROM outbox WHERE run = ? ORDER BY sequence, number`, run)
}

// Undelivered returns the oldest messages that were not marked as delivered, at most limit.
func (s *Store) Undelivered(ctx context.Context, limit int) ([]provisioning.StatusMessage, error) {
	return s.messages(ctx, `SELECT message FROM outbox WHERE delivered = 0 ORDER BY number LIMIT ?`, limit)
}

func (s *Store) messages(ctx context.Context, query string, args ...any) ([]provisioning.StatusMessage, error) {
	return values[provisioning.StatusMessage](ctx, s, "status messages", query, args...)
}

// MarkDelivered takes messages out of the outbox. Ids it does not know do no harm.
func (s *Store) MarkDelivered(ctx context.Context, ids []string) error {
	return s.update(ctx, "mark status messages as delivered", func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `UPDATE outbox SET delivered = 1 WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}
