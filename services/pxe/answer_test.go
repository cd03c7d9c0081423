package pxe

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var update = flag.Bool("update", false, "write the golden files anew")

// text shows a packet, with its options in hexadecimal, one to a line.
func text(p *dhcpv4.DHCPv4) string {
	var b strings.Builder
	fmt.Fprintf(&b, "op %d, xid %x, chaddr %s, flags %04x\nciaddr %s, yiaddr %s, siaddr %s, giaddr %s\nfile %q\n",
		p.OpCode, p.TransactionID[:], p.ClientHWAddr, p.Flags, p.ClientIPAddr, p.YourIPAddr, p.ServerIPAddr, p.GatewayIPAddr, p.BootFileName)
	var codes []int
	for c := range p.Options {
		codes = append(codes, int(c))
	}
	slices.Sort(codes)
	for _, c := range codes {
		fmt.Fprintf(&b, "%d = % x\n", c, p.Options[uint8(c)])
	}
	return b.String()
}

// golden compares with testdata/NAME.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs.\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

// onWire is what a client reads of a reply.
func onWire(t *testing.T, p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	b := p.ToBytes()
	if len(b) < 300 {
		t.Errorf("%d octets, fewer than BOOTP's 300", len(b))
	}
	q, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestProxyAnswers(t *testing.T) {
	discover := dhcpv4.MessageTypeDiscover
	for _, c := range []struct {
		name string
		p    *dhcpv4.DHCPv4
	}{
		{"proxy-ovmf", client(t, known, discover, ovmf(iana.EFI_BC))},
		{"proxy-ipxe-bios", client(t, known, discover, ipxe(iana.INTEL_X86PC))},
		{"proxy-bios", client(t, known, discover, ovmf(iana.INTEL_X86PC))},
		{"proxy-ipxe-uefi", client(t, known, discover, ipxe(iana.EFI_BC))},
		{"proxy-http", client(t, known, discover, httpBoot)},
		{"proxy-relayed", client(t, known, discover, ovmf(iana.EFI_BC), relayed("198.51.100.1"))},
		{"proxy-relayed-ipxe", client(t, known, discover, ipxe(iana.INTEL_X86PC), relayed("198.51.100.1"))},
		{"proxy-no-guid", client(t, known, discover, ovmf(iana.EFI_X86_64), dhcpv4.WithoutOption(dhcpv4.OptionClientMachineIdentifier))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := parsed(t, c.p)
			file, err := bootFile(r, serverAddr, 80)
			if err != nil {
				t.Fatal(err)
			}
			reply := proxyOffer(r, serverAddr, file)
			golden(t, c.name, fmt.Sprintf("to %s\n%s", replyAddress(reply, r, Ports{}.orStandard()), text(onWire(t, reply))))
		})
	}
}

func TestBootServerAnswers(t *testing.T) {
	p := client(t, known, dhcpv4.MessageTypeRequest, ovmf(iana.EFI_BC), ciaddr("192.0.2.77"), xid(7))
	r := parsed(t, p)
	kind, ok := bootServerKind(r.kind)
	if !ok {
		t.Fatal("a REQUEST gets no answer")
	}
	golden(t, "bootserver-ovmf", text(onWire(t, bootServerAck(r, kind, serverAddr, FileShim))))
	for _, k := range []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline} {
		if _, ok := bootServerKind(k); ok {
			t.Errorf("%s is answered on the boot server port", k)
		}
	}
}

func TestNoLoader(t *testing.T) {
	for _, a := range []iana.Arch{iana.EFI_IA32, iana.EFI_ARM64, iana.EFI_X86_64_HTTP, iana.EFI_ARM64_HTTP, 4711} {
		r := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(a)))
		if file, err := bootFile(r, serverAddr, 80); err == nil {
			t.Errorf("%s is told to load %s", r.machine.Arch, file)
		}
	}
}

