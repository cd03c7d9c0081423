package provisioning

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// more are documents beside every that contradict nothing in it.
const more = `---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {boundaries: [10.8.0.0/16, "2001:db8:8::/48"]}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-3}
spec: {site: PAR, macAddresses: ["52:54:00:00:00:04"], smbiosGUID: 4c4c4544-0042-3510-8052-000000000003}
---
apiVersion: branchpoint/v1
kind: ComputerAssociation
metadata: {name: mo}
spec: {source: desk-3, destination: desk-2}
---
apiVersion: branchpoint/v1
kind: Role
metadata: {name: viewers}
spec: {rights: viewer, accounts: [mo], collections: [all-unknown-computers]}
`

// TestCheck changes one thing in a configuration without faults, and expects the problems that every document then has.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		want           []string
	}{
		{"as it should be", "", "", nil},
		{"site of a computer", "site: PAR,", "site: ROM,", []string{`there is no Site "ROM"`}},
		{"member", "computers: [desk-1]\n  query", "computers: [desk-1, desk-7]\n  query", []string{`there is no Computer "desk-7"`}},
		{"boot image", "bootImage: desktops", "bootImage: laptops", []string{`there is no BootImage "laptops"`}},
		{"image", "image: debian, disk: {serial", "image: debiam, disk: {serial", []string{`there is no OperatingSystemImage "debiam"`}},
		{"sequence", "taskSequence: inventory", "taskSequence: inventari", []string{`there is no TaskSequence "inventari"`}},
		{"collection", "collection: accounts", "collection: account", []string{`there is no Collection "account"`}},
		{"built-in collection", "collection: accounts", "collection: all-systems", nil},
		{"computer", "computers: [desk-1, desk-2]", "computers: [desk-1, desk-7]", []string{`there is no Computer "desk-7"`}},
		{"source", "source: desk-3", "source: desk-7", []string{`there is no Computer "desk-7"`}},
		{"destination", "destination: desk-2", "destination: desk-7", []string{`there is no Computer "desk-7"`}},
		{"site of a role", "sites: [LON]", "sites: [LON, ROM]", []string{`there is no Site "ROM"`}},
		{"collection of a role", "[accounts, all-systems]", "[accounts, alls-systems]", []string{`there is no Collection "alls-systems"`}},
		{"image's content", "package: debian-13", "package: debian-14", []string{"branchpoint content add debian-14 FILE"}},
		{"install package's content", "package: debian-iso", "package: debian-dvd", []string{"branchpoint content add debian-dvd FILE"}},
		{"driver package's content", "package: drivers", "package: driver", []string{"branchpoint content add driver FILE"}},
		{"software package's version", "package: software, version: 1", "package: software, version: 2", []string{"package software has no version 2; its newest is 1"}},
		{"MAC address", "52:54:00:00:00:04", "5254.0000.0003", []string{
			`MAC address 52:54:00:00:00:03 belongs to more than one computer: [desk-2 desk-3]`, `MAC address 52:54:00:00:00:03 belongs to more than one computer: [desk-2 desk-3]`,
		}},
		{"GUID", "4c4c4544-0042-3510-8052-000000000003", "4c4c4544-0042-3510-8052-b4c04f4d3432", []string{
			`SMBIOS GUID 4c4c4544-0042-3510-8052-b4c04f4d3432 belongs to more than one computer: [desk-1 desk-3]`, `belongs to more than one computer: [desk-1 desk-3]`,
		}},
		{"name in another case", "source: desk-3, destination: desk-2}\n", "source: desk-3, destination: desk-2}\n---\napiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: DESK-2}\nspec: {macAddresses: [525400000008]}\n", []string{
			`computers [DESK-2 desk-2] have the same name`, `computers [DESK-2 desk-2] have the same name`,
		}},
		{"boundaries that are equal", "[10.8.0.0/16,", "[10.7.0.0/16,", []string{"10.7.0.0/16 overlaps with 10.7.0.0/16 of site PAR", "10.7.0.0/16 overlaps with 10.7.0.0/16 of site LON"}},
		{"a boundary in another", "[10.8.0.0/16,", "[10.7.9.0/24,", []string{"10.7.0.0/16 overlaps with 10.7.9.0/24 of site PAR", "10.7.9.0/24 overlaps with 10.7.0.0/16 of site LON"}},
		{"a boundary around another", "[10.8.0.0/16,", "[0.0.0.0/0,", []string{"10.7.0.0/16 overlaps with 0.0.0.0/0 of site PAR", "0.0.0.0/0 overlaps with 10.7.0.0/16 of site LON"}},
		{"boundaries of IPv6", `"2001:db8:8::/48"`, `"2001:db8::/32"`, []string{"2001:db8:7::/48 overlaps with 2001:db8::/32 of site PAR", "2001:db8::/32 overlaps with 2001:db8:7::/48 of site LON"}},
		{"associations", "source: desk-3, destination: desk-2", "source: desk-2, destination: desk-1", []string{"associations [jo mo] bring the same two computers together", "associations [jo mo]"}},
		{"download before partitioning", "taskSequence: inventory", "taskSequence: install", []string{"step 1 (Partition Disk) of task sequence install erases the disk"}},
		{"download before an image", "    - runCommandLine: {command: lshw, in: boot-image}", "    - runCommandLine: {command: lshw, in: boot-image}\n    - applyOperatingSystemImage: {image: debian}", []string{"step 2 (Apply Operating System Image) of task sequence inventory erases the disk"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := every + more
			if c.old != "" {
				text = strings.Replace(text, c.old, c.new, 1)
				if text == every+more {
					t.Fatal("the change does not apply")
				}
			}
			catalog, keys := decodeAll(t, text)
			check := func(c Catalog) (got []string) {
				for _, p := range c.Check(keys, everyPackage) {
					if p.Line == 0 || p.Column == 0 {
						t.Errorf("without a place: %s", p)
					}
					got = append(got, p.Message)
				}
				return got
			}
			got := check(catalog)
			if len(got) != len(c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.Contains(got[i], c.want[i]) {
					t.Errorf("got %q, want %q", got[i], c.want[i])
				}
			}
			// The same of what is stored: places are found in its text.
			again := Catalog{}
			for _, o := range catalog {
				text, err := o.Encode()
				if err != nil {
					t.Fatal(err)
				}
				back, err := (&Document{Kind: o.Kind, Name: o.Name, Text: text}).Decode()
				if err != nil {
					t.Fatal(err)
				}
				again[back.Key()] = back
			}
			if stored := check(again); !slices.Equal(stored, got) {
				t.Errorf("of what is stored %q, of what is given %q", stored, got)
			}
		})
	}
}

