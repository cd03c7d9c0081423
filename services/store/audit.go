package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"branchpoint/provisioning"
)

// appendAudit stores audit entries in the transaction of what they tell.
func appendAudit(ctx context.Context, tx *sql.Tx, entries ...provisioning.AuditEntry) error {
	for _, e := range entries {
		_, err := tx.ExecContext(ctx, `INSERT INTO audit (at, account, came_from, action, kind, name, site, change, before, after) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			stamp(e.At), e.Account, e.From, e.Action, e.Kind, e.Name, e.Site, int64(e.Change), e.Before, e.After)
		if err != nil {
			return err
		}
	}
	return nil
}

// auditDocuments stores an entry for each document of a change, in its transaction. What they said before and after stands in
// documents already.
func auditDocuments(ctx context.Context, tx *sql.Tx, number int64, change provisioning.Change, changed []provisioning.Document) error {
	insert, err := tx.PrepareContext(ctx, `INSERT INTO audit (at, account, came_from, action, kind, name, site, change, before, after)
		VALUES (?, ?, ?, ?, ?, ?, '', ?, '', '')`)
	if err != nil {
		return err
	}
	defer insert.Close()
	from := provisioning.ActorOf(ctx).From
	for _, d := range changed {
		action := string(change.Command)
		if d.Deleted {
			action = string(provisioning.CommandDelete)
		}
		if _, err := insert.ExecContext(ctx, stamp(change.At), change.By, from, action, d.Kind, d.Name, number); err != nil {
			return err
		}
	}
	return nil
}

// auditOrder is the entry of an order.
func auditOrder(ctx context.Context, o provisioning.Order) provisioning.AuditEntry {
	e := provisioning.AuditEntry{At: o.At, Account: o.By, From: provisioning.ActorOf(ctx).From, Action: "clear", Kind: string(provisioning.KindComputer), Name: o.Computer}
	if o.Site != "" {
		e.Action, e.Kind, e.Name, e.Site = "approve", string(provisioning.KindSite), o.Site, o.Site
		e.After = fmt.Sprintf("wipes: %d\nexpires: %s\n", o.Wipes, o.Expires.UTC().Format(time.RFC3339))
	}
	return e
}

// AppendAudit stores audit entries of what is no other change of the database.
func (s *Store) AppendAudit(ctx context.Context, entries ...provisioning.AuditEntry) error {
	return s.update(ctx, "store audit entries", func(tx *sql.Tx) error { return appendAudit(ctx, tx, entries...) })
}

// defaultAudit is how many entries a page of the audit log has unless it is said.
const defaultAudit = 100

// Audit returns the audit entries that f chooses, newest first, with secrets redacted.
func (s *Store) Audit(ctx context.Context, f provisioning.AuditFilter) ([]provisioning.AuditEntry, error) {
	if f.Limit <= 0 {
		f.Limit = defaultAudit
	}
	out := []provisioning.AuditEntry{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var e provisioning.AuditEntry
		var at string
		err := r.Scan(&e.Number, &at, &e.Account, &e.From, &e.Action, &e.Kind, &e.Name, &e.Site, &e.Change, &e.Before, &e.After)
		err = errors.Join(err, parseStamps(map[*time.Time]string{&e.At: at}))
		e.Before, e.After = provisioning.Redact(e.Before), provisioning.Redact(e.After)
		out = append(out, e)
		return err
	}, `SELECT number, at, account, came_from, action, kind, name, site, change,
			coalesce((SELECT text FROM documents d WHERE a.change > 0 AND d.kind = a.kind AND d.name = a.name AND d.change < a.change ORDER BY revision DESC LIMIT 1), before),
			coalesce((SELECT text FROM documents d WHERE a.change > 0 AND d.kind = a.kind AND d.name = a.name AND d.change = a.change), after)
		FROM audit a WHERE (?1 = 0 OR number < ?1) AND (?2 = '' OR account = ?2) AND (?3 = '' OR kind = ?3) AND (?4 = '' OR name = ?4)
			AND (?5 = '' OR site = ?5 OR kind = 'Site' AND name = ?5)
		ORDER BY number DESC LIMIT ?6`, int64(f.Before), f.Account, f.Kind, f.Name, f.Site, f.Limit)
	return out, s.fail("read the audit log", err)
}
