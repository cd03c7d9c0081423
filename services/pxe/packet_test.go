package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newPacketService is a service for 192.0.2.10/24 that has not been started, and a connection that keeps its answers.
func newPacketService(t testing.TB, mode provisioning.PXEMode) (*Service, *fakePolicy, *fakeConn, arrival, *lockedBuffer) {
	t.Helper()
	p, log, store := newFakePolicy(), &lockedBuffer{}, &fakeLeases{}
	iface := Interface{"lo", prefix}
	s, err := New(Config{
		Interfaces: []Interface{iface}, Mode: mode,
		Pool: &provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", Relayed: []provisioning.RelayedPool{
			{Subnet: "198.51.100.0/24", RangeStart: "198.51.100.100", RangeEnd: "198.51.100.109", Router: "198.51.100.1"},
		}},
	}, Deps{Policy: p, Boots: fakeBoots{}, Files: bootFiles(), Leases: store, Now: func() time.Time { return start }, Log: testLog(log)})
	if err != nil {
		t.Fatal(err)
	}
	s.dhcp.inUse = nil // there is no network
	if mode == provisioning.PXEModeDHCP {
		s.dhcp.load(nil)
	}
	c := &fakeConn{}
	return s, p, c, arrival{iface: iface, conn: c, port: portDHCP, reception: reception{from: netip.MustParseAddrPort("0.0.0.0:68")}}, log
}

// arrive is a packet that comes in: it returns when the next may, like the reader of a port.
func (s *Service) arrive(ctx context.Context, in arrival, b []byte) {
	next := make(chan struct{}, 2)
	in.turn = &turn{next: func() { next <- struct{}{} }}
	s.wg.Go(func() { s.packet(ctx, in, b); next <- struct{}{} })
	<-next
}

func (s *Service) dropped(service, reason string) int {
	return int(testutil.ToFloat64(s.metrics.dropped.WithLabelValues(service, reason)))
}

