package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Router is a namespace that stands in several networks and forwards IPv4 packets between them, and nothing else:
// broadcasts stay where they are, as DHCP's do.
type Router struct {
	*Namespace
	// ports are those of the interfaces eth0, eth1, … on their switches.
	ports []*Port
}

// Leg is one of a router's interfaces.
type Leg struct {
	Switch *Switch
	// Address is the router's there with the network's length, "10.1.0.254/24".
	Address string
}

// Router adds a router with its interfaces eth0, eth1, … in the order of the legs; at least one. The ports on the switches
// are called name, name.1, name.2, …. It needs root, and ends with the test.
func (l *Lab) Router(name string, legs ...Leg) *Router {
	l.t.Helper()
	r, err := l.newRouter(name, legs)
	if err != nil {
		l.t.Fatalf("router %s: %v", name, err)
	}
	return r
}

func (l *Lab) newRouter(name string, legs []Leg) (*Router, error) {
	if len(legs) == 0 {
		return nil, errors.New("a router needs a network to stand in")
	}
	n, err := l.newNamespace(name, legs[0].Switch, legs[0].Address)
	if err != nil {
		return nil, err
	}
	r := &Router{Namespace: n, ports: []*Port{n.port}}
	for i, leg := range legs[1:] {
		i++
		prefix, err := netip.ParsePrefix(leg.Address)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		h := derive("router", l.t.Name(), name, fmt.Sprint(i))
		mac := net.HardwareAddr{0x52, 0x54, 0x01, h[0], h[1], h[2]}
		port, err := n.attach(leg.Switch, fmt.Sprintf("%s.%d", name, i), fmt.Sprintf("eth%d", i), mac, prefix)
		if err != nil {
			return nil, err
		}
		r.ports = append(r.ports, port)
	}
	n.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0) })
	if err != nil {
		return nil, fmt.Errorf("let packets be forwarded: %w", err)
	}
	return r, nil
}

// LegPort returns the switch's port that the leg i hangs on.
func (r *Router) LegPort(i int) *Port { return r.ports[i] }

// AddRoute makes the host send what is for a network ("10.2.0.0/24", "0.0.0.0/0") to a router of its own network. The test
// fails where it cannot.
func (n *Namespace) AddRoute(network, via string) {
	n.lab.t.Helper()
	err := func() error {
		dst, err := netip.ParsePrefix(network)
		if err != nil {
			return err
		}
		gateway, err := netip.ParseAddr(via)
		if err != nil {
			return err
		}
		n.Do(func() { err = addRoute(dst, gateway) })
		return err
	}()
	if err != nil {
		n.lab.t.Fatalf("namespace %s: route to %s by %s: %v", n.name, network, via, err)
	}
}

// addRoute runs in the namespace.
func addRoute(dst netip.Prefix, gateway netip.Addr) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return h.RouteAdd(&netlink.Route{
		Dst: &net.IPNet{IP: dst.Masked().Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		Gw:  gateway.AsSlice(),
	})
}
