package provisioning

import (
	"fmt"
	"strings"
	"testing"
)

// TestEveryFault changes one thing in a configuration in which everything occurs, and expects one problem, at its place.
func TestEveryFault(t *testing.T) {
	lines := strings.Split(every, "\n")
	for _, c := range []struct{ name, old, new, want string }{
		// Site
		{"time zone", "timeZone: Europe/London\n  boundaries", "timeZone: Europe/Londonn\n  boundaries", `"Europe/Londonn" is no time zone`},
		{"time zone of the machine", "timeZone: Europe/London\n  boundaries", "timeZone: Local\n  boundaries", `"Local" is no time zone`},
		{"boundary form", "[10.7.0.0/16,", "[10.7.0.0,", `"10.7.0.0" is no subnet`},
		{"boundary with host bits", "[10.7.0.0/16,", "[10.7.0.1/16,", `10.7.0.1/16 is an address in a subnet; the subnet is 10.7.0.0/16`},
		{"boundary mapped", "[10.7.0.0/16,", "[\"::ffff:10.7.0.0/112\",", `is IPv4 written as IPv6`},
		{"boundary overlap", "[10.7.0.0/16,", "[10.7.0.0/16, 10.7.9.0/24,", `10.7.9.0/24 overlaps with 10.7.0.0/16 of the same site`},
		{"empty admin", `admins: ["Jo Miller, +44 20 7946 0000"]`, `admins: [" "]`, `write a name, and how to reach them`},
		{"admin of two lines", `admins: ["Jo`, `admins: ["Jo\nMary`, `an admin is one line of at most 200 characters`},
		{"admins", `admins: ["Jo`, `admins: [a, b, c, d, e, f, g, h, "Jo`, `there are 9 admins; at most 8`},
		{"text", "organization: Example", "organization: " + strings.Repeat("x", 201), `organization is one line of at most 200 characters`},
		{"description", "By the window", strings.Repeat("x", 1001), `at most 1000 characters`},
		{"mode", "mode: proxy", "mode: both", `mode is "both"; write proxy`},
		{"dhcp in proxy mode", "mode: proxy", "mode: proxy\n    dhcp: {rangeStart: 10.7.0.1, rangeEnd: 10.7.0.2}", `dhcp is for mode dhcp`},
		{"no dhcp", "mode: proxy", "mode: dhcp", `mode dhcp needs a dhcp section`},
		{"interface", "[eth0]", "[eth/0]", `"eth/0" is no name of a network interface`},
		{"interface twice", "[eth0]", "[eth0, eth0]", `eth0 is listed twice`},
		{"delay", "responseDelaySeconds: 2", "responseDelaySeconds: 33", `responseDelaySeconds is 33; 0 to 32`},
		{"pattern that names all alike", "lon-%serial%", "lon", `gives every computer the same name`},
		{"pattern of something else", "lon-%serial%", "lon-%model%", `only %mac%, %serial% and %assetTag% are replaced`},
		{"pattern with case", "lon-%serial%", "lon-%MAC%", `only %mac%, %serial% and %assetTag% are replaced`},
		{"pattern of no host name", "lon-%serial%", "lon_%serial%", `makes no host names`},
		{"pattern beginning with a hyphen", "lon-%serial%", "-%serial%", `makes no host names`},
		{"long pattern", "lon-%serial%", strings.Repeat("x", 41) + "%serial%", `makes no host names`},
		{"password hash of another kind", "$argon2id$v=19", "$argon2i$v=19", `make it with: branchpoint password`},
		{"password hash too dear", "m=65536", "m=4194304", `make it with: branchpoint password`},
		{"password", "passwordHash: $argon2id", "passwordHash: secret$argon2id", `make it with: branchpoint password`},
		{"ignored MAC", "52-54-00-00-00-09", "52-54-00-00-00", `"52-54-00-00-00" is no MAC address`},
		{"ignored twice", `ignore: ["52-54-00-00-00-09"]`, `ignore: ["52-54-00-00-00-09", "525400000009"]`, `52:54:00:00:00:09 is listed twice`},
		{"shared adapter", "5254.0000.000a", "ffff.ffff.ffff", `is a multicast or broadcast address`},
		{"wipe cap", "wipesPerHour: 10", "wipesPerHour: -1", `wipesPerHour is -1; 0 to 100000`},
		{"quota", "quotaGiB: 500", "quotaGiB: -1", `quotaGiB is -1`},
		{"day", "[mon, fri]", "[mon, friday]", `"friday" is no day`},
		{"day twice", "[mon, fri]", "[mon, mon]", `mon is listed twice`},
		{"time of day", `from: "22:00"`, `from: "22.00"`, `from: "22.00" is no time of day`},
		{"end of day", `to: "06:00"`, `to: "24:00"`, `to: "24:00" is no time of day`},
		{"half a window", `, to: "06:00"`, ``, `to: "" is no time of day`},
		{"rate", "rateMbps: 100", "rateMbps: -5", `rateMbps is -5`},
		{"connections", "connections: 20", "connections: 1001", `connections is 1001; 0 to 1000`},
		{"no folder", "\n      - {path: states, maxClients: 50, minFreeGiB: 10}", " []", `needs at least one folder`},
		{"absolute folder", "path: states", "path: /states", `"/states" is no folder below`},
		{"folder above", "path: states", "path: states/../..", `is no folder below`},
		{"folder twice", "      - {path: states, maxClients: 50", "      - {path: states}\n      - {path: states, maxClients: 50", `states is listed twice`},
		{"clients of a folder", "maxClients: 50", "maxClients: -1", `maxClients is -1`},
		{"free space", "minFreeGiB: 10", "minFreeGiB: -1", `minFreeGiB is -1`},
		{"deletion", "deleteAfterHours: 48", "deleteAfterHours: -1", `deleteAfterHours is -1`},
		{"validity", "maxValidDays: 90", "maxValidDays: 3651", `maxValidDays is 3651; 0 to 3650`},
		// Computer
		{"computer's site", "site: LON", "site: the moon", `site: name "the moon"`},
		{"no identity", "spec:\n  macAddresses: [\"52:54:00:00:00:03\"]", "spec: {}", `give at least one`},
		{"MAC twice", `"52:54:00:00:00:02"`, `"52-54-00-00-00-01"`, `52:54:00:00:00:01 is listed twice`},
		{"GUID", "4c4c4544-0042-3510-8052-b4c04f4d3432", "4c4c4544", `"4c4c4544" is no SMBIOS GUID`},
		{"TPM that is no sum", "tpm: 0123456789abcdef0123456789abcdef0123456789abcdef", "tpm: 0123", `tpm is no SHA-256 of an endorsement key`},
		{"shared GUID", "4c4c4544-0042-3510-8052-b4c04f4d3432", "03000200-0400-0500-0006-000700080009", `is no GUID of one computer`},
		{"variable", "{OSDTimeZone: GMT}", "{OSD-TimeZone: GMT}", `variable "OSD-TimeZone": use letters`},
		{"read-only variable", "{OSDTimeZone: GMT}", "{_smstsX: GMT}", `variable "_smstsX"`},
		{"variable in two cases", "{OSDTimeZone: GMT}", "{OSDTimeZone: GMT, osdtimezone: UTC}", `variables OSDTimeZone and osdtimezone are the same`},
		{"long variable", "{OSDTimeZone: GMT}", "{OSDTimeZone: " + strings.Repeat("x", MaxVariable+1) + "}", `at most 8192 are possible`},
		// Collection
		{"all systems", "metadata: {name: accounts}", "metadata: {name: All-Systems}", `all-systems is built in`},
		{"all unknown computers", "metadata: {name: accounts}", "metadata: {name: all-unknown-computers}", `all-unknown-computers is built in`},
		{"member", "computers: [desk-1]\n  query", "computers: [desk_1]\n  query", `"desk_1" is no name of a computer`},
		{"member twice", "computers: [desk-1]\n  query", "computers: [desk-1, desk-1]\n  query", `desk-1 is listed twice`},
		{"long query", "query: inventory", "query: " + strings.Repeat("x", maxQuery) + "inventory", `at most 16384 are possible`},
		// Packages
		{"package name", "package: drivers", "package: the drivers", `package: name "the drivers"`},
		{"package version", "package: software, version: 1", "package: software, version: -1", `version counts from 1`},
		{"no package", "package: debian-iso, ", "", `package: the name is missing`},
		{"architecture", "[uefi-x64, ", "[arm64, ", `"arm64" is no architecture with a boot image; write bios, uefi-x64 or uefi-http-x64`},
		{"architecture twice", "[uefi-x64, ", "[uefi-http-x64, ", `uefi-http-x64 is listed twice`},
		// Task sequence
		{"boot image", "bootImage: desktops", "bootImage: the desktops", `bootImage: name "the desktops"`},
		// Advertisement
		{"for nobody", "  collection: accounts\n  purpose", "  purpose", `the advertisement is for nobody`},
		{"for both", "  collection: accounts\n  purpose", "  collection: accounts\n  computers: [desk-1]\n  purpose", `either collection or computers`},
		{"computer twice", "computers: [desk-1, desk-2]", "computers: [desk-1, desk-1]", `desk-1 is listed twice`},
		{"purpose", "purpose: available", "purpose: optional", `purpose is "optional"; write required or available`},
		{"priority", "priority: 5", "priority: 1001", `priority is 1001; -1000 to 1000`},
		{"way", "[pxe, media, client]", "[pxe, dvd, client]", `"dvd" is no way to a computer`},
		{"way twice", "[pxe, media, client]", "[pxe, pxe, client]", `pxe is listed twice`},
		{"client without client", "[pxe, media, client]", "[pxe, media]", `add client to availableTo`},
		{"rerun", "rerun: if-failed", "rerun: sometimes", `rerun is "sometimes"; write never, if-failed or always`},
		{"rerun of an available one", "purpose: available}", "purpose: available, rerun: never}", `rerun is for required advertisements`},
		{"windows of an available one", "purpose: available}", `purpose: available, maintenanceWindows: [{from: "20:00", to: "21:00"}]}`, `maintenanceWindows are for required`},
		{
			"always for unknown computers", "collection: accounts\n  purpose: required\n  priority: 5\n  availableTo: [pxe, media, client]\n  rerun: if-failed",
			"collection: all-unknown-computers\n  purpose: required\n  availableTo: [client]\n  rerun: always", `rerun: always is not possible for all-unknown-computers`,
		},
		{"trigger", "when: log-off", "when: later", `when is "later"; write now, log-on or log-off`},
		{"countdown", "countdownMinutes: 15", "countdownMinutes: 1441", `countdownMinutes is 1441; 0 to 1440`},
		{"reminder", "remindMinutes: 5", "remindMinutes: -1", `remindMinutes is -1; 0 to 1440`},
		{"maintenance window", `from: "20:00"`, `from: 8pm`, `from: "8pm" is no time of day`},
		{"expires first", "expires: 2027-11-20T08:00:00Z", "expires: 2026-11-20T08:00:00Z", `it expires before it starts`},
		{"time", "expires: 2027-11-20T08:00:00Z", "expires: 2027-11-20", `"2027-11-20" is no time such as`},
		{"early time", "expires: 2027-11-20T08:00:00Z", "expires: 0001-01-01T00:00:00Z", `is no time such as`},
		// ComputerAssociation
		{"no source", "source: desk-2, ", "", `source is ""; write the name of the computer whose state is captured`},
		{"destination", "destination: desk-1", "destination: desk 1", `destination is "desk 1"`},
		// Role
		{"rights", "rights: operator", "rights: root", `rights is "root"; write administrator, operator or viewer`},
		{"nobody", "accounts: [jo]", "accounts: []", `nobody has the role`},
		{"account", "accounts: [jo]", "accounts: [\"jo miller\"]", `"jo miller" is no name of an account`},
		{"account twice", "accounts: [jo]", "accounts: [jo, jo]", `jo is listed twice`},
		{"site of a role", "sites: [LON]", "sites: [the moon]", `name "the moon"`},
		{"limited to no site", "sites: [LON]", "sites: []", `limits the role to nothing; name something, or leave the key out for everywhere`},
		{"limited to nothing", "sites: [LON]", "sites: null", `limits the role to nothing`},
		{"limited to no collection", "collections: [accounts, all-systems]", "collections: []", `limits the role to nothing`},
		{"limited to null", "collections: [accounts, all-systems]", "collections: ~", `limits the role to nothing`},
		{"collection of a role", "collections: [accounts, all-systems]", "collections: [accounts, accounts]", `accounts is listed twice`},
		// Forms
		{"tag", "wakeOnLAN: true", "wakeOnLAN: !!bool true", `tags are not allowed`},
		{"alias", "wakeOnLAN: true", "wakeOnLAN: *x", `anchors and aliases are not allowed`},
		{"number for a truth", "wakeOnLAN: true", "wakeOnLAN: 1", `this is a whole number; true or false is wanted here`},
		{"text for a truth", "wakeOnLAN: true", "wakeOnLAN: yes", `this is a text; true or false is wanted here`},
		{"text for a number", "priority: 5", `priority: "5"`, `this is a text; a whole number is wanted here`},
		{"fraction for a number", "priority: 5", `priority: 5.5`, `this is a number with a fraction; a whole number is wanted here`},
		{"a huge number", "priority: 5", `priority: 18446744073709551615`, `is larger than any number that is possible here`},
		{"list for a text", "taskSequence: inventory", "taskSequence: [inventory]", `this is a list; a text is wanted here`},
		{"mapping for a list", "sites: [LON]", "sites: {LON: x}", `this is a mapping; a list is wanted here`},
		{"text for a mapping", "variables: {Department: accounts}", "variables: accounts", `this is a text; a mapping is wanted here`},
		{"merge", "variables: {Department: accounts}", "variables: {<<: {Department: accounts}}", `the key of an entry is a text`},
		{"text for a document", "apiVersion: branchpoint/v1\nkind: Role\n", "Role\n---\napiVersion: branchpoint/v1\nkind: Role\n", `this is a text; a mapping is wanted here`},
		{"metadata", "metadata: {name: london}", "metadata: london", `this is a text; a mapping is wanted here`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(every, c.old) == 0 {
				t.Fatal("the change does not apply")
			}
			text := strings.Replace(every, c.old, c.new, 1)
			_, ps := Decode(File{"a.yaml", []byte(text)})
			if len(ps) != 1 || !strings.Contains(ps[0].Message, c.want) {
				t.Fatalf("got %d problems:\n%v\nwant %s", len(ps), ps, c.want)
			}
			// The problem stands at what was changed, or where what is missing would stand.
			first := 1 + strings.Count(every[:strings.Index(every, c.old)], "\n")
			last := first + strings.Count(c.new, "\n") + strings.Count(c.old, "\n") + 2
			if ps[0].Line < first-8 || ps[0].Line > last || ps[0].Column == 0 {
				t.Errorf("%s is far from line %d: %s", ps[0], first, lines[first-1])
			}
		})
	}
}

