package pxe

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	// relayPause is how long the answer to a relayed request waits for the same request heard directly: a relay agent
	// may stand on our own segment.
	relayPause = 50 * time.Millisecond
	// claimTime is how long one way to a client holds for one of its transactions.
	claimTime = 20 * time.Second
	// maxClaims bounds the table of ways; the oldest go first.
	maxClaims = 4096
	// maxRelayInfo is the longest option 82 (RFC 3046 section 2.0).
	maxRelayInfo = 255
)

// relayOf reads the relay agent's address, the zero address where there is none (RFC 2131 section 4.1). It is where the
// answer goes, so it must be a host's.
func relayOf(p *dhcpv4.DHCPv4) (netip.Addr, error) {
	if n := len(p.GetOneOption(dhcpv4.OptionRelayAgentInformation)); n > maxRelayInfo {
		return netip.Addr{}, fmt.Errorf("option 82 (relay agent information) has %d octets; at most %d are possible", n, maxRelayInfo)
	}
	a, ok := addrOf(p.GatewayIPAddr)
	if !ok || a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	if b := a.As4(); b[0] == 0 || a.IsLoopback() || b[0] >= 224 {
		return netip.Addr{}, fmt.Errorf("relay agent %s (giaddr) is no host's address", a)
	}
	return a, nil
}

// refuseRelay says why a relayed request gets no answer; "" where it may get one. An answer to one of our own addresses
// would come back to us, and requests for the boot server port are the client's own, which nobody relays.
func (s *Service) refuseRelay(r *request, on port) string {
	if !r.relay.IsValid() {
		return ""
	}
	if on == portBootServer {
		return dropSpoofedRelay
	}
	for _, i := range s.cfg.Interfaces {
		if i.Prefix.Addr() == r.relay || i.Prefix.Bits() < 31 && broadcastOf(i.Prefix) == r.relay {
			return dropSpoofedRelay
		}
	}
	if s.dhcp.pool != nil && s.dhcp.forRelay(r.relay) == nil {
		return dropNoPool
	}
	return ""
}

// relayFor is the relay agent to note for r. Requests to the boot server port come from the client itself, also across
// routers, so the way it asked before holds.
func (s *Service) relayFor(r *request, bootServer bool, now time.Time) netip.Addr {
	if bootServer {
		if x, ok := s.exchanges.recent(r.mac, now); ok {
			return x.relay
		}
	}
	return r.relay
}

// reply sends an answer on the DHCP port, unless the client is answered by another way already.
func (s *Service) reply(ctx context.Context, in arrival, r *request, reply *dhcpv4.DHCPv4) {
	if r.relay.IsValid() && !s.wait(ctx, r, relayPause) {
		return
	}
	s.mu.Lock()
	mine := s.claims.take(in.iface.Name, r, s.deps.Now())
	s.mu.Unlock()
	if !mine {
		s.metrics.drop(serviceDHCP, dropOtherWay)
		s.deps.Log.Debug("DHCP client is answered by another way", "interface", in.iface.Name, "mac", r.mac, "relay", relayText(r.relay))
		return
	}
	s.send(ctx, in, reply.ToBytes(), replyAddress(reply, r, s.cfg.Ports), strings.ToLower(reply.MessageType().String()))
}

// relayText is a relay agent in the log; empty where there is none.
func relayText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// elsewhere says why client cannot be a machine that asked through relay: across a router the ARP table knows nothing,
// but a machine behind the router has no address of our own segments. "" where it can be. A relay agent on one of our
// own segments serves machines that stand there too, which the ARP table knows.
func (s *Service) elsewhere(client, relay netip.Addr) string {
	if !relay.IsValid() || s.onOwnSegment(relay) || !s.onOwnSegment(client) {
		return ""
	}
	return fmt.Sprintf("it asked through relay agent %s, and the address is on this segment", relay)
}

// onOwnSegment reports whether a belongs to a subnet that we have an address in.
func (s *Service) onOwnSegment(a netip.Addr) bool {
	for _, i := range s.cfg.Interfaces {
		if i.Prefix.Contains(a) {
			return true
		}
	}
	return false
}

// claim is the way by which a client is answered in one transaction.
type claim struct {
	xid     dhcpv4.TransactionID
	iface   string
	relay   netip.Addr
	expires time.Time
}

// claims see to it that a client that is heard by several ways (directly and through a relay agent, through two of them,
// or on two interfaces in one network) gets its answers by one. Not safe for concurrent use.
type claims struct{ byMAC *lru[provisioning.MAC, claim] }

// take reports whether r, which came in on interface iface, is to be answered by the way it came, and remembers it.
func (c claims) take(iface string, r *request, now time.Time) bool {
	old, ok := c.byMAC.get(r.mac)
	if ok && old.xid == r.packet.TransactionID && now.Before(old.expires) {
		return old.iface == iface && old.relay == r.relay
	}
	c.byMAC.put(r.mac, claim{r.packet.TransactionID, iface, r.relay, now.Add(claimTime)})
	return true
}
