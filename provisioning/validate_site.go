package provisioning

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

func (c *checker) site(s *SiteSpec) {
	const at = "$.spec"
	c.description(s.Description)
	if _, err := s.Location(); err != nil {
		c.add(at+".timeZone", "timeZone: %v", err)
	}
	c.boundaries(at+".boundaries", s.Boundaries)
	if len(s.Admins) > 8 {
		c.add(at+".admins", "there are %d admins; at most 8 are shown", len(s.Admins))
	}
	for i, a := range s.Admins {
		c.line(item(at+".admins", i), "an admin", a)
		if strings.TrimSpace(a) == "" {
			c.add(item(at+".admins", i), "write a name, and how to reach them: Jo Miller, +44 20 7946 0000")
		}
	}
	if t := s.Texts; t != nil {
		c.line(at+".texts.organization", "organization", t.Organization)
		c.line(at+".texts.welcome", "welcome", t.Welcome)
		c.line(at+".texts.help", "help", t.Help)
	}
	if s.PXE != nil {
		c.pxe(at+".pxe", s.PXE)
	}
	if d := s.DistributionPoint; d != nil {
		c.distributionPoint(at+".distributionPoint", d)
	}
	if m := s.StateMigrationPoint; m != nil {
		c.stateMigrationPoint(at+".stateMigrationPoint", m)
	}
	if m := s.Media; m != nil {
		c.between(at+".media", "maxValidDays", m.MaxValidDays, 0, 3650)
	}
}

// boundaries checks a site's subnets and writes them in their canonical form. Those of several sites are compared by
// Catalog.Check.
func (c *checker) boundaries(path string, boundaries []string) {
	c.atMost(path, "boundaries", len(boundaries), 1000)
	var known []netip.Prefix
	for i, text := range boundaries {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			c.add(item(path, i), "%q is no subnet; write it as 10.1.0.0/16 or 2001:db8::/32", clip(text))
			continue
		case p.Addr().Is4In6():
			c.add(item(path, i), "%s is IPv4 written as IPv6; write it as 10.1.0.0/16", p)
			continue
		case p != p.Masked():
			c.add(item(path, i), "%s is an address in a subnet; the subnet is %s", p, p.Masked())
			continue
		}
		for _, o := range known {
			if o.Overlaps(p) {
				c.add(item(path, i), "%s overlaps with %s of the same site; one of them says it all", p, o)
			}
		}
		known = append(known, p)
		boundaries[i] = p.String()
	}
}

var interfaceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,14}$`) // what Linux takes, without what nobody uses

func (c *checker) pxe(at string, p *PXERole) {
	switch p.Mode {
	case PXEModeProxy:
		if p.DHCP != nil {
			c.add(at+".dhcp", "dhcp is for mode dhcp; in mode proxy the site's own DHCP server hands out addresses")
		}
	case PXEModeDHCP:
		if p.DHCP == nil {
			c.add(at+".mode", "mode dhcp needs a dhcp section with rangeStart and rangeEnd")
		} else {
			c.pool(p.DHCP)
		}
	default:
		c.add(at+".mode", "mode is %q; write proxy (beside a DHCP server) or dhcp (be the DHCP server)", clip(string(p.Mode)))
	}
	for i, n := range p.Interfaces {
		if !interfaceForm.MatchString(n) {
			c.add(item(at+".interfaces", i), "%q is no name of a network interface such as eth0", clip(n))
		}
	}
	unique(c, at+".interfaces", p.Interfaces)
	if p.ResponseDelaySeconds < 0 || p.ResponseDelaySeconds > 32 {
		c.add(at+".responseDelaySeconds", "responseDelaySeconds is %d; 0 to 32 is possible, firmware gives up later", p.ResponseDelaySeconds)
	}
	if u := p.UnknownComputers; u != nil && u.NamePattern != "" {
		c.namePattern(at+".unknownComputers.namePattern", u.NamePattern)
	}
	if p.PasswordHash != "" {
		if _, err := ParsePasswordHash(p.PasswordHash); err != nil {
			c.add(at+".passwordHash", "passwordHash: %v; make it with: branchpoint password", err)
		}
	}
	switch p.SecretsAfter {
	case "", SecretsAfterApproval, SecretsAfterTPM, SecretsKnown:
	case SecretsAfterPassword:
		if p.PasswordHash == "" {
			c.add(at+".secretsAfter", "secretsAfter: %s needs a passwordHash; make it with: branchpoint password", SecretsAfterPassword)
		}
	default:
		c.add(at+".secretsAfter", "secretsAfter is %q; write %s, %s, %s or %s", clip(string(p.SecretsAfter)), SecretsAfterPassword, SecretsAfterApproval, SecretsAfterTPM, SecretsKnown)
	}
	c.macs(at+".ignore", p.Ignore)
	c.macs(at+".sharedAdapters", p.SharedAdapters)
	c.between(at, "wipesPerHour", p.WipesPerHour, 0, 100000)
}

// namePattern checks that a pattern makes host names that tell computers apart.
func (c *checker) namePattern(path, pattern string) {
	fixed := strings.NewReplacer("%mac%", "", "%serial%", "", "%assetTag%", "").Replace(pattern)
	name := strings.NewReplacer("%mac%", "0", "%serial%", "0", "%assetTag%", "0").Replace(pattern)
	switch {
	case strings.Contains(fixed, "%"):
		c.add(path, "namePattern %q: only %%mac%%, %%serial%% and %%assetTag%% are replaced", clip(pattern))
	case fixed == pattern:
		c.add(path, "namePattern %q gives every computer the same name; put %%mac%%, %%serial%% or %%assetTag%% in", clip(pattern))
	case !ValidHostName(name) || len(fixed) > maxFixedName:
		c.add(path, "namePattern %q makes no host names: letters, digits and hyphens only, at most %d beside what is replaced", clip(pattern), maxFixedName)
	}
}

// maxFixedName is how long a name pattern may be beside what is replaced: a MAC address still fits into a host name.
const maxFixedName = 40

func (c *checker) distributionPoint(at string, d *DistributionPointRole) {
	c.between(at, "quotaGiB", d.QuotaGiB, 0, 1<<20)
	c.windows(at+".windows", d.Windows)
	c.between(at, "rateMbps", d.RateMbps, 0, 1000000)
	c.between(at, "connections", d.Connections, 0, 1000)
}

func (c *checker) stateMigrationPoint(at string, m *StateMigrationPointRole) {
	if len(m.Folders) == 0 {
		c.add(at+".folders", "a state migration point needs at least one folder")
	}
	c.atMost(at+".folders", "folders", len(m.Folders), 100)
	seen := map[string]bool{}
	for i, f := range m.Folders {
		path := item(at+".folders", i)
		if !folderForm.MatchString(f.Path) || strings.Contains("/"+f.Path+"/", "/./") || strings.Contains("/"+f.Path+"/", "/../") {
			c.add(path+".path", "%q is no folder below the data disk's folder of states; write it as states or fast/states", clip(f.Path))
		} else if seen[f.Path] {
			c.add(path+".path", "%s is listed twice", f.Path)
		}
		seen[f.Path] = true
		c.between(path, "maxClients", f.MaxClients, 0, 1000000)
		c.between(path, "minFreeGiB", f.MinFreeGiB, 0, 1<<20)
	}
	c.between(at, "deleteAfterHours", m.DeleteAfterHours, 0, 10*366*24)
}

// folderForm is a relative path with slashes, without empty parts.
var folderForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,7}$`)