// TestInTime answers a known machine whose packet has waited for as long as it may.
func TestInTime(t *testing.T) {
	s, _, conn, in, _ := newPacketService(t, provisioning.PXEModeProxy)
	s.deps.Known = func(m provisioning.MAC, _ provisioning.GUID) bool { return m == known }
	in.waited = maxWaited
	s.arrive(t.Context(), in, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
	s.wg.Wait()
	if conn.destinations() == "" {
		t.Error("it is not answered")
	}
}

// TestWaited measures how long a packet has waited, and tells to whom it was sent.
func TestWaited(t *testing.T) {
	c, err := listenUDP(t.Context(), Interface{Name: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8")}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: c.LocalAddr().(*net.UDPAddr).Port})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	const held = 20 * time.Millisecond
	// A kernel that has just been asked for the first time stamps packets a moment later.
	for deadline := time.Now().Add(time.Minute); ; {
		sent := time.Now()
		if _, err := from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(held)
		n, r, err := c.receive(make([]byte, 16))
		if err != nil || n != 1 || !r.unicast || r.from != from.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Fatalf("%d octets, %+v, %v", n, r, err)
		}
		if r.waited > time.Since(sent) {
			t.Fatalf("it has waited for %v, and was sent %v ago", r.waited, time.Since(sent))
		}
		if r.waited >= held {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it has waited for %v only", r.waited)
		}
	}
}

// TestDrops sends what must get no answer, and looks whether each is counted under its name.
func TestDrops(t *testing.T) {
	discover := dhcpv4.MessageTypeDiscover
	good := client(t, known, discover, ovmf(7)).ToBytes()
	from := func(s string) func(*arrival) {
		return func(a *arrival) { a.from = netip.MustParseAddrPort(s) }
	}
	to4011 := func(a *arrival) { a.port, a.from = portBootServer, netip.MustParseAddrPort("192.0.2.50:4011") }
	for _, c := range []struct {
		name string
		b    []byte
		want string
		in   []func(*arrival)
	}{
		{"empty", nil, dropMalformed, nil},
		{"truncated", good[:200], dropMalformed, nil},
		{"no end", good[:len(good)-80], dropMalformed, nil},
		{"oversized", append(bytes.Clone(good), make([]byte, maxPacket)...), dropOversized, nil},
		{"late", good, dropLate, []func(*arrival){func(a *arrival) { a.waited = maxWaited + time.Millisecond }}},
		{"late, of an unknown machine", client(t, unknown, discover, ovmf(7)).ToBytes(), dropLateUnknown, []func(*arrival){func(a *arrival) { a.waited = maxWaitedUnknown + time.Millisecond }}},
		{"in time, of an unknown machine", client(t, unknown, discover, ovmf(7)).ToBytes(), dropNothing, []func(*arrival){func(a *arrival) { a.waited = maxWaitedUnknown }}},
		{"multicast chaddr", client(t, "01:00:5e:00:00:01", discover, ovmf(7)).ToBytes(), dropMalformed, nil},
		{"zero chaddr", client(t, "00:00:00:00:00:00", discover, ovmf(7)).ToBytes(), dropMalformed, nil},
		{"giaddr that is ours", client(t, known, discover, ovmf(7), relayed("192.0.2.10")).ToBytes(), dropSpoofedRelay, nil},
		{"giaddr loopback", client(t, known, discover, ovmf(7), relayed("127.0.0.1")).ToBytes(), dropMalformed, nil},
		{"giaddr broadcast", client(t, known, discover, ovmf(7), relayed("255.255.255.255")).ToBytes(), dropMalformed, nil},
		{"giaddr our broadcast", client(t, known, discover, ovmf(7), relayed("192.0.2.255")).ToBytes(), dropSpoofedRelay, nil},
		{"from loopback", good, dropSource, []func(*arrival){from("127.0.0.1:68")}},
		{"from ourselves", good, dropSource, []func(*arrival){from("192.0.2.10:68")}},
		{"from everybody", good, dropSource, []func(*arrival){from("255.255.255.255:68")}},
		{"from our broadcast", good, dropSource, []func(*arrival){from("192.0.2.255:68")}},
		{"from a group", good, dropSource, []func(*arrival){from("224.0.0.1:68")}},
		{"from port 0", good, dropSource, []func(*arrival){from("192.0.2.50:0")}},
		{"a server's answer", func() []byte {
			p := client(t, known, dhcpv4.MessageTypeOffer)
			p.OpCode = dhcpv4.OpcodeBootReply
			return p.ToBytes()
		}(), dropNoRequest, nil},
		{"unknown boot ROM", client(t, unknown, discover, ovmf(7)).ToBytes(), dropNothing, nil},
		{"unknown boot ROM behind a relay agent", client(t, unknown, discover, ovmf(7), relayed("198.51.100.1")).ToBytes(), dropNothing, nil},
		{"operating system behind a relay agent", client(t, known, discover, relayed("198.51.100.1")).ToBytes(), dropOtherServer, nil},
		{"operating system", client(t, known, discover).ToBytes(), dropOtherServer, nil},
		{"boot ROM that chose a server", client(t, known, dhcpv4.MessageTypeRequest, ovmf(7), chosen("192.0.2.1")).ToBytes(), dropOtherServer, nil},
		{"4011 without address", client(t, known, dhcpv4.MessageTypeRequest, ovmf(7)).ToBytes(), dropSource, []func(*arrival){to4011, from("0.0.0.0:4011")}},
		{"4011 by HTTP Boot", client(t, known, dhcpv4.MessageTypeRequest, httpBoot).ToBytes(), dropNoBootServer, []func(*arrival){to4011}},
		{"4011 by an operating system", client(t, known, dhcpv4.MessageTypeRequest).ToBytes(), dropNoBootServer, []func(*arrival){to4011}},
		{"4011 relayed", client(t, known, dhcpv4.MessageTypeRequest, ovmf(7), relayed("198.51.100.1")).ToBytes(), dropSpoofedRelay, []func(*arrival){to4011}},
		{"4011 unknown", client(t, unknown, dhcpv4.MessageTypeRequest, ovmf(7)).ToBytes(), dropNothing, []func(*arrival){to4011}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, conn, in, log := newPacketService(t, provisioning.PXEModeProxy)
			for _, f := range c.in {
				f(&in)
			}
			s.arrive(t.Context(), in, c.b)
			s.wg.Wait()
			if got := conn.destinations(); got != "" {
				t.Errorf("answered, to %s", got)
			}
			if s.dropped(in.port.service(), c.want) != 1 {
				t.Errorf("not counted as %s", c.want)
			}
			if n := testutil.CollectAndCount(s.metrics.dropped); n != 1 {
				t.Errorf("counted under %d reasons", n)
			}
			if n := len(s.known.slots) + len(s.unknown.slots); n != 0 {
				t.Errorf("%d slots are still taken", n)
			}
			_ = log
		})
	}
	// The same packet gets its answer where nothing is wrong with it.
	s, _, conn, in, _ := newPacketService(t, provisioning.PXEModeProxy)
	s.arrive(t.Context(), in, good)
	s.wg.Wait()
	if got := conn.destinations(); got != "255.255.255.255:68" || testutil.ToFloat64(s.metrics.answers.WithLabelValues(serviceDHCP, "offer")) != 1 {
		t.Errorf("answers to %q", got)
	}
}

// TestServerDrops is TestDrops for the DHCP server.
func TestServerDrops(t *testing.T) {
	discover, ask, us := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, chosen("192.0.2.10")
	toUs := func(a *arrival) { a.unicast, a.from = true, netip.MustParseAddrPort("203.0.113.7:68") }
	for _, c := range []struct {
		name string
		p    *dhcpv4.DHCPv4
		want string
		in   []func(*arrival)
	}{
		{"used-up pool", client(t, known, discover), dropPoolUsedUp, nil},
		{"another server's", client(t, known, ask, chosen("192.0.2.1"), wish("192.0.2.150")), dropOtherServer, nil},
		{"no address", client(t, known, ask, us), dropMalformed, nil},
		{"perhaps another server's", client(t, known, ask, wish("192.0.2.150")), dropMaybeAnother, nil},
		{"RELEASE", client(t, idle, dhcpv4.MessageTypeRelease, us, ciaddr("192.0.2.100")), dropNeedsNone, nil},
		{"RELEASE of another's", client(t, known, dhcpv4.MessageTypeRelease, us, ciaddr("192.0.2.100")), dropNeedsNone, nil},
		{"DECLINE", client(t, idle, dhcpv4.MessageTypeDecline, us, wish("192.0.2.100")), dropNeedsNone, nil},
		{"DECLINE of another's", client(t, known, dhcpv4.MessageTypeDecline, us, wish("192.0.2.100")), dropNeedsNone, nil},
		{"INFORM of another network", client(t, known, dhcpv4.MessageTypeInform, ciaddr("203.0.113.7")), dropForeign, nil},
		{"renewal of another network's", client(t, known, ask, ciaddr("203.0.113.7")), dropForeign, []func(*arrival){toUs}},
		{"OFFER", client(t, known, dhcpv4.MessageTypeOffer), dropNoRequest, nil},
		{"unknown kind", client(t, known, dhcpv4.MessageType(200)), dropNoRequest, nil},
		{"behind a relay agent without pool", client(t, known, discover, relayed("203.0.113.1")), dropNoPool, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, conn, in, _ := newPacketService(t, provisioning.PXEModeDHCP)
			var stored []provisioning.Lease
			for n := range byte(10) {
				stored = append(stored, provisioning.Lease{
					Address: netip.AddrFrom4([4]byte{192, 0, 2, 100 + n}), MAC: provisioning.MAC(fmt.Sprintf("52:54:03:00:00:%02x", n)),
					State: provisioning.LeaseBound, Expires: start.Add(time.Hour),
				})
			}
			stored[0].MAC = idle
			s.dhcp.load(stored)
			for _, f := range c.in {
				f(&in)
			}
			s.packet(t.Context(), in, c.p.ToBytes())
			s.wg.Wait()
			if got := conn.destinations(); got != "" {
				t.Errorf("answered, to %s", got)
			}
			if s.dropped(serviceDHCP, c.want) != 1 || testutil.CollectAndCount(s.metrics.dropped) != 1 {
				t.Errorf("not counted as %s alone", c.want)
			}
		})
	}
}

