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
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// defaultProbeWait is how long another DHCP server is waited for: dnsmasq and ISC dhcpd ping an address for up to 3 s
// before they offer it.
const defaultProbeWait = 5 * time.Second

// discoverEvery is how often it is asked for meanwhile: the network's switch may not forward yet.
const discoverEvery = time.Second

// defaultProbeEvery is how often another DHCP server is looked for while ours runs.
const defaultProbeEvery = time.Minute

// rawBroadcast opens a socket that sends UDP broadcasts on dev from src, past the kernel's own IP: that would hand a copy
// of each to the sockets of this computer, our own server's too. It receives nothing.
func rawBroadcast(dev *net.Interface, src netip.Addr, port int) (net.PacketConn, error) {
	nothing := []bpf.RawInstruction{{Op: unix.BPF_RET | unix.BPF_K}}
	c, err := packet.Listen(dev, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: nothing})
	if err != nil {
		return nil, err
	}
	return nclient4.NewBroadcastUDPConn(c, &net.UDPAddr{IP: src.AsSlice(), Port: port}), nil
}

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
	raw, err := rawBroadcast(dev, i.Prefix.Addr(), ports.DHCPClient)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
	}
	defer raw.Close()
	discover, err := probeDiscover(dev.HardwareAddr, random)
	if err != nil {
		return netip.Addr{}, err
	}
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: ports.DHCP}
	buf := make([]byte, 4096)
	for end := time.Now().Add(wait); ctx.Err() == nil && time.Now().Before(end); {
		if _, err := raw.WriteTo(discover.ToBytes(), to); err != nil {
			return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(discoverEvery)); err != nil {
			return netip.Addr{}, fmt.Errorf("look for another DHCP server on %s: %w", i.Name, err)
		}
		for ctx.Err() == nil {
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

// watchServers looks for another DHCP server on i while ours runs, until ctx ends. The first look begins at once and is a
// long one: a switch port may forward nothing for half a minute after its link came up (IEEE 802.1D: twice a forward delay
// of 15 s), so that the look before the start saw an empty network.
func (s *Service) watchServers(ctx context.Context, i Interface) {
	for ctx.Err() == nil {
		patience := s.cfg.ProbeWait
		if !s.dhcp.hasLooked() {
			patience = max(patience, s.cfg.ProbeEvery)
		}
		other, err := findDHCPServer(ctx, i, s.cfg.Ports, patience, s.deps.Rand)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.deps.Log.Warn("another DHCP server cannot be looked for", "interface", i.Name, "err", err)
		case other.IsValid():
			s.dhcp.noteOther(netip.Addr{}, s.deps.Now())
			s.tellServer(i, other, "it answers us")
		default:
			s.dhcp.noteLooked()
		}
		if !s.pause(ctx, s.cfg.ProbeEvery) {
			return
		}
	}
}

// noticeServer notes another DHCP server that a client takes an address from: one that was turned on after this one
// looked. It is told of where that is on our own segment: what clients of other networks do, behind relay agents, is
// theirs.
func (s *Service) noticeServer(in arrival, r *request) {
	other, ok := addrOf(r.packet.ServerIdentifier())
	if !ok || r.kind != dhcpv4.MessageTypeRequest || other == s.dhcp.pool.server || other.IsUnspecified() {
		return
	}
	r.turn.leave() // a lease may be being stored
	s.dhcp.noteOther(r.relay, s.deps.Now())
	if r.relay.IsValid() {
		return
	}
	s.metrics.otherServer.Inc()
	s.tellServer(in.iface, other, "client "+string(r.mac)+" takes its offer")
}

// tellServer tells of another DHCP server on interface i, not too often. Ours goes on: machines in the middle of a boot
// need it, and one forged packet must not end it.
func (s *Service) tellServer(i Interface, other netip.Addr, seen string) {
	s.mu.Lock()
	ok := s.otherLimit.allow(i.Name, s.deps.Now())
	s.mu.Unlock()
	if !ok {
		return
	}
	s.deps.Log.Error("another DHCP server gives out addresses on this network: machines may get contradicting ones",
		"interface", i.Name, "server", other, "seen", seen, "next", otherServerNext)
	if s.deps.OtherServer != nil {
		s.deps.OtherServer(i.Name, other)
	}
}
