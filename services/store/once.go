package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"branchpoint/provisioning"
)

// effect runs do as update does. Where ctx carries a request that shall have its effect once (provisioning.WithOnce), it is
// stored in the same transaction, with what its Done makes of what do returns; if it was carried out before, effect fails with
// CodeConflict and does nothing.
func (s *Store) effect(ctx context.Context, doing string, do func(tx *sql.Tx) (any, error)) error {
	o := provisioning.OnceOf(ctx)
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		if o == nil {
			_, err := do(tx)
			return err
		}
		// Forgotten first: a key may be used again as soon as it is.
		if _, err := tx.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE expires_at <= ?`, stamp(o.At)); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM idempotency_keys WHERE account = ? AND key = ?`, o.Account, o.Key).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return provisioning.Errorf(provisioning.CodeConflict, "Send the request again.", "a request with this key was carried out meanwhile")
		}
		done, err := do(tx)
		if err != nil {
			return err
		}
		if o.Done == nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "%s: the answer to a request that has its effect once is not known", doing)
		}
		if err := o.Done(done); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO idempotency_keys (account, key, request, at, expires_at, answer, made) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			o.Account, o.Key, o.Request, stamp(o.At), stamp(o.Expires), string(o.Answer), o.Made)
		return err
	})
}

// Once returns the request that an account has sent under a key and that was carried out. It fails with CodeNotFound where there
// is none, or where it has expired at now.
func (s *Store) Once(ctx context.Context, account, key string, now time.Time) (*provisioning.Once, error) {
	o := provisioning.Once{Account: account, Key: key}
	var at, expires, answer string
	err := s.db.QueryRowContext(ctx, `SELECT request, at, expires_at, answer, made FROM idempotency_keys WHERE account = ? AND key = ? AND expires_at > ?`,
		account, key, stamp(now)).Scan(&o.Request, &at, &expires, &answer, &o.Made)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "no request was carried out under this key")
	}
	if err == nil {
		o.Answer = []byte(answer)
		err = parseStamps(map[*time.Time]string{&o.At: at, &o.Expires: expires})
	}
	if err != nil {
		return nil, s.fail("look for an earlier request", err)
	}
	return &o, nil
}
