package central

import (
	"cmp"
	"context"
	"slices"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

const (
	// clearAge is how long a Clear is published: a branch that did not hear of it for longer runs nothing again, which is
	// the safe side. Central itself goes by a Clear for as long as it keeps a run that was cleared.
	clearAge = 90 * 24 * time.Hour
	// maxClears bounds the Clears of one order, and those that are published.
	maxClears = 10000
	// maxWipes and maxApproval bound an approval.
	maxWipes    = 100000
	maxApproval = 7 * 24 * time.Hour
)

// standingOrders are the orders that still stand.
type standingOrders struct {
	// clears are, of each computer, the last Clear, as far as branches are told of it; aged are those that they are told of no
	// more, and which hold for what central keeps of runs. Both by number.
	clears, aged []provisioning.Clear
	// approvals are those that have not expired, by site.
	approvals map[string][]provisioning.Approval
}

// standing are the orders that still stand: of each computer the last Clear, and the approvals that have not expired.
func standing(all []provisioning.Order, now time.Time) standingOrders {
	last := map[string]provisioning.Clear{}
	out := standingOrders{approvals: map[string][]provisioning.Approval{}}
	for _, o := range all {
		switch {
		case o.Computer != "":
			last[o.Computer] = provisioning.Clear{Number: o.Number, Computer: o.Computer, At: o.At, By: o.By}
		case now.Before(o.Expires):
			out.approvals[o.Site] = append(out.approvals[o.Site], provisioning.Approval{Number: o.Number, Wipes: o.Wipes, Expires: o.Expires, By: o.By})
		}
	}
	for _, c := range last {
		if now.Sub(c.At) < clearAge {
			out.clears = append(out.clears, c)
		} else {
			out.aged = append(out.aged, c)
		}
	}
	slices.SortFunc(out.clears, byNumber)
	many := max(0, len(out.clears)-maxClears)
	out.aged = append(out.aged, out.clears[:many]...)
	out.clears = out.clears[many:]
	slices.SortFunc(out.aged, byNumber)
	return out
}

func byNumber(a, b provisioning.Clear) int { return cmp.Compare(a.Number, b.Number) }

// fallen are the numbers of the orders that stand no longer, and of the aged ones that hold for nothing.
func (s *standingOrders) fallen(all []provisioning.Order, holds map[uint64]bool) []uint64 {
	stands := map[uint64]bool{}
	for _, c := range s.clears {
		stands[c.Number] = true
	}
	for _, c := range s.aged {
		stands[c.Number] = holds[c.Number]
	}
	for _, as := range s.approvals {
		for _, a := range as {
			stands[a.Number] = true
		}
	}
	var out []uint64
	for _, o := range all {
		if !stands[o.Number] {
			out = append(out, o.Number)
		}
	}
	return out
}

// forget forgets orders that have no effect any more. A Clear has one as long as a run that it clears is kept: without it that
// run would count again.
func (c *Central) forget(ctx context.Context) error {
	all, err := c.cfg.Store.Orders(ctx)
	if err != nil {
		return err
	}
	stand := standing(all, c.cfg.Now())
	holds := map[uint64]bool{}
	if len(stand.aged) > 0 {
		catalog, err := c.catalog(ctx)
		if err != nil {
			return err
		}
		clearing := newClearing(stand.aged, func(name string) *provisioning.Computer {
			return catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: name}].Computer
		})
		err = c.cfg.Store.EachRun(ctx, provisioning.RunFilter{}, func(r provisioning.RunRecord) error {
			for o := range clearing.of(&r.Run) {
				holds[o.Number] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.cfg.Store.DropOrders(ctx, stand.fallen(all, holds))
}

// Clear orders that what has run on computers may run again, and publishes the orders. It fails with CodeConflict where
// more of them would erase their disks than may unasked.
func (c *Central) Clear(ctx context.Context, in client.ClearRequest) (client.OrderResult, error) {
	names := slices.Clone(in.Computers)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 || len(names) > maxClears {
		return client.OrderResult{}, provisioning.Errorf(provisioning.CodeInvalid, "", "%d computers were named; 1 to %d is possible", len(names), maxClears)
	}
	stored, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return client.OrderResult{}, err
	}
	catalog, err := c.decoded.catalog(stored)
	if err != nil {
		return client.OrderResult{}, err
	}
	for _, n := range names {
		if _, ok := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: n}]; !ok {
			return client.OrderResult{}, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint get computers", "there is no Computer %.64q", n)
		}
	}
	if err := c.mayOrder(ctx, catalog, names); err != nil {
		return client.OrderResult{}, err
	}
	limit, err := c.wipesUnconfirmed(ctx)
	if err != nil {
		return client.OrderResult{}, err
	}
	inventories, err := c.cfg.Store.Inventories(ctx)
	if err != nil {
		return client.OrderResult{}, err
	}
	hosts, err := c.hosts(ctx)
	if err != nil {
		return client.OrderResult{}, err
	}
	now := c.cfg.Now()
	if err := confirmed(clearDanger(catalog, names, now, inventories, hosts, limit), in.Confirm); err != nil {
		return client.OrderResult{}, err
	}
	orders := make([]provisioning.Order, len(names))
	for i, n := range names {
		orders[i] = provisioning.Order{At: now, By: provisioning.ActorOf(ctx).Account, Computer: n}
	}
	return c.order(ctx, orders)
}

