package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// capturedDHCP are the UDP payloads of a capture file of Ethernet frames (pcap, little-endian). The ones in testdata are what
// real firmware sends: OVMF 2022.11 (PXE, HTTP Boot) and QEMU's iPXE ROM under SeaBIOS, a DISCOVER and a REQUEST each.
func capturedDHCP(t testing.TB, file string) (payloads [][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 {
		t.Fatalf("%s is no capture file", file)
	}
	for b = b[24:]; len(b) >= 16; {
		n := 16 + int(binary.LittleEndian.Uint32(b[8:]))
		frame := b[16:n]
		udp := 14 + int(frame[14]&15)*4
		payloads, b = append(payloads, frame[udp+8:]), b[n:]
	}
	if len(payloads) == 0 {
		t.Fatalf("%s is empty", file)
	}
	return payloads
}

func captures(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.pcap")
	if err != nil || len(files) < 3 {
		t.Fatalf("captures: %v %v", files, err)
	}
	return files
}

// TestCaptured answers what real firmware has sent.
func TestCaptured(t *testing.T) {
	for _, file := range captures(t) {
		for _, mode := range []provisioning.PXEMode{provisioning.PXEModeProxy, provisioning.PXEModeDHCP} {
			name := "captured-" + strings.TrimSuffix(filepath.Base(file), ".pcap") + "-" + string(mode)
			t.Run(name, func(t *testing.T) {
				s, _, conn, in, _ := newPacketService(t, mode)
				var out strings.Builder
				for i, b := range capturedDHCP(t, file) {
					before := len(conn.packets)
					// In mode dhcp, the REQUEST is for the address of another server's OFFER: it is not for us.
					s.arrive(t.Context(), in, b)
					s.wg.Wait()
					fmt.Fprintf(&out, "packet %d: %d answers\n", i, len(conn.packets)-before)
					for n := before; n < len(conn.packets); n++ {
						p, err := dhcpv4.FromBytes(conn.packets[n])
						if err != nil {
							t.Fatal(err)
						}
						fmt.Fprintf(&out, "to %s\n%s", conn.to[n], text(p))
					}
				}
				golden(t, name, out.String())
			})
		}
	}
}

// TestFirmwareNeeds holds every answer that tells firmware to boot against what was measured that it needs.
func TestFirmwareNeeds(t *testing.T) {
	const (
		discover = dhcpv4.MessageTypeDiscover
		ask      = dhcpv4.MessageTypeRequest
		url      = "http://192.0.2.10/boot/efi/shimx64.efi"
	)
	us := chosen("192.0.2.10")
	at4011 := func(from string) func(*arrival) {
		return func(a *arrival) { a.port, a.from = portBootServer, netip.MustParseAddrPort(from) }
	}
	anybody := func(*arrival) {}
	const everybody = "255.255.255.255:68"
	for _, c := range []struct {
		name    string
		mode    provisioning.PXEMode
		in      func(*arrival)
		packets []*dhcpv4.DHCPv4 // all are sent; the answer to the last is looked at
		kind    dhcpv4.MessageType
		file    string
		http    bool
		address string // yiaddr
		to      string
	}{
		{"OVMF", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(iana.EFI_BC))}, dhcpv4.MessageTypeOffer, FileShim, false, "0.0.0.0", everybody},
		{"OVMF, architecture 9", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(iana.EFI_X86_64))}, dhcpv4.MessageTypeOffer, FileShim, false, "0.0.0.0", everybody},
		{"BIOS ROM", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(iana.INTEL_X86PC))}, dhcpv4.MessageTypeOffer, FileUndionly, false, "0.0.0.0", everybody},
		{"iPXE", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ipxe(iana.INTEL_X86PC))}, dhcpv4.MessageTypeOffer, "http://192.0.2.10/boot/ipxe?mac=52:54:00:00:00:01", false, "0.0.0.0", everybody},
		{"HTTP Boot", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot)}, dhcpv4.MessageTypeOffer, url, true, "0.0.0.0", everybody},
		{"HTTP Boot without Arch in the class", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("HTTPClient")))}, dhcpv4.MessageTypeOffer, url, true, "0.0.0.0", everybody},
		{"HTTP Boot that names PXE's architecture too", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot, option(93, 0, 7, 0, 16))}, dhcpv4.MessageTypeOffer, url, true, "0.0.0.0", everybody},
		{"PXE that names HTTP's architecture too", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(7), option(93, 0, 16, 0, 7))}, dhcpv4.MessageTypeOffer, FileShim, false, "0.0.0.0", everybody},
		{"OVMF behind a relay agent", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(7), relayed("198.51.100.1"))}, dhcpv4.MessageTypeOffer, FileShim, false, "0.0.0.0", "198.51.100.1:67"},
		{"HTTP Boot behind a relay agent", "proxy", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot, relayed("198.51.100.1"))}, dhcpv4.MessageTypeOffer, url, true, "0.0.0.0", "198.51.100.1:67"},
		{"4011, OVMF", "proxy", at4011("192.0.2.50:4011"), []*dhcpv4.DHCPv4{client(t, known, ask, ovmf(7), ciaddr("192.0.2.50"))}, dhcpv4.MessageTypeAck, FileShim, false, "0.0.0.0", "192.0.2.50:4011"},
		{"4011, iPXE", "proxy", at4011("192.0.2.50:68"), []*dhcpv4.DHCPv4{client(t, known, ask, ipxe(0), ciaddr("192.0.2.50"))}, dhcpv4.MessageTypeAck, "http://192.0.2.10/boot/ipxe?mac=52:54:00:00:00:01", false, "0.0.0.0", "192.0.2.50:68"},
		{"4011, across a router", "proxy", at4011("198.51.100.50:4011"), []*dhcpv4.DHCPv4{client(t, known, ask, ovmf(7), ciaddr("198.51.100.50"))}, dhcpv4.MessageTypeAck, FileShim, false, "0.0.0.0", "198.51.100.50:4011"},
		{"OVMF", "dhcp", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(7), wish("192.0.2.107"))}, dhcpv4.MessageTypeOffer, FileShim, false, "192.0.2.107", everybody},
		{"OVMF takes it", "dhcp", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(7), wish("192.0.2.107")), client(t, known, ask, ovmf(7), us, wish("192.0.2.107"))}, dhcpv4.MessageTypeAck, FileShim, false, "192.0.2.107", everybody},
		{"HTTP Boot", "dhcp", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot, wish("192.0.2.107"))}, dhcpv4.MessageTypeOffer, url, true, "192.0.2.107", everybody},
		{"HTTP Boot takes it", "dhcp", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, httpBoot, wish("192.0.2.107")), client(t, known, ask, httpBoot, us, wish("192.0.2.107"))}, dhcpv4.MessageTypeAck, url, true, "192.0.2.107", everybody},
		{"OVMF behind a relay agent", "dhcp", anybody, []*dhcpv4.DHCPv4{client(t, known, discover, ovmf(7), relayed("198.51.100.1"), wish("198.51.100.107"))}, dhcpv4.MessageTypeOffer, FileShim, false, "198.51.100.107", "198.51.100.1:67"},
		{"4011", "dhcp", at4011("192.0.2.107:4011"), []*dhcpv4.DHCPv4{client(t, known, ask, ovmf(7), ciaddr("192.0.2.107"))}, dhcpv4.MessageTypeAck, FileShim, false, "0.0.0.0", "192.0.2.107:4011"},
	} {
		t.Run(string(c.mode)+", "+c.name, func(t *testing.T) {
			s, _, conn, in, log := newPacketService(t, c.mode)
			c.in(&in)
			for _, p := range c.packets {
				s.arrive(t.Context(), in, p.ToBytes())
				s.wg.Wait()
			}
			if len(conn.packets) != len(c.packets) {
				t.Fatalf("%d answers to %d packets\n%s", len(conn.packets), len(c.packets), log)
			}
			asked := c.packets[len(c.packets)-1]
			p := onWire(t, mustParse(t, conn.packets[len(conn.packets)-1]))
			class, control := "PXEClient", []byte{6, 1, 8, 255}
			if c.http {
				class, control = "HTTPClient", nil
			}
			got := []any{
				p.MessageType(), p.BootFileName, p.ServerIPAddr, p.ServerIdentifier(), p.ClassIdentifier(), p.YourIPAddr, conn.to[len(conn.to)-1],
				p.TransactionID, p.ClientHWAddr, p.GatewayIPAddr, p.Flags,
				p.Options.Get(dhcpv4.OptionVendorSpecificInformation), p.Options.Get(dhcpv4.OptionClientMachineIdentifier), p.Options.Get(dhcpv4.OptionRelayAgentInformation),
			}
			want := []any{
				c.kind, c.file, "192.0.2.10", "192.0.2.10", class, c.address, c.to,
				asked.TransactionID, asked.ClientHWAddr, asked.GatewayIPAddr, asked.Flags,
				control, guidWire, asked.Options.Get(dhcpv4.OptionRelayAgentInformation),
			}
			for i := range got {
				if fmt.Sprint(got[i]) != fmt.Sprint(want[i]) {
					t.Errorf("field %d is %v, want %v", i, got[i], want[i])
				}
			}
			if u := p.BootFileNameOption(); c.http != (u == c.file) {
				t.Errorf("option 67 is %q", u)
			}
		})
	}
}

