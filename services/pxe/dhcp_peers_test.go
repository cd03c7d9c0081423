package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"branchpoint/benchmark"
	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// The load of the benchmark: so many boot ROMs, of which so many wait for their offer at any time.
const (
	loadMachines    = 20000
	loadOutstanding = 48
	loadTime        = 3 * time.Second
	// loadPatience is when a DISCOVER without answer counts as lost.
	loadPatience = 500 * time.Millisecond
)

// BenchmarkPeers_DHCPOffers measures how many boot ROMs get an offer of an address and a boot file each second: of us and
// of dnsmasq, each the DHCP server of a network with nothing else on it, with the same pool, without looking first
// whether somebody uses an address. All machines are known ones. Both write their log, to where it is forgotten: dnsmasq
// a line for every packet, ours as many as its budget of lines allows.
func BenchmarkPeers_DHCPOffers(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("network namespaces need root")
	}
	name := func(s string) string { return fmt.Sprintf("bp-dhcp-%d-%s", os.Getpid(), s) }
	server, clients := name("s"), name("c")
	ip := func(args ...string) {
		b.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			b.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for _, n := range []string{server, clients} {
		ip("netns", "add", n)
		b.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n).Run() })
	}
	ip("-n", server, "link", "add", "d0", "type", "veth", "peer", "name", "c0", "netns", clients)
	ip("-n", server, "address", "add", "10.77.0.1/16", "dev", "d0")
	ip("-n", server, "link", "set", "d0", "up")
	ip("-n", clients, "address", "add", "10.77.0.2/16", "dev", "c0")
	ip("-n", clients, "link", "set", "c0", "up")
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	benchmark.Report(b, benchmark.Contest{
		Name: "dhcp-offers", Unit: "offers/s", HigherIsBetter: true, Runs: 5,
		Ours: benchmark.Contender{Name: "branchpoint", Run: func(ctx context.Context) (float64, error) {
			stop := daemon(b, server, self, nil, "-serve-alone")
			defer stop()
			return offers(b, ctx, clients)
		}},
		Peers: []benchmark.Contender{{Name: "dnsmasq", Run: func(ctx context.Context) (float64, error) {
			stop := daemon(b, server, "dnsmasq", nil, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
				"--interface=d0", "--bind-interfaces", "--dhcp-range=10.77.1.0,10.77.128.255,1h", "--dhcp-lease-max=100000", "--dhcp-boot="+FileShim,
				"--no-ping", "--leasefile-ro", "--log-facility="+os.DevNull, "--pid-file=")
			defer stop()
			return offers(b, ctx, clients)
		}}},
	})
}

// bootsAll is a policy that boots every machine.
type bootsAll struct{}

func (bootsAll) Decide(context.Context, provisioning.Machine) policy.Decision {
	return policy.Decision{Action: policy.Boot, Computer: "pc1", Reasons: []policy.Reason{{Rule: "identity", Text: "MAC address is pc1"}}}
}

// serveAlone has this test program be the service point that BenchmarkPeers_DHCPOffers measures: in a process of its own,
// as its peer is, so that the load has its own scheduler and memory beside either.
var serveAlone = flag.Bool("serve-alone", false, "be the DHCP server on interface d0, for a benchmark")

