package pxe

import (
	"hash/fnv"
	"net/netip"
	"time"

	"branchpoint/provisioning"
)

const (
	// offerTime is how long an offered address is kept for the client that was offered it.
	offerTime = time.Minute
	// declinedTime is how long an address that somebody uses without having been given it is left alone.
	declinedTime = time.Hour
)

// leaseTable is what is known of the pool's addresses. It is not safe for concurrent use. Its size is bounded by the
// pool's: only addresses of the pool are in it.
type leaseTable struct {
	byAddr map[netip.Addr]provisioning.Lease
	byMAC  map[provisioning.MAC]netip.Addr
	// offers are addresses offered and not yet asked for. They are not kept over a restart.
	offers map[provisioning.MAC]offer
	// offered is the same, by address.
	offered map[netip.Addr]provisioning.MAC
	// fullUntil is when an address comes free at the earliest, as the last search found; the zero time where one may be
	// free now. It spares searching a used-up pool for every packet of a flood.
	fullUntil time.Time
}

type offer struct {
	addr    netip.Addr
	expires time.Time
	// known is true where a known client was offered it, which no other takes it from.
	known bool
	// looking is true while it is found out whether somebody uses the address already; the client has not heard of it yet.
	looking bool
}

// newLeaseTable takes over stored leases. Ones that the pool does not hold (any more) are left out; where a MAC has
// several, the one that expires last counts.
func newLeaseTable(p *pool, stored []provisioning.Lease) *leaseTable {
	t := &leaseTable{
		byAddr: map[netip.Addr]provisioning.Lease{}, byMAC: map[provisioning.MAC]netip.Addr{},
		offers: map[provisioning.MAC]offer{}, offered: map[netip.Addr]provisioning.MAC{},
	}
	for _, l := range stored {
		if !p.holds(l.Address) {
			continue
		}
		if old, ok := t.byAddr[t.byMAC[l.MAC]]; l.MAC != "" && ok && old.Expires.After(l.Expires) {
			continue
		}
		t.set(l)
	}
	return t
}

// set records l and returns the address that its MAC has no longer, if there was another.
func (t *leaseTable) set(l provisioning.Lease) (freed netip.Addr, ok bool) {
	if old, was := t.byAddr[l.Address]; was && old.MAC != l.MAC && old.MAC != "" {
		delete(t.byMAC, old.MAC)
	}
	if l.MAC != "" {
		if a, was := t.byMAC[l.MAC]; was && a != l.Address {
			delete(t.byAddr, a)
			freed, ok = a, true
		}
		t.byMAC[l.MAC] = l.Address
		t.dropOffer(l.MAC)
	}
	t.byAddr[l.Address] = l
	t.fullUntil = time.Time{}
	return freed, ok
}

// remember keeps a for mac until the offer runs out. known says whether it is a known client's.
func (t *leaseTable) remember(mac provisioning.MAC, a netip.Addr, known bool, now time.Time) {
	t.dropOffer(mac)
	if other, ok := t.offered[a]; ok {
		t.dropOffer(other)
	}
	t.offers[mac] = offer{addr: a, expires: now.Add(offerTime), known: known}
	t.offered[a] = mac
}

func (t *leaseTable) dropOffer(mac provisioning.MAC) {
	if o, ok := t.offers[mac]; ok {
		delete(t.offers, mac)
		delete(t.offered, o.addr)
		t.fullUntil = time.Time{}
	}
}

// setLooking says whether the offer of a to mac, where that stands, is being looked at.
func (t *leaseTable) setLooking(mac provisioning.MAC, a netip.Addr, looking bool) {
	if o, ok := t.offers[mac]; ok && o.addr == a {
		o.looking = looking
		t.offers[mac] = o
	}
}

// lookingFor reports whether what mac is to be offered is being looked at.
func (t *leaseTable) lookingFor(mac provisioning.MAC, now time.Time) bool {
	o, ok := t.offers[mac]
	return ok && o.looking && now.Before(o.expires)
}

