package steps

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// NetworkStack is what configures the network of an installed system.
type NetworkStack string

// The network stacks that Apply Network Settings can configure.
const (
	Netplan        NetworkStack = "netplan"
	NetworkManager NetworkStack = "NetworkManager"
	Networkd       NetworkStack = "systemd-networkd"
	Ifupdown       NetworkStack = "ifupdown"
)

// File is a file to write.
type File struct {
	Path    string
	Mode    fs.FileMode
	Content string
}

// applyNetwork writes the installed system's network configuration.
func (r *Runner) applyNetwork(n provisioning.ApplyNetworkSettings) sequence.Result {
	if err := r.needInstalled(); err != nil {
		return failed(err)
	}
	target := r.system.Target()
	stack, err := DetectNetworkStack(target)
	if err != nil {
		return failed(err)
	}
	files, err := RenderNetwork(stack, n, r.system.Firmware().BootMAC)
	if err != nil {
		return failed(err)
	}
	aside, err := setAside(target, stack)
	if err != nil {
		return failed(err)
	}
	for _, f := range files {
		if err := target.WriteFile(f.Path, []byte(f.Content), f.Mode); err != nil {
			return failed(fmt.Errorf("write %s: %w", f.Path, err))
		}
	}
	if err := r.resolver(target, stack, n); err != nil {
		return failed(err)
	}
	// cloud-init, where the image has it, would write a network configuration of its own at the next boot.
	if anyFile(target, "/etc/cloud/cloud.cfg.d") {
		const name = "/etc/cloud/cloud.cfg.d/99-branchpoint-network.cfg"
		if err := target.WriteFile(name, []byte("network: {config: disabled}\n"), 0o644); err != nil {
			return failed(fmt.Errorf("write %s: %w", name, err))
		}
	}
	text := fmt.Sprintf("The network was configured for %s.", stack)
	if len(aside) > 0 {
		text += fmt.Sprintf(" What the image had was set aside: %s.", strings.Join(aside, ", "))
	}
	return sequence.Result{Text: text}
}

// DetectNetworkStack finds out which stack configures the system's network: netplan, which drives the others, then what
// is enabled, then what is installed.
func DetectNetworkStack(f Files) (NetworkStack, error) {
	enabled := func(unit string) bool {
		for _, dir := range []string{"multi-user.target.wants", "network-online.target.wants", "sysinit.target.wants"} {
			if _, err := f.Lstat("/etc/systemd/system/" + dir + "/" + unit); err == nil {
				return true
			}
		}
		return false
	}
	networkd := anyFile(f, "/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd")
	manager := anyProgram(f, "NetworkManager")
	ifup := anyProgram(f, "ifup")
	switch {
	case anyProgram(f, "netplan") && anyFile(f, "/etc/netplan"):
		return Netplan, nil
	case manager && enabled("NetworkManager.service"):
		return NetworkManager, nil
	case networkd && enabled("systemd-networkd.service"):
		return Networkd, nil
	case ifup:
		return Ifupdown, nil
	case manager:
		return NetworkManager, nil
	case networkd:
		return Networkd, nil
	}
	return "", provisioning.Errorf(provisioning.CodeInvalid, "Build the image with one of netplan, NetworkManager, systemd-networkd or ifupdown.",
		"the installed system has no network configuration that can be written")
}

// RenderNetwork writes the configuration for a stack. A fixed address is for the network card whose address is mac: the
// one the computer was started from.
func RenderNetwork(stack NetworkStack, n provisioning.ApplyNetworkSettings, mac provisioning.MAC) ([]File, error) {
	if n.DHCP == (n.Address != "") {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "give either dhcp: true or an address")
	}
	if !n.DHCP {
		if err := checkStatic(n); err != nil {
			return nil, err
		}
		if mac == "" {
			return nil, provisioning.Errorf(provisioning.CodeInvalid, "Start the computer from the network, or use DHCP.",
				"it is not known which network card the computer was started from, so none can be given %s", n.Address)
		}
	}
	switch stack {
	case Netplan:
		return []File{{"/etc/netplan/90-branchpoint.yaml", 0o600, netplan(n, mac)}}, nil
	case NetworkManager:
		return []File{{"/etc/NetworkManager/system-connections/branchpoint.nmconnection", 0o600, networkManager(n, mac)}}, nil
	case Networkd:
		return []File{{"/etc/systemd/network/05-branchpoint.network", 0o644, networkd(n, mac)}}, nil
	case Ifupdown:
		return []File{{"/etc/network/interfaces", 0o644, ifupdown(n, mac)}}, nil
	}
	return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "network stack %q is not known", stack)
}

// checkStatic checks addresses once more: variables may have been replaced in them.
func checkStatic(n provisioning.ApplyNetworkSettings) error {
	if p, err := netip.ParsePrefix(n.Address); err != nil || !p.Addr().Is4() {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "%q is no IPv4 address with prefix length", n.Address)
	}
	for _, s := range append([]string{n.Gateway}, n.DNS...) {
		if s == "" {
			continue
		}
		if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
			return provisioning.Errorf(provisioning.CodeInvalid, "", "%q is no IPv4 address", s)
		}
	}
	if strings.ContainsAny(n.Search, " \t\r\n\"'#;,[]") {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "%q is no domain name", n.Search)
	}
	return nil
}