// Approve lets a site begin deployments beyond its wipe cap, and publishes the order. It fails with CodeConflict where
// they are more than may be erased unasked.
func (c *Central) Approve(ctx context.Context, in client.ApprovalRequest) (client.OrderResult, error) {
	valid := time.Duration(in.ValidMinutes) * time.Minute
	if in.Wipes < 1 || in.Wipes > maxWipes || in.ValidMinutes < 1 || in.ValidMinutes > int(maxApproval/time.Minute) {
		return client.OrderResult{}, provisioning.Errorf(provisioning.CodeInvalid, "",
			"an approval is for 1 to %d deployments, and for 1 minute to %d hours", maxWipes, int(maxApproval.Hours()))
	}
	site, err := c.documents(ctx, provisioning.KindSite, in.Site)
	if err != nil {
		return client.OrderResult{}, err
	}
	if err := c.allow(ctx, provisioning.ActionOrder, provisioning.AtSite(in.Site)); err != nil {
		return client.OrderResult{}, err
	}
	if in.Site == "" || len(site) == 0 {
		return client.OrderResult{}, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint get sites", "there is no Site %.64q", in.Site)
	}
	limit, err := c.wipesUnconfirmed(ctx)
	if err != nil {
		return client.OrderResult{}, err
	}
	if err := confirmed(newDanger(in.Wipes, nil, nil, nil, nil, limit), in.Confirm); err != nil {
		return client.OrderResult{}, err
	}
	now := c.cfg.Now()
	return c.order(ctx, []provisioning.Order{{
		At: now, By: provisioning.ActorOf(ctx).Account, Site: in.Site, Wipes: in.Wipes, Expires: now.Add(valid),
	}})
}

// order stores orders, forgets those that stand no longer, and publishes.
func (c *Central) order(ctx context.Context, orders []provisioning.Order) (client.OrderResult, error) {
	answering(ctx, func(given []provisioning.Order) any { return client.OrderResult{Orders: given} })
	given, err := c.cfg.Store.AddOrders(ctx, orders)
	if err != nil {
		return client.OrderResult{}, err
	}
	for _, o := range given {
		c.cfg.Log.Info("order", "number", o.Number, "computer", o.Computer, "site", o.Site, "wipes", o.Wipes, "by", o.By)
	}
	if err := c.forget(ctx); err != nil {
		c.cfg.Log.Warn("cannot forget old orders", "error", err) // they have no effect whether they are forgotten or not
	}
	c.publishSoon(ctx)
	return client.OrderResult{Orders: given}, nil
}
