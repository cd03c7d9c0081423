package provisioning

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
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
	source   source
	problems Problems
	// faulty are the paths of what could not be read. What may follow from one of these is no problem of its own.
	faulty []string
	// discreet is true of a document with secrets: who forgets quotes makes keys and tags of what is secret, so that messages
	// name none. They have their places.
	discreet bool
}

// quote is what a message quotes of the document's text, after a blank; nothing where that could be secret.
func (c *checker) quote(s string) string {
	if c.discreet {
		return ""
	}
	return fmt.Sprintf(" %q", clip(s))
}

// add adds a problem at a path, such as $.spec.steps[0].name.
func (c *checker) add(path, format string, args ...any) {
	if len(c.problems) >= maxProblems || c.follows(path) {
		return
	}
	c.problems = append(c.problems, c.source.problem(path, fmt.Sprintf(format, args...)))
}

// follows reports whether a problem at a path may follow from what could not be read: that holds it, or is in it, or the
// path is missing where something could not be read, such as a field that is misspelt.
func (c *checker) follows(path string) bool {
	if len(c.faulty) == 0 {
		return false
	}
	_, found := c.source.locate(path)
	return slices.ContainsFunc(c.faulty, func(f string) bool {
		return within(path, f) || within(f, path) || found != path && within(f, found)
	})
}

// between checks that a number lies between two, both included.
func (c *checker) between(path, field string, n, low, high int) {
	if n < low || n > high {
		c.add(path+"."+field, "%s is %d; %d to %d is possible", field, n, low, high)
	}
}

// atMost bounds what a document lists.
func (c *checker) atMost(path, what string, n, high int) {
	if n > high {
		c.add(path, "there are %d %s; at most %d are possible", n, what, high)
	}
}

// unique checks that nothing is listed twice.
func unique[T ~string](c *checker, path string, list []T) {
	seen := make(map[T]bool, len(list))
	for i, e := range list {
		if seen[e] {
			c.add(item(path, i), "%s is listed twice", clip(string(e)))
		}
		seen[e] = true
	}
}

// maxLine bounds a line of text that people are shown, maxDescription a description, in characters.
const (
	maxLine        = 200
	maxDescription = 1000
)

// line checks a text of one line that people are shown.
func (c *checker) line(path, what, text string) {
	if utf8.RuneCountInString(text) > maxLine || strings.ContainsFunc(text, unicode.IsControl) {
		c.add(path, "%s is one line of at most %d characters", what, maxLine)
	}
}

func (c *checker) description(text string) {
	if utf8.RuneCountInString(text) > maxDescription {
		c.add("$.spec.description", "a description has at most %d characters", maxDescription)
	}
}

// names checks the names of what a document refers to.
func (c *checker) names(path string, names []string) {
	for i, n := range names {
		if err := checkName(n); err != nil {
			c.add(item(path, i), "%v", err)
		}
	}
	unique(c, path, names)
}

// hosts checks the names of computers.
func (c *checker) hosts(path string, names []string) {
	for i, n := range names {
		if !ValidHostName(n) {
			c.add(item(path, i), "%q is no name of a computer: letters, digits and hyphens only", clip(n))
		}
	}
	unique(c, path, names)
}

var variableForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,127}$`)

// MaxVariable bounds the value of a variable, in bytes.
const MaxVariable = 8192

// CheckVariable says why a variable of that name and value cannot be set, nil if it can. It fails with CodeInvalid.
func CheckVariable(name, value string) error {
	switch {
	case !variableForm.MatchString(name):
		return Errorf(CodeInvalid, "", "variable %q: use letters, digits and underscores, beginning with a letter, at most 128", clip(name))
	case strings.HasPrefix(strings.ToUpper(name), "_SMSTS"):
		return Errorf(CodeInvalid, "", "variable %q is read-only: it is set by the task sequence itself", name)
	case len(value) > MaxVariable:
		return Errorf(CodeInvalid, "", "variable %q has a value of %d bytes; at most %d are possible", name, len(value), MaxVariable)
	}
	return nil
}

// variables checks variables. Their names are the same in either case.
func (c *checker) variables(path string, vars map[string]string) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if err := CheckVariable(name, vars[name]); err != nil {
			c.add(inside(path, name), "%v", err)
			continue
		}
		if other, ok := seen[strings.ToUpper(name)]; ok {
			c.add(inside(path, name), "variables %s and %s are the same: case does not count", other, name)
		}
		seen[strings.ToUpper(name)] = name
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
		c.ipv4(item(path+".dns", i), a)
	}
}

// appliance checks site.yaml. An appliance without a site or central yet is valid: its screen says what is missing.
func (c *checker) appliance(a *Appliance) {
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
		c.applianceInterface(item("$.spec.network", i), &a.Network[i])
	}
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
