package store

import (
	"context"
	"database/sql"
	"time"

	"branchpoint/provisioning"
)

// keptHosts is how many different machines of each site are kept: those that told of themselves last.
const keptHosts = 64

// PutHost stores what the appliance of a site with that key says that its machine is recognised by, and reports whether that was
// news. The same machine with another key, after an enrolment with a blank data disk, is kept once.
func (s *Store) PutHost(ctx context.Context, site string, key provisioning.SHA256, at time.Time, h provisioning.Hardware) (bool, error) {
	text, err := encode(h)
	if err != nil {
		return false, err
	}
	const doing = "store what an appliance is recognised by"
	known := func(q querier) (same bool, err error) {
		err = rows(ctx, q, func(r *sql.Rows) error {
			var old string
			err := r.Scan(&old)
			same = old == text
			return err
		}, `SELECT hardware FROM hosts WHERE site = ? AND key = ?`, site, key)
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

// Hosts returns the machines that appliances have told of, by site.
func (s *Store) Hosts(ctx context.Context) ([]provisioning.Host, error) {
	out, err := hosts(ctx, s.db)
	return out, s.fail("read what appliances are recognised by", err)
}

func hosts(ctx context.Context, q querier) ([]provisioning.Host, error) {
	var out []provisioning.Host
	err := rows(ctx, q, func(r *sql.Rows) error {
		var site, text string
		if err := r.Scan(&site, &text); err != nil {
			return err
		}
		h, err := decode[provisioning.Hardware](text)
		out = append(out, provisioning.Host{Site: site, Hardware: h})
		return err
	}, `SELECT site, hardware FROM hosts ORDER BY site, key`)
	return out, err
}
