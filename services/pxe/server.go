package pxe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpServer is the site's DHCP server: the pool, its leases, and the order in which they change.
type dhcpServer struct {
	pool *pool
	// inUse, where it is set, says who else uses an address that is about to be offered; "" is nobody.
	inUse func(ctx context.Context, a netip.Addr) (provisioning.MAC, error)

	mu    sync.Mutex // held while the store is written, so that it says what the table says
	table *leaseTable
}

// maxInUse is how many addresses are tried for one DISCOVER where others turn out to use them.
const maxInUse = 4

// answer decides about a request, stores what it changes, and returns the reply; nil is silence. A lease that cannot be
// stored is not granted.
func (s *dhcpServer) answer(ctx context.Context, log *slog.Logger, r *request, b *boot, deps *Deps) (*dhcpv4.DHCPv4, error) {
	for range maxInUse {
		o, look, err := s.step(ctx, log, r, b, deps)
		if err != nil || !look {
			return o.reply, err
		}
		by, err := s.inUse(ctx, o.offer)
		if err != nil {
			log.Warn("an address is offered without having been looked at", "address", o.offer, "err", err)
			return o.reply, nil
		}
		if by == "" || by == r.mac {
			return o.reply, nil
		}
		log.Warn("an address of the pool is used by somebody who was not given it", "address", o.offer, "by", by)
		l := declined(o.offer, deps.Now())
		if err := s.change(ctx, r, outcome{save: l, dropOffer: true}, deps); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%d addresses in a row are used by somebody who was not given them", maxInUse)
}

// step makes one decision and stores it. look is true where the address offered has not been this client's lately.
func (s *dhcpServer) step(ctx context.Context, log *slog.Logger, r *request, b *boot, deps *Deps) (o outcome, look bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := deps.Now()
	o = dhcpAnswer(s.table, s.pool, r, b, now)
	if o.why != "" {
		log.Warn("DHCP", "request", r.kind.String(), "why", o.why)
	}
	if o.offer.IsValid() && s.inUse != nil {
		l, leased := s.table.leased(r.mac)
		_, offered := s.table.offeredTo(r.mac, now)
		look = !offered && (!leased || l.Address != o.offer || !now.Before(l.Expires))
	}
	if err := s.changeLocked(ctx, r, o, deps); err != nil {
		return outcome{}, false, err
	}
	if o.save != nil && o.reply != nil {
		log.Info("DHCP: address lent", "address", o.save.Address, "host", o.save.HostName, "until", o.save.Expires.UTC())
	}
	return o, look, nil
}

func (s *dhcpServer) change(ctx context.Context, r *request, o outcome, deps *Deps) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changeLocked(ctx, r, o, deps)
}

// changeLocked stores first and then remembers: what the table says has been stored.
func (s *dhcpServer) changeLocked(ctx context.Context, r *request, o outcome, deps *Deps) error {
	if o.save != nil {
		if err := deps.Leases.Save(ctx, *o.save); err != nil {
			return fmt.Errorf("store the lease of %s: %w", o.save.Address, err)
		}
	}
	if freed, ok := s.table.apply(r, o, deps.Now()); ok {
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
	l, ok := s.table.leased(mac)
	return ok && l.Address == a && deps.Now().Before(l.Expires)
}

// asks reports whether a message of this kind wants an answer.
func asks(k dhcpv4.MessageType) bool {
	return k == dhcpv4.MessageTypeDiscover || k == dhcpv4.MessageTypeRequest || k == dhcpv4.MessageTypeInform
}

func isDiscover(r *request) bool { return r.kind == dhcpv4.MessageTypeDiscover }
