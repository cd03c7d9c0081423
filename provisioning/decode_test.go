package provisioning

import (
	"strings"
	"testing"
)

// valid is a configuration in which every kind occurs.
const valid = `apiVersion: branchpoint/v1
kind: Site
metadata:
  name: LON
spec:
  pxe:
    mode: dhcp
    dhcp: {rangeStart: 10.7.0.100, rangeEnd: 10.7.0.200}
  distributionPoint: {}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec:
  macAddresses: ["52-54-00-12-34-56"]
  smbiosGUID: "{4C4C4544-0042-3510-8052-B4C04F4D3432}"
---
apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian}
spec: {package: debian-13}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - partitionDisk:
        partitions:
          - {type: esp, size: 256MiB, fileSystem: vfat, mount: /boot/efi}
          - {type: root, size: rest, fileSystem: ext4, mount: /}
    - applyOperatingSystemImage: {image: debian}
    - name: Say hello
      runCommandLine: {command: echo hello}
    - restart: {}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec:
  taskSequence: install
  computers: [desk-1]
  purpose: required
  start: 2026-11-20T08:00:00Z
`

func TestDecodeValid(t *testing.T) {
	objects, ps := Decode(File{"all.yaml", []byte(valid)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	c, ps := NewCatalog(objects)
	if len(ps) > 0 || len(c) != 5 {
		t.Fatal(len(c), ps)
	}
	keys := make([]Key, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	if ps := c.Check(keys, map[string]int{"debian-13": 1}); len(ps) > 0 {
		t.Fatal(ps)
	}
	pc := c[Key{KindComputer, "desk-1"}].Computer
	if pc.Spec.MACAddresses[0] != "52:54:00:12:34:56" || pc.Spec.SMBIOSGUID != "4c4c4544-0042-3510-8052-b4c04f4d3432" {
		t.Errorf("identities are not canonical: %+v", pc.Spec)
	}
}

// TestDecodeFaults changes one thing in the valid configuration and expects one problem, at the right place.
func TestDecodeFaults(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown field", "  pxe:\n", "  pxx:\n", `all.yaml:6:3: unknown field "pxx"`},
		{"unknown kind", "kind: Site", "kind: Sight", `all.yaml:2:7: kind "Sight" is unknown; write one of Site,`},
		{"wrong version", "apiVersion: branchpoint/v1\nkind: Site", "apiVersion: v9\nkind: Site", `all.yaml:1:13: apiVersion is "v9"`},
		{"wrong type", "computers: [desk-1]", "computers: 7", `all.yaml:42:14: this is a whole number; a list is wanted here`},
		{"wrong type in spec", "spec: {package: debian-13}", "spec: [package]", "a mapping is wanted here"},
		{"no spec", "spec: {package: debian-13}", "", `all.yaml:18:1: spec is missing`},
		{"bad mac", "52-54-00-12-34-56", "52-54-00-12-34", `all.yaml:15:18: "52-54-00-12-34" is no MAC address`},
		{"bad host name", "{name: desk-1}", "{name: desk_1}", `all.yaml:13:18: "desk_1" cannot be a host name`},
		{"bad mode", "mode: dhcp", "mode: both", `all.yaml:7:11: mode is "both"; write proxy`},
		{"pool order", "rangeStart: 10.7.0.100", "rangeStart: 10.7.0.250", `rangeEnd 10.7.0.200 lies before rangeStart`},
		{"bad size", "size: 256MiB", "size: 256MB", `size "256MB": write 512MiB`},
		{"esp without vfat", "fileSystem: vfat", "fileSystem: ext4", `an EFI system partition needs fileSystem: vfat`},
		{"two actions", "runCommandLine: {command: echo hello}", "runCommandLine: {command: echo hello}\n      restart: {}", `has 2 actions (runCommandLine, restart)`},
		{"no action", "runCommandLine: {command: echo hello}", "", `the step does nothing`},
		{"purpose", "purpose: required", "purpose: optional", `all.yaml:43:12: purpose is "optional"; write required`},
		{"bad time", "2026-11-20T08:00:00Z", "tomorrow", `all.yaml:44:10: "tomorrow" is no time`},
		{"syntax", "spec: {package: debian-13}", "spec: {package: debian-13", `all.yaml:`},
		{"alias", "spec: {package: debian-13}", "spec: &x {package: debian-13}", `anchors and aliases are not allowed`},
		{"duplicate key", "  purpose: required\n", "  purpose: required\n  purpose: required\n", `all.yaml:44:3: mapping key "purpose" already defined`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(valid, c.old, c.new, 1)
			if text == valid {
				t.Fatal("the change does not apply")
			}
			_, ps := Decode(File{"all.yaml", []byte(text)})
			if len(ps) != 1 || !strings.Contains(ps[0].String(), c.want) {
				t.Errorf("got %d problems:\n%v\nwant %s", len(ps), ps, c.want)
			}
		})
	}
}

func TestCatalogFaults(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"missing sequence", "taskSequence: install", "taskSequence: instal", `all.yaml:41:17: there is no TaskSequence "instal"`},
		{"missing computer", "computers: [desk-1]", "computers: [desk-2]", `all.yaml:42:15: there is no Computer "desk-2"`},
		{"missing image", "{image: debian}", "{image: debiam}", `there is no OperatingSystemImage "debiam"`},
		{"missing content", "package: debian-13", "package: debian-14", `branchpoint content add debian-14 FILE`},
		{"missing version", "package: debian-13", "package: debian-13, version: 2", `package debian-13 has no version 2; its newest is 1`},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, ps := Decode(File{"all.yaml", []byte(strings.Replace(valid, c.old, c.new, 1))})
			if len(ps) > 0 {
				t.Fatal(ps)
			}
			catalog, _ := NewCatalog(objects)
			var keys []Key
			for _, o := range objects {
				keys = append(keys, o.Key())
			}
			ps = catalog.Check(keys, map[string]int{"debian-13": 1})
			if len(ps) != 1 || !strings.Contains(ps[0].String(), c.want) {
				t.Errorf("got:\n%v\nwant %s", ps, c.want)
			}
		})
	}
}

func TestApplianceTemplateIsValid(t *testing.T) {
	a, ps := DecodeAppliance(File{"site.yaml", []byte(ApplianceTemplate)})
	if len(ps) > 0 || a.Site != "" {
		t.Fatal(a, ps)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(ApplianceTemplate))
	f.Add([]byte("a: &a [*a]\n---\n- ]"))
	f.Add([]byte(every))
	f.Add([]byte(every + more))
	f.Add([]byte("? apiVersion\n: !!str branchpoint/v1\n--- >-\n  x\n...\n%YAML 1.2\n---\n<<: {kind: |+\n}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		objects, _ := Decode(File{"f.yaml", b})
		c, _ := NewCatalog(objects)
		for k := range c {
			c.Check([]Key{k}, nil)
			c.Dependants(k)
		}
		DecodeAppliance(File{"f.yaml", b})
	})
}
