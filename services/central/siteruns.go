package central

import (
	"context"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// siteRuns are a site's runs, by what it has reported, in the order in which they started.
func (c *Central) siteRuns(ctx context.Context, site string) ([]provisioning.Run, error) {
	runs := []provisioning.Run{}
	err := c.cfg.Store.EachRun(ctx, provisioning.RunFilter{Site: site}, func(r provisioning.RunRecord) error {
		runs = append(runs, r.Run)
		return nil
	})
	provisioning.SortRuns(runs)
	return runs, err
}

// clearing are orders to clear computers, found by what runs are known by. The zero value clears nothing.
type clearing struct {
	byName map[string][]cleared
	byMAC  map[provisioning.MAC][]cleared
	byGUID map[provisioning.GUID][]cleared
}

type cleared struct {
	order    *provisioning.Clear
	computer *provisioning.Computer
}

// newClearing makes orders ready; computer finds computers by their names, nil where there is none.
func newClearing(orders []provisioning.Clear, computer func(name string) *provisioning.Computer) *clearing {
	x := &clearing{byName: map[string][]cleared{}, byMAC: map[provisioning.MAC][]cleared{}, byGUID: map[provisioning.GUID][]cleared{}}
	for i := range orders {
		o := cleared{&orders[i], computer(orders[i].Computer)}
		if o.computer == nil {
			o.computer = &provisioning.Computer{Name: o.order.Computer}
		}
		x.byName[o.order.Computer] = append(x.byName[o.order.Computer], o)
		for _, m := range o.computer.Spec.MACAddresses {
			x.byMAC[m] = append(x.byMAC[m], o)
		}
		if g := o.computer.Spec.SMBIOSGUID; g != "" {
			x.byGUID[g] = append(x.byGUID[g], o)
		}
	}
	return x
}

// clears reports whether a run counts for nothing any more: its branch has said so, or will once it has the order.
func (x *clearing) clears(r *provisioning.Run) bool {
	cleared := r.Cleared
	x.of(r)(func(*provisioning.Clear) bool {
		cleared = true
		return false
	})
	return cleared
}

// of are the orders that clear a run; one may come more than once.
func (x *clearing) of(r *provisioning.Run) iter.Seq[*provisioning.Clear] {
	return func(yield func(*provisioning.Clear) bool) {
		for _, orders := range [][]cleared{x.byName[r.Computer], x.byMAC[r.Machine.MAC], x.byGUID[r.Machine.GUID]} {
			for _, o := range orders {
				// One that had erased nothing when the order was given was not cleared by it, whatever came of it since.
				if (r.Spent || !r.UpdatedAt.After(o.order.At)) && policy.ClearedBy(o.order, o.computer, r) && !yield(o.order) {
					return
				}
			}
		}
	}
}

// siteHistory is a site's history as far as its branch has told it, after the orders of its snapshot.
func (c *Central) siteHistory(ctx context.Context, s *provisioning.Snapshot, at time.Time) (policy.History, error) {
	site := s.Site.Name
	runs, err := c.siteRuns(ctx, site)
	if err != nil {
		return policy.History{}, err
	}
	h := policy.History{Runs: runs, Complete: true}
	// Computers that were discovered become documents when they are reported, unless something keeps them from it.
	err = c.cfg.Store.EachReport(ctx, site, provisioning.ReportDiscovered, func(r provisioning.SiteReport) error {
		if r.Conflict != nil && r.Discovered != nil {
			h.Discovered = append(h.Discovered, *r.Discovered)
		}
		return nil
	})
	if err != nil {
		return policy.History{}, err
	}
	given, err := c.cfg.Store.Orders(ctx)
	if err != nil {
		return policy.History{}, err
	}
	find := computerFinder(s, h.Discovered)
	// Its branch has obeyed those that it is told of no more.
	obeyed := slices.DeleteFunc(standing(given, c.cfg.Now()).aged, func(o provisioning.Clear) bool { return find(o.Computer) == nil })
	clearing := newClearing(slices.Concat(obeyed, s.Clears), find)
	for i := range h.Runs {
		h.Runs[i].Cleared = clearing.clears(&h.Runs[i])
	}
	for i := range s.Approvals {
		h.Approved += left(&s.Approvals[i], h.Runs, latest(at, s.IssuedAt))
	}
	return h.Indexed(), nil
}

// computerFinder finds the computers of a snapshot, and those that were discovered, by their names.
func computerFinder(s *provisioning.Snapshot, discovered []provisioning.Computer) func(string) *provisioning.Computer {
	all := make(map[string]*provisioning.Computer, len(s.Computers)+len(discovered))
	for _, list := range [][]provisioning.Computer{discovered, s.Computers} {
		for i := range list {
			all[list[i].Name] = &list[i]
		}
	}
	return func(name string) *provisioning.Computer { return all[name] }
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// left is how many deployments an approval lets begin still: those that have begun by it name its number.
func left(a *provisioning.Approval, runs []provisioning.Run, at time.Time) int {
	if !at.Before(a.Expires) {
		return 0
	}
	number, n := strconv.FormatUint(a.Number, 10)+"-", a.Wipes
	for i := range runs {
		if strings.HasPrefix(runs[i].Allowance, number) {
			n--
		}
	}
	return max(0, n)
}
