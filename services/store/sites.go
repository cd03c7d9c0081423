package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"branchpoint/provisioning"
)

// CreateEnrolmentToken stores a new enrolment token, with audit entries. What it has done is nil
// (provisioning.Once).
func (s *Store) CreateEnrolmentToken(ctx context.Context, t provisioning.EnrolmentToken, entries ...provisioning.AuditEntry) error {
	return s.effect(ctx, "store enrolment token", func(tx *sql.Tx) (any, error) {
		_, err := tx.ExecContext(ctx, `INSERT INTO enrolment_tokens (hash, site, created_at, expires_at, key, certificate, approval) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			t.Hash, t.Site, stamp(t.CreatedAt), stamp(t.ExpiresAt), t.Key, t.Certificate, t.Approval)
		return nil, errors.Join(err, appendAudit(ctx, tx, entries...))
	})
}

const enrolmentColumns = `SELECT hash, site, created_at, expires_at, key, certificate, approval, approved_by, revoked_at FROM enrolment_tokens`

// EnrolmentTokens returns every enrolment token, newest first.
func (s *Store) EnrolmentTokens(ctx context.Context) ([]provisioning.EnrolmentToken, error) {
	out, err := enrolmentTokens(ctx, s.db, enrolmentColumns+` ORDER BY created_at DESC, hash`)
	return out, s.fail("read enrolment tokens", err)
}

func enrolmentTokens(ctx context.Context, q querier, query string, args ...any) ([]provisioning.EnrolmentToken, error) {
	out := []provisioning.EnrolmentToken{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var t provisioning.EnrolmentToken
		var created, expires, revoked string
		err := r.Scan(&t.Hash, &t.Site, &created, &expires, &t.Key, &t.Certificate, &t.Approval, &t.ApprovedBy, &revoked)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&t.CreatedAt: created, &t.ExpiresAt: expires, &t.RevokedAt: revoked}))
		out = append(out, t)
		return err
	}, query, args...)
	return out, err
}

// enrolmentToken fails with CodeNotFound if there is no token with that sum.
func enrolmentToken(ctx context.Context, q querier, hash provisioning.SHA256) (provisioning.EnrolmentToken, error) {
	found, err := enrolmentTokens(ctx, q, enrolmentColumns+` WHERE hash = ?`, hash)
	if err == nil && len(found) == 0 {
		err = provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such enrolment token")
	}
	if err != nil {
		return provisioning.EnrolmentToken{}, err
	}
	return found[0], nil
}

// UseEnrolmentToken gives decide the token with that sum, and stores what decide sets in it and what it returns, all or
// nothing. No other use happens between. It fails with CodeNotFound if there is no such token; what decide fails with is
// returned as it is, and nothing is stored. What it has done is nil (provisioning.Once).
func (s *Store) UseEnrolmentToken(ctx context.Context, hash provisioning.SHA256, decide func(*provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error)) error {
	// Anybody can come with a token that there is not: it holds no writer up.
	const doing = "use enrolment token"
	if _, err := enrolmentToken(ctx, s.db, hash); err != nil {
		return s.fail(doing, err)
	}
	return s.effect(ctx, doing, func(tx *sql.Tx) (any, error) {
		t, err := enrolmentToken(ctx, tx, hash)
		if err != nil {
			return nil, err
		}
		change, err := decide(&t)
		if err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE enrolment_tokens SET key = ?, certificate = ?, approved_by = ?, revoked_at = ? WHERE hash = ?`,
			t.Key, t.Certificate, t.ApprovedBy, stampOrNone(t.RevokedAt), hash); err != nil {
			return nil, err
		}
		if x := change.Issued; x != nil {
			if _, err := tx.ExecContext(ctx, `UPDATE site_certificates SET revoked_at = ?, why = ? WHERE site = ? AND key <> ? AND revoked_at = ''`,
				stamp(x.IssuedAt), change.Replaced, x.Site, x.Key); err != nil {
				return nil, err
			}
			if err := insertCertificate(ctx, tx, *x); err != nil {
				return nil, err
			}
			// What the appliance before said that it had seen holds for it alone: this one will say so itself.
			if _, err := tx.ExecContext(ctx, `UPDATE site_contacts SET epoch = 0, number = 0, root_pinned = 0 WHERE site = ?`, x.Site); err != nil {
				return nil, err
			}
		}
		return nil, appendAudit(ctx, tx, change.Audit...)
	})
}

