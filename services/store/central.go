package store

import (
	"context"
	"database/sql"
	"errors"

	"branchpoint/provisioning"
)

// Setting returns a setting's value. It fails with CodeNotFound if it was never set.
func (s *Store) Setting(ctx context.Context, name string) ([]byte, error) {
	var v []byte
	err := s.db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no setting %q", name)
	}
	return v, s.fail("read setting "+name, err)
}

// CreateSettings stores settings that go together. It fails with CodeConflict, and stores none, if one of them exists.
func (s *Store) CreateSettings(ctx context.Context, values map[string][]byte) error {
	return s.update(ctx, "store settings", func(tx *sql.Tx) error {
		for name, v := range values {
			r, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, v)
			if err != nil {
				return err
			}
			if n, err := r.RowsAffected(); err != nil || n != 1 {
				return errors.Join(err, provisioning.Errorf(provisioning.CodeConflict, "", "setting %q exists already", name))
			}
		}
		return nil
	})
}

// PutSetting stores a setting, whether or not it exists, with audit entries. What it has done is nil (provisioning.Once).
func (s *Store) PutSetting(ctx context.Context, name string, value []byte, entries ...provisioning.AuditEntry) error {
	return s.effect(ctx, "store setting "+name, func(tx *sql.Tx) (any, error) {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return nil, errors.Join(err, appendAudit(ctx, tx, entries...))
	})
}
