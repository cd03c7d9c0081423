package provisioning

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// world is a configuration of three sites: LON supports unknown computers, PAR does not, and ROM has no computers at all.
const world = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy, unknownComputers: {}}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {pxe: {mode: proxy}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: ROM}
spec: {pxe: {mode: proxy}}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: lon-1}
spec: {site: LON, macAddresses: [525400000001]}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: par-1}
spec: {site: PAR, macAddresses: [525400000002]}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: lons}
spec: {computers: [lon-1, par-1]}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: pars}
spec: {computers: [par-1], variables: {A: par}}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: big}
spec: {query: "inventory.memoryMiB > 8192"}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: named}
spec: {query: "true", variables: {A: b}}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: unused}
spec: {computers: [lon-1, par-1]}
---
apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian}
spec: {package: debian-13}
---
apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian-too}
spec: {package: debian-13, version: 3}
---
apiVersion: branchpoint/v1
kind: BootImage
metadata: {name: uefi}
spec: {architectures: [uefi-x64]}
---
apiVersion: branchpoint/v1
kind: BootImage
metadata: {name: unused}
spec: {}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec: {bootImage: uefi, steps: [{applyOperatingSystemImage: {image: debian}}, {applyOperatingSystemImage: {image: debian-too}}]}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: look}
spec: {steps: [{runCommandLine: {command: lshw}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: a-both}
spec: {taskSequence: look, computers: [par-1, lon-1], purpose: required}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: b-par}
spec: {taskSequence: install, computers: [par-1], purpose: required}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: c-lons}
spec: {taskSequence: look, collection: lons, purpose: available}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: d-query}
spec: {taskSequence: look, collection: big, purpose: available}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: e-all}
spec: {taskSequence: look, collection: all-systems, purpose: available}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: f-unknown}
spec: {taskSequence: install, collection: all-unknown-computers, purpose: required}
`

func debianContent(pkg string, version int) (ContentRef, error) {
	if version == 0 {
		version = 3
	}
	return ContentRef{Package: pkg, Version: version, Format: FormatDiskImage, Manifest: SumSHA256([]byte(fmt.Sprint(pkg, version))), Size: 7}, nil
}

// said is a snapshot as the tests write it: the names that are in it.
func saidBy(s *Snapshot) string {
	var b strings.Builder
	list := func(what string, names []string) {
		if len(names) > 0 {
			fmt.Fprintf(&b, "%s %s\n", what, strings.Join(names, " "))
		}
	}
	var computers, collections, boots, images, sequences, ads, content []string
	for _, c := range s.Computers {
		name := c.Name
		if _, ok := s.Inventories[c.Name]; ok {
			name += "+"
		}
		computers = append(computers, name)
	}
	for _, c := range s.Collections {
		collections = append(collections, fmt.Sprint(c.Name, c.Spec.Computers))
	}
	for _, i := range s.BootImages {
		boots = append(boots, i.Name)
	}
	for _, i := range s.Images {
		images = append(images, fmt.Sprint(i.Name, ":", i.Spec.Version))
	}
	for _, i := range s.TaskSequences {
		sequences = append(sequences, i.Name)
	}
	for _, a := range s.Advertisements {
		ads = append(ads, fmt.Sprint(a.Name, a.Spec.Computers, "#", a.Changed))
	}
	for _, c := range s.Content {
		content = append(content, fmt.Sprint(c.Package, ":", c.Version))
	}
	var orders []string
	for _, c := range s.Clears {
		orders = append(orders, fmt.Sprint(c.Number, ":", c.Computer))
	}
	for _, a := range s.Approvals {
		orders = append(orders, fmt.Sprint(a.Number, ":", a.Wipes))
	}
	list("computers", computers)
	list("collections", collections)
	list("boot images", boots)
	list("images", images)
	list("sequences", sequences)
	list("advertisements", ads)
	list("content", content)
	list("orders", orders)
	if len(s.Inventories) > len(s.Computers) {
		b.WriteString("inventories of others\n")
	}
	return b.String()
}

func TestResolve(t *testing.T) {
	c, _ := decodeAll(t, world)
	facts := Facts{
		Content: debianContent,
		Changed: func(k Key) uint64 { return uint64(k.Name[0]) },
		Inventories: map[string]Inventory{
			"lon-1": {Product: "x"}, "gone": {Product: "y"},
		},
		Clears:    []Clear{{Number: 5, Computer: "par-1"}, {Number: 4, Computer: "lon-1"}, {Number: 2, Computer: "pc-525400000009"}},
		Approvals: []Approval{{Number: 3, Wipes: 7}, {Number: 1, Wipes: 8}},
	}
	for site, want := range map[string]string{
		"LON": `computers lon-1+
