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

// PutSetting stores a setting, whether or not it exists.
func (s *Store) PutSetting(ctx context.Context, name string, value []byte) error {
	return s.update(ctx, "store setting "+name, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return err
	})
}

// CreateEnrolmentToken stores a new enrolment token.
func (s *Store) CreateEnrolmentToken(ctx context.Context, t provisioning.EnrolmentToken) error {
	return s.update(ctx, "store enrolment token", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO enrolment_tokens (hash, site, created_at, expires_at, key, certificate) VALUES (?, ?, ?, ?, ?, ?)`,
			t.Hash, t.Site, stamp(t.CreatedAt), stamp(t.ExpiresAt), t.Key, t.Certificate)
		return err
	})
}

// UseEnrolmentToken gives decide the token with that hash and stores what decide sets: Key and Certificate. No other use
// happens between. It fails with CodeNotFound if there is no such token.
func (s *Store) UseEnrolmentToken(ctx context.Context, hash provisioning.SHA256, decide func(*provisioning.EnrolmentToken) error) error {
	return s.update(ctx, "use enrolment token", func(tx *sql.Tx) error {
		var t provisioning.EnrolmentToken
		var created, expires string
		err := tx.QueryRowContext(ctx, `SELECT hash, site, created_at, expires_at, key, certificate FROM enrolment_tokens WHERE hash = ?`, hash).
			Scan(&t.Hash, &t.Site, &created, &expires, &t.Key, &t.Certificate)
		if errors.Is(err, sql.ErrNoRows) {
			return provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such enrolment token")
		}
		if err != nil {
			return err
		}
		if t.CreatedAt, err = parseStamp(created); err != nil {
			return err
		}
		if t.ExpiresAt, err = parseStamp(expires); err != nil {
			return err
		}
		if err := decide(&t); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE enrolment_tokens SET key = ?, certificate = ? WHERE hash = ?`, t.Key, t.Certificate, hash)
		return err
	})
}
