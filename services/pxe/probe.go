package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// defaultProbeWait is how long another DHCP server is waited for: dnsmasq and ISC dhcpd ping an address for up to 3 s
// before they offer it.
const defaultProbeWait = 5 * time.Second

// probeEvery is how often it is asked for meanwhile: the network's switch may not forward yet.
const probeEvery = time.Second

// findDHCPServer asks for an address on interface i and returns the first server that offers one; the zero address if
// none does within wait. Answers that bring no address (ProxyDHCP) do not count.
func findDHCPServer(ctx context.Context, i Interface, ports Ports, wait time.Duration, random io.Reader) (netip.Addr, error) {
	c, err := listenUDP(ctx, i, ports.DHCPClient, true)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for another DHCP server: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	dev, err := net.InterfaceByName(i.Name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for another DHCP server: %w", err)
	}
	discover, err := probeDiscover(dev.HardwareAddr, random)
	if err != nil {
		return netip.Addr{}, err
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), uint16(ports.DHCP))
	buf := make([]byte, 4096)
	for end := time.Now().Add(wait); ctx.Err() == nil && time.Now().Before(end); {
		if err := c.send(discover.ToBytes(), to); err != nil {
			return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(probeEvery)); err != nil {
			return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
		}
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
			}
			if offersAddress(buf[:n], discover) && from.Addr() != i.Prefix.Addr() {
				return from.Addr(), nil
			}
		}
	}
	return netip.Addr{}, ctx.Err()
}

// probeDiscover is a plain client's DISCOVER.
func probeDiscover(mac net.HardwareAddr, random io.Reader) (*dhcpv4.DHCPv4, error) {
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: mac,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	if _, err := io.ReadFull(random, d.TransactionID[:]); err != nil {
		return nil, fmt.Errorf("make a transaction id: %w", err)
	}
	d.SetBroadcast()
	d.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeDiscover))
	d.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter))
	return d, nil
}

// offersAddress reports whether b is an answer to discover that brings an address.
func offersAddress(b []byte, discover *dhcpv4.DHCPv4) bool {
	p, err := dhcpv4.FromBytes(b)
	return err == nil && p.OpCode == dhcpv4.OpcodeBootReply && p.TransactionID == discover.TransactionID &&
		p.MessageType() == dhcpv4.MessageTypeOffer && !p.YourIPAddr.IsUnspecified()
}

// otherServerNext is what to do about another DHCP server.
const otherServerNext = "set spec.pxe.mode of the site to proxy, or turn the other DHCP server off"

// refuseBeside is the error that keeps a DHCP server from starting.
func refuseBeside(i Interface, other netip.Addr) error {
	return provisioning.Errorf(provisioning.CodeConflict,
		otherServerNext,
		"%s answers DHCP on %s: two DHCP servers on one network give machines contradicting addresses, so this one is not started", other, i.Name)
}

// noticeServer tells of another DHCP server that a client of our own segment takes an address from: one that was turned
// on after this one looked. What clients of other networks do, behind relay agents, is theirs.
func (s *Service) noticeServer(in arrival, r *request) {
	other, ok := addrOf(r.packet.ServerIdentifier())
	if !ok || r.kind != dhcpv4.MessageTypeRequest || r.relay.IsValid() || other == s.dhcp.pool.server || other.IsUnspecified() {
		return
	}
	s.metrics.otherServer.Inc()
	s.mu.Lock()
	ok = s.otherLimit.allow(in.iface.Name, s.deps.Now())
	s.mu.Unlock()
	if !ok {
		return
	}
	s.deps.Log.Error("another DHCP server gives out addresses on this network: machines may get contradicting ones",
		"interface", in.iface.Name, "server", other, "client", r.mac, "next", otherServerNext)
	if s.deps.OtherServer != nil {
		s.deps.OtherServer(in.iface.Name, other)
	}
}