// TestAllFaultsAtOnce: faults do not hide one another, in one document, in several, and where one is no YAML.
func TestAllFaultsAtOnce(t *testing.T) {
	const text = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: the moon}
spec:
  timezone: Europe/London
  boundaries: 10.7.0.0/16
  pxe: {mode: both, responseDelaySeconds: 99}
  pxe: {}
  distributionPoint: {quotaGiB: many, connections: -1}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1
spec: {}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {nam: desk-1}
spec:
  macAdresses: ["52:54:00:00:00:01"]
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
---
apiVersion: branchpoint/v2
kind: Computer
---
kind: Computer
`
	_, ps := Decode(File{"a.yaml", []byte(text)})
	got := make([]string, 0, len(ps))
	for _, p := range ps {
		got = append(got, p.String())
	}
	for i, want := range []string{
		`a.yaml:3:18: metadata.name: name "the moon": use letters`,
		`a.yaml:5:3: unknown field "timezone"`,
		`a.yaml:6:15: this is a text; a list is wanted here`,
		`a.yaml:8:3: mapping key "pxe" already defined on line 7`,
		`a.yaml:9:33: this is a text; a whole number is wanted here`,
		`a.yaml:9:52: connections is -1; 0 to 1000 is possible`,
		`a.yaml:14:1: ',' or '}' must be specified`,
		`a.yaml:18:12: unknown field "nam"`, // and not: the name is missing
		`a.yaml:20:3: unknown field "macAdresses"`,
		`a.yaml:22:1: spec is missing`,
		`a.yaml:26:13: apiVersion is "branchpoint/v2"`,
		`a.yaml:29:1: apiVersion is ""; write branchpoint/v1`,
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("problem %d: want %s", i, want)
		}
	}
	if len(got) != 12 {
		t.Errorf("%d problems", len(got))
	}
	if t.Failed() {
		t.Log(strings.Join(got, "\n"))
	}
}

// TestProblemsAreBounded: a file of faults costs neither memory nor a reader's patience, nor time with the square of them.
func TestProblemsAreBounded(t *testing.T) {
	const n = 9_000
	var fields, documents, values strings.Builder
	fields.WriteString("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec:\n")
	values.WriteString("apiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: a}\nspec:\n  variabels: {}\n  computers:\n")
	for i := range n {
		fmt.Fprintf(&fields, "  f%d: 1\n", i)
		values.WriteString("  - a_b\n")
		if i < 2*maxProblems {
			documents.WriteString("kind: Site\n---\n")
		}
	}
	for name, text := range map[string]string{"fields": fields.String(), "documents": documents.String(), "values": values.String()} {
		_, ps := Decode(File{"a.yaml", []byte(text)})
		if len(ps) < maxProblems || len(ps) > maxProblems+1 {
			t.Errorf("%s: %d problems", name, len(ps))
		}
	}
}

// TestTextStaysText: what looks like a number is the text that stands there where a text is wanted.
func TestTextStaysText(t *testing.T) {
	const text = `apiVersion: branchpoint/v1
