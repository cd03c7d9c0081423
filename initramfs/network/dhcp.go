package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// lease is what a server has granted.
type lease struct {
	status Status
	routes []route
	// renew and rebind are when to ask the same server and any server again (RFC 2131, 4.4.5), counted from the grant.
	renew, rebind time.Duration
	ack           *dhcpv4.DHCPv4
}

// route is one of option 121. An invalid gateway means the network is on the link.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// Bounds of what a server may say of its lease: shorter would have the machine ask all the time, and there is no use in
// longer ones than a year.
const (
	shortestLease = 2 * time.Second
	longestLease  = 365 * 24 * time.Hour
	// defaultLease is for servers that name none, against RFC 2131.
	defaultLease = time.Hour
)

// maxServers bounds lists of addresses in answers.
const maxServers = 8

// parseACK reads a server's acknowledgement. What it holds is not trusted: anything but a usable address is left out.
func parseACK(ack *dhcpv4.DHCPv4) (lease, error) {
	address, ok := addr(ack.YourIPAddr)
	if !ok || address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() {
		return lease{}, fmt.Errorf("DHCP server offers no usable address: %v", ack.YourIPAddr)
	}
	bits := 24
	if mask := ack.SubnetMask(); mask != nil {
		ones, size := mask.Size()
		if size != 32 || ones == 0 {
			return lease{}, fmt.Errorf("DHCP server says netmask %v", net.IP(mask))
		}
		bits = ones
	} else {
		// Without option 1 the address's class counts (RFC 1122, 3.2.1.3).
		ones, _ := net.IP(address.AsSlice()).DefaultMask().Size()
		if ones > 0 {
			bits = ones
		}
	}
	l := lease{ack: ack}
	l.status.Address = netip.PrefixFrom(address, bits)
	l.status.DNS = addrs(ack.DNS())
	l.status.NTP = addrs(ack.NTPServers())
	l.status.Server, _ = addr(ack.ServerIdentifier())
	if d := ack.DomainName(); validDomain(d) {
		l.status.Domain = d
	}
	if h := ack.HostName(); validDomain(h) {
		l.status.Hostname = h
	}
	if mtu := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(mtu) == 2 {
		// Below 576 IPv4 does not work reliably (RFC 791); above 9216 no Ethernet does.
		if n := int(mtu[0])<<8 | int(mtu[1]); n >= 576 && n <= 9216 {
			l.status.MTU = n
		}
	}
	// Option 121 takes the place of option 3 (RFC 3442).
	if classless := ack.ClasslessStaticRoute(); len(classless) > 0 {
		for _, r := range classless {
			if r == nil || r.Dest == nil || len(l.routes) >= 64 {
				continue
			}
			to, ok := addr(r.Dest.IP)
			ones, size := r.Dest.Mask.Size()
			if !ok || size != 32 {
				continue
			}
			via, ok := addr(r.Router)
			if ok && via.IsUnspecified() {
				via = netip.Addr{}
			}
			prefix := netip.PrefixFrom(to, ones).Masked()
			if ones == 0 {
				l.status.Gateway = via
				continue
			}
			l.routes = append(l.routes, route{prefix, via})
		}
	} else if routers := addrs(ack.Router()); len(routers) > 0 {
		l.status.Gateway = routers[0]
	}
	l.status.Lease = min(max(ack.IPAddressLeaseTime(defaultLease), shortestLease), longestLease)
	l.renew = ack.IPAddressRenewalTime(l.status.Lease / 2)
	l.rebind = ack.IPAddressRebindingTime(l.status.Lease / 8 * 7)
	if l.rebind <= 0 || l.rebind >= l.status.Lease {
		l.rebind = l.status.Lease / 8 * 7
	}
	if l.renew <= 0 || l.renew >= l.rebind {
		l.renew = min(l.status.Lease/2, l.rebind)
	}
	return l, nil
}

func addr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok
}

func addrs(ips []net.IP) []netip.Addr {
	var list []netip.Addr
	for _, ip := range ips {
		if a, ok := addr(ip); ok && !a.IsUnspecified() && len(list) < maxServers {
			list = append(list, a)
		}
	}
	return list
}

// modifiers are what each of our messages says besides the protocol's own.
func modifiers(hostname string) []dhcpv4.Modifier {
	m := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
		dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers,
	)}
	if hostname != "" {
		m = append(m, dhcpv4.WithOption(dhcpv4.OptHostName(hostname)))
	}
	return m
}

