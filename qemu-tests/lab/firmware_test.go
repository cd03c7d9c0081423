package lab

import (
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

const unsignedRan = "an unsigned loader runs"

// TestUnsignedLoader starts the same unsigned loader without and with Secure Boot: it must run, and be refused.
func TestUnsignedLoader(t *testing.T) {
	l := New(t)
	disk := l.FATImage("esp", 4<<20, map[string][]byte{"EFI/BOOT/BOOTX64.EFI": UnsignedEFI(unsignedRan + "\r\n")})
	start := func(name string, fw Firmware) *Machine {
		m := l.Machine(Config{Name: name, Firmware: fw, MemoryMB: 256, Disks: []Disk{{Path: disk, Bus: AHCI, Boot: 1, Snapshot: true}}})
		m.Start()
		return m
	}
	open, secure := start("open", UEFI), start("secure", UEFISecureBoot)
	open.WaitSerial(2*bootLimit, unsignedRan)
	open.PowerCut()
	secure.WaitSerial(2*bootLimit, `(?i)access denied|security violation`)
	if text := secure.SerialText(0); strings.Contains(text, unsignedRan) {
		t.Errorf("an unsigned loader runs under Secure Boot: %s", text)
	}
}

// TestFirmwarePXE sees OVMF's own PXE on the wire, which says a UUID and an architecture, and no iPXE before it.
func TestFirmwarePXE(t *testing.T) {
	l := New(t)
	lan := l.Switch("lan")
	m := l.Machine(Config{Name: "m", Firmware: UEFISecureBoot, MemoryMB: 256, NICs: []NIC{{Switch: lan, Boot: 1}}})
	m.Start()
	d := lan.WaitDHCP(t, 2*bootLimit, "a discover of the firmware", 1, DHCPRequests(m.MAC(0)))[0].Message
	if a := d.ClientArch(); len(a) != 1 || a[0] != iana.EFI_BC && a[0] != iana.EFI_X86_64 {
		t.Errorf("the architecture is %v", a)
	}
	if c := d.UserClass(); len(c) != 0 {
		t.Errorf("this is iPXE, not the firmware: user class %q", c)
	}
	if id := hex.EncodeToString(d.Options.Get(dhcpv4.OptionClientMachineIdentifier)); id != "00"+smbiosUUID(t, m.UUID()) {
		t.Errorf("option 97 is %s for %s", id, m.UUID())
	}
}

// TestNamespace runs real programs in hosts on a switch.
func TestNamespace(t *testing.T) {
	l := New(t)
	lan := l.Switch("lan")
	a, b := l.Namespace("a", lan, "10.9.0.1/24"), l.Namespace("b", lan, "10.9.0.2/24")
	out, _, err := a.Run(10*time.Second, "ip", "-br", "addr", "show", InterfaceName)
	if err != nil || !strings.Contains(out, "10.9.0.1/24") {
		t.Errorf("addresses: %s %v", out, err)
	}
	if _, err := b.Start("server.log", "socat", "TCP-LISTEN:80,fork,reuseaddr", "SYSTEM:cat"); err != nil {
		t.Fatal(err)
	}
	// The server may need a moment: the connection is refused until then.
	deadline := time.Now().Add(10 * time.Second)
	for {
		out, _, err = a.Run(10*time.Second, "sh", "-c", "echo over the wire | socat - TCP:10.9.0.2:80")
		if err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil || out != "over the wire\n" {
		t.Errorf("the server answered %q: %v", out, err)
	}
	if n := lan.CountFrames(t, func(p Packet) bool { return p.Protocol == ProtocolTCP && p.DstPort == 80 }); n == 0 {
		t.Error("no frame of it is captured")
	}
	if _, _, err := a.Run(200*time.Millisecond, "sleep", "60"); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("a program that never ends: %v", err)
	}
	if _, _, err := a.Run(10*time.Second, "false"); err == nil {
		t.Error("a program that fails is a success")
	}
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		if sameMAC(i.HardwareAddr, a.MAC()) || sameMAC(i.HardwareAddr, b.MAC()) {
			t.Errorf("%s is in the host's namespace", i.Name)
		}
	}
}
