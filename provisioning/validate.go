package provisioning

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// checkName checks the name of a document or package.
func checkName(s string) error {
	if s == "" {
		return fmt.Errorf("the name is missing")
	}
	if !nameForm.MatchString(s) {
		return fmt.Errorf("name %q: use letters, digits, dots, hyphens and underscores, at most 63, beginning with a letter or digit", clip(s))
	}
	return nil
}

// CheckName reports whether s can name a document or a content package.
func CheckName(s string) error {
	if err := checkName(s); err != nil {
		return Errorf(CodeInvalid, "", "%w", err)
	}
	return nil
}

// hostForm is a host name's label (RFC 1123 section 2.1).
var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// ValidHostName reports whether s can be a computer's name: one label of RFC 1123.
func ValidHostName(s string) bool { return hostForm.MatchString(s) }

// checker collects the problems of one document.
type checker struct {
	file     string
	node     ast.Node
	problems Problems
}

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, problemAt(c.file, c.node, path, fmt.Sprintf(format, args...)))
}

// validate checks a document by itself; what it refers to is checked by Catalog.Check. It also brings addresses into
// their canonical form.
func (o *Object) validate() Problems {
	c := &checker{file: o.file, node: o.node}
	switch o.Kind {
	case KindSite:
		c.site(&o.Site.Spec)
	case KindComputer:
		c.computer(o.Computer)
	case KindOperatingSystemImage:
		s := o.OperatingSystemImage.Spec
		if err := checkName(s.Package); err != nil {
			c.add("$.spec.package", "package: %v", err)
		}
		if s.Version < 0 {
			c.add("$.spec.version", "version counts from 1; leave it out for the newest")
		}
	case KindTaskSequence:
		c.sequence(&o.TaskSequence.Spec)
	case KindAdvertisement:
		c.advertisement(&o.Advertisement.Spec)
	}
	return c.problems
}

func (c *checker) site(s *SiteSpec) {
	p := s.PXE
	if p == nil {
		return
	}
	if p.ResponseDelaySeconds < 0 || p.ResponseDelaySeconds > 32 {
		c.add("$.spec.pxe.responseDelaySeconds", "responseDelaySeconds is %d; 0 to 32 is possible, firmware gives up later", p.ResponseDelaySeconds)
	}
	switch p.Mode {
	case PXEModeProxy:
		if p.DHCP != nil {
			c.add("$.spec.pxe.dhcp", "dhcp is for mode dhcp; in mode proxy the site's own DHCP server hands out addresses")
		}
	case PXEModeDHCP:
		if p.DHCP == nil {
			c.add("$.spec.pxe.mode", "mode dhcp needs a dhcp section with rangeStart and rangeEnd")
			return
		}
		c.pool(p.DHCP)
	default:
		c.add("$.spec.pxe.mode", "mode is %q; write proxy (beside a DHCP server) or dhcp (be the DHCP server)", clip(string(p.Mode)))
	}
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
		c.ipv4(fmt.Sprintf("%s.dns[%d]", at, i), a)
	}
	if minutes != 0 && (minutes < 2 || minutes > 10080) {
		c.add(at+".leaseMinutes", "leaseMinutes is %d; 2 to 10080 is possible", minutes)
	}
}

func (c *checker) ipv4(path, s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		c.add(path, "%q is no IPv4 address", clip(s))
		return a, false
	}
	return a, true
}

func (c *checker) computer(o *Computer) {
	s := &o.Spec
	if !ValidHostName(o.Name) {
		c.add("$.metadata.name", "%q cannot be a host name: letters, digits and hyphens only", clip(o.Name))
	}
	if len(s.MACAddresses) == 0 && s.SMBIOSGUID == "" {
		c.add("$.spec", "a computer is known by macAddresses or smbiosGUID; give at least one")
	}
	seen := map[MAC]bool{}
	for i, m := range s.MACAddresses {
		mac, err := ParseMAC(string(m))
		if err != nil {
			c.add(fmt.Sprintf("$.spec.macAddresses[%d]", i), "%v", err)
			continue
		}
		if seen[mac] {
			c.add(fmt.Sprintf("$.spec.macAddresses[%d]", i), "%s is listed twice", mac)
		}
		seen[mac] = true
		s.MACAddresses[i] = mac
	}
	if s.SMBIOSGUID != "" {
		g, err := ParseGUID(string(s.SMBIOSGUID))
		switch {
		case err != nil:
			c.add("$.spec.smbiosGUID", "%v", err)
		case g == "":
			c.add("$.spec.smbiosGUID", "%s is no GUID of one computer: firmware without one says that", s.SMBIOSGUID)
		}
		s.SMBIOSGUID = g
	}
	c.variables("$.spec.variables", s.Variables)
}

var variableForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,127}$`)

func (c *checker) variables(path string, vars map[string]string) {
	for name := range vars {
		switch {
		case !variableForm.MatchString(name):
			c.add(path, "variable %q: use letters, digits and underscores, beginning with a letter", clip(name))
		case strings.HasPrefix(strings.ToUpper(name), "_SMSTS"):
			c.add(path, "variable %q is read-only: it is set by the task sequence itself", name)
		}
	}
}

func (c *checker) advertisement(s *AdvertisementSpec) {
	if err := checkName(s.TaskSequence); err != nil {
		c.add("$.spec.taskSequence", "taskSequence: %v", err)
	}
	if len(s.Computers) == 0 {
		c.add("$.spec.computers", "computers is empty: the advertisement is for nobody")
	}
	seen := map[string]bool{}
	for i, n := range s.Computers {
		if seen[n] {
			c.add(fmt.Sprintf("$.spec.computers[%d]", i), "%s is listed twice", n)
		}
		seen[n] = true
	}
	if s.Purpose != PurposeRequired {
		c.add("$.spec.purpose", "purpose is %q; write %s", clip(string(s.Purpose)), PurposeRequired)
	}
	for path, t := range map[string]Time{"$.spec.start": s.Start, "$.spec.expires": s.Expires} {
		if t.malformed != "" {
			c.add(path, "%q is no time such as 2026-11-20T08:00:00Z", clip(t.malformed))
		}
	}
	if !s.Start.IsZero() && !s.Expires.IsZero() && !s.Start.Before(s.Expires.Time) {
		c.add("$.spec.expires", "it expires before it starts")
	}
}

func (c *checker) sequence(s *TaskSequenceSpec) {
	if len(s.Steps) == 0 {
		c.add("$.spec.steps", "steps is empty: the sequence does nothing")
	}
	c.variables("$.spec.variables", s.Variables)
	for i := range s.Steps {
		c.step(fmt.Sprintf("$.spec.steps[%d]", i), &s.Steps[i], i == len(s.Steps)-1)
	}
}

func (c *checker) step(path string, s *Step, last bool) {
	if len(s.Name) > 128 {
		c.add(path+".name", "a step's name has at most 128 characters")
	}
	switch acts := s.actions(); len(acts) {
	case 0:
		c.add(path, "the step does nothing; add one of partitionDisk, applyOperatingSystemImage, applyNetworkSettings, applyOperatingSystemSettings, runCommandLine, restart")
		return
	case 1:
	default:
		c.add(path, "the step has %d actions (%s); make a step of each", len(acts), strings.Join(acts, ", "))
		return
	}
	switch {
	case s.PartitionDisk != nil:
		c.partitions(path+".partitionDisk", s.PartitionDisk)
	case s.ApplyOperatingSystemImage != nil:
		if err := checkName(s.ApplyOperatingSystemImage.Image); err != nil {
			c.add(path+".applyOperatingSystemImage.image", "image: %v", err)
		}
		c.disk(path+".applyOperatingSystemImage.disk", s.ApplyOperatingSystemImage.Disk)
	case s.ApplyNetworkSettings != nil:
		c.network(path+".applyNetworkSettings", s.ApplyNetworkSettings)
	case s.ApplyOperatingSystemSettings != nil:
		c.settings(path+".applyOperatingSystemSettings", s.ApplyOperatingSystemSettings)
	case s.RunCommandLine != nil:
		r := s.RunCommandLine
		p := path + ".runCommandLine"
		if strings.TrimSpace(r.Command) == "" {
			c.add(p+".command", "command is empty")
		}
		if r.In != "" && r.In != InTarget && r.In != InBootImage {
			c.add(p+".in", "in is %q; write target or boot-image", clip(string(r.In)))
		}
		if r.TimeoutMinutes < 0 || r.TimeoutMinutes > 24*60 {
			c.add(p+".timeoutMinutes", "timeoutMinutes is %d; 0 to 1440 is possible", r.TimeoutMinutes)
		}
	case s.Restart != nil:
		if !last {
			c.add(path+".restart", "restart leaves the boot image for the installed system; it must be the last step")
		}
	}
}

func (c *checker) disk(path string, d DiskSelector) {
	if d.Number != nil && d.Serial != "" {
		c.add(path, "choose the disk by number or by serial, not both")
	}
	if d.Number != nil && (*d.Number < 0 || *d.Number > 255) {
		c.add(path+".number", "disk numbers count from 0")
	}
}

func (c *checker) partitions(path string, d *PartitionDisk) {
	c.disk(path+".disk", d.Disk)
	switch d.Table {
	case "", TableGPT:
	case TableMBR:
		if len(d.Partitions) > 4 {
			c.add(path+".partitions", "an MBR holds 4 partitions; use table: gpt for more")
		}
	default:
		c.add(path+".table", "table is %q; write gpt or mbr", clip(string(d.Table)))
	}
	if len(d.Partitions) == 0 || len(d.Partitions) > 64 {
		c.add(path+".partitions", "give 1 to 64 partitions")
	}
	mounts := map[string]bool{}
	percent := int64(0)
	for i := range d.Partitions {
		p := &d.Partitions[i]
		at := fmt.Sprintf("%s.partitions[%d]", path, i)
		size, err := ParsePartitionSize(p.Size)
		switch {
		case err != nil:
			c.add(at+".size", "%v", err)
		case size.Rest && i != len(d.Partitions)-1:
			c.add(at+".size", "only the last partition can take the rest")
		}
		percent += size.Percent
		switch p.Type {
		case "", PartitionData, PartitionESP, PartitionBIOSBoot, PartitionRoot, PartitionSwap:
		default:
			c.add(at+".type", "type is %q; write data, esp, bios-boot, root or swap", clip(string(p.Type)))
		}
		switch p.FileSystem {
		case FileSystemNone, FileSystemExt4, FileSystemVFAT, FileSystemSwap:
		default:
			c.add(at+".fileSystem", "fileSystem is %q; write ext4, vfat or swap", clip(string(p.FileSystem)))
		}
		if p.Type == PartitionESP && p.FileSystem != FileSystemVFAT {
			c.add(at+".fileSystem", "an EFI system partition needs fileSystem: vfat")
		}
		if p.Type == PartitionBIOSBoot && (p.FileSystem != FileSystemNone || d.Table == TableMBR) {
			c.add(at, "a bios-boot partition is for GPT and has no file system")
		}
		if p.Mount != "" {
			if !strings.HasPrefix(p.Mount, "/") || strings.Contains(p.Mount, "..") || strings.ContainsAny(p.Mount, " \t\n\\") {
				c.add(at+".mount", "mount is an absolute path without blanks such as / or /boot/efi")
			}
			if p.FileSystem != FileSystemExt4 && p.FileSystem != FileSystemVFAT {
				c.add(at+".mount", "only a partition with a file system can be mounted")
			}
			if mounts[p.Mount] {
				c.add(at+".mount", "%s is mounted twice", p.Mount)
			}
			mounts[p.Mount] = true
		}
		if len(p.Name) > 36 || strings.ContainsAny(p.Name, "\"\n,") {
			c.add(at+".name", "a partition name has at most 36 characters, without quotes and commas")
		}
		limit := 16 // ext4 and swap
		if p.FileSystem == FileSystemVFAT {
			limit = 11
		}
		if len(p.Label) > limit || strings.ContainsAny(p.Label, "\"\n/ ") {
			c.add(at+".label", "a label of this file system has at most %d characters, without blanks, quotes and slashes", limit)
		}
	}
	if percent > 100 {
		c.add(path+".partitions", "the partitions' percentages add up to %d", percent)
	}
}

// addressing checks how an interface gets its address, of an installed system or of the appliance.
func (c *checker) addressing(path string, dhcp bool, address, gateway string, dns []string) {
	if dhcp == (address != "") {
		c.add(path, "give either dhcp: true or an address")
	}
	if address != "" {
		if p, err := netip.ParsePrefix(address); err != nil || !p.Addr().Is4() {
			c.add(path+".address", "%q is no IPv4 address with prefix length such as 192.0.2.10/24", clip(address))
		}
	}
	if gateway != "" {
		c.ipv4(path+".gateway", gateway)
	}
	for i, a := range dns {
		c.ipv4(fmt.Sprintf("%s.dns[%d]", path, i), a)
	}
}

func (c *checker) network(path string, n *ApplyNetworkSettings) {
	c.addressing(path, n.DHCP, n.Address, n.Gateway, n.DNS)
	if n.Search != "" && !regexp.MustCompile(`^[A-Za-z0-9.-]{1,253}$`).MatchString(n.Search) {
		c.add(path+".search", "%q is no domain name", clip(n.Search))
	}
}

func (c *checker) settings(path string, s *ApplyOperatingSystemSettings) {
	if s.ComputerName != "" && !strings.Contains(s.ComputerName, "%") && !ValidHostName(s.ComputerName) {
		c.add(path+".computerName", "%q cannot be a host name: letters, digits and hyphens only", clip(s.ComputerName))
	}
	if s.TimeZone != "" && (!regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`).MatchString(s.TimeZone)) {
		c.add(path+".timeZone", "%q is no time zone name such as Europe/Berlin", clip(s.TimeZone))
	}
	a := s.Administrator
	if a == nil {
		return
	}
	if a.Name != "" && !regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`).MatchString(a.Name) {
		c.add(path+".administrator.name", "%q is no account name: lower-case letters, digits, hyphens, at most 32", clip(a.Name))
	}
	if a.PasswordHash != "" && !regexp.MustCompile(`^\$[A-Za-z0-9./$,=_-]{10,512}$`).MatchString(a.PasswordHash) {
		c.add(path+".administrator.passwordHash", "passwordHash is no crypt hash; make one with: openssl passwd -6")
	}
	for i, k := range a.SSHKeys {
		f := strings.Fields(k)
		if len(f) < 2 || strings.ContainsAny(k, "\n\r") || len(k) > 16384 || !(strings.HasPrefix(f[0], "ssh-") || strings.HasPrefix(f[0], "ecdsa-") || strings.HasPrefix(f[0], "sk-")) {
			c.add(fmt.Sprintf("%s.administrator.sshKeys[%d]", path, i), "this is no public key line such as: ssh-ed25519 AAAA… name")
		}
	}
}

// PartitionSize is a partition's size: exactly one of its fields is set.
type PartitionSize struct {
	// Bytes is a fixed size.
	Bytes int64
	// Percent is a share, 1 to 100, of what the fixed sizes leave.
	Percent int64
	// Rest takes everything that is left.
	Rest bool
}

var sizeForm = regexp.MustCompile(`^([0-9]{1,12})\s*(MiB|GiB|TiB|%)$`)

// ParsePartitionSize reads "512MiB", "20GiB", "1TiB", "50%", "rest" or "".
func ParsePartitionSize(s string) (PartitionSize, error) {
	if s == "" || s == "rest" {
		return PartitionSize{Rest: true}, nil
	}
	bad := fmt.Errorf("size %q: write 512MiB, 20GiB, 50%% or rest", clip(s))
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return PartitionSize{}, bad
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n < 1 {
		return PartitionSize{}, bad
	}
	shift := map[string]uint{"MiB": 20, "GiB": 30, "TiB": 40}[m[2]]
	switch {
	case m[2] == "%" && n > 100:
		return PartitionSize{}, bad
	case m[2] == "%":
		return PartitionSize{Percent: n}, nil
	case n > (1<<62)>>shift:
		return PartitionSize{}, bad
	}
	return PartitionSize{Bytes: n << shift}, nil
}

// validate checks site.yaml. An appliance without a site or central yet is valid: its screen says what is missing.
func (a *Appliance) validate(file string, node ast.Node) Problems {
	c := &checker{file: file, node: node}
	if a.Site != "" {
		if err := checkName(a.Site); err != nil {
			c.add("$.spec.site", "site: %v", err)
		}
	}
	if a.Central.Address != "" {
		host, port, ok := strings.Cut(a.Central.Address, ":")
		if n, err := strconv.Atoi(port); !ok || host == "" || err != nil || n < 1 || n > 65535 {
			c.add("$.spec.central.address", "address is %q; write host:port such as central.example:8443", clip(a.Central.Address))
		}
	}
	if a.Central.CASHA256 != "" && !a.Central.CASHA256.Valid() {
		c.add("$.spec.central.caSHA256", "caSHA256 is not 64 hexadecimal digits; copy what the enrolment token was printed with")
	}
	for i := range a.Network {
		c.applianceInterface(fmt.Sprintf("$.spec.network[%d]", i), &a.Network[i])
	}
	return c.problems
}

func (c *checker) applianceInterface(path string, n *ApplianceInterface) {
	if (n.MAC == "") == (n.Name == "") {
		c.add(path, "choose the interface by mac or by name")
	}
	if n.MAC != "" {
		mac, err := ParseMAC(string(n.MAC))
		if err != nil {
			c.add(path+".mac", "%v", err)
		}
		n.MAC = mac
	}
	c.addressing(path, n.DHCP, n.Address, n.Gateway, n.DNS)
	if n.VLAN < 0 || n.VLAN > 4094 {
		c.add(path+".vlan", "vlan is %d; 1 to 4094, or 0 for none", n.VLAN)
	}
}
