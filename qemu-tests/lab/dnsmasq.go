package lab

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"time"
)

// DNSMasq is a DHCP server that is none of ours: dnsmasq in a namespace, as a site's router is.
type DNSMasq struct {
	*Namespace
	leases string
	proc   *process
}

// DNSMasqOptions say how the server differs from a plain one.
type DNSMasqOptions struct {
	// Range is "first,last,leasetime"; by default addresses 100 to 199 of the server's network, for an hour.
	Range string
	// Args are added to dnsmasq's command line.
	Args []string
}

// DNSMasq starts a DHCP server with an IPv4 address ("192.168.77.1/24") on a switch: addresses only, no word of PXE, neither
// DNS nor TFTP. It needs root, and ends with the test.
func (l *Lab) DNSMasq(name string, s *Switch, address string, o DNSMasqOptions) *DNSMasq {
	l.t.Helper()
	n := l.Namespace(name, s, address)
	if o.Range == "" {
		o.Range = defaultRange(n.addr)
	}
	d := &DNSMasq{Namespace: n, leases: l.Path(safeName(name) + ".leases")}
	args := []string{
		// --no-daemon also keeps it from changing its user, which would cancel the signal that ends it with the test process.
		"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-resolv", "--no-hosts", "--no-ping", "--log-dhcp", "--log-facility=-",
		"--interface=" + InterfaceName, "--bind-interfaces", "--except-interface=lo", "--dhcp-authoritative",
		"--dhcp-leasefile=" + d.leases, "--dhcp-range=" + o.Range,
	}
	d.start(append(args, o.Args...))
	return d
}

// defaultRange is the part .100 to .199 of an address's /24.
func defaultRange(p netip.Prefix) string {
	a := p.Addr().As4()
	return fmt.Sprintf("%d.%d.%d.100,%d.%d.%d.199,1h", a[0], a[1], a[2], a[0], a[1], a[2])
}

// DHCPRelay makes a router a DHCP relay agent (dnsmasq) for the network in which it has the address local, to all of the
// servers at once, as routers do for a DHCP server and a PXE server beside it.
func (l *Lab) DHCPRelay(r *Router, local string, servers ...netip.Addr) *DNSMasq {
	l.t.Helper()
	d := &DNSMasq{Namespace: r.Namespace, leases: l.Path(safeName(r.name) + ".leases")}
	args := []string{
		"dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--no-resolv", "--no-hosts", "--log-dhcp", "--log-facility=-",
		"--dhcp-leasefile=" + d.leases,
	}
	for _, s := range servers {
		args = append(args, "--dhcp-relay="+local+","+s.String())
	}
	d.start(args)
	return d
}

// start runs dnsmasq until the test ends; the test fails if it does not come up.
func (d *DNSMasq) start(argv []string) {
	l, log := d.lab, safeName(d.name)+".log"
	l.t.Helper()
	p, err := d.startLogged(log, argv...)
	if err != nil {
		l.t.Fatalf("dnsmasq %s: %v", d.name, err)
	}
	d.proc = p
	if err := d.waitUp(30 * time.Second); err != nil {
		text, _ := os.ReadFile(l.Path(log))
		l.t.Fatalf("dnsmasq %s: %v\n%s", d.name, err, text)
	}
}

// waitUp waits until the server holds port 67.
func (d *DNSMasq) waitUp(limit time.Duration) error {
	ctx, cancel := d.lab.limit(limit)
	defer cancel()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		up, err := d.holdsPort67()
		if err != nil {
			return err
		}
		if up {
			return nil
		}
		select {
		case <-tick.C:
		case <-d.proc.done:
			return fmt.Errorf("it ended at once: %v", d.proc.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("it did not open its port within %v", limit)
		}
	}
}

// holdsPort67 reads the namespace's table of UDP sockets.
func (d *DNSMasq) holdsPort67() (up bool, err error) {
	var b []byte
	d.Do(func() { b, err = os.ReadFile("/proc/thread-self/net/udp") })
	if err != nil {
		return false, fmt.Errorf("read the table of sockets: %w", err)
	}
	return udpPort67.Match(b), nil
}

// udpPort67 is a local address with port 67 (hexadecimal 43) in /proc/net/udp.
var udpPort67 = regexp.MustCompile(`: [0-9A-F]{8}:0043 `)

// Stop ends the server before the test does.
func (d *DNSMasq) Stop() { d.proc.kill() }

// Leases returns dnsmasq's lease file: one line per lease, with expiry, hardware address, address, name, client id.
func (d *DNSMasq) Leases() string {
	b, err := os.ReadFile(d.leases)
	if err != nil {
		return ""
	}
	return string(b)
}