// takeable is the address of the offer that runs out first among those of clients that are not known. There is no lease
// for it yet: its client, if it comes back, is refused and asks anew. A flood of made-up clients so keeps no address
// from a known one.
func (t *leaseTable) takeable(now time.Time) (netip.Addr, bool) {
	var first offer
	for _, o := range t.offers {
		if !o.known && now.Before(o.expires) && (!first.addr.IsValid() || o.expires.Before(first.expires)) {
			first = o
		}
	}
	return first.addr, first.addr.IsValid()
}

// busyUntil is when a comes free, where it is lent, declined or offered now.
func (t *leaseTable) busyUntil(a netip.Addr, now time.Time) time.Time {
	until := now
	if l, ok := t.byAddr[a]; ok && l.Expires.After(until) {
		until = l.Expires
	}
	if o, ok := t.offers[t.offered[a]]; ok && o.expires.After(until) {
		until = o.expires
	}
	return until
}

// offeredTo is the address that mac was offered and may still take.
func (t *leaseTable) offeredTo(mac provisioning.MAC, now time.Time) (netip.Addr, bool) {
	o, ok := t.offers[mac]
	return o.addr, ok && now.Before(o.expires)
}

// leased is the lease of mac, run out or not.
func (t *leaseTable) leased(mac provisioning.MAC) (provisioning.Lease, bool) {
	a, ok := t.byMAC[mac]
	if !ok {
		return provisioning.Lease{}, false
	}
	return t.byAddr[a], true
}

// freeFor reports whether a may be given to mac now: in the pool, and neither lent, declined nor offered to another.
func (t *leaseTable) freeFor(p *pool, mac provisioning.MAC, a netip.Addr, now time.Time) bool {
	if !p.holds(a) {
		return false
	}
	if l, ok := t.byAddr[a]; ok && l.MAC != mac && now.Before(l.Expires) {
		return false
	}
	if other, ok := t.offered[a]; ok && other != mac && now.Before(t.offers[other].expires) {
		return false
	}
	return true
}

// wrongFor reports whether mac can have a from nobody: it belongs to another network, is the server's own, or is lent to
// another. That somebody was seen to use a does not make it wrong: it may be mac.
func (t *leaseTable) wrongFor(p *pool, mac provisioning.MAC, a netip.Addr, now time.Time) bool {
	l := t.byAddr[a]
	return !p.subnet.Contains(a) || a == p.server || l.MAC != "" && l.MAC != mac && now.Before(l.Expires)
}

// allocate chooses the address for mac: the one it was offered a moment ago, the one it had, the one it wishes, one
// that nobody has had yet (where the search begins depends on the MAC, so that a lost table gives most clients the same
// address again), and last the one that ran out longest ago. False where the pool is used up.
func allocate(t *leaseTable, p *pool, mac provisioning.MAC, wish netip.Addr, now time.Time) (netip.Addr, bool) {
	if a, ok := t.offeredTo(mac, now); ok && t.freeFor(p, mac, a, now) {
		return a, true
	}
	if l, ok := t.leased(mac); ok && t.freeFor(p, mac, l.Address, now) {
		return l.Address, true
	}
	if wish.IsValid() && t.freeFor(p, mac, wish, now) {
		return wish, true
	}
	if now.Before(t.fullUntil) {
		return netip.Addr{}, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(mac))
	start := h.Sum32() % p.size()
	var oldest netip.Addr
	var ranOut, full time.Time
	for i := range p.size() {
		a := p.at(start + i)
		if !t.freeFor(p, mac, a, now) {
			if until := t.busyUntil(a, now); p.holds(a) && (full.IsZero() || until.Before(full)) {
				full = until
			}
			continue
		}
		l, used := t.byAddr[a]
		if !used {
			return a, true
		}
		if !oldest.IsValid() || l.Expires.Before(ranOut) {
			oldest, ranOut = a, l.Expires
		}
	}
	if !oldest.IsValid() {
		t.fullUntil = full
	}
	return oldest, oldest.IsValid()
}
