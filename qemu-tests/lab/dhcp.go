package lab

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// dhcpLimit bounds the messages that a switch remembers.
const dhcpLimit = 100_000

// DHCPMessage is a DHCP message that has entered a switch, on port 67, 68 or 4011.
type DHCPMessage struct {
	Time time.Time
	// From is the name of the switch's port that it came from.
	From    string
	Packet  Packet
	Message *dhcpv4.DHCPv4
}

// decodeDHCP says whether a packet is to or from a DHCP or PXE port, and its message if that can be read.
func decodeDHCP(p Packet) (*dhcpv4.DHCPv4, bool) {
	if p.Protocol != ProtocolUDP || !isDHCPPort(p.SrcPort) && !isDHCPPort(p.DstPort) {
		return nil, false
	}
	m, err := dhcpv4.FromBytes(p.Payload)
	if err != nil {
		return nil, true
	}
	return m, true
}

func isDHCPPort(n uint16) bool { return n == 67 || n == 68 || n == 4011 }

// DHCP returns every DHCP message that has entered the switch so far, in order.
func (s *Switch) DHCP() []DHCPMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]DHCPMessage(nil), s.dhcp...)
}

// DHCPRequests matches what a client with the hardware address has sent.
func DHCPRequests(mac net.HardwareAddr) func(DHCPMessage) bool {
	return func(m DHCPMessage) bool {
		return m.Message.OpCode == dhcpv4.OpcodeBootRequest && sameMAC(m.Message.ClientHWAddr, mac)
	}
}

// DHCPAnswers matches what any server has sent to the client with the hardware address.
func DHCPAnswers(mac net.HardwareAddr) func(DHCPMessage) bool {
	return func(m DHCPMessage) bool {
		return m.Message.OpCode == dhcpv4.OpcodeBootReply && sameMAC(m.Message.ClientHWAddr, mac)
	}
}

// WaitDHCP returns the first n messages that match, waiting for them up to the time limit. The test fails if they do not come.
func (s *Switch) WaitDHCP(t testing.TB, limit time.Duration, what string, n int, match func(DHCPMessage) bool) []DHCPMessage {
	t.Helper()
	ctx, cancel := s.lab.limit(limit)
	defer cancel()
	for {
		s.mu.Lock()
		change := s.change
		var found []DHCPMessage
		for _, m := range s.dhcp {
			if len(found) < n && match(m) {
				found = append(found, m)
			}
		}
		s.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-change:
		case <-ctx.Done():
			t.Fatalf("switch %s: %d of %d messages came within %v: %s\nDHCP so far:\n%s", s.name, len(found), n, limit, what, s.dhcpSummary())
		}
	}
}

// RequireNoDHCPAnswer fails the test if any server but those on the excepted ports has ever answered the client, and also if
// the client never asked, as that would prove nothing.
func (s *Switch) RequireNoDHCPAnswer(t testing.TB, client net.HardwareAddr, except ...string) {
	t.Helper()
	asked := 0
	for _, m := range s.DHCP() {
		if DHCPRequests(client)(m) {
			asked++
		}
		if DHCPAnswers(client)(m) && !contains(except, m.From) {
			t.Errorf("switch %s: %s answered %s, which must get no answer: %s", s.name, m.From, client, m.summary())
		}
	}
	if asked == 0 {
		t.Errorf("switch %s: %s has not asked for an address, so that it got no answer means nothing\nDHCP so far:\n%s", s.name, client, s.dhcpSummary())
	}
}

func (m DHCPMessage) summary() string {
	d := m.Message
	return fmt.Sprintf("%s %s: %s %s yiaddr %s siaddr %s file %q xid %s", m.Time.Format("15:04:05.000"), m.From, d.MessageType(),
		d.ClientHWAddr, d.YourIPAddr, d.ServerIPAddr, d.BootFileName, d.TransactionID)
}

func (s *Switch) dhcpSummary() string {
	all := s.DHCP()
	const last = 40
	var b strings.Builder
	if len(all) > last {
		fmt.Fprintf(&b, "  (%d earlier)\n", len(all)-last)
		all = all[len(all)-last:]
	}
	for _, m := range all {
		fmt.Fprintf(&b, "  %s\n", m.summary())
	}
	if b.Len() == 0 {
		return "  none"
	}
	return b.String()
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}
