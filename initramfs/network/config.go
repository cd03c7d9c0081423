// Package network configures a machine's wired network: it brings links up, waits for a carrier, asks by DHCP or sets
// fixed addresses, on a VLAN where asked, and keeps the lease.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Config says how one interface is configured. The zero value is DHCP's opposite and invalid; the usual is {DHCP: true}.
type Config struct {
	// Interface is a name (eth0), a MAC address, or empty: then every wired interface is tried, and the first that works is
	// taken.
	Interface string
	// VLAN is an 802.1Q identifier, 1 to 4094; 0 is none.
	VLAN int
	// DHCP asks a server. Otherwise Address is set.
	DHCP bool
	// Address with its prefix length, Gateway and DNS of a fixed configuration. Gateway may be left out. With DHCP, DNS
	// takes the place of the servers it names.
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
	// Hostname is sent to the DHCP server; may be empty.
	Hostname string
	// Timeout is how long Configure tries; zero is DefaultTimeout.
	Timeout time.Duration
	// Changed is called when DHCP later changes or withdraws the configuration (Address invalid). It may be nil.
	Changed func(Status)
}

// DefaultTimeout covers switches that block a port for up to 50 s after the link comes up (spanning tree, IEEE 802.1D-1998
// table 8-3: listening and learning 15 s each after 20 s of maximum age).
const DefaultTimeout = 90 * time.Second

// Status is what has been configured.
type Status struct {
	Interface string
	MAC       net.HardwareAddr
	Address   netip.Prefix
	Gateway   netip.Addr // invalid if there is none
	DNS       []netip.Addr
	// Of DHCP, otherwise empty.
	Server   netip.Addr
	Domain   string
	Hostname string
	NTP      []netip.Addr
	Lease    time.Duration
	MTU      int // 0: not said
}

// Validate reports all that is wrong with the configuration.
func (c Config) Validate() error {
	var wrong []error
	if c.VLAN < 0 || c.VLAN > 4094 {
		wrong = append(wrong, fmt.Errorf("VLAN %d is not between 1 and 4094", c.VLAN))
	}
	for _, a := range c.DNS {
		if !a.IsValid() {
			wrong = append(wrong, errors.New("a DNS server's address is empty"))
		}
	}
	if c.DHCP {
		if c.Address.IsValid() {
			wrong = append(wrong, fmt.Errorf("address %s is given, and DHCP as well: choose one", c.Address))
		}
		return errors.Join(wrong...)
	}
	switch {
	case !c.Address.IsValid():
		wrong = append(wrong, errors.New("neither DHCP nor an address with prefix length is given"))
	case c.Address.Addr().IsUnspecified() || c.Address.Addr().IsMulticast():
		wrong = append(wrong, fmt.Errorf("%s is no address of a machine", c.Address))
	case c.Gateway.IsValid() && !c.Address.Contains(c.Gateway):
		wrong = append(wrong, fmt.Errorf("gateway %s is not in the network of %s", c.Gateway, c.Address))
	case c.Gateway == c.Address.Addr():
		wrong = append(wrong, fmt.Errorf("gateway %s is the machine's own address", c.Gateway))
	}
	return errors.Join(wrong...)
}

// resolvConf is the content of /etc/resolv.conf. Domains come from the network, so what is not a host name is left out.
func resolvConf(s Status) string {
	var b strings.Builder
	if validDomain(s.Domain) {
		fmt.Fprintf(&b, "search %s\n", s.Domain)
	}
	for _, a := range s.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}

func validDomain(d string) bool {
	if d == "" || len(d) > 253 {
		return false
	}
	for _, c := range d {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