// TestFlood sends more packets of made-up machines than are looked at, and looks whether known ones are still answered,
// what is logged, and what is kept.
func TestFlood(t *testing.T) {
	for _, mode := range []provisioning.PXEMode{provisioning.PXEModeProxy, provisioning.PXEModeDHCP} {
		for _, firmware := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, firmware %t", mode, firmware), func(t *testing.T) {
				s, _, conn, in, log := newPacketService(t, mode)
				s.deps.Known = func(m provisioning.MAC, _ provisioning.GUID) bool { return m == known }
				const flood = 20000
				for n := range flood {
					mac := provisioning.MAC(fmt.Sprintf("52:54:01:%02x:%02x:%02x", n>>16, n>>8&255, n&255))
					mods := []mod{xid(byte(n))}
					if firmware {
						mods = append(mods, ovmf(7))
					}
					s.arrive(t.Context(), in, client(t, mac, dhcpv4.MessageTypeDiscover, mods...).ToBytes())
				}
				// Its first packet, when every packet of the others has been spent already.
				s.arrive(t.Context(), in, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
				s.wg.Wait()
				answered := 0
				for _, b := range conn.packets {
					p, err := dhcpv4.FromBytes(b)
					if err != nil {
						t.Fatal(err)
					}
					if p.ClientHWAddr.String() == string(known) {
						answered++
					}
				}
				if answered != 1 {
					t.Errorf("the known machine gets %d answers", answered)
				}
				if n := s.dropped(serviceDHCP, dropTooManyUnknown) + s.dropped(serviceDHCP, dropBusyUnknown); n < flood-unknownBurst {
					t.Errorf("%d packets of %d are dropped", n, flood)
				}
				if n := strings.Count(log.String(), "\n"); n > 3*silentBurst {
					t.Errorf("%d lines are logged", n)
				}
				if n := s.exchanges.order.Len() + s.exchanges.silent.order.Len() + s.unknown.clients.order.Len(); n > 3*maxExchanges {
					t.Errorf("%d records are kept", n)
				}
				if _, ok := s.exchanges.recent(known, start); !ok {
					t.Error("the known machine's exchange is forgotten")
				}
			})
		}
	}
}

