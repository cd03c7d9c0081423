package pxe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// lending is a pool with what is known of its addresses.
type lending struct {
	pool  *pool
	table *leaseTable
	// otherAt is when another DHCP server was last seen to serve this network; the zero time: never.
	otherAt time.Time
}

// dhcpServer is the site's DHCP server: the pools, their leases, and the order in which they change.
type dhcpServer struct {
	lending // to our own segment; nil pool: this is no DHCP server
	// iface is the interface to our own segment, for the log.
	iface string
	// relayed are those for networks behind relay agents.
	relayed []*lending
	// inUse, where it is set, says who else uses an address that is about to be offered; "" is nobody.
	inUse func(ctx context.Context, a netip.Addr) (provisioning.MAC, error)

	mu       sync.Mutex // guards what follows, and the tables; held while the store is written, so that it says what they say
	warnings *limiter[string]
	// looked is true once another DHCP server was looked for on our own segment for long enough, and none answered.
	looked bool
}

// otherTime is how long after it was seen another DHCP server is reckoned with: the leases that it gave live on.
const otherTime = 24 * time.Hour

func (s *dhcpServer) noteLooked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = true
}

func (s *dhcpServer) hasLooked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looked
}

// noteOther notes that another DHCP server was seen: behind relay agent relay, or, without one, on our own segment.
func (s *dhcpServer) noteOther(relay netip.Addr, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !relay.IsValid() {
		s.otherAt = now
	} else if l := s.forRelay(relay); l != nil {
		l.otherAt = now
	}
}

// sole reports whether, as far as can be known, no other DHCP server lends addresses to the network of from.
func (s *dhcpServer) sole(from *lending, now time.Time) bool {
	lately := func(at time.Time) bool { return !at.IsZero() && now.Before(at.Add(otherTime)) }
	return s.looked && !lately(s.otherAt) && !lately(from.otherAt)
}

// relayedPools are the pools for networks behind relay agents; own is our own segment's.
func relayedPools(p *provisioning.DHCPPool, own *pool) ([]*lending, error) {
	var out []*lending
	subnets := []netip.Prefix{own.subnet}
	for _, r := range p.Relayed {
		q, err := newRelayedPool(&r, own.server)
		if err != nil {
			return nil, err
		}
		for _, o := range subnets {
			if o.Overlaps(q.subnet) {
				return nil, provisioning.Errorf(provisioning.CodeInvalid, nextPool, "relayed DHCP pool: subnet %s overlaps with %s", q.subnet, o)
			}
		}
		subnets = append(subnets, q.subnet)
		out = append(out, &lending{pool: q})
	}
	return out, nil
}

// load takes over stored leases.
func (s *dhcpServer) load(stored []provisioning.Lease) {
	s.table = newLeaseTable(s.pool, stored)
	for _, l := range s.relayed {
		l.table = newLeaseTable(l.pool, stored)
	}
}

// forRelay is the pool for the network in which a relay agent, or a client, has address a; nil where there is none.
func (s *dhcpServer) forRelay(a netip.Addr) *lending {
	if s.pool.subnet.Contains(a) {
		return &s.lending
	}
	for _, l := range s.relayed {
		if l.pool.subnet.Contains(a) {
			return l
		}
	}
	return nil
}

// choose finds the pool for a request: that of the relay agent's network; for a client that asks us alone, which is how
// leases are renewed, also across routers (RFC 2131 section 4.3.2), that of its address; else our own segment's. nil
// where there is none.
func (s *dhcpServer) choose(r *request, unicast bool) *lending {
	if r.relay.IsValid() {
		return s.forRelay(r.relay)
	}
	if a, ok := addrOf(r.packet.ClientIPAddr); ok && unicast && !a.IsUnspecified() {
		return s.forRelay(a)
	}
	return &s.lending
}

// maxInUse is how many addresses are tried for one DISCOVER where others turn out to use them.
const maxInUse = 4

