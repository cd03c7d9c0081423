package store

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"branchpoint/provisioning"
)

// keptReports is how many reports of each site are kept for people to read; the ids of older ones are forgotten with them,
// long after their branch has been told that they arrived.
const keptReports = 10000

// UnknownReports returns those of a site's reports that were not taken in yet.
func (s *Store) UnknownReports(ctx context.Context, site string, reports []provisioning.SiteReport) ([]provisioning.SiteReport, error) {
	var out []provisioning.SiteReport
	err := s.view(ctx, "look for site reports", func(tx *sql.Tx) error {
		for _, r := range reports {
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM site_reports WHERE site = ? AND id = ?`, site, r.ID).Scan(&n); err != nil {
				return err
			}
			if n == 0 && !slices.ContainsFunc(out, func(o provisioning.SiteReport) bool { return o.ID == r.ID }) {
				out = append(out, r)
			}
		}
		return nil
	})
	return out, err
}

// TakeReports stores a site's reports, with the inventories and the conflicting records that they tell of. A report whose id
// is known is left as it is. entries are what the audit log says of reports, by their ids.
func (s *Store) TakeReports(ctx context.Context, received time.Time, site string, reports []provisioning.SiteReport, entries map[string]provisioning.AuditEntry) error {
	return s.update(ctx, "store site reports", func(tx *sql.Tx) error {
		for _, r := range reports {
			text, err := encode(r)
			if err != nil {
				return err
			}
			res, err := tx.ExecContext(ctx, `INSERT INTO site_reports (site, id, kind, received_at, report) VALUES (?, ?, ?, ?, ?) ON CONFLICT (site, id) DO NOTHING`,
				site, r.ID, r.Kind, stamp(received), text)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			if e, ok := entries[r.ID]; ok {
				if err := appendAudit(ctx, tx, e); err != nil {
					return err
				}
			}
			if r.Inventory != nil && r.Computer != "" {
				if err := putInventory(ctx, tx, received, r.Computer, *r.Inventory); err != nil {
					return err
				}
			}
			if r.Conflict != nil {
				if err := putConflict(ctx, tx, received, site, r.Conflict); err != nil {
					return err
				}
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM site_reports WHERE site = ?1 AND number <=
			(SELECT number FROM site_reports WHERE site = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)`, site, keptReports)
		return err
	})
}

func putConflict(ctx context.Context, tx *sql.Tx, at time.Time, site string, c *provisioning.Conflict) error {
	text, err := encode(c)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO conflicts (site, id, first_seen, last_seen, conflict) VALUES (?1, ?2, ?3, ?3, ?4)
		ON CONFLICT (site, id) DO UPDATE SET last_seen = excluded.last_seen, conflict = excluded.conflict, resolved = 0`, site, c.ID(), stamp(at), text)
	return err
}

// Conflicts returns the conflicting records that are not resolved, the one that was seen last first.
func (s *Store) Conflicts(ctx context.Context) ([]provisioning.ConflictRecord, error) {
	out := []provisioning.ConflictRecord{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var c provisioning.ConflictRecord
		var first, last, text string
		if err := r.Scan(&c.Site, &c.ID, &first, &last, &text); err != nil {
			return err
		}
		var err error
		if c.FirstSeen, err = parseStamp(first); err != nil {
			return err
		}
		if c.LastSeen, err = parseStamp(last); err != nil {
			return err
		}
		c.Conflict, err = decode[provisioning.Conflict](text)
		out = append(out, c)
		return err
	}, `SELECT site, id, first_seen, last_seen, conflict FROM conflicts WHERE resolved = 0 ORDER BY last_seen DESC, site, id`)
	return out, s.fail("read conflicting records", err)
}

// ResolveConflict notes that a conflicting record is resolved, until it is seen again. It fails with CodeNotFound where
// there is no such record. What it has done is nil (provisioning.Once).
func (s *Store) ResolveConflict(ctx context.Context, site, id string, entries ...provisioning.AuditEntry) error {
	return s.effect(ctx, "resolve a conflicting record", func(tx *sql.Tx) (any, error) {
		r, err := tx.ExecContext(ctx, `UPDATE conflicts SET resolved = 1 WHERE site = ? AND id = ? AND resolved = 0`, site, id)
		if err != nil {
			return nil, err
		}
		if n, err := r.RowsAffected(); err != nil {
			return nil, err
		} else if n == 0 {
			return nil, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint conflicts", "site %.64q has no conflicting record %.64q", site, id)
		}
		return nil, appendAudit(ctx, tx, entries...)
	})
}

// EachReport calls do with the reports of a site, and of a kind, that are kept, in the order in which they arrived; empty
// chooses all. Where do fails, so does it.
func (s *Store) EachReport(ctx context.Context, site string, kind provisioning.ReportKind, do func(provisioning.SiteReport) error) error {
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var text string
		if err := r.Scan(&text); err != nil {
			return err
		}
		x, err := decode[provisioning.SiteReport](text)
		if err != nil {
			return err
		}
		return do(x)
	}, `SELECT report FROM site_reports WHERE (?1 = '' OR site = ?1) AND (?2 = '' OR kind = ?2) ORDER BY number`, site, kind)
	return s.fail("read site reports", err)
}
