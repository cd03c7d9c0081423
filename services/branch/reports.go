package branch

import (
	"context"
	"slices"
	"time"

	"branchpoint/provisioning"
)

// DeliverReports sends site reports to central until ctx ends. A report is forgotten here when central has taken it in; one
// that arrives twice counts once there.
func (b *Branch) DeliverReports(ctx context.Context) error {
	pause := backoff{}
	for {
		reports, err := b.cfg.Store.UndeliveredReports(ctx, reportBatch)
		if err == nil && len(reports) == 0 {
			select {
			case <-b.reportsWait:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err == nil {
			err = b.cfg.Central.ReportSite(ctx, reports)
		}
		if err == nil {
			b.metrics.contact(b.cfg.Now())
			ids := make([]string, len(reports))
			for i := range reports {
				ids[i] = reports[i].ID
			}
			err = b.cfg.Store.DropReports(ctx, ids)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b.cfg.Log.Warn("site reports wait for central", "error", err)
			pause.wait(ctx)
			continue
		}
		pause.reset()
	}
}

// takeInventory notes what an agent tells of its computer's hardware, if that is news: for decisions from now on, and for
// central. Where it cannot be stored, it is told again with the next start.
func (b *Branch) takeInventory(ctx context.Context, computer string, known bool, v provisioning.Inventory) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state.Load()
	if v == (provisioning.Inventory{}) {
		return nil
	}
	if old, ok := s.past.Inventories[computer]; ok && old == v {
		return nil
	}
	change := provisioning.BranchChange{Inventories: map[string]provisioning.Inventory{computer: v}}
	if known { // that of a machine that is unknown goes with it, once it is deployed
		id, err := newID(b.cfg.Rand)
		if err != nil {
			return err
		}
		change.Reports = []provisioning.SiteReport{{
			ID: id, Site: b.cfg.Site, Kind: provisioning.ReportInventory, At: b.cfg.Now().UTC(), Computer: computer, Inventory: &v,
		}}
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return err
	}
	b.state.Store(s.withInventory(computer, v))
	b.wakeReports()
	return nil
}

const (
	// maxApproved bounds one approval at the console, approvalTime is how long it holds.
	maxApproved  = 10000
	approvalTime = 24 * time.Hour
	// keepAllowances is how long an approval that has ended is kept in memory.
	keepAllowances = 24 * time.Hour
)

// ApproveWipes lets so many deployments that erase disks begin beyond the site's wipe cap within the next 24 hours, and returns
// how many may by now. It is for the console: who stands there may.
func (b *Branch) ApproveWipes(ctx context.Context, wipes int) (int, error) {
	if wipes < 1 || wipes > maxApproved {
		return 0, provisioning.Errorf(provisioning.CodeInvalid, "Type: approve wipes 5", "%d is not between 1 and %d", wipes, maxApproved)
	}
	id, err := newID(b.cfg.Rand)
	if err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.state.Load().latest(b.cfg.Now()).UTC()
	a := provisioning.Allowance{ID: id, Wipes: wipes, Expires: now.Add(approvalTime), By: "console of site " + b.cfg.Site}
	if err := b.cfg.Store.Commit(ctx, provisioning.BranchChange{Allowances: []provisioning.Allowance{a}}); err != nil {
		return 0, err
	}
	next := b.state.Load().withAllowance(a)
	// Those that have ended long ago say nothing any more.
	next.allowances = slices.DeleteFunc(next.allowances, func(a provisioning.Allowance) bool { return now.Sub(a.Expires) > keepAllowances })
	b.state.Store(next)
	b.cfg.Log.Warn("more deployments that erase disks were approved at the console", "wipes", wipes, "until", a.Expires)
	b.notices.wake()
	return left(next.allowances, now), nil
}
