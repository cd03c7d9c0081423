package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	macA = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xb}
	macC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0xc}
	all  = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

func ethernet(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := append(append([]byte{}, dst...), src...)
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

func udp(dst, src net.HardwareAddr, from, to uint16, payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, from)
	u = binary.BigEndian.AppendUint16(u, to)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, ProtocolUDP, 0, 0, 10, 0, 0, 1, 255, 255, 255, 255}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(u)))
	return ethernet(dst, src, EtherTypeIPv4, append(ip, u...))
}

func receive(t *testing.T, p *Port) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f, err := p.Receive(ctx)
	if err != nil {
		t.Fatalf("%s receives nothing: %v", p.Name(), err)
	}
	return f
}

// nothing checks that a port has received no frame: forwarding is done when Send returns.
func nothing(t *testing.T, p *Port) {
	t.Helper()
	select {
	case f := <-p.queue:
		t.Errorf("%s received a frame that is not for it: %x", p.Name(), f)
	default:
	}
}

func send(t *testing.T, p *Port, f []byte) {
	t.Helper()
	if err := p.Send(f); err != nil {
		t.Fatal(err)
	}
}

func TestSwitchLearns(t *testing.T) {
	s := New(t).Switch("lan")
	a, b, c := s.Attach("a"), s.Attach("b"), s.Attach("c")

	hello := ethernet(all, macA, 0x88b5, []byte("hello"))
	send(t, a, hello)
	for _, p := range []*Port{b, c} {
		if f := receive(t, p); !bytes.Equal(f, hello) {
			t.Errorf("%s received %x", p.Name(), f)
		}
	}
	nothing(t, a)

	send(t, b, ethernet(macA, macB, 0x88b5, []byte("to a, which is known")))
	receive(t, a)
	nothing(t, c)

	send(t, c, ethernet(macC, macB, 0x88b5, []byte("b has moved behind c")))
	receive(t, a)
	receive(t, b)
	send(t, a, ethernet(macB, macA, 0x88b5, []byte("to b, where it is now")))
	receive(t, c)
	nothing(t, b)

	c.Close()
	send(t, a, ethernet(macB, macA, 0x88b5, []byte("nobody knows where b is")))
	receive(t, b)

	if n := a.Counters(); n.In != 3 || n.Out != 2 || n.Dropped != 0 {
		t.Errorf("counters of a: %+v", n)
	}
	if n := s.CountFrames(t, func(p Packet) bool { return sameMAC(p.Src, macA) }); n != 3 {
		t.Errorf("%d frames of a are captured, not 3", n)
	}
}

func TestSwitchIsolates(t *testing.T) {
	l := New(t)
	one, two := l.Switch("one"), l.Switch("two")
	a, b, other := one.Attach("a"), one.Attach("b"), two.Attach("other")
	send(t, a, ethernet(all, macA, 0x88b5, nil))
	receive(t, b)
	nothing(t, other)
}

func TestPortBounds(t *testing.T) {
	s := New(t).Switch("lan")
	a, b := s.Attach("a"), s.Attach("b")
	for _, n := range []int{0, minFrame - 1, MaxFrame + 1} {
		if a.Send(make([]byte, n)) == nil {
			t.Errorf("a frame of %d bytes was taken", n)
		}
	}
	a.Unplug()
	send(t, a, ethernet(all, macA, 0x88b5, nil))
	nothing(t, b)
	a.Plug()
	b.Unplug()
	send(t, a, ethernet(all, macA, 0x88b5, nil))
	nothing(t, b)
	b.Plug()
	s.SetFilter(func(from *Port, p Packet) bool { return from != a || p.EtherType != 0x88b5 })
	send(t, a, ethernet(all, macA, 0x88b5, nil))
	nothing(t, b)
	send(t, a, ethernet(all, macA, 0x88b6, nil))
	receive(t, b)
	// A receiver that never reads loses frames and stops nobody.
	for range portQueue + 10 {
		send(t, a, ethernet(all, macA, 0x88b6, nil))
	}
	if n := b.Counters().Dropped; n != 11 {
		t.Errorf("%d frames were dropped, not 11", n)
	}
	a.Close()
	if err := a.Send(ethernet(all, macA, 0x88b6, nil)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed port takes a frame: %v", err)
	}
}