collections big[] lons[lon-1] named[]
boot images uefi
images debian:3 debian-too:3
sequences install look
advertisements a-both[lon-1]#97 c-lons[]#99 d-query[]#100 e-all[]#101 f-unknown[]#102
content debian-13:3
orders 2:pc-525400000009 4:lon-1 1:8 3:7
`,
		"PAR": `computers par-1
collections big[] lons[par-1] named[] pars[par-1]
boot images uefi
images debian:3 debian-too:3
sequences install look
advertisements a-both[par-1]#97 b-par[par-1]#98 c-lons[]#99 d-query[]#100 e-all[]#101
content debian-13:3
orders 2:pc-525400000009 5:par-1 1:8 3:7
`,
		"ROM": "orders 2:pc-525400000009 1:8 3:7\n",
	} {
		s, err := c.Resolve(site, facts)
		if err != nil {
			t.Fatal(err)
		}
		if got := saidBy(s); got != want || s.Site.Name != site || s.Number != 0 || s.Epoch != 0 {
			t.Errorf("%s: got\n%s\nwant\n%s", site, got, want)
		}
	}
	// The catalog is as it was, and orders are the caller's.
	if ad := c[Key{KindAdvertisement, "a-both"}].Advertisement; len(ad.Spec.Computers) != 2 || ad.Changed != 0 || facts.Approvals[0].Number != 3 {
		t.Errorf("%+v %+v", ad, facts.Approvals)
	}
}

// TestResolveForMachinesToCome: a site that has no computer, and takes unknown ones in, has what is for whoever a query fits.
func TestResolveForMachinesToCome(t *testing.T) {
	c, _ := decodeAll(t, `apiVersion: branchpoint/v1