func TestParseRequest(t *testing.T) {
	discover := dhcpv4.MessageTypeDiscover
	noArch := dhcpv4.WithoutOption(dhcpv4.OptionClientSystemArchitectureType)
	class := func(s string) mod { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(s)) }
	for _, c := range []struct {
		name string
		p    *dhcpv4.DHCPv4
		want string // what is read, or the error
	}{
		{"OVMF", client(t, known, discover, ovmf(iana.EFI_BC)), "firmware true ipxe false {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff UEFI x64}"},
		{"iPXE", client(t, known, discover, ipxe(iana.INTEL_X86PC)), "firmware true ipxe true {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff BIOS}"},
		{"iPXE, user class as RFC 3004 wants it", client(t, known, discover, ipxe(iana.INTEL_X86PC), option(77, []byte("\x04iPXE")...)), "firmware true ipxe true {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff BIOS}"},
		{"other user class", client(t, known, discover, ipxe(iana.INTEL_X86PC), option(77, []byte("iPXEd")...)), "firmware true ipxe false {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff BIOS}"},
		{"operating system", client(t, known, discover), "firmware false ipxe false {  BIOS}"},
		{"u-root", client(t, known, discover, class("PXE UROOT")), "firmware false ipxe false {  BIOS}"},
		{"HTTP Boot", client(t, known, discover, ovmf(iana.EFI_X86_64_HTTP), class("HTTPClient:Arch:00016:UNDI:003001")), "firmware true ipxe false {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff UEFI HTTP Boot x64}"},
		{"architecture from the class", client(t, known, discover, ovmf(0), noArch), "firmware true ipxe false {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff UEFI x64}"},
		{"second architecture supported", client(t, known, discover, ovmf(0), option(93, 0, 16, 0, 7)), "firmware true ipxe false {52:54:00:00:00:01 33221100-5544-7766-8899-aabbccddeeff UEFI x64}"},
		{"zero GUID", client(t, known, discover, ovmf(7), option(97, make([]byte, 17)...)), "firmware true ipxe false {52:54:00:00:00:01  UEFI x64}"},
		{"no architecture", client(t, known, discover, ovmf(0), noArch, class("PXEClient")), "says no architecture"},
		{"odd architecture", client(t, known, discover, ovmf(0), option(93, 0, 7, 0)), "not a multiple of 2"},
		{"short GUID", client(t, known, discover, ovmf(7), option(97, 0, 1, 2)), "a GUID has 16 octets"},
		{"GUID of another type", client(t, known, discover, ovmf(7), option(97, append([]byte{9}, guidWire[1:]...)...)), "type 9"},
		{"multicast address", client(t, "01:00:5e:00:00:01", discover), "multicast"},
		{"no address", client(t, known, discover, dhcpv4.WithHwAddr(nil)), "6 octets"},
		{"Infiniband", client(t, known, discover, dhcpv4.WithHWType(iana.HWTypeInfiniband)), "not Ethernet"},
		{"another server's answer", client(t, known, dhcpv4.MessageTypeOffer, func(p *dhcpv4.DHCPv4) { p.OpCode = dhcpv4.OpcodeBootReply }), errNotForUs.Error()},
		{"BOOTP", client(t, known, discover, dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType)), errNotForUs.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := parseRequest(c.p.ToBytes())
			got := fmt.Sprintf("firmware %t ipxe %t {%s %s %s}", r.firmware, r.ipxe, r.machine.MAC, r.machine.GUID, r.machine.Arch)
			if err != nil {
				got = err.Error()
			}
			if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 240), make([]byte, 4096)} {
		if _, err := parseRequest(b); err == nil {
			t.Errorf("%d zero octets are a request", len(b))
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, p := range []*dhcpv4.DHCPv4{
		client(f, known, dhcpv4.MessageTypeDiscover, ovmf(iana.EFI_BC)),
		client(f, known, dhcpv4.MessageTypeDiscover, ipxe(iana.INTEL_X86PC)),
		client(f, known, dhcpv4.MessageTypeRequest, chosen("192.0.2.10"), wish("192.0.2.100")),
		client(f, known, dhcpv4.MessageTypeRequest, ovmf(iana.EFI_IA32), ciaddr("192.0.2.100")),
		client(f, known, dhcpv4.MessageTypeDecline, chosen("192.0.2.10"), wish("192.0.2.100")),
		client(f, known, dhcpv4.MessageTypeInform, ciaddr("192.0.2.100"), option(77), option(97), option(93)),
	} {
		f.Add(p.ToBytes())
		f.Add(p.ToBytes()[:260])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			if errors.Is(err, errNotForUs) && len(b) < 240 {
				t.Errorf("a fragment of %d octets passes for a packet", len(b))
			}
			return
		}
		if m, err := provisioning.ParseMAC(string(r.mac)); err != nil || m != r.mac {
			t.Errorf("MAC %q is not canonical", r.mac)
		}
		if r.firmware && r.machine.MAC != r.mac {
			t.Errorf("machine %v is not %s", r.machine, r.mac)
		}
		if !r.firmware && r.machine != (provisioning.Machine{}) {
			t.Errorf("an operating system is taken for machine %v", r.machine)
		}
		p := testPool(t)
		table := newLeaseTable(p, nil)
		if file, err := bootFile(&r, serverAddr, 80); err == nil {
			onWire(t, proxyOffer(&r, serverAddr, file))
			if len(file) > 127 {
				t.Errorf("file name %q does not fit the header", file)
			}
		}
		for range 2 {
			o := dhcpAnswer(table, p, &r, &boot{FileShim}, true, start)
			table.apply(&r, o, start)
			if o.reply != nil {
				q := onWire(t, o.reply)
				if y, ok := addrOf(q.YourIPAddr); ok && !y.IsUnspecified() && !p.holds(y) {
					t.Errorf("%s is handed out", y)
				}
			}
		}
	})
}