// TestBusy fills every slot for unknown clients with answers that wait, and looks whether a known machine gets its own.
func TestBusy(t *testing.T) {
	s, p, conn, in, _ := newPacketService(t, provisioning.PXEModeProxy)
	s.cfg.ResponseDelay = time.Second
	release := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(unknownHandlers)
	s.pause = func(context.Context, time.Duration) bool { waiting.Done(); <-release; return true }
	mac := func(n int) provisioning.MAC {
		return provisioning.MAC(fmt.Sprintf("52:54:01:00:%02x:%02x", n>>8, n&255))
	}
	for n := range unknownHandlers + 10 {
		p.set(mac(n), true)
		s.arrive(t.Context(), in, client(t, mac(n), dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
	}
	waiting.Wait()
	if n := s.dropped(serviceDHCP, dropBusyUnknown); n != 10 {
		t.Errorf("%d packets are dropped, want 10", n)
	}
	s.pause = func(context.Context, time.Duration) bool { return true }
	s.served.put(known, struct{}{}) // it was given something before
	s.arrive(t.Context(), in, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
	deadline := time.Now().Add(30 * time.Second)
	for conn.destinations() == "" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if conn.destinations() == "" {
		t.Error("the known machine gets no answer")
	}
	close(release)
	s.wg.Wait()
}

// heldLeases are leases whose store does not come back until it is let go.
type heldLeases struct {
	fakeLeases
	release chan struct{}
}

func (h *heldLeases) Save(ctx context.Context, l provisioning.Lease) error {
	<-h.release
	return h.fakeLeases.Save(ctx, l)
}

// TestTurn: while one answer waits, whatever for, the packets behind it are read.
func TestTurn(t *testing.T) {
	discover := func(t *testing.T) []byte { return client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes() }
	for name, c := range map[string]struct {
		hold   func(s *Service, release chan struct{})
		packet func(t *testing.T) []byte
	}{
		"for the response delay": {func(s *Service, release chan struct{}) {
			s.cfg.ResponseDelay = time.Second
			s.pause = func(context.Context, time.Duration) bool { <-release; return true }
		}, discover},
		"for the same request heard directly": {func(s *Service, release chan struct{}) {
			s.pause = func(context.Context, time.Duration) bool { <-release; return true }
		}, func(t *testing.T) []byte {
			return client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), relayed("198.51.100.1")).ToBytes()
		}},
		"for who uses an address": {func(s *Service, release chan struct{}) {
			s.dhcp.inUse = func(context.Context, netip.Addr) (provisioning.MAC, error) { <-release; return "", nil }
		}, discover},
		"for a lease to be stored": {func(s *Service, release chan struct{}) {
			s.deps.Leases = &heldLeases{release: release}
			s.dhcp.table.remember(known, netip.MustParseAddr("192.0.2.105"), true, start)
		}, func(t *testing.T) []byte {
			return client(t, known, dhcpv4.MessageTypeRequest, wish("192.0.2.105"), chosen("192.0.2.10")).ToBytes()
		}},
		"for another's lease to be stored": {func(s *Service, release chan struct{}) {
			s.dhcp.mu.Lock()
			s.wg.Go(func() { <-release; s.dhcp.mu.Unlock() })
		}, discover},
		"for the log": {func(s *Service, release chan struct{}) {
			s.bootLines = newLimiter[string](1, time.Hour, 1)
			s.deps.Log = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) { <-release; return len(b), nil }), nil))
		}, discover},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, conn, in, _ := newPacketService(t, provisioning.PXEModeDHCP)
			s.bootLines = newLimiter[string](0, time.Hour, 1)
			release := make(chan struct{})
			c.hold(s, release)
			s.arrive(t.Context(), in, c.packet(t)) // hangs where the turn is kept
			if got := conn.destinations(); got != "" {
				t.Errorf("answered to %s although it had to wait", got)
			}
			close(release)
			s.wg.Wait()
			if conn.destinations() == "" {
				t.Error("no answer")
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestAnswerThatCannotBeSent(t *testing.T) {
	s, _, conn, in, log := newPacketService(t, provisioning.PXEModeProxy)
	conn.err = errors.New("no route")
	for n := range byte(15) {
		s.arrive(t.Context(), in, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), xid(n)).ToBytes())
		s.wg.Wait()
	}
	if n := s.dropped(serviceDHCP, dropFailed); n != 15 {
		t.Errorf("%d failures are counted, want 15", n)
	}
	if n := strings.Count(log.String(), "no route"); n != complaintBurst {
		t.Errorf("%d lines are logged, want %d", n, complaintBurst)
	}
}