// answer decides about a request, stores what it changes, and returns the reply; or nil, and why there is none, in the
// metrics' words. A lease that cannot be stored is not granted. unicast is true where the request was sent to us alone.
func (s *dhcpServer) answer(ctx context.Context, log *slog.Logger, r *request, b *boot, unicast bool, deps *Deps) (reply *dhcpv4.DHCPv4, drop string, err error) {
	from := s.choose(r, unicast)
	if from == nil {
		return nil, dropForeign, nil
	}
	for range maxInUse {
		o, look, err := s.step(ctx, log, from, r, b, deps)
		if err != nil || !look {
			return o.reply, o.drop, err
		}
		r.turn.leave()
		by, err := s.inUse(ctx, o.offer)
		if by != "" && by != r.mac {
			log.Warn("an address of the pool is used by somebody who was not given it", "interface", s.iface, "mac", r.mac, "address", o.offer, "by", by)
			if err := s.foundInUse(ctx, from, r, o.offer, deps); err != nil {
				return nil, "", err
			}
			continue
		}
		if err != nil {
			log.Warn("an address is offered without having been looked at", "interface", s.iface, "mac", r.mac, "address", o.offer, "err", err)
		}
		s.foundFree(from, r, o.offer)
		return o.reply, "", nil
	}
	return nil, "", fmt.Errorf("%d addresses in a row are used by somebody who was not given them", maxInUse)
}

// foundFree ends the look at what r is offered.
func (s *dhcpServer) foundFree(from *lending, r *request, a netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from.table.setLooking(r.mac, a, false)
}

// foundInUse ends the look at what r was to be offered, and takes the address out of the pool for a while: unless it was
// given to another client meanwhile, whom the look may have found.
func (s *dhcpServer) foundInUse(ctx context.Context, from *lending, r *request, a netip.Addr, deps *Deps) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := deps.Now()
	if offered, ok := from.table.offeredTo(r.mac, now); !ok || offered != a {
		return nil
	}
	from.table.dropOffer(r.mac)
	return s.changeLocked(ctx, from, r, outcome{save: declined(a, now)}, deps)
}

// step makes one decision and stores it. look is true where the address offered has not been this client's lately, and
// where somebody who uses it would be heard.
func (s *dhcpServer) step(ctx context.Context, log *slog.Logger, from *lending, r *request, b *boot, deps *Deps) (o outcome, look bool, err error) {
	if !s.mu.TryLock() { // somebody's lease is being stored
		r.turn.leave()
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	now := deps.Now()
	o = dhcpAnswer(from.table, from.pool, r, b, s.sole(from, now), now)
	if o.why != "" || o.save != nil {
		r.turn.leave()
	}
	if o.why != "" {
		if s.warnings == nil {
			s.warnings = newLimiter[string](silentBurst, silentInterval, 1)
		}
		if s.warnings.allow("", now) {
			log.Warn("DHCP", "interface", s.iface, "mac", r.mac, "request", r.kind.String(), "why", o.why)
		}
	}
	if o.offer.IsValid() && s.inUse != nil && from == &s.lending {
		l, leased := from.table.leased(r.mac)
		_, offered := from.table.offeredTo(r.mac, now)
		look = !offered && (!leased || l.Address != o.offer || !now.Before(l.Expires))
	}
	had, again := from.table.leased(r.mac)
	if err := s.changeLocked(ctx, from, r, o, deps); err != nil {
		return outcome{}, false, err
	}
	if look {
		from.table.setLooking(r.mac, o.offer, true)
	}
	if o.save != nil && o.reply != nil {
		level := slog.LevelInfo
		if again && had.Address == o.save.Address && now.Before(had.Expires) {
			level = slog.LevelDebug // renewed
		}
		log.Log(ctx, level, "DHCP: address lent", "interface", s.iface, "mac", r.mac, "address", o.save.Address, "host", o.save.HostName, "until", o.save.Expires.UTC())
	}
	return o, look, nil
}

// changeLocked stores first and then remembers: what the table says has been stored.
func (s *dhcpServer) changeLocked(ctx context.Context, from *lending, r *request, o outcome, deps *Deps) error {
	if o.save != nil {
		if err := deps.Leases.Save(ctx, *o.save); err != nil {
			return fmt.Errorf("store the lease of %s: %w", o.save.Address, err)
		}
	}
	if freed, ok := from.table.apply(r, o, deps.Now()); ok {
		if err := deps.Leases.Delete(ctx, freed); err != nil {
			return fmt.Errorf("delete the lease of %s: %w", freed, err)
		}
	}
	return nil
}

// lentTo reports whether address a is lent to mac now.
func (s *dhcpServer) lentTo(mac provisioning.MAC, a netip.Addr, deps *Deps) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.forRelay(a)
	if from == nil {
		return false
	}
	l, ok := from.table.leased(mac)
	return ok && l.Address == a && deps.Now().Before(l.Expires)
}

// asks reports whether a message of this kind wants an answer.
func asks(k dhcpv4.MessageType) bool {
	return k == dhcpv4.MessageTypeDiscover || k == dhcpv4.MessageTypeRequest || k == dhcpv4.MessageTypeInform
}

func isDiscover(r *request) bool { return r.kind == dhcpv4.MessageTypeDiscover }