func mustParse(t testing.TB, b []byte) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// FuzzAnswer sends anything from anywhere, and holds every answer against what must be true of all of them.
func FuzzAnswer(f *testing.F) {
	for _, file := range captures(f) {
		for _, b := range capturedDHCP(f, file) {
			for mode := range byte(4) {
				f.Add(mode, uint32(0), uint16(68), b)
				f.Add(mode, uint32(0xc0000232), uint16(4011), b)
			}
		}
	}
	for _, m := range []mod{relayed("198.51.100.1"), relayed("192.0.2.10"), relayed("203.0.113.1"), ciaddr("198.51.100.107"), chosen("192.0.2.1")} {
		b := client(f, known, dhcpv4.MessageTypeRequest, ovmf(7), m).ToBytes()
		f.Add(byte(1), uint32(0xc6336401), uint16(67), b)
		f.Add(byte(0), uint32(0xc6336401), uint16(67), b[:len(b)-3])
	}
	f.Fuzz(func(t *testing.T, how byte, ip uint32, port uint16, b []byte) {
		mode := provisioning.PXEModeProxy
		if how&1 != 0 {
			mode = provisioning.PXEModeDHCP
		}
		s, policy, conn, in, log := newPacketService(t, mode)
		s.pause = func(context.Context, time.Duration) bool { return true }
		in.from, in.unicast = netip.AddrPortFrom(fromUint(ip), port), how&4 != 0
		if how&2 != 0 {
			in.port = portBootServer
		}
		kept := bytes.Clone(b)
		for range 2 {
			s.arrive(t.Context(), in, b)
			s.wg.Wait()
		}
		if !bytes.Equal(b, kept) {
			t.Error("the packet was written to")
		}
		if len(conn.packets) > 2 {
			t.Fatalf("%d answers to 2 packets", len(conn.packets))
		}
		for i, answer := range conn.packets {
			q, p := mustParse(t, b), mustParse(t, answer)
			mac, err := provisioning.MACFromBytes(q.ClientHWAddr)
			if err != nil {
				t.Fatalf("%v is answered", q.ClientHWAddr)
			}
			boots := p.BootFileName != "" || p.Options.Has(dhcpv4.OptionVendorSpecificInformation)
			if boots && !policy.boots[mac] {
				t.Errorf("%s is told to boot", mac)
			}
			if mode == provisioning.PXEModeProxy && (!boots || !p.YourIPAddr.IsUnspecified()) {
				t.Errorf("beside a DHCP server:\n%s", text(p))
			}
			if q.OpCode != dhcpv4.OpcodeBootRequest || p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != q.TransactionID || !bytes.Equal(p.ClientHWAddr, q.ClientHWAddr) {
				t.Errorf("%s\nanswers\n%s", text(p), text(q))
			}
			if len(answer) > max(1000, 2*len(b)) {
				t.Errorf("%d octets answer %d", len(answer), len(b))
			}
			if y, ok := addrOf(p.YourIPAddr); ok && !y.IsUnspecified() && s.dhcp.forRelay(y) == nil {
				t.Errorf("%s is lent", y)
			}
			to, a := conn.to[i], conn.to[i].Addr()
			broadcast := a == netip.MustParseAddr("255.255.255.255")
			if a == serverAddr || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || broadcast && to.Port() != 68 ||
				in.port == portBootServer && to != in.from || in.port == portDHCP && to.Port() != 67 && to.Port() != 68 {
				t.Errorf("an answer goes to %s\n%s", to, log)
			}
		}
	})
}