// TestClientLimit: one machine that asks without end takes its own budget alone.
func TestClientLimit(t *testing.T) {
	s, _, conn, in, _ := newPacketService(t, provisioning.PXEModeProxy)
	for range 3 * clientBurst {
		s.arrive(t.Context(), in, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
		s.wg.Wait()
	}
	// The first one made it a known machine, whose budget begins anew.
	if n := len(conn.packets); n != clientBurst+1 {
		t.Errorf("%d answers, want %d", n, clientBurst+1)
	}
	if n := s.dropped(serviceDHCP, dropClientTooMany); n != 2*clientBurst-1 {
		t.Errorf("%d packets dropped", n)
	}
}

// TestMadeUpAddressesOfOneGUID: a GUID that the site knows does not open its budget to any number of MAC addresses.
func TestMadeUpAddressesOfOneGUID(t *testing.T) {
	s, p, conn, in, _ := newPacketService(t, provisioning.PXEModeProxy)
	now := start
	s.deps.Now = func() time.Time { return now }
	guid := parsed(t, client(t, third, dhcpv4.MessageTypeDiscover, ovmf(7))).machine.GUID
	s.deps.Known = func(m provisioning.MAC, g provisioning.GUID) bool { return m == known || g == guid }
	const flood = 500
	ask := func(mac provisioning.MAC) (answers int) {
		t.Helper()
		before := len(conn.packets)
		p.set(mac, true)
		s.packet(t.Context(), in, client(t, mac, dhcpv4.MessageTypeDiscover, ovmf(7)).ToBytes())
		s.wg.Wait()
		return len(conn.packets) - before
	}
	answered := 0
	for n := range flood {
		answered += ask(provisioning.MAC(fmt.Sprintf("52:54:01:00:%02x:%02x", n>>8, n&255)))
	}
	if answered != bootBurst {
		t.Errorf("%d boots are offered, want %d", answered, bootBurst)
	}
	if n := s.dropped(serviceDHCP, dropClientTooMany); n != flood-clientBurst {
		t.Errorf("%d packets are dropped, want %d", n, flood-clientBurst)
	}
	if ask(known) != 1 {
		t.Error("the machine with the known MAC address, and the same GUID, gets no answer")
	}
	now = now.Add(bootInterval)
	if ask(third) != 1 {
		t.Error("a machine with the known GUID gets no answer later")
	}
}

// TestSilentExchangesApart: machines that get nothing displace no exchange of one that boots.
func TestSilentExchangesApart(t *testing.T) {
	e := newExchanges(3)
	e.put(provisioning.Machine{MAC: known}, dhcpv4.TransactionID{}, policyBoot, start)
	for n := range 10 {
		e.put(provisioning.Machine{MAC: provisioning.MAC(fmt.Sprint(n))}, dhcpv4.TransactionID{}, policy.Decision{Action: policy.Silent}, start)
	}
	if _, ok := e.recent(known, start); !ok || e.silent.order.Len() != 3 {
		t.Errorf("the booting machine is kept: %t; %d silent ones are", ok, e.silent.order.Len())
	}
}

// TestOtherServerSeen: what only another server can have lent is refused while none was seen, and not after.
func TestOtherServerSeen(t *testing.T) {
	for name, c := range map[string]struct {
		relay  []mod // of the client that takes another server's offer
		silent string
	}{
		"on our segment":       {nil, "192.0.2.107 198.51.100.107"},
		"behind a relay agent": {[]mod{relayed("198.51.100.1")}, "198.51.100.107"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, conn, in, log := newPacketService(t, provisioning.PXEModeDHCP)
			now, told := start, 0
			s.deps.Now = func() time.Time { return now }
			s.deps.OtherServer = func(iface string, a netip.Addr) {
				if told++; iface != "lo" || a.String() != "192.0.2.1" {
					t.Errorf("told of %s on %s", a, iface)
				}
			}
			send := func(kind dhcpv4.MessageType, mods ...mod) (reply string) {
				t.Helper()
				before := len(conn.packets)
				s.packet(t.Context(), in, client(t, idle, kind, mods...).ToBytes())
				s.wg.Wait()
				for _, b := range conn.packets[before:] {
					p, err := dhcpv4.FromBytes(b)
					if err != nil {
						t.Fatal(err)
					}
					reply += p.MessageType().String()
				}
				return reply
			}
			n := byte(0)
			silent := func() (addrs string) {
				for a, m := range map[string][]mod{"192.0.2.107": nil, "198.51.100.107": {relayed("198.51.100.1")}} {
					n++
					switch got := send(dhcpv4.MessageTypeRequest, append([]mod{wish(a), xid(n)}, m...)...); {
					case got == "" && addrs != "" && a < addrs:
						addrs = a + " " + addrs
					case got == "":
						addrs = strings.TrimSpace(addrs + " " + a)
					case got != "NAK":
						t.Errorf("%s: %s", a, got)
					}
				}
				return addrs
			}
			if got := silent(); got != "192.0.2.107 198.51.100.107" {
				t.Errorf("before it was looked for: silence for %q", got)
			}
			s.dhcp.noteLooked()
			if got := silent(); got != "" {
				t.Errorf("alone: silence for %q", got)
			}
			for range 5 {
				now = now.Add(time.Second)
				if got := send(dhcpv4.MessageTypeRequest, append([]mod{chosen("192.0.2.1"), wish("192.0.2.150")}, c.relay...)...); got != "" {
					t.Errorf("another server's client gets %s", got)
				}
			}
			now = now.Add(time.Minute)
			if got := silent(); got != c.silent {
				t.Errorf("beside another server: silence for %q, want %q", got, c.silent)
			}
			if got := send(dhcpv4.MessageTypeDiscover, xid(100)); got != "OFFER" {
				t.Errorf("a DISCOVER gets %q: one forged packet must not end the service", got)
			}
			now = now.Add(otherTime)
			if got := silent(); got != "" {
				t.Errorf("alone again: silence for %q", got)
			}
			if want := 1 - len(c.relay); told != want || strings.Count(log.String(), "another DHCP server gives out addresses") != want {
				t.Errorf("told %d times, want %d:\n%s", told, want, log)
			}
		})
	}
}
