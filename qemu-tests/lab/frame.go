package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// UDPFrame makes an Ethernet frame with a UDP datagram over IPv4, for [Port.Send]: with any addresses, also those of others
// and of nobody. The datagram has no checksum, which every receiver takes (RFC 768). payload has at most 65507 octets, and
// is not fragmented.
func UDPFrame(src, dst net.HardwareAddr, from, to netip.AddrPort, payload []byte) []byte {
	const ethernet, ip, udp = 14, 20, 8
	b := make([]byte, ethernet+ip+udp+len(payload))
	copy(b[0:], dst)
	copy(b[6:], src)
	binary.BigEndian.PutUint16(b[12:], EtherTypeIPv4)
	h := b[ethernet:]
	h[0] = 0x45 // version 4, five words of header
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	h[8], h[9] = 64, ProtocolUDP // time to live
	a, z := from.Addr().As4(), to.Addr().As4()
	copy(h[12:], a[:])
	copy(h[16:], z[:])
	binary.BigEndian.PutUint16(h[10:], internetChecksum(h[:ip]))
	u := h[ip:]
	binary.BigEndian.PutUint16(u[0:], from.Port())
	binary.BigEndian.PutUint16(u[2:], to.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	copy(u[udp:], payload)
	return b
}

// internetChecksum is that of an IPv4 header whose checksum field is zero (RFC 1071). b has an even length.
func internetChecksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// SYNFrame makes an Ethernet frame with a TCP segment over IPv4 that begins a connection, with the given sequence number and
// no options. As with [UDPFrame] the addresses may be anybody's.
func SYNFrame(src, dst net.HardwareAddr, from, to netip.AddrPort, sequence uint32) []byte {
	const tcp = 20
	b := UDPFrame(src, dst, from, to, make([]byte, tcp-8))
	ip, segment := b[14:34], b[34:]
	clear(segment)
	ip[9] = ProtocolTCP
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], internetChecksum(ip))
	binary.BigEndian.PutUint16(segment[0:], from.Port())
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	binary.BigEndian.PutUint32(segment[4:], sequence)
	segment[12], segment[13] = tcp/4<<4, 2 // length of the header, SYN
	binary.BigEndian.PutUint16(segment[14:], 64240)
	// The checksum is over a pseudo-header, too: addresses, protocol, length (RFC 9293 section 3.1).
	pseudo := append(append(append([]byte(nil), ip[12:20]...), 0, ProtocolTCP, 0, tcp), segment...)
	binary.BigEndian.PutUint16(segment[16:], internetChecksum(pseudo))
	return b
}
