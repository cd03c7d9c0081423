package pxe

import (
	"net/netip"
	"time"

	"branchpoint/provisioning"
)

// maxPool is the most addresses a pool may have; it bounds the search for a free one.
const maxPool = 65536

// defaultLease is how long an address is lent where the pool does not say it.
const defaultLease = time.Hour

// pool is a provisioning.DHCPPool or RelayedPool that fits its network.
type pool struct {
	first, last netip.Addr
	subnet      netip.Prefix
	server      netip.Addr
	router      netip.Addr // zero: none
	dns         []netip.Addr
	lease       time.Duration
	// excluded are addresses between first and last that are somebody's: the server's own, the router's, the name
	// servers', the subnet's first and last.
	excluded map[netip.Addr]bool
}

// newRelayedPool checks a pool for a network behind a relay agent. server is our own address.
func newRelayedPool(p *provisioning.RelayedPool, server netip.Addr) (*pool, error) {
	subnet, err := netip.ParsePrefix(p.Subnet)
	if err != nil || !subnet.Addr().Is4() || p.Router == "" {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, nextPool, "relayed DHCP pool of %q: an IPv4 subnet and a router are needed", p.Subnet)
	}
	return newPool(&provisioning.DHCPPool{
		RangeStart: p.RangeStart, RangeEnd: p.RangeEnd, Router: p.Router, DNS: p.DNS, LeaseMinutes: p.LeaseMinutes,
	}, subnet.Masked(), server)
}

// nextPool is what to do about a pool that does not fit.
const nextPool = "change spec.pxe.dhcp of the site"

// newPool checks p against the subnet that it is for. server is our own address, in the subnet or not.
func newPool(p *provisioning.DHCPPool, subnet netip.Prefix, server netip.Addr) (*pool, error) {
	invalid := func(format string, args ...any) error {
		return provisioning.Errorf(provisioning.CodeInvalid, nextPool, format, args...)
	}
	first, err1 := netip.ParseAddr(p.RangeStart)
	last, err2 := netip.ParseAddr(p.RangeEnd)
	if err1 != nil || err2 != nil || !first.Is4() || !last.Is4() {
		return nil, invalid("DHCP pool %q to %q: both must be IPv4 addresses", p.RangeStart, p.RangeEnd)
	}
	if last.Less(first) {
		return nil, invalid("DHCP pool: %s lies before %s", last, first)
	}
	if !subnet.Contains(first) || !subnet.Contains(last) {
		return nil, invalid("DHCP pool %s to %s lies outside of %s, the subnet that it is for", first, last, subnet)
	}
	if n := toUint(last) - toUint(first); n >= maxPool {
		return nil, invalid("DHCP pool %s to %s has more than %d addresses", first, last, maxPool)
	}
	out := &pool{
		first: first, last: last, subnet: subnet, server: server, lease: defaultLease,
		excluded: map[netip.Addr]bool{server: true},
	}
	if subnet.Bits() < 31 {
		out.excluded[subnet.Addr()] = true
		out.excluded[broadcastOf(subnet)] = true
	}
	if p.LeaseMinutes != 0 {
		out.lease = time.Duration(p.LeaseMinutes) * time.Minute
	}
	if p.Router != "" {
		if out.router, err1 = netip.ParseAddr(p.Router); err1 != nil || !out.router.Is4() {
			return nil, invalid("DHCP router %q is no IPv4 address", p.Router)
		}
		if !subnet.Contains(out.router) {
			return nil, invalid("DHCP router %s lies outside of %s: clients could not reach it", out.router, subnet)
		}
		out.excluded[out.router] = true
	}
	for _, s := range p.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() {
			return nil, invalid("DHCP name server %q is no IPv4 address", s)
		}
		out.dns = append(out.dns, a)
		out.excluded[a] = true
	}
	for a := first; ; a = a.Next() {
		if !out.excluded[a] {
			return out, nil
		}
		if a == last {
			return nil, invalid("DHCP pool %s to %s has no address left for clients: the server, the router or a name server has them", first, last)
		}
	}
}

// holds reports whether a may be handed out at all.
func (p *pool) holds(a netip.Addr) bool {
	return a.IsValid() && !a.Less(p.first) && !p.last.Less(a) && !p.excluded[a]
}

// size is the number of addresses between first and last, excluded ones included.
func (p *pool) size() uint32 { return toUint(p.last) - toUint(p.first) + 1 }

// at is the n-th address of the pool, counted from 0 and wrapping round.
func (p *pool) at(n uint32) netip.Addr { return fromUint(toUint(p.first) + n%p.size()) }

func toUint(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func fromUint(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// broadcastOf is the last address of a subnet.
func broadcastOf(p netip.Prefix) netip.Addr {
	return fromUint(toUint(p.Masked().Addr()) | uint32(uint64(1)<<(32-p.Bits())-1))
}
