package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// IP protocol numbers of [Packet.Protocol] (IANA).
const (
	ProtocolTCP = 6
	ProtocolUDP = 17
)

// EtherType values of [Packet.EtherType] (IANA).
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// Packet is what the lab understands of an Ethernet frame. Addresses and ports that the frame does not have are zero.
type Packet struct {
	Src, Dst         net.HardwareAddr
	EtherType        uint16
	SrcIP, DstIP     netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16
	// Payload is what follows the UDP or TCP header, or the IP header of other protocols, or the Ethernet header.
	Payload []byte
}

// Decode reads the headers of an Ethernet frame. Only a frame shorter than an Ethernet header is refused; deeper layers that
// are cut off or malformed are left zero. IPv4 fragments but the first have no ports. The result points into the frame.
func Decode(frame []byte) (Packet, bool) {
	if len(frame) < 14 {
		return Packet{}, false
	}
	p := Packet{
		Dst:       net.HardwareAddr(frame[0:6]),
		Src:       net.HardwareAddr(frame[6:12]),
		EtherType: binary.BigEndian.Uint16(frame[12:14]),
		Payload:   frame[14:],
	}
	if p.EtherType == 0x8100 && len(frame) >= 18 { // IEEE 802.1Q tag
		p.EtherType = binary.BigEndian.Uint16(frame[16:18])
		p.Payload = frame[18:]
	}
	switch p.EtherType {
	case EtherTypeIPv4:
		p.decodeIPv4()
	case EtherTypeIPv6:
		p.decodeIPv6()
	}
	return p, true
}

func (p *Packet) decodeIPv4() {
	b := p.Payload
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:4]))
	if head < 20 || total < head || head > len(b) {
		return
	}
	if total < len(b) {
		b = b[:total] // Ethernet pads short frames
	}
	p.SrcIP = netip.AddrFrom4([4]byte(b[12:16]))
	p.DstIP = netip.AddrFrom4([4]byte(b[16:20]))
	p.Protocol = b[9]
	p.Payload = b[head:]
	if binary.BigEndian.Uint16(b[6:8])&0x1fff == 0 {
		p.decodePorts()
	}
}

func (p *Packet) decodeIPv6() {
	b := p.Payload
	if len(b) < 40 || b[0]>>4 != 6 {
		return
	}
	if n := 40 + int(binary.BigEndian.Uint16(b[4:6])); n < len(b) {
		b = b[:n]
	}
	p.SrcIP = netip.AddrFrom16([16]byte(b[8:24]))
	p.DstIP = netip.AddrFrom16([16]byte(b[24:40]))
	p.Protocol = b[6]
	p.Payload = b[40:]
	p.decodePorts()
}

func (p *Packet) decodePorts() {
	b := p.Payload
	switch {
	case p.Protocol == ProtocolUDP && len(b) >= 8:
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		n := int(binary.BigEndian.Uint16(b[4:6]))
		if n < 8 || n > len(b) {
			n = len(b)
		}
		p.Payload = b[8:n]
	case p.Protocol == ProtocolTCP && len(b) >= 20:
		p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		n := int(b[12]>>4) * 4
		if n < 20 || n > len(b) {
			n = len(b)
		}
		p.Payload = b[n:]
	}
}