// windows checks windows of time.
func (c *checker) windows(path string, windows []Window) {
	c.atMost(path, "windows", len(windows), 100)
	for i, w := range windows {
		at := item(path, i)
		for j, d := range w.Days {
			if !slices.Contains(Weekdays, d) {
				c.add(item(at+".days", j), "%q is no day; write mon, tue, wed, thu, fri, sat or sun", clip(string(d)))
			}
		}
		unique(c, at+".days", w.Days)
		for field, text := range map[string]string{"from": w.From, "to": w.To} {
			if _, err := ParseTimeOfDay(text); err != nil {
				c.add(at+"."+field, "%s: %v", field, err)
			}
		}
	}
}

// macs checks MAC addresses and brings them into their canonical form.
func (c *checker) macs(path string, macs []MAC) {
	for i, m := range macs {
		mac, err := ParseMAC(string(m))
		if err != nil {
			c.add(item(path, i), "%v", err)
			continue
		}
		macs[i] = mac
	}
	unique(c, path, macs)
}

func (c *checker) pool(d *DHCPPool) {
	const at = "$.spec.pxe.dhcp"
	c.addresses(at, netip.Prefix{}, d.RangeStart, d.RangeEnd, d.Router, d.DNS, d.LeaseMinutes)
	var subnets []netip.Prefix
	for i, r := range d.Relayed {
		subnets = append(subnets, c.relayed(fmt.Sprintf("%s.relayed[%d]", at, i), &r, subnets))
	}
	for i, p := range subnets {
		for _, a := range []string{d.RangeStart, d.RangeEnd} {
			if own, err := netip.ParseAddr(a); err == nil && p.Contains(own) {
				c.add(fmt.Sprintf("%s.relayed[%d].subnet", at, i), "subnet %s holds %s of the appliance's own pool; relayed networks are other ones", p, own)
				break
			}
		}
	}
}

// relayed checks a pool behind a relay agent and returns its subnet, the zero one where it has none. others are the
// subnets of the pools before it.
func (c *checker) relayed(at string, r *RelayedPool, others []netip.Prefix) netip.Prefix {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil || !subnet.Addr().Is4() || subnet != subnet.Masked() || subnet.Bits() < 8 || subnet.Bits() > 30 {
		c.add(at+".subnet", "%q is no IPv4 network of 8 to 30 bits; write it as 10.8.0.0/24", clip(r.Subnet))
		subnet = netip.Prefix{}
	}
	for _, o := range others {
		if subnet.IsValid() && o.Overlaps(subnet) {
			c.add(at+".subnet", "subnet %s overlaps with %s: a request could belong to either", subnet, o)
		}
	}
	if r.Router == "" {
		c.add(at+".router", "a relayed pool needs a router: clients reach the appliance through it")
	}
	c.addresses(at, subnet, r.RangeStart, r.RangeEnd, r.Router, r.DNS, r.LeaseMinutes)
	return subnet
}

// addresses checks what a DHCP pool at a path consists of; subnet, where it is valid, must hold range and router.
func (c *checker) addresses(at string, subnet netip.Prefix, rangeStart, rangeEnd, router string, dns []string, minutes int) {
	inside := func(field, s string) (netip.Addr, bool) {
		a, ok := c.ipv4(at+"."+field, s)
		if ok && subnet.IsValid() && !subnet.Contains(a) {
			c.add(at+"."+field, "%s %s lies outside of subnet %s", field, a, subnet)
			return a, false
		}
		return a, ok
	}
	start, ok1 := inside("rangeStart", rangeStart)
	end, ok2 := inside("rangeEnd", rangeEnd)
	if ok1 && ok2 && end.Less(start) {
		c.add(at+".rangeEnd", "rangeEnd %s lies before rangeStart %s", end, start)
	}
	if router != "" {
		inside("router", router)
	}
	for i, a := range dns {
		c.ipv4(item(at+".dns", i), a)
	}
	if minutes != 0 && (minutes < 2 || minutes > 10080) {
		c.add(at+".leaseMinutes", "leaseMinutes is %d; 2 to 10080 is possible", minutes)
	}
}