func TestMain(m *testing.M) {
	flag.Parse()
	if *serveAlone {
		if err := benchServe(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// benchServe runs the service point as the DHCP server of d0 until ctx ends.
func benchServe(ctx context.Context) error {
	log, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	s, err := New(Config{
		Interfaces: []Interface{{"d0", netip.MustParsePrefix("10.77.0.1/16")}}, Mode: provisioning.PXEModeDHCP, ProbeWait: time.Millisecond,
		Pool: &provisioning.DHCPPool{RangeStart: "10.77.1.0", RangeEnd: "10.77.128.255"},
	}, Deps{
		Policy: bootsAll{}, Boots: fakeBoots{}, Files: bootFiles(), Leases: &fakeLeases{},
		Known: func(provisioning.MAC, provisioning.GUID) bool { return true },
		Log:   slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		return err
	}
	s.dhcp.inUse = nil
	return s.Run(ctx)
}

// offers counts the offers that a load of machines gets each second.
func offers(b *testing.B, ctx context.Context, namespace string) (float64, error) {
	b.Helper()
	var c *net.UDPConn
	in(b, namespace, func() error {
		lc := net.ListenConfig{Control: bindTo("c0", false)}
		p, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
		if err == nil {
			c = p.(*net.UDPConn)
			err = c.SetReadBuffer(4 << 20)
		}
		return err
	})
	defer c.Close()
	l := &load{c: c, packet: client(b, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes(), waiting: map[uint32]time.Time{}}
	// Until it answers at all, it is starting.
	for deadline := time.Now().Add(30 * time.Second); l.count == 0; {
		if time.Now().After(deadline) {
			return 0, errors.New("no offer")
		}
		if err := l.run(100 * time.Millisecond); err != nil {
			return 0, err
		}
	}
	l.count, l.lost = 0, 0
	start := time.Now()
	if err := l.run(loadTime); err != nil {
		return 0, err
	}
	if l.lost > l.count/100 {
		b.Logf("%d of %d are lost", l.lost, l.lost+l.count)
	}
	return float64(l.count) / time.Since(start).Seconds(), nil
}

// load keeps loadOutstanding machines asking.
type load struct {
	c           *net.UDPConn
	packet      []byte
	next        uint32
	waiting     map[uint32]time.Time // since when, by transaction id
	count, lost int
}

// run asks for a while: one DISCOVER for each offer that comes in, and for each that is lost.
func (l *load) run(d time.Duration) error {
	end := time.Now().Add(d)
	buf := make([]byte, 2048)
	for now := time.Now(); now.Before(end); now = time.Now() {
		for x, since := range l.waiting {
			if len(l.waiting) < loadOutstanding {
				break
			}
			if now.Sub(since) > loadPatience {
				delete(l.waiting, x)
				l.lost++
			}
		}
		for len(l.waiting) < loadOutstanding {
			if err := l.ask(now); err != nil {
				return err
			}
		}
		if err := l.c.SetReadDeadline(now.Add(20 * time.Millisecond)); err != nil {
			return err
		}
		n, _, err := l.c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		l.take(buf[:n])
	}
	return nil
}

// ask sends the DISCOVER of the next machine.
func (l *load) ask(now time.Time) error {
	l.next++
	binary.BigEndian.PutUint32(l.packet[4:], l.next)
	m := l.next * 2654435761 % loadMachines // not one after another
	copy(l.packet[28:], []byte{0x52, 0x54, 0, byte(m >> 16), byte(m >> 8), byte(m)})
	l.waiting[l.next] = now
	_, err := l.c.WriteToUDPAddrPort(l.packet, netip.MustParseAddrPort(everyone))
	return err
}

// take counts an offer of an address and a boot file that is waited for (RFC 2131 section 2: yiaddr, file, the options'
// cookie, and the message type somewhere among them).
func (l *load) take(b []byte) {
	if len(b) < 244 || b[0] != 2 || binary.BigEndian.Uint32(b[16:]) == 0 || b[108] == 0 {
		return
	}
	for o := 240; o+2 < len(b) && b[o] != 255; {
		if b[o] == 53 {
			if x := binary.BigEndian.Uint32(b[4:]); b[o+2] == 2 && !l.waiting[x].IsZero() {
				delete(l.waiting, x)
				l.count++
			}
			return
		}
		o += 2 + int(b[o+1])
	}
}

// BenchmarkPacket measures what a packet costs: looked at and dropped, as those of a flood are, and decided about.
func BenchmarkPacket(b *testing.B) {
	for name, mac := range map[string]provisioning.MAC{"silent": unknown, "offer": known} {
		for _, limited := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s, over the budget %t", name, limited), func(b *testing.B) {
				s, _, conn, in, _ := newPacketService(b, provisioning.PXEModeProxy)
				s.deps.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
				p := client(b, mac, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes()
				now := start
				s.deps.Now = func() time.Time { return now }
				n := uint32(0)
				for b.Loop() {
					n++
					if !limited {
						now = now.Add(time.Minute)
					}
					binary.BigEndian.PutUint32(p[4:], n)
					s.packet(b.Context(), in, p)
					s.wg.Wait()
					conn.to, conn.packets = conn.to[:0], conn.packets[:0]
				}
			})
		}
	}
}