// TestDependants: what would be left without what it names.
func TestDependants(t *testing.T) {
	c, _ := decodeAll(t, every+more)
	for _, tc := range []struct {
		of   []Key
		want string
	}{
		{[]Key{{KindSite, "LON"}}, "[{Computer desk-1} {Role london}]"},
		{[]Key{{KindSite, "LON"}, {KindComputer, "desk-1"}}, "[{Collection accounts} {Advertisement choice} {ComputerAssociation jo} {Role london}]"},
		{[]Key{{KindComputer, "desk-3"}}, "[{ComputerAssociation mo}]"},
		{[]Key{{KindCollection, "accounts"}}, "[{Advertisement rollout} {Role london}]"},
		{[]Key{{KindOperatingSystemImage, "debian"}}, "[{TaskSequence install}]"},
		{[]Key{{KindBootImage, "desktops"}}, "[{TaskSequence install}]"},
		{[]Key{{KindTaskSequence, "inventory"}}, "[{Advertisement rollout}]"},
		{[]Key{{KindAdvertisement, "rollout"}, {KindRole, "london"}, {KindSite, "ROM"}}, "[]"},
		{[]Key{{KindCollection, AllSystems}}, "[]"},
		{nil, "[]"},
	} {
		if got := fmt.Sprint(c.Dependants(tc.of...)); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.of, got, tc.want)
		}
	}
	// Whoever deletes checks them: each then has a problem.
	gone := Key{KindComputer, "desk-1"}
	dependants := c.Dependants(gone)
	delete(c, gone)
	if ps := c.Check(dependants, everyPackage); len(ps) != len(dependants) {
		t.Errorf("%d dependants, %d problems: %v", len(dependants), len(ps), ps)
	}
}

// TestReferences: what is referred to is what Check misses.
func TestReferences(t *testing.T) {
	c, keys := decodeAll(t, every+more)
	for _, k := range keys {
		o := c[k]
		ps := Catalog{k: o}.Check([]Key{k}, everyPackage)
		missing := 0
		for _, p := range ps {
			if strings.Contains(p.Message, "there is no ") {
				missing++
			}
		}
		if refs := o.References(); len(refs) != missing {
			t.Errorf("%v refers to %v, and lacks %v", k, refs, ps)
		}
	}
}

// TestOverlappingOfMany holds the search for overlapping subnets against comparing each with each.
func TestOverlappingOfMany(t *testing.T) {
	c := Catalog{}
	var all []subnet
	for i := range 300 {
		o := Object{Kind: KindSite, Name: fmt.Sprintf("s%d", i%100)}
		if have, ok := c[o.Key()]; ok {
			o = have
		} else {
			o.make()
		}
		h := uint32(i) * 2654435761 // spread, and the same each time
		bits := 18 + i%12
		if i%100 == 0 {
			bits = 10
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(h >> 24), byte(h >> 16), byte(h >> 8)}), bits).Masked()
		o.Site.Spec.Boundaries = append(o.Site.Spec.Boundaries, p.String())
		all = append(all, subnet{p, o.Name})
		c[o.Key()] = o
	}
	a := comparison{subnets: c.subnets()}
	some, none := 0, 0
	for _, s := range all {
		want := slices.ContainsFunc(all, func(o subnet) bool { return o.site != s.site && o.prefix.Overlaps(s.prefix) })
		other, got := a.overlapping(s.prefix, s.site)
		if got != want || got && (other.site == s.site || !other.prefix.Overlaps(s.prefix)) {
			t.Errorf("%v: %v %v, want %v", s, other, got, want)
		}
		if want {
			some++
		} else {
			none++
		}
	}
	if some == 0 || none == 0 {
		t.Errorf("%d overlap, %d do not: nothing is compared", some, none)
	}
}
