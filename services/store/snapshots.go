package store

import (
	"context"
	"database/sql"
	"errors"

	"branchpoint/provisioning"
)

// SiteSnapshot returns a site's newest snapshot. It fails with CodeNotFound if the site never had one.
func (s *Store) SiteSnapshot(ctx context.Context, site string) (*provisioning.SiteSnapshot, error) {
	var x provisioning.SiteSnapshot
	err := s.db.QueryRowContext(ctx, `SELECT site, epoch, number, core, payload, signature, problem FROM snapshots WHERE site = ?`, site).
		Scan(&x.Site, &x.Epoch, &x.Number, &x.Core, &x.Signed.Payload, &x.Signed.Signature, &x.Problem)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no snapshot of site %q", site)
	}
	if err != nil {
		return nil, s.fail("read snapshot of site "+site, err)
	}
	return &x, nil
}

// presentSnapshots returns the sites' snapshots without their payloads, which may be large.
func presentSnapshots(ctx context.Context, q querier) (map[string]provisioning.SiteSnapshot, error) {
	out := map[string]provisioning.SiteSnapshot{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var x provisioning.SiteSnapshot
		err := r.Scan(&x.Site, &x.Epoch, &x.Number, &x.Core, &x.Problem)
		out[x.Site] = x
		return err
	}, `SELECT site, epoch, number, core, problem FROM snapshots`)
	return out, err
}

// publishTries is how often PublishSnapshots decides without holding writers up. A change takes longer to decide than
// to publish, so that another one seldom comes between.
const publishTries = 3

// PublishSnapshots gives decide what snapshots are made of, and stores what it returns in the place of the sites' present
// ones, all or none: nothing that decide was given has changed by then. Deciding may take long and holds no writer up; where
// something was changed meanwhile decide is called again, so it must do nothing but decide. A snapshot without a payload
// changes a site's Problem alone. What decide fails with is returned as it is.
func (s *Store) PublishSnapshots(ctx context.Context, decide func(provisioning.Publication) ([]provisioning.SiteSnapshot, error)) error {
	const doing = "store snapshots"
	for range publishTries {
		var basis publication
		err := s.view(ctx, doing, func(tx *sql.Tx) (err error) {
			basis, err = s.publication(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
		next, err := decide(basis.Publication)
		if err != nil {
			return s.fail(doing, err)
		}
		stored := len(next) == 0
		if stored {
			return nil
		}
		err = s.update(ctx, doing, func(tx *sql.Tx) error {
			now, err := s.publication(ctx, tx)
			if err != nil || !now.same(basis) {
				return err
			}
			stored = true
			return putSnapshots(ctx, tx, next)
		})
		if err != nil || stored {
			return err
		}
	}
	return s.update(ctx, doing, func(tx *sql.Tx) error {
		basis, err := s.publication(ctx, tx)
		if err != nil {
			return err
		}
		next, err := decide(basis.Publication)
		if err != nil {
			return err
		}
		return putSnapshots(ctx, tx, next)
	})
}

// publication is a Publication with what says that it is still the newest.
type publication struct {
	provisioning.Publication
	change, order uint64
}

// publication reads what snapshots are made of; q must not have changed it.
func (s *Store) publication(ctx context.Context, q querier) (p publication, err error) {
	if p.Documents, _, p.change, err = s.newest.read(ctx, q); err != nil {
		return p, err
	}
	if p.Present, err = presentSnapshots(ctx, q); err != nil {
		return p, err
	}
	if p.Orders, err = orders(ctx, q); err != nil {
		return p, err
	}
	if n := len(p.Orders); n > 0 {
		p.order = p.Orders[n-1].Number
	}
	if p.Inventories, err = inventories(ctx, q); err != nil {
		return p, err
	}
	told, err := hosts(ctx, q)
	if err != nil {
		return p, err
	}
	for _, x := range told {
		p.Hosts = append(p.Hosts, x.Host)
	}
	sites := 0
	for i := range p.Documents {
		if p.Documents[i].Kind == provisioning.KindSite {
			sites++
		}
	}
	if sites > 1 {
		p.Runs, err = siteRuns(ctx, q)
	}
	return p, err
}

// same reports whether p and o say the same. Inventories, runs and hosts are left out: who stores one publishes afterwards.
func (p *publication) same(o publication) bool {
	if p.change != o.change || p.order != o.order || len(p.Present) != len(o.Present) {
		return false
	}
	for site, x := range p.Present {
		if y := o.Present[site]; x.Epoch != y.Epoch || x.Number != y.Number || x.Core != y.Core || x.Problem != y.Problem {
			return false
		}
	}
	return true
}

func putSnapshots(ctx context.Context, tx *sql.Tx, next []provisioning.SiteSnapshot) error {
	for _, x := range next {
		var err error
		if x.Signed.Payload == nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO snapshots (site, epoch, number, core, payload, signature, problem) VALUES (?, 0, 0, '', x'', x'', ?)
				ON CONFLICT (site) DO UPDATE SET problem = excluded.problem`, x.Site, x.Problem)
		} else {
			_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO snapshots (site, epoch, number, core, payload, signature, problem) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				x.Site, x.Epoch, x.Number, x.Core, x.Signed.Payload, x.Signed.Signature, x.Problem)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
