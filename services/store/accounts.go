package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"branchpoint/provisioning"
)

const accountColumns = `SELECT name, password, disabled, created_at, last_login FROM accounts`

// Accounts returns every account, by name; the built-in one is none of them.
func (s *Store) Accounts(ctx context.Context) ([]provisioning.Account, error) {
	out, err := accounts(ctx, s.db, accountColumns+` ORDER BY name`)
	return out, s.fail("read accounts", err)
}

// Account fails with CodeNotFound if there is no such account.
func (s *Store) Account(ctx context.Context, name string) (*provisioning.Account, error) {
	out, err := accounts(ctx, s.db, accountColumns+` WHERE name = ?`, name)
	if err == nil && len(out) == 0 {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no account %.64q", name)
	}
	if err != nil {
		return nil, s.fail("read an account", err)
	}
	return &out[0], nil
}

func accounts(ctx context.Context, q querier, query string, args ...any) ([]provisioning.Account, error) {
	out := []provisioning.Account{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var a provisioning.Account
		var created, login string
		err := r.Scan(&a.Name, &a.Password, &a.Disabled, &created, &login)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&a.CreatedAt: created, &a.LastLogin: login}))
		out = append(out, a)
		return err
	}, query, args...)
	return out, err
}

// UpdateAccount gives decide the account of that name, nil if there is none, and stores what it returns in its place, with
// the audit entry; nil deletes the account and its tokens. Where the password is another one than before, or none, the account's
// tokens of logins are forgotten with it. No other update happens between. What decide fails with is returned as it is, and
// nothing is stored. What it has done is nil (provisioning.Once).
func (s *Store) UpdateAccount(ctx context.Context, name string, decide func(*provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error)) error {
	return s.effect(ctx, "store an account", func(tx *sql.Tx) (any, error) {
		found, err := accounts(ctx, tx, accountColumns+` WHERE name = ?`, name)
		if err != nil {
			return nil, err
		}
		var old *provisioning.Account
		if len(found) > 0 {
			old = &found[0]
		}
		a, entry, err := decide(old)
		if err != nil {
			return nil, err
		}
		if a == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM accounts WHERE name = ?`, name)
			if err == nil { // whoever gets the name next must not be given answers that were this one's
				_, err = tx.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE account = ?`, name)
			}
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO accounts (name, password, disabled, created_at, last_login) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (name) DO UPDATE SET password = excluded.password, disabled = excluded.disabled`,
				name, a.Password, a.Disabled, stamp(a.CreatedAt), stampOrNone(a.LastLogin))
			if err == nil && old != nil && a.Password != old.Password {
				_, err = tx.ExecContext(ctx, `DELETE FROM api_tokens WHERE account = ?1 AND substr(name, 1, length(?2)) = ?2`, name, provisioning.LoginToken)
			}
		}
		return nil, errors.Join(err, appendAudit(ctx, tx, entry))
	})
}

// NoteLogin notes that an account's password was used.
func (s *Store) NoteLogin(ctx context.Context, name string, at time.Time) error {
	return s.update(ctx, "note a login", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE accounts SET last_login = ? WHERE name = ?`, stamp(at), name)
		return err
	})
}

const tokenColumns = `SELECT hash, account, name, created_at, expires_at, last_used FROM api_tokens`

// APITokens returns the tokens of an account, of all where it is empty, by account and name.
func (s *Store) APITokens(ctx context.Context, account string) ([]provisioning.APIToken, error) {
	out, err := apiTokens(ctx, s.db, tokenColumns+` WHERE ?1 = '' OR account = ?1 ORDER BY account, name`, account)
	return out, s.fail("read API tokens", err)
}

// APIToken fails with CodeNotFound if there is no token with that sum.
func (s *Store) APIToken(ctx context.Context, hash provisioning.SHA256) (*provisioning.APIToken, error) {
	out, err := apiTokens(ctx, s.db, tokenColumns+` WHERE hash = ?`, hash)
	if err == nil && len(out) == 0 {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such API token")
	}
	if err != nil {
		return nil, s.fail("read an API token", err)
	}
	return &out[0], nil
}

func apiTokens(ctx context.Context, q querier, query string, args ...any) ([]provisioning.APIToken, error) {
	out := []provisioning.APIToken{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var t provisioning.APIToken
		var created, expires, used string
		err := r.Scan(&t.Hash, &t.Account, &t.Name, &created, &expires, &used)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&t.CreatedAt: created, &t.ExpiresAt: expires, &t.LastUsed: used}))
		out = append(out, t)
		return err
	}, query, args...)
	return out, err
}

// CreateAPIToken stores a new token. It fails with CodeNotFound where there is no such account, and with CodeConflict where it
// has a token of that name. The account's tokens that have expired by then are forgotten. What it has done is nil
// (provisioning.Once).
func (s *Store) CreateAPIToken(ctx context.Context, t provisioning.APIToken, entry provisioning.AuditEntry) error {
	return s.effect(ctx, "store an API token", func(tx *sql.Tx) (any, error) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM api_tokens WHERE account = ? AND expires_at <= ?`, t.Account, stamp(t.CreatedAt)); err != nil {
			return nil, err
		}
		found, err := accounts(ctx, tx, accountColumns+` WHERE name = ?`, t.Account)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no account %.64q", t.Account)
		}
		r, err := tx.ExecContext(ctx, `INSERT INTO api_tokens (hash, account, name, created_at, expires_at, last_used) VALUES (?, ?, ?, ?, ?, '')
			ON CONFLICT DO NOTHING`, t.Hash, t.Account, t.Name, stamp(t.CreatedAt), stamp(t.ExpiresAt))
		if err != nil {
			return nil, err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return nil, errors.Join(err, provisioning.Errorf(provisioning.CodeConflict, "Choose another name, or revoke that one.", "account %s has a token %.64q already", t.Account, t.Name))
		}
		return nil, appendAudit(ctx, tx, entry)
	})
}

// RevokeAPIToken forgets a token. It fails with CodeNotFound if there is none with that sum.
func (s *Store) RevokeAPIToken(ctx context.Context, hash provisioning.SHA256, entry provisioning.AuditEntry) error {
	return s.update(ctx, "revoke an API token", func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `DELETE FROM api_tokens WHERE hash = ?`, hash)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such API token"))
		}
		return appendAudit(ctx, tx, entry)
	})
}

// UseAPIToken notes when a token was used last.
func (s *Store) UseAPIToken(ctx context.Context, hash provisioning.SHA256, at time.Time) error {
	return s.update(ctx, "note the use of an API token", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE api_tokens SET last_used = ? WHERE hash = ?`, stamp(at), hash)
		return err
	})
}

// stampOrNone is a time as it stands in the database, empty for the zero time.
func stampOrNone(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stamp(t)
}

// parseStamps reads times; an empty stamp is the zero time.
func parseStamps(stamps map[*time.Time]string) error {
	for t, s := range stamps {
		if s == "" {
			continue
		}
		v, err := parseStamp(s)
		if err != nil {
			return err
		}
		*t = v
	}
	return nil
}
