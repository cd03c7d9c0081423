package pxe

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// pxeDiscoveryControl is DHCP option 43 with the one sub-option PXE_DISCOVERY_CONTROL = 8 ("use the boot file of this
// answer, ask no boot server"; PXE 2.1 table 2-1) and its end mark. OVMF and iPXE need it to boot from an offer
// without another round (measured).
var pxeDiscoveryControl = []byte{6, 1, 8, 255}

// newReply is an answer of the given kind to p with the fields that every answer copies (RFC 2131 table 3), and what
// relay agents added as it came (option 82; RFC 3046 section 2.2). The server's identifier (option 54) is set to server.
func newReply(p *dhcpv4.DHCPv4, kind dhcpv4.MessageType, server netip.Addr) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        p.HWType,
		ClientHWAddr:  p.ClientHWAddr,
		TransactionID: p.TransactionID,
		Flags:         p.Flags,
		ClientIPAddr:  net.IPv4zero,
		YourIPAddr:    net.IPv4zero,
		ServerIPAddr:  net.IPv4zero,
		GatewayIPAddr: p.GatewayIPAddr,
		Options:       dhcpv4.Options{},
	}
	if info := p.GetOneOption(dhcpv4.OptionRelayAgentInformation); len(info) > 0 {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, info))
	}
	r.UpdateOption(dhcpv4.OptMessageType(kind))
	r.UpdateOption(dhcpv4.OptServerIdentifier(server.AsSlice()))
	return r
}

// addBoot makes reply an offer to boot: server and file in the BOOTP header (shim and iPXE look nowhere else), options
// 60 and 43, and the client's own option 97. For HTTP Boot, file is a URL, which stands in option 67 too, and the class
// that firmware looks for is another (UEFI 2.10 section 24.7.3.1); what PXE knows in option 43 means nothing to it.
func addBoot(reply *dhcpv4.DHCPv4, r *request, server netip.Addr, file string) {
	reply.ServerIPAddr = server.AsSlice()
	reply.BootFileName = file
	if r.http {
		reply.UpdateOption(dhcpv4.OptClassIdentifier(classHTTP))
		reply.UpdateOption(dhcpv4.OptBootFileName(file))
	} else {
		reply.UpdateOption(dhcpv4.OptClassIdentifier(classPXE))
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeDiscoveryControl))
	}
	if id := r.packet.GetOneOption(dhcpv4.OptionClientMachineIdentifier); len(id) > 0 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
}

// proxyOffer answers the DISCOVER of a boot ROM beside the DHCP server that gives it its address: no address, only
// what to boot. A relay agent is to broadcast it: without being told to, it would send it to the address that it brings, which
// is none (RFC 2131 section 4.1).
func proxyOffer(r *request, server netip.Addr, file string) *dhcpv4.DHCPv4 {
	reply := newReply(r.packet, dhcpv4.MessageTypeOffer, server)
	if r.relay.IsValid() && r.packet.ClientIPAddr.IsUnspecified() {
		reply.SetBroadcast()
	}
	addBoot(reply, r, server, file)
	return reply
}

// bootServerKind says what kind of answer a request to the boot server port (4011) gets: ROMs send REQUEST there, old
// ones INFORM, and DISCOVER where they look for boot servers (PXE 2.1 section 2.2.3). Everything else gets none.
func bootServerKind(kind dhcpv4.MessageType) (dhcpv4.MessageType, bool) {
	switch kind {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeDiscover:
		return dhcpv4.MessageTypeAck, true
	}
	return dhcpv4.MessageTypeNone, false
}

// bootServerAck answers a request to the boot server port.
func bootServerAck(r *request, kind dhcpv4.MessageType, server netip.Addr, file string) *dhcpv4.DHCPv4 {
	reply := newReply(r.packet, kind, server)
	reply.ClientIPAddr = r.packet.ClientIPAddr
	addBoot(reply, r, server, file)
	return reply
}

// replyAddress says where an answer on the DHCP port goes (RFC 2131 section 4.1): to the relay agent that the request
// came through, on the server's port; else to the client, on its own. A client without address always gets a broadcast:
// that needs no entry in the ARP table, and every client takes it.
func replyAddress(reply *dhcpv4.DHCPv4, r *request, ports Ports) netip.AddrPort {
	if r.relay.IsValid() {
		return netip.AddrPortFrom(r.relay, uint16(ports.DHCP))
	}
	p, clientPort := r.packet, uint16(ports.DHCPClient)
	if reply.MessageType() != dhcpv4.MessageTypeNak {
		if a, ok := addrOf(p.ClientIPAddr); ok && !a.IsUnspecified() {
			return netip.AddrPortFrom(a, clientPort)
		}
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
}

// addrOf converts an IPv4 address; false for anything else.
func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip.To4())
	return a, ok
}
