package steps_test

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"branchpoint/provisioning"
	. "branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/memory"
)

func tree(t *testing.T, names ...string) *memory.Files {
	t.Helper()
	f := memory.NewFiles()
	for _, n := range names {
		if strings.HasSuffix(n, "/") {
			if err := f.Mkdir(n, 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := f.WriteFile(n, []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestDetectNetworkStack(t *testing.T) {
	const wants = "/etc/systemd/system/multi-user.target.wants/"
	for name, c := range map[string]struct {
		files []string
		want  NetworkStack
	}{
		"netplan drives others":            {[]string{"/usr/sbin/netplan", "/etc/netplan/", "/usr/sbin/NetworkManager", wants + "NetworkManager.service"}, Netplan},
		"netplan's directory alone":        {[]string{"/etc/netplan/", "/usr/sbin/ifup"}, Ifupdown},
		"enabled networkd, ifupdown there": {[]string{"/usr/lib/systemd/systemd-networkd", wants + "systemd-networkd.service", "/sbin/ifup"}, Networkd},
		"networkd not enabled":             {[]string{"/usr/lib/systemd/systemd-networkd", "/sbin/ifup"}, Ifupdown},
		"manager enabled":                  {[]string{"/usr/lib/systemd/systemd-networkd", wants + "systemd-networkd.service", "/usr/sbin/NetworkManager", wants + "NetworkManager.service"}, NetworkManager},
		"only installed":                   {[]string{"/usr/lib/systemd/systemd-networkd"}, Networkd},
		"nothing":                          {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DetectNetworkStack(tree(t, c.files...))
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

func TestRenderNetwork(t *testing.T) {
	static := provisioning.ApplyNetworkSettings{Address: "192.0.2.10/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.2", "192.0.2.3"}, Search: "example.org"}
	bare := provisioning.ApplyNetworkSettings{Address: "192.0.2.10/24"}
	dhcp := provisioning.ApplyNetworkSettings{DHCP: true}
	for name, c := range map[string]struct {
		stack NetworkStack
		n     provisioning.ApplyNetworkSettings
		path  string
		want  string
	}{
		"netplan static": {Netplan, static, "/etc/netplan/90-branchpoint.yaml", `network:
  version: 2
  ethernets:
    branchpoint:
      match: {macaddress: "52:54:00:12:34:56"}
      addresses: ["192.0.2.10/24"]
      routes:
        - {to: "default", via: "192.0.2.1"}
      nameservers:
        addresses: ["192.0.2.2", "192.0.2.3"]
        search: ["example.org"]
`},
		"netplan bare": {Netplan, bare, "/etc/netplan/90-branchpoint.yaml", "network:\n  version: 2\n  ethernets:\n    branchpoint:\n      match: {macaddress: \"52:54:00:12:34:56\"}\n      addresses: [\"192.0.2.10/24\"]\n"},
		"netplan dhcp": {Netplan, dhcp, "/etc/netplan/90-branchpoint.yaml", `network:
  version: 2
  ethernets:
    branchpoint-en:
      match: {name: "en*"}
      dhcp4: true
      optional: true
    branchpoint-eth:
      match: {name: "eth*"}
      dhcp4: true
      optional: true
`},
		"manager static": {NetworkManager, static, "/etc/NetworkManager/system-connections/branchpoint.nmconnection", `[connection]
id=branchpoint
type=ethernet

[ethernet]
mac-address=52:54:00:12:34:56

[ipv4]
method=manual
address1=192.0.2.10/24,192.0.2.1
dns=192.0.2.2;192.0.2.3;
dns-search=example.org;

[ipv6]
method=auto
`},
		"manager dhcp": {NetworkManager, dhcp, "/etc/NetworkManager/system-connections/branchpoint.nmconnection", "[connection]\nid=branchpoint\ntype=ethernet\nmulti-connect=3\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"},
		"networkd static": {Networkd, static, "/etc/systemd/network/05-branchpoint.network", `[Match]
MACAddress=52:54:00:12:34:56
Type=ether
Kind=!*

[Network]
Address=192.0.2.10/24
Gateway=192.0.2.1
DNS=192.0.2.2
DNS=192.0.2.3
Domains=example.org
`},
		"networkd dhcp": {Networkd, dhcp, "/etc/systemd/network/05-branchpoint.network", "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n"},
		"ifupdown static": {Ifupdown, static, "/etc/network/interfaces", `auto lo
iface lo inet loopback

auto /mac/52:54:00:12:34:56=branchpoint
iface branchpoint inet static
	address 192.0.2.10/24
	gateway 192.0.2.1
	dns-nameservers 192.0.2.2 192.0.2.3
	dns-search example.org
`},
		"ifupdown dhcp": {Ifupdown, dhcp, "/etc/network/interfaces", "auto lo\niface lo inet loopback\n\nallow-hotplug /en*=branchpoint /eth*=branchpoint\niface branchpoint inet dhcp\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := RenderNetwork(c.stack, c.n, "52:54:00:12:34:56")
			if err != nil || len(got) != 1 || got[0].Path != c.path || got[0].Content != c.want {
				t.Fatalf("%v %+v", err, got)
			}
			if strings.HasSuffix(c.path, ".yaml") {
				var doc map[string]any
				if err := yaml.Unmarshal([]byte(got[0].Content), &doc); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for name, n := range map[string]provisioning.ApplyNetworkSettings{
		"both": {DHCP: true, Address: "192.0.2.10/24"}, "neither": {}, "no prefix": {Address: "192.0.2.10"}, "ipv6": {Address: "2001:db8::1/64"},
		"gateway": {Address: "192.0.2.10/24", Gateway: "x\n[Evil]"}, "dns": {Address: "192.0.2.10/24", DNS: []string{"::1"}}, "search": {Address: "192.0.2.10/24", Search: "a\nb"},
	} {
		if got, err := RenderNetwork(Networkd, n, "52:54:00:12:34:56"); provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := RenderNetwork(Networkd, bare, ""); err == nil {
		t.Error("a fixed address was given to no card")
	}
}

func TestHosts(t *testing.T) {
	for name, c := range map[string]struct{ old, want string }{
		"empty":        {"", "127.0.0.1\tlocalhost\n127.0.1.1\tpc\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		"replaced":     {"127.0.0.1 localhost\n127.0.1.1 old.example old\n192.0.2.1 srv\n", "127.0.0.1 localhost\n127.0.1.1\tpc\n192.0.2.1 srv\n"},
		"added":        {"# mine\n127.0.0.1 localhost\n192.0.2.1 srv", "# mine\n127.0.0.1 localhost\n127.0.1.1\tpc\n192.0.2.1 srv\n"},
		"twice":        {"127.0.1.1 a\n127.0.1.1 b\n", "127.0.1.1\tpc\n"},
		"no localhost": {"192.0.2.1 srv\n", "127.0.1.1\tpc\n192.0.2.1 srv\n"},
	} {
		if got := Hosts(c.old, "pc"); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		if got := Hosts(Hosts(c.old, "other"), "pc"); got != c.want {
			t.Errorf("%s, again: %q", name, got)
		}
	}
}

func TestFstab(t *testing.T) {
	got := Fstab([]Volume{
		{Device: "/dev/sda1", Type: provisioning.PartitionBIOSBoot},
		{Device: "/dev/sda2", UUID: "AAAA-BBBB", FileSystem: provisioning.FileSystemVFAT, Mount: "/boot/efi"},
		{Device: "/dev/sda3", UUID: "swap-id", FileSystem: provisioning.FileSystemSwap},
		{Device: "/dev/sda4", UUID: "home-id", FileSystem: provisioning.FileSystemExt4, Mount: "/home"},
		{Device: "/dev/sda5", UUID: "root-id", FileSystem: provisioning.FileSystemExt4, Mount: "/"},
		{Device: "/dev/sda6", UUID: "raw-id", FileSystem: provisioning.FileSystemExt4},
	})
	want := `# <file system> <mount point> <type> <options> <dump> <pass>
UUID=root-id / ext4 errors=remount-ro 0 1
UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 2
UUID=home-id /home ext4 defaults 0 2
UUID=swap-id none swap sw 0 0
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}
