package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

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

// inForce selects the newest revision of every document: with max(), SQLite takes the other columns from that very row
// (sqlite.org/lang_select.html section 2.5).
const inForce = `SELECT kind, name, max(revision), text FROM documents GROUP BY kind, name ORDER BY kind, name`

// Documents returns the documents in force, by kind and name.
func (s *Store) Documents(ctx context.Context) ([]provisioning.Document, error) {
	out, err := documents(ctx, s.db)
	return out, s.fail("read documents", err)
}

func documents(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
},
) ([]provisioning.Document, error) {
	var out []provisioning.Document
	err := rows(ctx, q, func(r *sql.Rows) error {
		var d provisioning.Document
		if err := r.Scan(&d.Kind, &d.Name, &d.Revision, &d.Text); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, inForce)
	return out, err
}

// UpdateDocuments gives decide the documents in force, and stores what it returns as their next revisions, all or none.
// No other update happens between. What decide fails with is returned as it is, and nothing is stored.
func (s *Store) UpdateDocuments(ctx context.Context, at time.Time, decide func(stored []provisioning.Document) ([]provisioning.Document, error)) error {
	return s.update(ctx, "store documents", func(tx *sql.Tx) error {
		stored, err := documents(ctx, tx)
		if err != nil {
			return err
		}
		revisions := map[provisioning.Key]int64{}
		for _, d := range stored {
			revisions[d.Key()] = d.Revision
		}
		changed, err := decide(stored)
		if err != nil || len(changed) == 0 {
			return err
		}
		r, err := tx.ExecContext(ctx, `INSERT INTO changes (at) VALUES (?)`, stamp(at))
		if err != nil {
			return err
		}
		change, err := r.LastInsertId()
		if err != nil {
			return err
		}
		insert, err := tx.PrepareContext(ctx, `INSERT INTO documents (kind, name, revision, change, text) VALUES (?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, d := range changed {
			if _, err := insert.ExecContext(ctx, d.Kind, d.Name, revisions[d.Key()]+1, change, d.Text); err != nil {
				return err
			}
		}
		return nil
	})
}

const snapshotColumns = `SELECT site, epoch, number, core, payload, signature, problem FROM snapshots`

// SiteSnapshot returns a site's newest snapshot. It fails with CodeNotFound if the site never had one.
func (s *Store) SiteSnapshot(ctx context.Context, site string) (*provisioning.SiteSnapshot, error) {
	var out *provisioning.SiteSnapshot
	err := rows(ctx, s.db, func(r *sql.Rows) (err error) {
		out, err = scanSnapshot(r)
		return err
	}, snapshotColumns+` WHERE site = ?`, site)
	if err == nil && out == nil {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no snapshot of site %q", site)
	}
	return out, s.fail("read snapshot of site "+site, err)
}

func scanSnapshot(r *sql.Rows) (*provisioning.SiteSnapshot, error) {
	var x provisioning.SiteSnapshot
	err := r.Scan(&x.Site, &x.Epoch, &x.Number, &x.Core, &x.Signed.Payload, &x.Signed.Signature, &x.Problem)
	return &x, err
}

// PublishSnapshots gives decide the documents in force and the sites' present snapshots, and stores what it returns in
// their place, all or none. No other update happens between.
func (s *Store) PublishSnapshots(ctx context.Context, decide func([]provisioning.Document, map[string]provisioning.SiteSnapshot) ([]provisioning.SiteSnapshot, error)) error {
	return s.update(ctx, "store snapshots", func(tx *sql.Tx) error {
		docs, err := documents(ctx, tx)
		if err != nil {
			return err
		}
		present := map[string]provisioning.SiteSnapshot{}
		err = rows(ctx, tx, func(r *sql.Rows) error {
			x, err := scanSnapshot(r)
			if err == nil {
				present[x.Site] = *x
			}
			return err
		}, snapshotColumns)
		if err != nil {
			return err
		}
		next, err := decide(docs, present)
		if err != nil {
			return err
		}
		for _, x := range next {
			if x.Signed.Payload == nil {
				x.Signed.Payload, x.Signed.Signature = []byte{}, []byte{}
			}
			_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO snapshots (site, epoch, number, core, payload, signature, problem) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				x.Site, x.Epoch, x.Number, x.Core, x.Signed.Payload, x.Signed.Signature, x.Problem)
			if err != nil {
				return err
			}
		}
		return nil
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