func netplan(n provisioning.ApplyNetworkSettings, mac provisioning.MAC) string {
	var b strings.Builder
	b.WriteString("network:\n  version: 2\n  ethernets:\n")
	if n.DHCP {
		b.WriteString("    branchpoint-en:\n      match: {name: \"en*\"}\n      dhcp4: true\n      optional: true\n")
		b.WriteString("    branchpoint-eth:\n      match: {name: \"eth*\"}\n      dhcp4: true\n      optional: true\n")
		return b.String()
	}
	fmt.Fprintf(&b, "    branchpoint:\n      match: {macaddress: %q}\n      addresses: [%q]\n", string(mac), n.Address)
	if n.Gateway != "" {
		fmt.Fprintf(&b, "      routes:\n        - {to: \"default\", via: %q}\n", n.Gateway)
	}
	if len(n.DNS) > 0 || n.Search != "" {
		b.WriteString("      nameservers:\n")
		if len(n.DNS) > 0 {
			fmt.Fprintf(&b, "        addresses: [%s]\n", quoted(n.DNS))
		}
		if n.Search != "" {
			fmt.Fprintf(&b, "        search: [%q]\n", n.Search)
		}
	}
	return b.String()
}

func quoted(list []string) string {
	var q []string
	for _, s := range list {
		q = append(q, fmt.Sprintf("%q", s))
	}
	return strings.Join(q, ", ")
}

func networkManager(n provisioning.ApplyNetworkSettings, mac provisioning.MAC) string {
	var b strings.Builder
	b.WriteString("[connection]\nid=branchpoint\ntype=ethernet\n")
	if n.DHCP {
		// Not bound to a card, and for as many of them as there are.
		b.WriteString("multi-connect=3\n\n[ipv4]\nmethod=auto\n")
	} else {
		fmt.Fprintf(&b, "\n[ethernet]\nmac-address=%s\n\n[ipv4]\nmethod=manual\naddress1=%s", strings.ToUpper(string(mac)), n.Address)
		if n.Gateway != "" {
			b.WriteString("," + n.Gateway)
		}
		b.WriteString("\n")
		if len(n.DNS) > 0 {
			fmt.Fprintf(&b, "dns=%s;\n", strings.Join(n.DNS, ";"))
		}
		if n.Search != "" {
			fmt.Fprintf(&b, "dns-search=%s;\n", n.Search)
		}
	}
	b.WriteString("\n[ipv6]\nmethod=auto\n")
	return b.String()
}

func networkd(n provisioning.ApplyNetworkSettings, mac provisioning.MAC) string {
	var b strings.Builder
	if n.DHCP {
		b.WriteString("[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n")
		return b.String()
	}
	fmt.Fprintf(&b, "[Match]\nMACAddress=%s\nType=ether\nKind=!*\n\n[Network]\nAddress=%s\n", mac, n.Address)
	if n.Gateway != "" {
		fmt.Fprintf(&b, "Gateway=%s\n", n.Gateway)
	}
	for _, a := range n.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", a)
	}
	if n.Search != "" {
		fmt.Fprintf(&b, "Domains=%s\n", n.Search)
	}
	return b.String()
}

// ifupdown matches network cards by patterns (interfaces(5), "Pattern matching interfaces"): their names in the
// installed system may differ from those in the boot image.
func ifupdown(n provisioning.ApplyNetworkSettings, mac provisioning.MAC) string {
	var b strings.Builder
	b.WriteString("auto lo\niface lo inet loopback\n\n")
	if n.DHCP {
		b.WriteString("allow-hotplug /en*=branchpoint /eth*=branchpoint\niface branchpoint inet dhcp\n")
		return b.String()
	}
	fmt.Fprintf(&b, "auto /mac/%s=branchpoint\niface branchpoint inet static\n\taddress %s\n", mac, n.Address)
	if n.Gateway != "" {
		fmt.Fprintf(&b, "\tgateway %s\n", n.Gateway)
	}
	if len(n.DNS) > 0 {
		fmt.Fprintf(&b, "\tdns-nameservers %s\n", strings.Join(n.DNS, " "))
	}
	if n.Search != "" {
		fmt.Fprintf(&b, "\tdns-search %s\n", n.Search)
	}
	return b.String()
}

// asideSuffix marks configuration that the step replaced; no stack reads files of this name.
const asideSuffix = ".before-branchpoint"

// setAside renames configuration of the image's that would contradict the step's, and gives the names.
func setAside(f Files, stack NetworkStack) ([]string, error) {
	dir, suffix := "", ""
	switch stack {
	case Netplan:
		dir, suffix = "/etc/netplan", ".yaml"
	case NetworkManager:
		dir, suffix = "/etc/NetworkManager/system-connections", ".nmconnection"
	case Ifupdown:
		dir, suffix = "/etc/network", "interfaces"
	case Networkd:
		return nil, nil // the first file that matches wins, and ours sorts first
	}
	names, err := f.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var aside []string
	for _, n := range names {
		if !strings.HasSuffix(n, suffix) || strings.Contains(n, "branchpoint") || (stack == Ifupdown && n != suffix) {
			continue
		}
		from := dir + "/" + n
		if err := f.Rename(from, from+asideSuffix); err != nil {
			return nil, fmt.Errorf("set %s aside: %w", from, err)
		}
		aside = append(aside, from)
	}
	return aside, nil
}

// resolver writes /etc/resolv.conf where the stack leaves name servers to others, and nobody else writes it.
func (r *Runner) resolver(f Files, stack NetworkStack, n provisioning.ApplyNetworkSettings) error {
	if n.DHCP || len(n.DNS) == 0 || (stack != Networkd && stack != Ifupdown) {
		return nil
	}
	const name = "/etc/resolv.conf"
	if fi, err := f.Lstat(name); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		return nil // systemd-resolved or resolvconf
	}
	var b strings.Builder
	for _, a := range n.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if n.Search != "" {
		fmt.Fprintf(&b, "search %s\n", n.Search)
	}
	if err := f.WriteFile(name, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
