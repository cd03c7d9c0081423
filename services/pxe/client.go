package pxe

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// request is one packet of a DHCP client, as far as answers depend on it.
type request struct {
	packet *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	// mac is the client's hardware address.
	mac provisioning.MAC
	// firmware is true where a boot ROM asks (PXE or HTTP Boot); false for an operating system, ours included.
	firmware bool
	// ipxe is true where iPXE asks rather than the machine's own ROM.
	ipxe bool
	// http is true where UEFI HTTP Boot asks, which takes a URL and no answer for PXE.
	http bool
	// relay is the relay agent that the packet came through ("giaddr"); the zero address where the client was heard
	// directly.
	relay netip.Addr
	// known is true where the site knows the client: see budget.
	known bool
	// machine is filled in for firmware only: nothing else says its architecture.
	machine provisioning.Machine
	// turn is left before anything that may wait; nil where it is nobody's.
	turn *turn
}

// errNotForUs is a packet that is well formed and nobody's fault: an answer of another server, BOOTP.
var errNotForUs = errors.New("not a DHCP client's request")

// Beginnings of DHCP option 60 by which firmware is told from operating systems (PXE 2.1 section 2.2.1, UEFI section
// 24.7.3.1). u-root's own client calls itself "PXE UROOT" and is none of them.
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// parseRequest reads a packet as it came from the wire. Hostile packets give an error.
func parseRequest(b []byte) (request, error) {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return request{}, fmt.Errorf("read DHCP packet: %w", err)
	}
	if p.OpCode != dhcpv4.OpcodeBootRequest || p.MessageType() == dhcpv4.MessageTypeNone {
		return request{}, errNotForUs
	}
	if p.HWType != iana.HWTypeEthernet {
		return request{}, fmt.Errorf("hardware type %d is not Ethernet", p.HWType)
	}
	mac, err := provisioning.MACFromBytes(p.ClientHWAddr)
	if err != nil {
		return request{}, fmt.Errorf("client hardware address: %w", err)
	}
	r := request{packet: p, kind: p.MessageType(), mac: mac}
	if r.relay, err = relayOf(p); err != nil {
		return request{}, fmt.Errorf("%s: %w", mac, err)
	}
	class := p.ClassIdentifier()
	if !strings.HasPrefix(class, classPXE) && !strings.HasPrefix(class, classHTTP) {
		return r, nil
	}
	r.firmware = true
	r.http = strings.HasPrefix(class, classHTTP)
	r.ipxe = isIPXE(p)
	r.machine.MAC = mac
	if r.machine.Arch, err = archOf(p, class); err != nil {
		return request{}, fmt.Errorf("%s: %w", mac, err)
	}
	if r.machine.GUID, err = guidOf(p); err != nil {
		return request{}, fmt.Errorf("%s: %w", mac, err)
	}
	return r, nil
}

// archOf reads option 93 (RFC 4578 section 2.1): the first architecture that there is a boot image for and that can be
// asked for in this way, by PXE or by HTTP Boot; else the first. Without the option, the class identifier says it
// ("PXEClient:Arch:00007:UNDI:003000").
func archOf(p *dhcpv4.DHCPv4, class string) (provisioning.Arch, error) {
	if b := p.GetOneOption(dhcpv4.OptionClientSystemArchitectureType); len(b) > 0 {
		if len(b)%2 != 0 {
			return 0, fmt.Errorf("option 93 (architecture) has %d octets, not a multiple of 2", len(b))
		}
		first := provisioning.Arch(b[0])<<8 | provisioning.Arch(b[1])
		for ; len(b) > 0; b = b[2:] {
			a := provisioning.Arch(b[0])<<8 | provisioning.Arch(b[1])
			if a.Supported() && (a == provisioning.ArchHTTPBootx64) == strings.HasPrefix(class, classHTTP) {
				return a, nil
			}
		}
		return first, nil
	}
	if parts := strings.Split(class, ":"); len(parts) >= 3 && parts[1] == "Arch" {
		if n, err := strconv.ParseUint(parts[2], 10, 16); err == nil {
			return provisioning.Arch(n), nil
		}
	}
	return 0, errors.New("a boot ROM that says no architecture (options 93 and 60)")
}

// guidOf reads option 97 (RFC 4578 section 2.3). A malformed one is an error rather than no GUID: with it gone, a
// conflict between MAC address and GUID would go unseen.
func guidOf(p *dhcpv4.DHCPv4) (provisioning.GUID, error) {
	b := p.GetOneOption(dhcpv4.OptionClientMachineIdentifier)
	if len(b) == 0 {
		return "", nil
	}
	if b[0] != 0 {
		return "", fmt.Errorf("option 97 (GUID) has type %d, not 0", b[0])
	}
	g, err := provisioning.GUIDFromWire(b[1:])
	if err != nil {
		return "", fmt.Errorf("option 97: %w", err)
	}
	return g, nil
}

// isIPXE looks for the user class that iPXE sends (option 77). It writes the bare text where RFC 3004 wants
// length-prefixed strings; both are understood.
func isIPXE(p *dhcpv4.DHCPv4) bool {
	b := p.GetOneOption(dhcpv4.OptionUserClassInformation)
	return string(b) == "iPXE" || string(b) == "\x04iPXE"
}