// TestStreamPort speaks QEMU's side of the stream, whole and broken.
func TestStreamPort(t *testing.T) {
	l := New(t)
	s := l.Switch("lan")
	a := s.Attach("a")
	path := filepath.Join(l.run, "stream")
	port, up, err := s.streamPort("guest", path)
	if err != nil {
		t.Fatal(err)
	}
	connect := func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		<-up
		c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	c := connect()
	// Two frames in one write, and one byte by byte.
	f := ethernet(all, macB, 0x88b5, []byte("from the guest"))
	framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...)
	c.Write(append(append([]byte{}, framed...), framed...))
	for _, b := range framed {
		c.Write([]byte{b})
	}
	for range 3 {
		if got := receive(t, a); !bytes.Equal(got, f) {
			t.Errorf("received %x", got)
		}
	}
	g := ethernet(macB, macA, 0x88b5, []byte("to the guest"))
	send(t, a, g)
	if got, err := readStreamFrame(c); err != nil || !bytes.Equal(got, g) {
		t.Errorf("the guest received %x: %v", got, err)
	}
	// A runt is dropped, and the line stays up.
	c.Write([]byte{0, 0, 0, 2, 1, 2})
	c.Write(framed)
	receive(t, a)
	if n := port.Counters().Dropped; n != 1 {
		t.Errorf("%d frames dropped, not 1", n)
	}
	// A frame too large hangs up, without memory for it.
	c.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a frame of 4 GiB did not hang up")
	}
	c.Close()
	// The next power-on uses the same port.
	c = connect()
	c.Write(framed)
	receive(t, a)
	c.Close()
}

func TestDHCPAssertions(t *testing.T) {
	s := New(t).Switch("lan")
	client, server := s.Attach("client"), s.Attach("server")
	ask := func(mac net.HardwareAddr) *dhcpv4.DHCPv4 {
		m, err := dhcpv4.NewDiscovery(mac)
		if err != nil {
			t.Fatal(err)
		}
		send(t, client, udp(all, mac, 68, 67, m.ToBytes()))
		return m
	}
	discover := ask(macA)
	ask(macB)
	offer, err := dhcpv4.NewReplyFromRequest(discover, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Send(udp(all, macC, 4011, 4011, offer.ToBytes())) }() // that it came is what is waited for
	got := s.WaitDHCP(t, 10*time.Second, "an offer", 1, DHCPAnswers(macA))
	if m := got[0]; m.From != "server" || m.Message.MessageType() != dhcpv4.MessageTypeOffer {
		t.Errorf("got %s", m.summary())
	}
	for _, c := range []struct {
		name   string
		mac    net.HardwareAddr
		except []string
		fails  bool
	}{
		{"answered", macA, nil, true},
		{"answered by somebody else", macA, []string{"server"}, false},
		{"not answered", macB, nil, false},
		{"never asked", macC, nil, true},
	} {
		f := &fakeT{TB: t}
		s.RequireNoDHCPAnswer(f, c.mac, c.except...)
		if f.failed != c.fails {
			t.Errorf("%s: the assertion fails: %v", c.name, f.failed)
		}
	}
}

// fakeT notes that an assertion fails, instead of failing.
type fakeT struct {
	testing.TB
	failed bool
}

func (f *fakeT) Helper()               {}
func (f *fakeT) Errorf(string, ...any) { f.failed = true }
func (f *fakeT) Error(...any)          { f.failed = true }