// acquire asks for a lease on an interface until the context ends. A server's refusal starts it over.
func acquire(ctx context.Context, name, hostname string, log *slog.Logger) (lease, error) {
	for {
		l, err := acquireOnce(ctx, name, hostname)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
		}
		log.Info("no address by DHCP yet", "interface", name, "err", err)
		if err := pause(ctx, time.Second); err != nil {
			return lease{}, fmt.Errorf("ask for an address on %s: %w", name, err)
		}
	}
}

func acquireOnce(ctx context.Context, name, hostname string) (lease, error) {
	client, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
	if err != nil {
		return lease{}, err
	}
	defer func() { _ = client.Close() }()
	discover, err := dhcpv4.NewDiscovery(client.InterfaceAddr(), modifiers(hostname)...)
	if err != nil {
		return lease{}, err
	}
	// A boot server's offer (ProxyDHCP) has no address and must not be mistaken for the DHCP server's.
	offer, err := client.SendAndRead(ctx, client.RemoteAddr(), discover, func(p *dhcpv4.DHCPv4) bool {
		return p.MessageType() == dhcpv4.MessageTypeOffer && p.YourIPAddr != nil && !p.YourIPAddr.IsUnspecified() && p.ServerIdentifier() != nil
	})
	if err != nil {
		return lease{}, fmt.Errorf("no offer: %w", err)
	}
	granted, err := client.RequestFromOffer(ctx, offer, modifiers(hostname)...)
	if err != nil {
		return lease{}, fmt.Errorf("offer not granted: %w", err)
	}
	return parseACK(granted.ACK)
}

// errRefused is a server's word that the lease is over.
var errRefused = errors.New("the DHCP server has withdrawn the address")

// renewOnce asks for the lease again: of the server that granted it, or of any.
func renewOnce(ctx context.Context, name, hostname string, old lease, anyServer bool) (lease, error) {
	client, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
	if err != nil {
		return lease{}, err
	}
	defer func() { _ = client.Close() }()
	// Renewing and rebinding messages carry ciaddr and no server (RFC 2131, table 4), so that any that answers will do.
	request, err := dhcpv4.NewRenewFromAck(old.ack, append(modifiers(hostname), dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier))...)
	if err != nil {
		return lease{}, err
	}
	reply, err := client.SendAndRead(ctx, client.RemoteAddr(), request, func(p *dhcpv4.DHCPv4) bool {
		if t := p.MessageType(); t != dhcpv4.MessageTypeAck && t != dhcpv4.MessageTypeNak {
			return false
		}
		return anyServer || p.ServerIdentifier().Equal(old.ack.ServerIdentifier())
	})
	if err != nil {
		return lease{}, err
	}
	if reply.MessageType() == dhcpv4.MessageTypeNak {
		return lease{}, errRefused
	}
	return parseACK(reply)
}

// keep renews a lease as long as the context lives, and asks anew when it is lost. apply sets what has changed.
func keep(ctx context.Context, name, hostname string, l lease, log *slog.Logger, apply func(lease) error, lost func()) {
	for ctx.Err() == nil {
		granted := time.Now()
		next, err := renew(ctx, name, hostname, l, granted, log)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Warn("address lost, asking for a new one", "interface", name, "address", l.status.Address, "err", err)
			lost()
			if next, err = acquire(ctx, name, hostname, log); err != nil {
				return // the context has ended
			}
		}
		if err := apply(next); err != nil {
			log.Error("address not set", "interface", name, "err", err)
		}
		l = next
	}
}

// renew waits for the lease's times and returns the renewed lease, or an error once it is over.
func renew(ctx context.Context, name, hostname string, l lease, granted time.Time, log *slog.Logger) (lease, error) {
	wait := l.renew
	for {
		if err := pause(ctx, time.Until(granted.Add(wait))); err != nil {
			return lease{}, err
		}
		left := time.Until(granted.Add(l.status.Lease))
		if left <= 0 {
			return lease{}, errors.New("no server renewed it in time")
		}
		age := time.Since(granted)
		next, err := renewOnce(ctx, name, hostname, l, age >= l.rebind)
		switch {
		case err == nil:
			return next, nil
		case errors.Is(err, errRefused) || ctx.Err() != nil:
			return lease{}, err
		}
		log.Info("lease not renewed yet", "interface", name, "left", left.Round(time.Second), "err", err)
		// Half of what is left until rebinding, then until the end, but not more often than each minute in long leases
		// (RFC 2131, 4.4.5).
		until := l.rebind
		if age >= l.rebind {
			until = l.status.Lease
		}
		age = time.Since(granted)
		wait = min(age+max((until-age)/2, min(time.Minute, l.status.Lease/16), 500*time.Millisecond), l.status.Lease)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