func insertCertificate(ctx context.Context, tx *sql.Tx, x provisioning.SiteCertificate) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO site_certificates (sum, site, key, issued_at, expires_at, revoked_at, why, recipient) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		x.Sum, x.Site, x.Key, stamp(x.IssuedAt), stamp(x.ExpiresAt), stampOrNone(x.RevokedAt), x.Why, x.Recipient)
	return err
}

// AddSiteCertificate stores a certificate that is not known yet, with audit entries. It is good only as far as what it follows
// from: it fails with CodeUnauthorized where the certificate with the sum renewed was revoked by now (empty: it renews none), or
// where x is no revoked one and its site was revoked at a time when x had been issued.
func (s *Store) AddSiteCertificate(ctx context.Context, x provisioning.SiteCertificate, renewed provisioning.SHA256, entries ...provisioning.AuditEntry) error {
	return s.update(ctx, "store a site's certificate", func(tx *sql.Tx) error {
		var revoked int
		err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM site_certificates WHERE sum = ? AND revoked_at <> '')
			+ (SELECT count(*) FROM site_contacts WHERE site = ? AND revoked_at >= ?)`, renewed, x.Site, stamp(x.IssuedAt)).Scan(&revoked)
		if err != nil {
			return err
		}
		if revoked > 0 && x.RevokedAt.IsZero() {
			return provisioning.Errorf(provisioning.CodeUnauthorized, "", "the certificate of site %s was revoked", x.Site)
		}
		return errors.Join(insertCertificate(ctx, tx, x), appendAudit(ctx, tx, entries...))
	})
}

// SiteCertificates returns the certificates that were issued to a site, to all where it is empty, by site, newest first.
func (s *Store) SiteCertificates(ctx context.Context, site string) ([]provisioning.SiteCertificate, error) {
	out, err := s.certificates(ctx, `WHERE ?1 = '' OR site = ?1 ORDER BY site, issued_at DESC, sum`, site)
	return out, s.fail("read sites' certificates", err)
}

// SiteCertificate fails with CodeNotFound if there is no certificate with that sum.
func (s *Store) SiteCertificate(ctx context.Context, sum provisioning.SHA256) (*provisioning.SiteCertificate, error) {
	out, err := s.certificates(ctx, `WHERE sum = ?`, sum)
	if err == nil && len(out) == 0 {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no certificate %s", sum)
	}
	if err != nil {
		return nil, s.fail("read a site's certificate", err)
	}
	return &out[0], nil
}

func (s *Store) certificates(ctx context.Context, where string, args ...any) ([]provisioning.SiteCertificate, error) {
	out := []provisioning.SiteCertificate{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var x provisioning.SiteCertificate
		var issued, expires, revoked string
		err := r.Scan(&x.Sum, &x.Site, &x.Key, &issued, &expires, &revoked, &x.Why, &x.Recipient)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&x.IssuedAt: issued, &x.ExpiresAt: expires, &x.RevokedAt: revoked}))
		out = append(out, x)
		return err
	}, `SELECT sum, site, key, issued_at, expires_at, revoked_at, why, recipient FROM site_certificates `+where, args...)
	return out, err
}

// PutRecipient stores to whom the secrets of the appliance are encrypted that has the certificate with that sum. It fails with
// CodeUnauthorized where there is none, or it was revoked.
func (s *Store) PutRecipient(ctx context.Context, certificate provisioning.SHA256, recipient string) error {
	return s.update(ctx, "store a site's recipient", func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `UPDATE site_certificates SET recipient = ? WHERE sum = ? AND revoked_at = ''`, recipient, certificate)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, provisioning.Errorf(provisioning.CodeUnauthorized, "", "there is no good certificate %s", certificate))
		}
		return nil
	})
}

// Recipients returns to whom each site's secrets are encrypted, by site: the recipient of its newest good certificate that has
// one. Sites without one are left out.
func (s *Store) Recipients(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var site, recipient string
		err := r.Scan(&site, &recipient)
		out[site] = recipient
		return err
	}, `SELECT site, recipient FROM site_certificates WHERE revoked_at = '' AND recipient <> '' ORDER BY issued_at, sum`)
	return out, s.fail("read sites' recipients", err)
}

// RevokeSite revokes every certificate of a site that is good, and its enrolment tokens that nobody has used, and returns how
// many certificates that were. Certificates of the site from before that are not known are no good from then on either.
// What it has done is that number, an int (provisioning.Once).
func (s *Store) RevokeSite(ctx context.Context, site string, at time.Time, why string, entry provisioning.AuditEntry) (int, error) {
	var revoked int64
	err := s.effect(ctx, "revoke site "+site, func(tx *sql.Tx) (any, error) {
		r, err := tx.ExecContext(ctx, `UPDATE site_certificates SET revoked_at = ?, why = ? WHERE site = ? AND revoked_at = ''`, stamp(at), why, site)
		if err != nil {
			return nil, err
		}
		if revoked, err = r.RowsAffected(); err != nil {
			return nil, err
		}
		// A used token would give the revoked certificate again, and a new one to who stole it together with the appliance.
		if _, err := tx.ExecContext(ctx, `UPDATE enrolment_tokens SET revoked_at = ? WHERE site = ? AND revoked_at = ''`, stamp(at), site); err != nil {
			return nil, err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO site_contacts (site, at, epoch, number, root_pinned, revoked_at) VALUES (?, '', 0, 0, 0, ?)
			ON CONFLICT (site) DO UPDATE SET revoked_at = excluded.revoked_at`, site, stamp(at))
		return int(revoked), errors.Join(err, appendAudit(ctx, tx, entry))
	})
	if err != nil {
		return 0, err
	}
	return int(revoked), nil
}

