package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestValidate(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for _, c := range []struct {
		config Config
		wrong  string
	}{
		{Config{DHCP: true}, ""},
		{Config{DHCP: true, VLAN: 4094, DNS: []netip.Addr{a("1.1.1.1")}}, ""},
		{Config{Address: p("10.0.0.5/24"), Gateway: a("10.0.0.1")}, ""},
		{Config{Address: p("fd00::5/64")}, ""},
		{Config{}, "neither DHCP nor an address"},
		{Config{DHCP: true, Address: p("10.0.0.5/24")}, "choose one"},
		{Config{DHCP: true, VLAN: 4095}, "VLAN 4095"},
		{Config{DHCP: true, VLAN: -1}, "VLAN -1"},
		{Config{DHCP: true, DNS: []netip.Addr{{}}}, "DNS"},
		{Config{Address: p("10.0.0.5/24"), Gateway: a("10.0.1.1")}, "not in the network"},
		{Config{Address: p("10.0.0.5/24"), Gateway: a("10.0.0.5")}, "own address"},
		{Config{Address: p("0.0.0.0/0")}, "no address of a machine"},
	} {
		err := c.config.Validate()
		if (err == nil) != (c.wrong == "") || (err != nil && !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.wrong)
		}
	}
}

func TestResolvConf(t *testing.T) {
	s := Status{Domain: "branch.example", DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	if got := resolvConf(s); got != "search branch.example\nnameserver 10.0.0.1\nnameserver fd00::1\n" {
		t.Errorf("got %q", got)
	}
	s.Domain = "evil\nnameserver 6.6.6.6"
	if got := resolvConf(s); strings.Contains(got, "6.6.6.6") {
		t.Errorf("got %q", got)
	}
}

func ack(t testing.TB, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3)), dhcpv4.WithServerIP(net.IPv4(10, 1, 2, 1)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 2, 1))), dhcpv4.WithNetmask(net.CIDRMask(20, 32)),
	}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseACK(t *testing.T) {
	l, err := parseACK(ack(t, dhcpv4.WithRouter(net.IPv4(10, 1, 2, 1), net.IPv4(10, 1, 2, 2)), dhcpv4.WithDNS(net.IPv4(10, 1, 2, 9), net.IPv4zero),
		dhcpv4.WithLeaseTime(3600), dhcpv4.WithOption(dhcpv4.OptDomainName("a.example")), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 220})))
	if err != nil {
		t.Fatal(err)
	}
	want := Status{
		Address: netip.MustParsePrefix("10.1.2.3/20"), Gateway: netip.MustParseAddr("10.1.2.1"), DNS: []netip.Addr{netip.MustParseAddr("10.1.2.9")},
		Server: netip.MustParseAddr("10.1.2.1"), Domain: "a.example", Lease: time.Hour, MTU: 1500,
	}
	if !reflect.DeepEqual(l.status, want) {
		t.Errorf("got %+v", l.status)
	}
	if l.renew != 30*time.Minute || l.rebind != 3150*time.Second {
		t.Errorf("renew %v, rebind %v", l.renew, l.rebind)
	}

	// Option 121 takes the place of the router; a network with router 0.0.0.0 is on the link.
	l, err = parseACK(ack(t, dhcpv4.WithRouter(net.IPv4(10, 1, 2, 1)), dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute,
		[]byte{0, 10, 1, 2, 7, 16, 172, 16, 10, 1, 2, 8, 24, 192, 168, 5, 0, 0, 0, 0})))
	if err != nil {
		t.Fatal(err)
	}
	if l.status.Gateway != netip.MustParseAddr("10.1.2.7") || !slices.Equal(l.routes, []route{
		{netip.MustParsePrefix("172.16.0.0/16"), netip.MustParseAddr("10.1.2.8")}, {to: netip.MustParsePrefix("192.168.5.0/24")},
	}) {
		t.Errorf("gateway %v, routes %v", l.status.Gateway, l.routes)
	}

	// Times that contradict each other are put right.
	for _, times := range [][3]uint32{{0, 0, 0}, {1, 0, 0}, {100, 200, 300}, {100, 90, 50}, {0xffffffff, 0, 0}, {100, 50, 0xffffffff}} {
		seconds := func(n uint32) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }
		l, err := parseACK(ack(t, dhcpv4.WithLeaseTime(times[0]), dhcpv4.WithGeneric(dhcpv4.OptionRenewTimeValue, seconds(times[1])),
			dhcpv4.WithGeneric(dhcpv4.OptionRebindingTimeValue, seconds(times[2]))))
		if err != nil || l.renew <= 0 || l.renew > l.rebind || l.rebind >= l.status.Lease || l.status.Lease > longestLease {
			t.Errorf("times %v: renew %v, rebind %v, lease %v, %v", times, l.renew, l.rebind, l.status.Lease, err)
		}
	}
	for name, m := range map[string]dhcpv4.Modifier{
		"no address":         dhcpv4.WithYourIP(net.IPv4zero),
		"multicast":          dhcpv4.WithYourIP(net.IPv4(224, 0, 0, 1)),
		"loopback":           dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1)),
		"netmask with holes": dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.IPMask{255, 0, 255, 0})),
		"netmask of nothing": dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.IPMask{0, 0, 0, 0})),
	} {
		if l, err := parseACK(ack(t, m)); err == nil {
			t.Errorf("%s was accepted: %+v", name, l.status)
		}
	}
}

