package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"branchpoint/provisioning"
)

// keptHosts is how many different machines of each site are kept: those that told of themselves last.
const keptHosts = 64

// hostPause is how long what an appliance has said of its machine stands before it is taken that it says something else: each time
// makes snapshots for all sites.
const hostPause = 5 * time.Minute

// PutHost stores what the appliance of a site with that key says that its machine is recognised by, and reports whether that was
// news. The same machine with another key, after an enrolment with a blank data disk, is kept once. It fails with
// CodeUnavailable where that key has said something else less than hostPause ago.
func (s *Store) PutHost(ctx context.Context, site string, key provisioning.SHA256, at time.Time, h provisioning.Hardware) (bool, error) {
	text, err := encode(h)
	if err != nil {
		return false, err
	}
	const doing = "store what an appliance is recognised by"
	known := func(q querier) (same bool, err error) {
		err = rows(ctx, q, func(r *sql.Rows) error {
			var old, stamped string
			var told time.Time
			if err := errors.Join(r.Scan(&old, &stamped), parseStamps(map[*time.Time]string{&told: stamped})); err != nil {
				return err
			}
			same = old == text
			if since := at.Sub(told); !same && since >= 0 && since < hostPause {
				return provisioning.Errorf(provisioning.CodeUnavailable, "Say it again in "+(hostPause-since).Round(time.Second).String()+".",
					"the appliance of site %s has said only now that its machine is another one", site)
			}
			return nil
		}, `SELECT hardware, told_at FROM hosts WHERE site = ? AND key = ?`, site, key)
		return same, err
	}
	// Most that is told is known: it holds no writer up.
	if same, err := known(s.db); err != nil || same {
		return false, s.fail(doing, err)
	}
	news := false
	err = s.update(ctx, doing, func(tx *sql.Tx) error {
		same, err := known(tx)
		if err != nil || same {
			return err
		}
		news = true
		for _, x := range []struct {
			query string
			args  []any
		}{
			{`DELETE FROM hosts WHERE site = ? AND hardware = ?`, []any{site, text}},
			{`INSERT OR REPLACE INTO hosts (site, key, told_at, hardware) VALUES (?, ?, ?, ?)`, []any{site, key, stamp(at), text}},
			{`DELETE FROM hosts WHERE site = ?1 AND key NOT IN (SELECT key FROM hosts WHERE site = ?1 ORDER BY told_at DESC, key LIMIT ?2)`, []any{site, keptHosts}},
		} {
			if _, err := tx.ExecContext(ctx, x.query, x.args...); err != nil {
				return err
			}
		}
		return nil
	})
	return news && err == nil, err
}

// Hosts returns what appliances have told, by site.
func (s *Store) Hosts(ctx context.Context) ([]provisioning.ToldHost, error) {
	out, err := hosts(ctx, s.db)
	return out, s.fail("read what appliances are recognised by", err)
}

// ForgetHost deletes what the appliance of a site with that key has told, with its audit entry. It fails with CodeNotFound where
// it has told nothing.
func (s *Store) ForgetHost(ctx context.Context, site string, key provisioning.SHA256, entry provisioning.AuditEntry) error {
	return s.update(ctx, "forget what an appliance is recognised by", func(tx *sql.Tx) error {
		r, err := tx.ExecContext(ctx, `DELETE FROM hosts WHERE site = ? AND key = ?`, site, key)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such host"))
		}
		return appendAudit(ctx, tx, entry)
	})
}

func hosts(ctx context.Context, q querier) ([]provisioning.ToldHost, error) {
	var out []provisioning.ToldHost
	err := rows(ctx, q, func(r *sql.Rows) error {
		var x provisioning.ToldHost
		var at, text string
		err := r.Scan(&x.Site, &x.Key, &at, &text)
		if err == nil {
			x.Hardware, err = decode[provisioning.Hardware](text)
		}
		out = append(out, x)
		return errors.Join(err, parseStamps(map[*time.Time]string{&out[len(out)-1].At: at}))
	}, `SELECT site, key, told_at, hardware FROM hosts ORDER BY site, key`)
	return out, err
}