kind: Site
metadata: {name: NEW}
spec: {pxe: {mode: proxy, unknownComputers: {}}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: OLD}
spec: {pxe: {mode: proxy}}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: fast}
spec: {query: "inventory.memoryMiB > 8192"}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: look}
spec: {steps: [{runCommandLine: {command: "true"}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: for-fast}
spec: {taskSequence: look, collection: fast, purpose: available}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: for-all}
spec: {taskSequence: look, collection: all-systems, purpose: available}
`)
	for site, want := range map[string]int{"NEW": 2, "OLD": 0} {
		s, err := c.Resolve(site, Facts{Content: debianContent})
		if err != nil || len(s.Advertisements) != want || len(s.Collections) != want/2 {
			t.Errorf("%s: %v, %+v", site, err, s)
		}
	}
}

// TestRunsOfOtherSites: a site is told what has run elsewhere on its computers, under whatever name, and never of its own runs.
func TestRunsOfOtherSites(t *testing.T) {
	c, _ := decodeAll(t, world)
	mac := c[Key{KindComputer, "lon-1"}].Computer.Spec.MACAddresses[0]
	s, err := c.Resolve("LON", Facts{Content: debianContent, Runs: []SiteRun{
		{"PAR", Run{ID: "c", Computer: "lon-1"}},
		{"PAR", Run{ID: "b", Computer: "another", Machine: Machine{MAC: mac}}},
		{"LON", Run{ID: "a", Computer: "lon-1"}},
		{"ROM", Run{ID: "d", Computer: "par-1", Machine: Machine{MAC: "52:54:00:00:00:f1"}}},
	}})
	if err != nil || len(s.Deployed) != 2 || s.Deployed[0].ID != "b" || s.Deployed[1].ID != "c" {
		t.Errorf("%v, %+v", err, s.Deployed)
	}
}

// TestResolveIsRepeatable: the same input gives the same bytes, in whatever order maps hand it out.
func TestResolveIsRepeatable(t *testing.T) {
	c, _ := decodeAll(t, world)
	for i := range 200 {
		name := fmt.Sprintf("pc-%03d", i)
		c[Key{KindComputer, name}] = Object{Kind: KindComputer, Name: name, Computer: &Computer{Name: name, Spec: ComputerSpec{SMBIOSGUID: "x", Variables: map[string]string{"A": "1", "B": "2"}}}}
	}
	var first string
	for range 20 {
		s, err := c.Resolve("LON", Facts{Content: debianContent, Approvals: []Approval{{Number: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(b)
		}
		if string(b) != first {
			t.Fatalf("differs:\n%s\n%s", first, b)
		}
	}
}

func TestResolveFails(t *testing.T) {
	for _, c := range []struct {
		name string
		gone Key
		code Code
	}{
		{"site", Key{KindSite, "LON"}, CodeNotFound},
		{"sequence", Key{KindTaskSequence, "look"}, CodeConflict},
		{"image", Key{KindOperatingSystemImage, "debian"}, CodeConflict},
		{"boot image", Key{KindBootImage, "uefi"}, CodeConflict},
	} {
		catalog, _ := decodeAll(t, world)
		delete(catalog, c.gone)
		if s, err := catalog.Resolve("LON", Facts{Content: debianContent}); CodeOf(err) != c.code || s != nil {
			t.Errorf("%s: %v, %v", c.name, s, err)
		}
	}
	catalog, _ := decodeAll(t, world)
	if _, err := catalog.Resolve("LON", Facts{Content: func(string, int) (ContentRef, error) { return ContentRef{}, Errorf(CodeNotFound, "", "gone") }}); CodeOf(err) != CodeNotFound {
		t.Error(err)
	}
}

// BenchmarkResolve resolves one of 20 sites of 20,000 computers and 200 collections.
func BenchmarkResolve(b *testing.B) {
	const n = 20_000
	c := Catalog{}
	put := func(o Object) { c[o.Key()] = o }
	for i := range 20 {
		name := fmt.Sprintf("site-%d", i)
		put(Object{Kind: KindSite, Name: name, Site: &Site{Name: name}})
	}
	inventories := map[string]Inventory{}
	for i := range n {
		name := fmt.Sprintf("pc-%d", i)
		put(Object{Kind: KindComputer, Name: name, Computer: &Computer{Name: name, Spec: ComputerSpec{
			Site: fmt.Sprintf("site-%d", i%20), MACAddresses: []MAC{MAC(fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16, i>>8&255, i&255))},
		}}})
		inventories[name] = Inventory{Product: "x"}
	}
	for i := range 200 {
		name := fmt.Sprintf("collection-%d", i)
		s := CollectionSpec{Variables: map[string]string{"A": "b"}}
		for j := range 100 {
			s.Computers = append(s.Computers, fmt.Sprintf("pc-%d", 100*i+j))
		}
		put(Object{Kind: KindCollection, Name: name, Collection: &Collection{Name: name, Spec: s}})
	}
	for b.Loop() {
		if _, err := c.Resolve("site-7", Facts{Content: debianContent, Inventories: inventories, Clears: []Clear{{Number: 1, At: time.Time{}}}}); err != nil {
			b.Fatal(err)
		}
	}
}
