package lab

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// MaxFrame is the largest frame in bytes that a switch forwards: what QEMU itself takes (NET_BUFSIZE: 4096 + 65536).
const MaxFrame = 4096 + 65536

// minFrame is an Ethernet header. Emulated NICs and taps do not pad to 60 bytes.
const minFrame = 14

// tableLimit bounds the table of learnt addresses against a guest that makes them up.
const tableLimit = 4096

// Switch is an isolated Ethernet segment: a learning switch in the test process. Nothing leaves it but through what the test
// attaches. Everything that enters it is captured in <switch>.pcap, but what comes from ports that are not ([Port.SetCaptured]).
type Switch struct {
	name    string
	lab     *Lab
	capture *capture

	mu     sync.Mutex
	ports  []*Port
	table  map[[6]byte]*Port
	filter func(from *Port, p Packet) bool
	dhcp   []DHCPMessage
	change chan struct{} // closed and replaced when dhcp grows
}

// Switch adds a switch to the lab. Its name is unique in the lab.
func (l *Lab) Switch(name string) *Switch {
	l.t.Helper()
	c, err := newCapture(l.Path(safeName(name)+".pcap"), captureLimit)
	if err != nil {
		l.t.Fatalf("switch %s: %v", name, err)
	}
	s := &Switch{name: name, lab: l, capture: c, table: map[[6]byte]*Port{}, change: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.switches {
		if o.name == name {
			l.t.Fatalf("switch %s: there is one of that name already", name)
		}
	}
	l.switches = append(l.switches, s)
	return s
}

// Name returns the name that the switch was made with.
func (s *Switch) Name() string { return s.name }

// SetFilter makes the switch ask f about each frame that enters it, after it was captured: f returns false to lose the frame.
// It runs with the switch locked and must not call it. A nil f forwards everything.
func (s *Switch) SetFilter(f func(from *Port, p Packet) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filter = f
}

// forward takes a frame that the switch now owns.
func (s *Switch) forward(from *Port, frame []byte) {
	now := time.Now()
	p, ok := Decode(frame)
	if !ok || len(frame) > MaxFrame {
		from.dropped.Add(1)
		return
	}
	captured := !from.unseen.Load()
	var msg *dhcpv4.DHCPv4
	isDHCP := false
	if captured {
		msg, isDHCP = decodeDHCP(p)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if captured {
		s.capture.write(now, frame, isDHCP)
	}
	if msg != nil && len(s.dhcp) < dhcpLimit {
		s.dhcp = append(s.dhcp, DHCPMessage{Time: now, From: from.name, Packet: p, Message: msg})
		close(s.change)
		s.change = make(chan struct{})
	}
	if s.filter != nil && !s.filter(from, p) {
		from.dropped.Add(1)
		return
	}
	if src := [6]byte(p.Src); src[0]&1 == 0 {
		if _, known := s.table[src]; known || len(s.table) < tableLimit {
			s.table[src] = from
		}
	}
	dst := [6]byte(p.Dst)
	if to, known := s.table[dst]; known && dst[0]&1 == 0 {
		if to != from {
			to.deliver(frame)
		}
		return
	}
	for _, to := range s.ports {
		if to != from {
			to.deliver(frame)
		}
	}
}

func (s *Switch) addPort(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(s.ports, p)
}

func (s *Switch) removePort(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range s.ports {
		if o == p {
			s.ports = append(s.ports[:i], s.ports[i+1:]...)
			break
		}
	}
	for mac, o := range s.table {
		if o == p {
			delete(s.table, mac)
		}
	}
}

// Frames calls f with each frame that has entered the switch so far, in order, until f returns false. Frames after the first
// 256 MiB of a capture are cut to 128 bytes, DHCP excepted.
func (s *Switch) Frames(f func(Frame, Packet) bool) error {
	s.mu.Lock()
	err := s.capture.flush()
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("switch %s: write capture: %w", s.name, err)
	}
	file, err := os.Open(s.capture.path)
	if err != nil {
		return fmt.Errorf("switch %s: open capture: %w", s.name, err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return fmt.Errorf("switch %s: read capture: %w", s.name, err)
	}
	// The flush ended at a record's end, the file may have grown since: stop at a record that is cut off by then.
	stop := false
	err = ReadPcap(io.LimitReader(file, st.Size()), func(fr Frame) bool {
		p, ok := Decode(fr.Data)
		if ok && !f(fr, p) {
			stop = true
		}
		return !stop
	})
	if err != nil && !isCutOff(err) {
		return fmt.Errorf("switch %s: %w", s.name, err)
	}
	return nil
}

// CountFrames returns how many frames that have entered the switch match.
func (s *Switch) CountFrames(t testing.TB, match func(Packet) bool) int {
	t.Helper()
	n := 0
	err := s.Frames(func(_ Frame, p Packet) bool {
		if match(p) {
			n++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *Switch) close() {
	s.mu.Lock()
	ports := append([]*Port(nil), s.ports...)
	s.mu.Unlock()
	for _, p := range ports {
		p.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.capture.close(); err != nil {
		s.lab.t.Errorf("switch %s: write capture: %v", s.name, err)
	}
}

// sameMAC compares hardware addresses.
func sameMAC(a, b net.HardwareAddr) bool { return a.String() == b.String() }