func TestPcap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pcap")
	c, err := newCapture(path, 300)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 123_456_000)
	frames := [][]byte{bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, 1500), bytes.Repeat([]byte{3}, 1500), bytes.Repeat([]byte{4}, 1500)}
	for i, f := range frames {
		c.write(at.Add(time.Duration(i)*time.Second), f, i == 3)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	err = ReadPcap(bytes.NewReader(b), func(f Frame) bool {
		i := len(sizes)
		sizes = append(sizes, len(f.Data))
		if f.Length != len(frames[i]) || !f.Time.Equal(at.Add(time.Duration(i)*time.Second)) || f.Data[0] != byte(i+1) {
			t.Errorf("frame %d: %d bytes at %v", i, f.Length, f.Time)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	// The third is past the limit, the fourth too but wanted whole.
	if want := []int{60, 1500, headerSnap, 1500}; !equal(sizes, want) {
		t.Errorf("captured sizes are %v, not %v", sizes, want)
	}
	if err := ReadPcap(bytes.NewReader(b[:len(b)-1]), func(Frame) bool { return true }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a capture that is cut off: %v", err)
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func FuzzReadPcap(f *testing.F) {
	path := filepath.Join(f.TempDir(), "x.pcap")
	c, err := newCapture(path, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	c.write(time.Unix(1, 0), udp(all, macA, 68, 67, []byte("x")), true)
	c.close()
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = ReadPcap(bytes.NewReader(b), func(fr Frame) bool {
			if len(fr.Data) > MaxFrame {
				t.Errorf("a frame of %d bytes", len(fr.Data))
			}
			return true
		})
	})
}

func TestDecode(t *testing.T) {
	p, ok := Decode(append(udp(all, macA, 68, 67, []byte("payload")), 0, 0, 0)) // padded
	if !ok || p.SrcPort != 68 || p.DstPort != 67 || string(p.Payload) != "payload" || p.SrcIP.String() != "10.0.0.1" {
		t.Errorf("UDP: %+v", p)
	}
	fragment := udp(all, macA, 68, 67, []byte("payload"))
	fragment[14+7] = 1
	if p, ok := Decode(fragment); !ok || p.SrcPort != 0 {
		t.Errorf("a later fragment has ports: %+v", p)
	}
	tagged := append(append([]byte{}, all...), macA...)
	tagged = append(tagged, 0x81, 0, 0, 7)
	tagged = append(tagged, udp(all, macA, 1, 2, []byte("x"))[12:]...)
	if p, ok := Decode(tagged); !ok || p.DstPort != 2 {
		t.Errorf("tagged: %+v", p)
	}
	tcp := udp(all, macA, 1000, 80, make([]byte, 40))
	tcp[14+9] = ProtocolTCP
	tcp[14+20+12] = 6 << 4
	if p, ok := Decode(tcp); !ok || p.DstPort != 80 || len(p.Payload) != 48-24 {
		t.Errorf("TCP: %+v", p)
	}
	icmp := append(udp(all, macA, 0, 0, []byte("x")), 0, 0, 0) // padded, without a length of its own
	icmp[14+9] = 1
	if p, ok := Decode(icmp); !ok || len(p.Payload) != 9 || p.SrcPort != 0 {
		t.Errorf("ICMP: %+v", p)
	}
	if _, ok := Decode(make([]byte, 13)); ok {
		t.Error("13 bytes are a frame")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(udp(all, macA, 68, 67, []byte("payload")))
	v6 := append([]byte{0x60, 0, 0, 0, 0, 9, ProtocolUDP, 64}, make([]byte, 32)...)
	f.Add(ethernet(all, macA, EtherTypeIPv6, append(v6, 0, 1, 0, 2, 0, 9, 0, 0, 'x')))
	f.Add(ethernet(all, macA, 0x8100, []byte{0, 1, 8, 0, 0x4f}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := Decode(b)
		if ok != (len(b) >= 14) {
			t.Errorf("%d bytes: %v", len(b), ok)
		}
		decodeDHCP(p)
	})
}
