package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// TestInNetwork runs the service point in a network namespace of its own: a bridge with the service, a client, and a
// namespace with dnsmasq as the site's DHCP server.
func TestInNetwork(t *testing.T) {
	inNetwork(t, testInNetwork)
}

// sites are the namespaces of a test in the network: a client and a DHCP server on the service's segment, and behind a
// router another client. Each client's card is c0 and has the address of known.
type sites struct{ client, server, router, far string }

// inNetwork makes namespaces, in which the test binary starts itself again, and runs f in the service's. The service is on
// br0; the server, 192.0.2.1, on d0; the router's own is 192.0.2.2 on r0, and 198.51.100.1 on r1.
func inNetwork(t *testing.T, f func(*testing.T, sites)) {
	if names := strings.Fields(os.Getenv("PXE_NETWORK_TEST")); len(names) == 4 {
		f(t, sites{names[0], names[1], names[2], names[3]})
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "dnsmasq", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: run make setup", tool)
		}
	}
	name := func(s string) string { return fmt.Sprintf("bp-pxe-%d-%s", os.Getpid(), s) }
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for _, n := range []string{"s", "c", "d", "r", "f"} {
		ip("netns", "add", name(n))
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name(n)).Run() })
		ip("-n", name(n), "link", "set", "lo", "up")
	}
	service, router, far := name("s"), name("r"), name("f")
	ip("-n", service, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
	ip("-n", service, "address", "add", "192.0.2.10/24", "dev", "br0")
	ip("-n", service, "link", "set", "br0", "up")
	for n, addr := range map[string]string{"c": "192.0.2.50/24", "d": "192.0.2.1/24", "r": "192.0.2.2/24"} {
		ip("-n", service, "link", "add", n+"1", "type", "veth", "peer", "name", n+"0", "netns", name(n))
		ip("-n", service, "link", "set", n+"1", "master", "br0", "up")
		ip("-n", name(n), "address", "add", addr, "dev", n+"0")
		ip("-n", name(n), "link", "set", n+"0", "up")
	}
	ip("-n", router, "link", "add", "r1", "type", "veth", "peer", "name", "c0", "netns", far)
	ip("-n", router, "address", "add", "198.51.100.1/24", "dev", "r1")
	ip("-n", router, "link", "set", "r1", "up")
	ip("-n", far, "address", "add", "198.51.100.50/24", "dev", "c0")
	ip("-n", far, "link", "set", "c0", "address", string(known), "up")
	ip("-n", far, "route", "add", "default", "via", "198.51.100.1")
	ip("netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for _, n := range []string{service, name("d")} {
		ip("-n", n, "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
	}
	ip("-n", name("c"), "link", "set", "c0", "address", string(known))
	ip("-n", name("d"), "address", "add", "192.0.2.104/24", "dev", "d0") // somebody in the middle of our pool
	cmd := exec.Command("ip", "netns", "exec", service, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=300s")
	if *update {
		cmd.Args = append(cmd.Args, "-update")
	}
	cmd.Env = append(os.Environ(), "PXE_NETWORK_TEST="+strings.Join([]string{name("c"), name("d"), router, far}, " "))
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// in is inNamespace, for tests.
func in(t testing.TB, namespace string, f func() error) {
	t.Helper()
	if err := inNamespace(namespace, f); err != nil {
		t.Fatal(err)
	}
}

// inNamespace runs f in a network namespace. Sockets that f opens stay there.
func inNamespace(namespace string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			fd, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() { _ = unix.Close(fd) }()
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// listener is a client's UDP port: everything that comes in is kept.
type listener struct {
	*net.UDPConn
	mu   sync.Mutex
	got  []received
	more chan struct{}
}

type received struct {
	from netip.AddrPort
	p    *dhcpv4.DHCPv4
}

func listenAs(t *testing.T, namespace string, port int) *listener {
	t.Helper()
	l := &listener{more: make(chan struct{}, 1)}
	in(t, namespace, func() error {
		lc := net.ListenConfig{Control: bindTo("c0", false)}
		c, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err == nil {
			l.UDPConn = c.(*net.UDPConn)
		}
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := l.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p, err := dhcpv4.FromBytes(bytes.Clone(buf[:n]))
			if err != nil {
				continue
			}
			l.mu.Lock()
			l.got = append(l.got, received{from, p})
			l.mu.Unlock()
			select {
			case l.more <- struct{}{}:
			default:
			}
		}
	}()
	return l
}

func (l *listener) send(t *testing.T, to string, p *dhcpv4.DHCPv4) {
	t.Helper()
	if _, err := l.WriteToUDPAddrPort(p.ToBytes(), netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

// all are the answers to transaction n from server so far.
func (l *listener) all(server string, n byte) (out []received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.got {
		if r.from.Addr().String() == server && r.p.TransactionID == (dhcpv4.TransactionID{9, 9, 9, n}) {
			out = append(out, r)
		}
	}
	return out
}

// wait waits for an answer to transaction n from server.
func (l *listener) wait(t *testing.T, server string, n byte) received {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if got := l.all(server, n); len(got) > 0 {
			return got[0]
		}
		select {
		case <-l.more:
		case <-deadline:
			t.Fatalf("no answer of %s to transaction %d; got %v", server, n, l.got)
		}
	}
}

// untilAnswer asks until server answers: it may take a moment to be there.
func (l *listener) untilAnswer(t *testing.T, server string) {
	t.Helper()
	for n := byte(200); n < 240; n++ {
		l.send(t, everyone, client(t, third, dhcpv4.MessageTypeDiscover, xid(n), dhcpv4.WithBroadcast(true)))
		deadline := time.After(time.Second)
		for waiting := true; waiting; {
			if len(l.all(server, n)) > 0 {
				return
			}
			select {
			case <-l.more:
			case <-deadline:
				waiting = false
			}
		}
	}
	t.Fatalf("%s does not answer", server)
}

const (
	us       = "192.0.2.10"
	everyone = "255.255.255.255:67"
)

// run starts a service on br0 and returns when it is ready, or its error.
func run(t *testing.T, mode provisioning.PXEMode, p *fakePolicy, store *fakeLeases, mods ...func(*Config, *Deps)) (stop func() error, log *lockedBuffer, err error) {
	t.Helper()
	log = &lockedBuffer{}
	cfg := Config{
		Interfaces: []Interface{{"br0", netip.MustParsePrefix("192.0.2.10/24")}}, Mode: mode, ProbeWait: 2 * time.Second,
		Pool: &provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", Router: "192.0.2.1"},
	}
	deps := Deps{Policy: p, Boots: fakeBoots{}, Files: bootFiles(), Leases: store, Log: testLog(log)}
	for _, m := range mods {
		m(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-s.Ready():
		return stop, log, nil
	case err := <-done:
		done <- err
		return stop, log, err
	case <-time.After(30 * time.Second):
		t.Fatalf("not ready; log:\n%s", log)
	}
	return nil, nil, nil
}

// await waits until the policy has been asked about mac.
func await(t *testing.T, p *fakePolicy, mac provisioning.MAC) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case m := <-p.seen:
			if m.MAC == mac {
				return
			}
		case <-deadline:
			t.Fatalf("the policy is not asked about %s", mac)
		}
	}
}

func testInNetwork(t *testing.T, n sites) {
	cns := n.client
	stopDNSMasq := startDNSMasq(t, n.server)

	t.Run("proxy", func(t *testing.T) { testProxy(t, cns) })
	t.Run("refuse", func(t *testing.T) {
		_, _, err := run(t, provisioning.PXEModeDHCP, newFakePolicy(), &fakeLeases{})
		if provisioning.CodeOf(err) != provisioning.CodeConflict || !strings.Contains(err.Error(), "192.0.2.1 answers DHCP on br0") {
			t.Errorf("beside another DHCP server: %v", err)
		}
	})
	stopDNSMasq()
	t.Run("dhcp", func(t *testing.T) { testServer(t, cns) })
	t.Run("port in use", func(t *testing.T) {
		stop, _, err := run(t, provisioning.PXEModeProxy, newFakePolicy(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := run(t, provisioning.PXEModeProxy, newFakePolicy(), nil); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a second service on the same ports: %v", err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func testProxy(t *testing.T, cns string) {
	discover := dhcpv4.MessageTypeDiscover
	p := newFakePolicy()
	stop, log, err := run(t, provisioning.PXEModeProxy, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, c4011 := listenAs(t, cns, 68), listenAs(t, cns, 4011)

	c.untilAnswer(t, "192.0.2.1")
	c.send(t, everyone, client(t, known, discover, ovmf(7), xid(1)))
	offer := c.wait(t, us, 1)
	golden(t, "network-ovmf", text(offer.p))
	if theirs := c.wait(t, "192.0.2.1", 1); theirs.p.YourIPAddr.IsUnspecified() {
		t.Error("dnsmasq offers no address")
	}
	ask := client(t, known, dhcpv4.MessageTypeRequest, ovmf(7), xid(2), ciaddr("192.0.2.50"))
	c4011.send(t, us+":4011", ask)
	if ack := c4011.wait(t, us, 2); ack.p.MessageType() != dhcpv4.MessageTypeAck || ack.p.BootFileName != FileShim || ack.from.Port() != 4011 {
		t.Errorf("boot server: from %s %s", ack.from, text(ack.p))
	}
	if n := p.times(known); n != 1 {
		t.Errorf("%d decisions for one exchange", n)
	}
	ask.TransactionID[3] = 3
	c.send(t, us+":4011", ask) // iPXE asks from port 68
	if ack := c.wait(t, us, 3); ack.p.BootFileName != FileShim {
		t.Errorf("boot server from port 68: %s", text(ack.p))
	}
	c.send(t, everyone, client(t, known, discover, ipxe(0), dhcpv4.WithBroadcast(true), xid(4)))
	if offer := c.wait(t, us, 4); offer.p.BootFileName != "http://192.0.2.10/boot/ipxe?mac=52:54:00:00:00:01" {
		t.Errorf("iPXE: %s", text(offer.p))
	}

	// Silence: what must not be answered first, each decided, then something that is answered.
	silent := map[byte]*dhcpv4.DHCPv4{
		10: client(t, unknown, discover, ovmf(7), xid(10)),
		11: client(t, idle, discover, ipxe(0), dhcpv4.WithBroadcast(true), xid(11)),
		12: client(t, third, discover, dhcpv4.WithBroadcast(true), xid(12)),
		13: client(t, known, dhcpv4.MessageTypeRequest, ovmf(7), xid(13), chosen("192.0.2.1"), wish("192.0.2.150")),
		14: client(t, known, discover, ovmf(11), xid(14)),
	}
	for n, q := range silent {
		c.send(t, everyone, q)
		switch n {
		case 10:
			await(t, p, unknown)
		case 11:
			await(t, p, idle)
		}
	}
	silent[15] = client(t, unknown, dhcpv4.MessageTypeRequest, ovmf(7), xid(15), ciaddr("192.0.2.50"))
	silent[16] = client(t, third, dhcpv4.MessageTypeRequest, ovmf(7), xid(16), ciaddr("192.0.2.50"))
	silent[17] = client(t, known, dhcpv4.MessageTypeRequest, xid(17), ciaddr("192.0.2.50"))
	for _, n := range []byte{15, 16, 17} {
		c4011.send(t, us+":4011", silent[n])
		if n == 16 {
			await(t, p, third)
		}
	}
	for n := byte(30); n < 33; n++ {
		c.send(t, everyone, client(t, known, discover, ovmf(7), xid(n)))
		c.wait(t, us, n)
	}
	for n := range silent {
		for _, l := range []*listener{c, c4011} {
			for _, r := range l.all(us, n) {
				t.Errorf("transaction %d is answered:\n%s", n, text(r.p))
			}
		}
	}
	if n := p.times(""); n > 0 {
		t.Errorf("the policy is asked %d times about something that is no boot ROM", n)
	}
	if got := log.String(); !strings.Contains(got, "UEFI arm64") {
		t.Errorf("nothing is said of the unsupported architecture:\n%s", got)
	}

	testChain(t, cns)
	before := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(before); d > 5*time.Second {
		t.Errorf("it took %s to stop", d)
	}
}

// testChain loads what GRUB loads; HTTP from the client's namespace, whose card has the address of known.
func testChain(t *testing.T, cns string) {
	body, _, err := fetch(t, us+":69", "/grub/grub.cfg", 1024)
	if err != nil || !strings.Contains(string(body), "(http,192.0.2.10)/boot/grub/${mac}.cfg") {
		t.Errorf("grub.cfg: %v\n%s", err, body)
	}
	hc := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		in(t, cns, func() error { c, err = new(net.Dialer).DialContext(ctx, network, addr); return nil })
		return c, err
	}}}
	defer hc.CloseIdleConnections()
	load := func(path string) string {
		t.Helper()
		resp, err := hc.Get("http://" + us + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", path, resp.Status, err)
		}
		return string(b)
	}
	secret := nonceRE.FindString(load("/boot/grub/52:54:00:00:00:01.cfg"))
	if secret == "" {
		t.Fatal("no boot layer for the machine that is to boot")
	}
	if got := load(secret); !strings.Contains(got, secretText) || !strings.Contains(got, `"server":"192.0.2.10"`) {
		t.Errorf("boot layer:\n%q", got)
	}
	if got := load("/boot/grub/52:54:00:00:00:02.cfg"); got != grubNothing {
		t.Errorf("the machine with nothing to do gets\n%s", got)
	}
	if got := load("/boot//files/vmlinuz"); got != string(bootFiles()[FileKernel].Data) {
		t.Errorf("kernel: %d octets", len(got))
	}
}

func testServer(t *testing.T, cns string) {
	discover, request := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	bcast := dhcpv4.WithBroadcast(true)
	p, store := newFakePolicy(), &fakeLeases{}
	stop, _, err := run(t, provisioning.PXEModeDHCP, p, store)
	if err != nil {
		t.Fatal(err)
	}
	c := listenAs(t, cns, 68)
	c.send(t, everyone, client(t, third, discover, bcast, xid(1), wish("192.0.2.103")))
	if got := c.wait(t, us, 1).p; got.YourIPAddr.String() != "192.0.2.103" || got.BootFileName != "" {
		t.Errorf("plain client: %s", text(got))
	}
	c.send(t, everyone, client(t, third, request, bcast, xid(2), wish("192.0.2.103"), chosen(us)))
	if got := c.wait(t, us, 2).p; got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("plain client: %s", text(got))
	}
	c.send(t, everyone, client(t, idle, discover, bcast, xid(3), wish("192.0.2.104")))
	if got := c.wait(t, us, 3).p; got.YourIPAddr.String() == "192.0.2.104" {
		t.Error("an address that somebody uses is offered")
	}
	c.send(t, everyone, client(t, unknown, discover, ovmf(7), xid(4)))
	await(t, p, unknown)
	c.send(t, everyone, client(t, known, discover, ovmf(7), xid(5), wish("192.0.2.106")))
	if got := c.wait(t, us, 5).p; got.YourIPAddr.String() != "192.0.2.106" || got.BootFileName != FileShim || got.ServerIPAddr.String() != us {
		t.Errorf("boot ROM: %s", text(got))
	}
	c.send(t, everyone, client(t, known, request, ovmf(7), xid(6), wish("192.0.2.106"), chosen(us)))
	if got := c.wait(t, us, 6).p; got.MessageType() != dhcpv4.MessageTypeAck || got.BootFileName != FileShim {
		t.Errorf("boot ROM: %s", text(got))
	}
	if got := c.all(us, 4); len(got) > 0 {
		t.Errorf("the unknown boot ROM is answered: %s", text(got[0].p))
	}
	// A real client, on the card of known: it is no boot ROM and gets the address all the same.
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Log("busybox is not installed: no real client asks")
	} else if out, err := exec.Command("ip", "netns", "exec", cns, "busybox", "udhcpc", "-i", "c0", "-n", "-q", "-f", "-s", "/bin/true").CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "lease of 192.0.2.106 obtained") {
		t.Errorf("udhcpc: %v\n%s", err, out)
	}
	c.send(t, everyone, client(t, unknown, discover, bcast, xid(7))) // its operating system
	if got := c.wait(t, us, 7).p; got.YourIPAddr.IsUnspecified() {
		t.Errorf("the unknown machine's operating system: %s", text(got))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err = run(t, provisioning.PXEModeDHCP, p, store); err != nil {
		t.Fatal(err)
	}
	c.send(t, everyone, client(t, idle, request, bcast, xid(8), wish("192.0.2.103")))
	if got := c.wait(t, us, 8).p; got.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("another's address after a restart: %s", text(got))
	}
	c.send(t, everyone, client(t, third, request, bcast, xid(9), wish("192.0.2.103")))
	if got := c.wait(t, us, 9).p; got.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("its own address after a restart: %s", text(got))
	}
}