kind: Computer
metadata: {name: 007}
spec:
  macAddresses: [001122334455, 5254001.23456e0]
  variables: {A: 1.10, B: 0x10, C: 1_000, D: yes, E: True, F: 12:30, G: .5, H: ~, I:, J: "", K: 2026-11-20}
`
	_, ps := Decode(File{"a.yaml", []byte(strings.Replace(text, ", 5254001.23456e0", "", 1))})
	objects, _ := Decode(File{"a.yaml", []byte(strings.Replace(text, ", 5254001.23456e0", "", 1))})
	if len(ps) > 0 || len(objects) != 1 {
		t.Fatal(ps)
	}
	c := objects[0].Computer
	if c.Name != "007" || c.Spec.MACAddresses[0] != "00:11:22:33:44:55" {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string]string{"A": "1.10", "B": "0x10", "C": "1_000", "D": "yes", "E": "True", "F": "12:30", "G": ".5", "H": "", "I": "", "J": "", "K": "2026-11-20"} {
		if got, ok := c.Spec.Variables[name]; !ok || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if _, ps := Decode(File{"a.yaml", []byte(text)}); len(ps) != 1 || ps[0].Line != 5 || ps[0].Column != 32 {
		t.Error(ps)
	}
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]part{
		"":                                   {{"", 0}},
		"a: 1":                               {{"a: 1", 0}},
		"# comment\n---\na: 1\n":             {{"# comment\n---\na: 1\n", 0}},
		"%YAML 1.2\n---\na: 1\n---\nb: 2\n":  {{"%YAML 1.2\n---\na: 1\n", 0}, {"---\nb: 2\n", 3}},
		"---\n---\n":                         {{"---\n", 0}, {"---\n", 1}},
		"a: 1\r\n---\r\nb: 2\r\n":            {{"a: 1\r\n", 0}, {"---\r\nb: 2\r\n", 1}},
		"a: 1\n--- b: 2\n---c\n ---\n----\n": {{"a: 1\n", 0}, {"--- b: 2\n---c\n ---\n----\n", 1}},
	} {
		got := split(text)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestByteOrderMark(t *testing.T) {
	if objects, ps := Decode(File{"a.yaml", []byte("\ufeff" + valid)}); len(ps) > 0 || len(objects) != 5 {
		t.Error(len(objects), ps)
	}
}