func FuzzParseACK(f *testing.F) {
	f.Add(ack(f).ToBytes())
	f.Add(ack(f, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1, 2, 3}), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{1})).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := parseACK(p)
		if err != nil {
			return
		}
		if !l.status.Address.IsValid() || l.renew <= 0 || l.status.Lease < shortestLease || len(l.status.DNS) > maxServers {
			t.Fatalf("got %+v", l)
		}
		for _, r := range l.routes {
			if !r.to.IsValid() {
				t.Fatalf("route %+v", r)
			}
		}
		if text := resolvConf(l.status); strings.Count(text, "\n") > maxServers+1 {
			t.Fatalf("resolv.conf is %q", text)
		}
	})
}

func TestLinksAndUndriven(t *testing.T) {
	sysfs := t.TempDir()
	for name, content := range map[string]string{
		"class/net/eth0/type": "1\n", "class/net/eth0/address": "52:54:00:12:34:56\n", "class/net/eth0/flags": "0x1003\n",
		"class/net/eth0/carrier": "1\n", "class/net/eth0/speed": "1000\n", "class/net/eth0/device/x": "",
		"class/net/eth1/type": "1\n", "class/net/eth1/flags": "0x1002\n", "class/net/eth1/speed": "-1\n", "class/net/eth1/device/x": "",
		"class/net/lo/type": "772\n", "class/net/vlan5/type": "1\n",
		"class/net/wlan0/type": "1\n", "class/net/wlan0/device/x": "", "class/net/wlan0/phy80211/x": "",
		"bus/pci/devices/0000:00:03.0/class": "0x020000\n", "bus/pci/devices/0000:00:03.0/driver/x": "",
		"bus/pci/devices/0000:00:04.0/class": "0x020000\n", "bus/pci/devices/0000:00:04.0/vendor": "0x14c3\n", "bus/pci/devices/0000:00:04.0/device": "0x7902\n",
		"bus/pci/devices/0000:00:04.0/subsystem_vendor": "0x1af4\n", "bus/pci/devices/0000:00:04.0/subsystem_device": "0x1100\n",
		"bus/pci/devices/0000:00:07.0/class": "0x020000\n", "bus/pci/devices/0000:00:07.0/vendor": "0x10ec\n", "bus/pci/devices/0000:00:07.0/device": "0x8029\n",
		"bus/pci/devices/0000:00:07.0/subsystem_vendor": "0x0000\n", "bus/pci/devices/0000:00:07.0/subsystem_device": "0x0000\n",
		"bus/pci/devices/0000:00:05.0/class": "0x028000\n", "bus/pci/devices/0000:00:06.0/class": "0x010601\n",
	} {
		path := filepath.Join(sysfs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../../bus/pci/drivers/e1000e", filepath.Join(sysfs, "class/net/eth0/device/driver")); err != nil {
		t.Fatal(err)
	}
	links, err := readLinks(sysfs)
	want := []Link{
		{Name: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Driver: "e1000e", Up: true, Carrier: true, Speed: 1000},
		{Name: "eth1"},
	}
	if err != nil || !reflect.DeepEqual(links, want) {
		t.Errorf("links %+v, %v", links, err)
	}
	for selector, n := range map[string]int{"": 2, "eth1": 1, "52-54-00-12-34-56": 1, "52:54:00:12:34:57": 0, "wlan0": 0} {
		if got := choose(links, selector); len(got) != n {
			t.Errorf("selector %q chose %v", selector, got)
		}
	}
	cards, err := ReadCards(sysfs)
	if err != nil || cards.Driven != 2 || !slices.Equal(cards.IDs(), []string{"0000:00:04.0 [14c3:7902] subsystem [1af4:1100]", "0000:00:07.0 [10ec:8029]"}) {
		t.Errorf("cards %v, %v", cards, err)
	}
}
