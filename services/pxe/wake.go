package pxe

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

const (
	// wakeEvery is how often it is asked whom to wake.
	wakeEvery = 5 * time.Second
	// wakeShare is how many times longer than it took to say whom to wake the pause after it is, so that a site of thousands whose
	// state changes all the time keeps no more than a twentieth of a processor from deployments; at most maxWakePause.
	wakeShare    = 20
	maxWakePause = 5 * time.Minute
	// wakeGap is the pause after each packet: 50 in a second at most, so that the power supplies of a classroom do not all start
	// in the same instant.
	wakeGap = 20 * time.Millisecond
	// wakePort is where the packets go: "discard" (RFC 863), as is the custom. Network cards look for the pattern wherever it is.
	wakePort = 9
)

// magicPacket is what wakes the computer with a network card of that address: six octets of ones, and sixteen times the address
// (AMD, "Magic Packet Technology", publication 20213). That is all there is to it: no library is worth a dependency here.
func magicPacket(mac provisioning.MAC) ([]byte, error) {
	hw, err := net.ParseMAC(string(mac))
	if err != nil || len(hw) != 6 {
		return nil, fmt.Errorf("%q is no MAC address that could be woken", mac)
	}
	return slices.Concat(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(hw, 16)), nil
}

// wakeWay is one way in which packets reach sleeping computers.
type wakeWay struct {
	// via is the interface that they leave by, with its own address as their source; the zero value leaves both to the routing table.
	via Interface
	to  netip.Addr
}

func (w wakeWay) String() string {
	if w.via.Name == "" {
		return w.to.String()
	}
	return w.via.Name
}

// wakeWays are all of them: the broadcast on each interface, and the directed one to each subnet of IPv4 that none of them is in,
// which gets there as far as routers let it.
func wakeWays(interfaces []Interface, subnets []netip.Prefix) []wakeWay {
	var out []wakeWay
	for _, i := range interfaces {
		out = append(out, wakeWay{i, netip.AddrFrom4([4]byte{255, 255, 255, 255})})
	}
	for _, p := range subnets {
		here := slices.ContainsFunc(interfaces, func(i Interface) bool { return i.Prefix.Bits() <= p.Bits() && i.Prefix.Contains(p.Addr()) })
		if hasBroadcast(p) && !here {
			out = append(out, wakeWay{to: broadcastOf(p)})
		}
	}
	return out
}

// hasBroadcast reports whether a prefix is a subnet of IPv4 with a broadcast address (RFC 3021: the smallest have none).
func hasBroadcast(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is4() && p.Bits() > 0 && p.Bits() <= 30
}

// sendMagicPacket sends a packet one way. The socket lives for it alone: interfaces come and go. SO_BROADCAST is set on every UDP
// socket of package net.
func sendMagicPacket(ctx context.Context, way wakeWay, packet []byte) error {
	var lc net.ListenConfig
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if way.via.Name != "" {
		lc.Control = bindTo(way.via.Name, false)
		from = netip.AddrPortFrom(way.via.Prefix.Addr(), 0)
	}
	c, err := lc.ListenPacket(ctx, "udp4", from.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(way.to, wakePort)))
	return err
}

// wake wakes computers until ctx ends. What cannot be sent is said in the log, and tried again by whoever says whom to wake.
func (s *Service) wake(ctx context.Context) {
	for {
		began := s.deps.Now()
		computers, err := s.deps.Waker.Wake(ctx)
		took := s.deps.Now().Sub(began)
		if err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("Wake-on-LAN has to wait", "err", err)
		}
		if len(computers) > 0 {
			ways := wakeWays(s.cfg.Interfaces, s.deps.Waker.Boundaries())
			for i := range computers {
				if !s.wakeComputer(ctx, &computers[i], ways) {
					return
				}
			}
		}
		if !s.pause(ctx, wakePause(took)) {
			return
		}
	}
}

// wakePause is how long to wait before the next question, by how long the last one took.
func wakePause(took time.Duration) time.Duration {
	return min(max(wakeEvery, wakeShare*took), maxWakePause)
}

// wakeComputer sends a computer's packets every way; one that fails stops no other. It returns false where ctx ends first.
func (s *Service) wakeComputer(ctx context.Context, w *policy.Wake, ways []wakeWay) bool {
	sent := 0
	for _, mac := range w.MACs {
		packet, err := magicPacket(mac)
		if err != nil { // a record that was checked has no such address
			s.deps.Log.Error("Wake-on-LAN", "computer", w.Computer, "err", err)
			continue
		}
		for _, way := range ways {
			result := "sent"
			if err := s.sendWake(ctx, way, packet); err != nil {
				result = "failed"
				if s.wakeLines.allow(way.String(), s.deps.Now()) {
					s.deps.Log.Warn("a Wake-on-LAN packet could not be sent", "computer", w.Computer, "mac", mac, "to", way, "err", err)
				}
			} else {
				sent++
			}
			s.metrics.wakePackets.WithLabelValues(result).Inc()
			if !s.pause(ctx, wakeGap) {
				return false
			}
		}
	}
	if sent > 0 {
		s.metrics.wakes.Inc()
		s.deps.Log.Info("computer woken", "computer", w.Computer, "mac", w.MACs, "advertisement", w.Advertisement, "time", w.Tries)
	}
	return true
}
