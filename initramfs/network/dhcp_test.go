package network

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
)

// inNamespace runs the test again in a network and user namespace of its own, where it may do as it likes, and returns true
// there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "BRANCHPOINT_TEST_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("this machine does not allow user namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	return false
}

// server is a DHCP server whose answers a test changes as it goes.
type server struct {
	mu       sync.Mutex
	address  net.IP
	lease    uint32
	nak      bool
	silent   bool
	requests chan *dhcpv4.DHCPv4
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) handle(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	send := func(kind dhcpv4.MessageType, modifiers ...dhcpv4.Modifier) {
		id := net.IPv4(10, 9, 0, 1)
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(id)),
		}, modifiers...)...)
		if err == nil {
			_, _ = conn.WriteTo(reply.ToBytes(), to)
		}
	}
	granted := []dhcpv4.Modifier{
		dhcpv4.WithYourIP(s.address), dhcpv4.WithLeaseTime(s.lease), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 9, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 9, 0, 1)),
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		// What a boot server beside says first must not be taken for an address.
		send(dhcpv4.MessageTypeOffer, dhcpv4.WithYourIP(net.IPv4zero), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))
		send(dhcpv4.MessageTypeOffer, granted...)
	case dhcpv4.MessageTypeRequest:
		select {
		case s.requests <- m:
		default:
		}
		switch {
		case s.silent:
		case s.nak && !m.ClientIPAddr.IsUnspecified():
			send(dhcpv4.MessageTypeNak)
		default:
			send(dhcpv4.MessageTypeAck, granted...)
		}
	}
}

// veth makes a cable between two interfaces; the server's end has an address.
func veth(t *testing.T) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "client"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "server"}); err != nil {
		t.Fatalf("make interfaces: %v", err)
	}
	link, err := netlink.LinkByName("server")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server", "client"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the cable has no carrier", func() bool {
		link, err := netlink.LinkByName("client")
		return err == nil && link.Attrs().OperState == netlink.OperUp
	})
}

func (s *server) start(t *testing.T) {
	t.Helper()
	srv, err := server4.NewServer("server", &net.UDPAddr{IP: net.IPv4zero, Port: 67}, s.handle)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve() }()
	t.Cleanup(func() { _ = srv.Close() })
}

func addresses(t *testing.T) string {
	t.Helper()
	link, err := netlink.LinkByName("client")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, a := range list {
		text += a.IPNet.String() + " "
	}
	return text
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestLeaseLife follows a lease: granted, renewed, refused, and lost because the server is silent.
func TestLeaseLife(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	veth(t)
	s := &server{address: net.IPv4(10, 9, 0, 50), lease: 2, requests: make(chan *dhcpv4.DHCPv4, 16)}
	s.start(t)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	resolv := t.TempDir() + "/resolv.conf"

	c := Config{DHCP: true, Hostname: "pc7"}
	changes := make(chan Status, 16)
	c.Changed = func(s Status) { changes <- s }
	l, err := acquire(ctx, "client", c.Hostname, log)
	if err != nil {
		t.Fatal(err)
	}
	status := finish(l.status, "client", nil, c)
	if err := apply("client", status, l.routes, netip.Prefix{}, resolv); err != nil {
		t.Fatal(err)
	}
	if got := addresses(t); got != "10.9.0.50/24 " {
		t.Fatalf("addresses %q", got)
	}
	if b, err := os.ReadFile(resolv); err != nil || string(b) != "nameserver 10.9.0.1\n" {
		t.Fatalf("name servers %q, %v", b, err)
	}
	if routes, err := netlink.RouteGet(net.IPv4(8, 8, 8, 8)); err != nil || len(routes) != 1 || !routes[0].Gw.Equal(net.IPv4(10, 9, 0, 1)) {
		t.Fatalf("routes %v, %v", routes, err)
	}
	first := <-s.requests
	if first.HostName() != "pc7" || !first.ClientIPAddr.IsUnspecified() {
		t.Fatalf("request %v", first)
	}

	go maintain(ctx, "client", status, l, c, log, resolv)
	// Renewed: the request names the address we have and no server.
	renewal := <-s.requests
	if !renewal.ClientIPAddr.Equal(net.IPv4(10, 9, 0, 50)) || renewal.ServerIdentifier() != nil {
		t.Fatalf("renewal %v", renewal)
	}
	// Refused, and another address granted.
	s.set(func(s *server) { s.nak, s.address = true, net.IPv4(10, 9, 0, 60) })
	eventually(t, "the refused address is still there, or no new one", func() bool { return addresses(t) == "10.9.0.60/24 " })
	// Silent until the lease is over: the address goes. Then it comes back.
	s.set(func(s *server) { s.nak, s.silent = false, true })
	eventually(t, "the address outlives its lease", func() bool { return addresses(t) == "" })
	s.set(func(s *server) { s.silent = false })
	eventually(t, "no address after the server is back", func() bool { return addresses(t) == "10.9.0.60/24 " })
	var told []string
	for len(changes) > 0 {
		told = append(told, (<-changes).Address.String())
	}
	if len(told) < 3 || told[0] != "invalid Prefix" || told[1] != "10.9.0.60/24" {
		t.Fatalf("told %v", told)
	}
}

func TestApplyFixedAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	veth(t)
	resolv := t.TempDir() + "/resolv.conf"
	s := Status{Address: netip.MustParsePrefix("10.9.0.7/24"), Gateway: netip.MustParseAddr("10.9.0.1"), DNS: []netip.Addr{netip.MustParseAddr("10.9.0.2")}}
	for range 2 { // setting it again is no error
		if err := apply("client", s, []route{{to: netip.MustParsePrefix("172.16.0.0/12"), via: netip.MustParseAddr("10.8.0.1")}}, netip.Prefix{}, resolv); err != nil {
			t.Fatal(err)
		}
	}
	if got := addresses(t); got != "10.9.0.7/24 " {
		t.Fatalf("addresses %q", got)
	}
	next := s
	next.Address = netip.MustParsePrefix("10.9.0.8/24")
	if err := apply("client", next, nil, s.Address, resolv); err != nil {
		t.Fatal(err)
	}
	if got := addresses(t); got != "10.9.0.8/24 " {
		t.Fatalf("addresses %q", got)
	}
}

func TestConfigureSaysWhatIsThere(t *testing.T) {
	_, err := Configure(context.Background(), Config{DHCP: true, Interface: "nonesuch0", Timeout: 300 * time.Millisecond}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err == nil || !strings.Contains(err.Error(), "no network interface") {
		t.Fatalf("got %v", err)
	}
}
