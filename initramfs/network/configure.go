package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// resolvConfPath is where programs look for name servers.
const resolvConfPath = "/etc/resolv.conf"

// Configure brings the network up as the configuration says and returns once there is an address. A lease is kept in the
// background until the context ends; the address stays. The error names every interface that was tried, and why it failed.
func Configure(ctx context.Context, c Config, log *slog.Logger) (Status, error) {
	return configure(ctx, c, log, resolvConfPath)
}

func configure(ctx context.Context, c Config, log *slog.Logger, resolv string) (Status, error) {
	if err := c.Validate(); err != nil {
		return Status{}, fmt.Errorf("network configuration: %w", err)
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if err := keepApart(); err != nil {
		log.Warn("with several network interfaces in one network, clients may not reach each", "err", err)
	}
	try, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.DHCP {
		if err := waitRandom(try, unix.Getrandom); err != nil {
			return Status{}, err
		}
	}
	var links []Link
	err := waitFor(try, "wait for a network interface", func() (bool, error) {
		all, err := Links()
		links = choose(all, c.Interface)
		return len(links) > 0, err
	})
	if err != nil {
		return Status{}, errors.Join(noLink(c.Interface), err)
	}
	type outcome struct {
		name   string
		status Status
		lease  lease
		err    error
	}
	// Buffered, so that those who come late can leave.
	outcomes := make(chan outcome, len(links))
	for _, l := range links {
		go func() {
			o := outcome{}
			o.name, o.status, o.lease, o.err = tryLink(try, l, c, log)
			outcomes <- o
		}()
	}
	var failures []error
	for range links {
		o := <-outcomes
		if o.err != nil {
			failures = append(failures, o.err)
			continue
		}
		cancel()
		if err := apply(o.name, o.status, o.lease.routes, netip.Prefix{}, resolv); err != nil {
			return Status{}, err
		}
		log.Info("network configured", "interface", o.name, "address", o.status.Address, "gateway", o.status.Gateway, "dns", o.status.DNS, "server", o.status.Server)
		if c.DHCP {
			go maintain(ctx, o.name, o.status, o.lease, c, log, resolv)
		}
		return o.status, nil
	}
	return Status{}, errors.Join(failures...)
}

func noLink(selector string) error {
	all, err := Links()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		missing, err := Undriven("/sys")
		if err == nil && len(missing) > 0 {
			return fmt.Errorf("no network interface: no driver for %v", missing)
		}
		return errors.New("no network interface")
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Name+" "+l.MAC.String())
	}
	return fmt.Errorf("no network interface %s; there are %s", selector, strings.Join(names, ", "))
}

// tryLink brings one link up, waits for its carrier and finds out its addresses. name is the interface to configure, which
// is not the link's own on a VLAN.
func tryLink(ctx context.Context, l Link, c Config, log *slog.Logger) (name string, s Status, granted lease, err error) {
	link, err := netlink.LinkByName(l.Name)
	if err != nil {
		return "", s, granted, fmt.Errorf("find interface %s: %w", l.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return "", s, granted, fmt.Errorf("bring interface %s up: %w", l.Name, err)
	}
	err = waitFor(ctx, fmt.Sprintf("interface %s has no carrier (is the cable in?)", l.Name), func() (bool, error) {
		return readText("/sys/class/net", l.Name, "carrier") == "1", nil
	})
	if err != nil {
		return "", s, granted, err
	}
	name = l.Name
	if c.VLAN != 0 {
		if name, err = vlan(link, c.VLAN); err != nil {
			return "", s, granted, err
		}
	}
	if c.DHCP {
		if granted, err = acquire(ctx, name, c.Hostname, log); err != nil {
			return "", s, granted, err
		}
		s = granted.status
	} else {
		s = Status{Address: c.Address, Gateway: c.Gateway}
	}
	return name, finish(s, name, l.MAC, c), granted, nil
}

// finish adds to a lease's status what the configuration and the interface say.
func finish(s Status, name string, mac net.HardwareAddr, c Config) Status {
	s.Interface, s.MAC = name, mac
	if len(c.DNS) > 0 {
		s.DNS = c.DNS
	}
	return s
}

// vlan makes sure there is an interface for the VLAN on top of the link, up, and returns its name.
func vlan(parent netlink.Link, id int) (string, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("vlan%d", id)
	attrs.ParentIndex = parent.Attrs().Index
	if old, err := netlink.LinkByName(attrs.Name); err == nil && old.Attrs().ParentIndex != attrs.ParentIndex {
		// Several links may carry the same VLAN while they are tried.
		attrs.Name = fmt.Sprintf("vl%d-%d", id, attrs.ParentIndex)
	}
	err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("make VLAN %d on %s: %w", id, parent.Attrs().Name, err)
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return "", fmt.Errorf("find VLAN %d: %w", id, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return "", fmt.Errorf("bring VLAN %d up: %w", id, err)
	}
	return attrs.Name, nil
}

// apply sets address, routes and name servers of an interface, and takes the old address away if it is another.
func apply(name string, s Status, routes []route, old netip.Prefix, resolv string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if s.MTU != 0 && s.MTU != link.Attrs().MTU {
		// A wrong MTU from a server is no reason to have no network.
		_ = netlink.LinkSetMTU(link, s.MTU)
	}
	if old.IsValid() && old != s.Address {
		// First, because the kernel takes all later addresses of a network away with the first.
		if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(old)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take address %s off %s: %w", old, name, err)
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(s.Address)}); err != nil {
		return fmt.Errorf("set address %s on %s: %w", s.Address, name, err)
	}
	if s.Gateway.IsValid() {
		routes = append([]route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), s.Gateway}}, routes...)
		if s.Gateway.Is6() {
			routes[0].to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	for _, r := range routes {
		kr := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.to)}
		if r.via.IsValid() {
			kr.Gw = r.via.AsSlice()
			if !s.Address.Contains(r.via) {
				// Servers name routers outside of the network, such as for /32 addresses.
				kr.Flags = int(netlink.FLAG_ONLINK)
			}
		} else {
			kr.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(kr); err != nil {
			return fmt.Errorf("set route to %s over %s: %w", r.to, name, err)
		}
	}
	if len(s.DNS) > 0 {
		if err := renameio.WriteFile(resolv, []byte(resolvConf(s)), 0o644); err != nil {
			return fmt.Errorf("write name servers: %w", err)
		}
	}
	return nil
}

// maintain keeps the lease until the context ends.
func maintain(ctx context.Context, name string, s Status, l lease, c Config, log *slog.Logger, resolv string) {
	current, mac := s, s.MAC
	tell := func(s Status) {
		if c.Changed != nil {
			c.Changed(s)
		}
	}
	keep(ctx, name, c.Hostname, l, log, func(next lease) error {
		status := finish(next.status, name, mac, c)
		if err := apply(name, status, next.routes, current.Address, resolv); err != nil {
			return err
		}
		changed := status.Address != current.Address || status.Gateway != current.Gateway
		current = status
		if changed {
			log.Info("address changed", "interface", name, "address", status.Address)
			tell(status)
		}
		return nil
	}, func() {
		if link, err := netlink.LinkByName(name); err == nil && current.Address.IsValid() {
			if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(current.Address)}); err != nil {
				log.Warn("address not taken off", "interface", name, "err", err)
			}
		}
		current.Address = netip.Prefix{}
		tell(current)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
