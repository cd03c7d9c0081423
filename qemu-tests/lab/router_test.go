package lab

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// broadcastDiscover is a DHCP DISCOVER from a hardware address, as a frame.
func broadcastDiscover(t *testing.T, mac net.HardwareAddr) []byte {
	t.Helper()
	d, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		t.Fatal(err)
	}
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return UDPFrame(mac, all, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), d.ToBytes())
}

// TestRelay lets a client get its address from a server in another network, through a router with a DHCP relay agent.
func TestRelay(t *testing.T) {
	l := New(t)
	near, far := l.Switch("near"), l.Switch("far")
	router := l.Router("router", Leg{far, "10.9.0.254/24"}, Leg{near, "10.8.0.254/24"})
	server := l.DNSMasq("server", far, "10.9.0.1/24", DNSMasqOptions{Range: "10.8.0.100,10.8.0.110,255.255.255.0,1h"})
	server.AddRoute("10.8.0.0/24", "10.9.0.254")
	l.DHCPRelay(router, "10.8.0.254", server.Addr())

	client := near.Attach("client")
	mac := net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
	if err := client.Send(broadcastDiscover(t, mac)); err != nil {
		t.Fatal(err)
	}
	offer := near.WaitDHCP(t, 30*time.Second, "an offer", 1, DHCPAnswers(mac))[0]
	if !bytes.Equal(offer.Message.YourIPAddr.To4()[:3], []byte{10, 8, 0}) {
		t.Errorf("the address offered is %s", offer.Message.YourIPAddr)
	}
	if offer.From != router.LegPort(1).Name() {
		t.Errorf("the offer came from port %s", offer.From)
	}
	asked := far.WaitDHCP(t, 30*time.Second, "the relayed request", 1, DHCPRequests(mac))[0].Message
	if asked.GatewayIPAddr.String() != "10.8.0.254" {
		t.Errorf("the relay agent calls itself %s", asked.GatewayIPAddr)
	}
	// And packets of the two networks reach each other.
	host := l.Namespace("host", near, "10.8.0.7/24")
	host.AddRoute("10.9.0.0/24", "10.8.0.254")
	var ln net.Listener
	var err error
	server.Do(func() { ln, err = net.Listen("tcp4", "10.9.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := host.DialContext(ctx, "tcp4", ln.Addr().String())
	if err != nil {
		t.Fatalf("from one network to the other: %v", err)
	}
	c.Close()
}

func TestUDPFrame(t *testing.T) {
	src, dst := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	from, to := netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("198.51.100.2:69")
	f := UDPFrame(src, dst, from, to, []byte("odd"))
	p, ok := Decode(f)
	if !ok || !sameMAC(p.Src, src) || !sameMAC(p.Dst, dst) || p.SrcIP != from.Addr() || p.DstIP != to.Addr() ||
		p.SrcPort != from.Port() || p.DstPort != to.Port() || p.Protocol != ProtocolUDP || string(p.Payload) != "odd" {
		t.Errorf("%+v", p)
	}
	// A header with its checksum adds up to zero.
	if sum := internetChecksum(f[14:34]); sum != 0 {
		t.Errorf("the header's checksum is off by %#x", sum)
	}
}

// TestSYNFrame begins a connection by a frame, which a real kernel answers.
func TestSYNFrame(t *testing.T) {
	l := New(t)
	lan := l.Switch("lan")
	host := l.Namespace("host", lan, "10.9.0.1/24")
	var ln net.Listener
	var err error
	host.Do(func() { ln, err = net.Listen("tcp4", "10.9.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	me, from, to := net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddrPort("10.9.0.7:1234"), netip.MustParseAddrPort(ln.Addr().String())
	port := lan.Attach("me")
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for ctx.Err() == nil { // again and again: a frame that comes before the host's link is up is lost
		if err := port.Send(SYNFrame(me, host.MAC(), from, to, 1)); err != nil {
			t.Fatal(err)
		}
		if asksFor(ctx, port, from.Addr()) {
			return
		}
	}
	t.Fatal("the kernel does not answer")
}

// asksFor reports whether somebody asks by ARP where a is, as the kernel does before it answers, within half a second.
func asksFor(ctx context.Context, port *Port, a netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for {
		f, err := port.Receive(ctx)
		if err != nil {
			return false
		}
		if p, _ := Decode(f); p.EtherType == EtherTypeARP && bytes.Equal(p.Payload[24:28], a.AsSlice()) {
			return true
		}
	}
}

// TestUncaptured sends from a port that is not captured, between two that are.
func TestUncaptured(t *testing.T) {
	l := New(t)
	lan := l.Switch("lan")
	a, b := lan.Attach("a"), lan.Attach("b")
	b.SetCaptured(false)
	seen, unseen := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	for port, mac := range map[*Port]net.HardwareAddr{a: seen, b: unseen} {
		if err := port.Send(broadcastDiscover(t, mac)); err != nil {
			t.Fatal(err)
		}
	}
	if m := lan.DHCP(); len(m) != 1 || !sameMAC(m[0].Message.ClientHWAddr, seen) {
		t.Errorf("messages remembered: %v", m)
	}
	if n := lan.CountFrames(t, func(Packet) bool { return true }); n != 1 {
		t.Errorf("%d frames are captured", n)
	}
	if c := b.Counters(); c.In != 1 {
		t.Errorf("counters of the port: %+v", c)
	}
	if c := a.Counters(); c.Out != 1 {
		t.Error("what is not captured was not forwarded")
	}
}