// NoteSiteContact stores that a site has spoken with central. The newest snapshot that it ever had is kept.
func (s *Store) NoteSiteContact(ctx context.Context, c provisioning.SiteContact) error {
	return s.update(ctx, "note the contact of site "+c.Site, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO site_contacts (site, at, epoch, number, root_pinned, revoked_at) VALUES (?1, ?2, ?3, ?4, ?5, '')
			ON CONFLICT (site) DO UPDATE SET at = ?2, root_pinned = ?5,
				number = CASE WHEN ?3 > epoch THEN ?4 WHEN ?3 = epoch THEN max(number, ?4) ELSE number END, epoch = max(epoch, ?3)`,
			c.Site, stamp(c.At), int64(c.Epoch), int64(c.Number), c.RootPinned)
		return err
	})
}

// SiteContacts returns what is known of each site's contacts, by site.
func (s *Store) SiteContacts(ctx context.Context) (map[string]provisioning.SiteContact, error) {
	out := map[string]provisioning.SiteContact{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var c provisioning.SiteContact
		var at, revoked string
		err := r.Scan(&c.Site, &at, &c.Epoch, &c.Number, &c.RootPinned, &revoked)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&c.At: at, &c.RevokedAt: revoked}))
		out[c.Site] = c
		return err
	}, `SELECT site, at, epoch, number, root_pinned, revoked_at FROM site_contacts`)
	return out, s.fail("read sites' contacts", err)
}

// Epochs returns the root key's statements, oldest epoch first.
func (s *Store) Epochs(ctx context.Context) ([]provisioning.SignedEpoch, error) {
	out := []provisioning.SignedEpoch{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var e provisioning.SignedEpoch
		err := r.Scan(&e.Payload, &e.Signature)
		out = append(out, e)
		return err
	}, `SELECT payload, signature FROM epochs ORDER BY epoch`)
	return out, s.fail("read the root key's statements", err)
}

// AddEpoch stores the root key's statement of an epoch together with the settings that make it the present one, and the audit
// entry. It fails with CodeConflict where there is a statement of that epoch.
func (s *Store) AddEpoch(ctx context.Context, epoch uint64, signed provisioning.SignedEpoch, settings map[string][]byte, entry provisioning.AuditEntry) error {
	return s.update(ctx, "store the root key's statement", func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `INSERT INTO epochs (epoch, payload, signature) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, int64(epoch), signed.Payload, signed.Signature)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, provisioning.Errorf(provisioning.CodeConflict, "", "there is a statement of epoch %d already", epoch))
		}
		for name, v := range settings {
			if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, v); err != nil {
				return err
			}
		}
		return appendAudit(ctx, tx, entry)
	})
}
