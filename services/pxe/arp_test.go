package pxe

import (
	"net/netip"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

func TestARP(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.100")
	b := arpProbe([6]byte{0x52, 0x54, 0, 0, 0, 1}, a)
	if mac, sender, ok := arpSender(b); !ok || mac != known || !sender.IsUnspecified() || len(b) != arpLength || [4]byte(b[24:]) != a.As4() {
		t.Errorf("probe % x: %s %s %t", b, mac, sender, ok)
	}
	copy(b[14:], []byte{192, 0, 2, 100})
	if mac, sender, ok := arpSender(append(b, make([]byte, 18)...)); !ok || mac != known || sender != a {
		t.Errorf("padded packet: %s %s %t", mac, sender, ok)
	}
	for _, bad := range [][]byte{nil, b[:27], make([]byte, 28)} {
		if _, _, ok := arpSender(bad); ok {
			t.Errorf("% x is an ARP packet", bad)
		}
	}
}

func TestReadNeighbour(t *testing.T) {
	const table = `IP address       HW type     Flags       HW address            Mask     Device
192.0.2.101      0x1         0x2         52:54:00:00:00:01     *        eth0
192.0.2.102      0x1         0x0         00:00:00:00:00:00     *        eth0
192.0.2.1
`
	for a, want := range map[string]provisioning.MAC{"192.0.2.101": known, "192.0.2.102": "", "192.0.2.1": "", "192.0.2.10": ""} {
		if got, ok := readNeighbour(strings.NewReader(table), netip.MustParseAddr(a)); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %t", a, got, ok)
		}
	}
}
