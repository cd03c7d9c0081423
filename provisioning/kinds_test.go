package provisioning

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// every is a configuration in which every kind and every field occurs.
const every = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec:
  description: The branch at London Bridge
  timeZone: Europe/London
  boundaries: [10.7.0.0/16, "2001:DB8:7::/48"]
  admins: ["Jo Miller, +44 20 7946 0000"]
  approveEnrolment: true
  console: {shell: true}
  texts: {organization: Example, welcome: Good morning, help: Ring 4711}
  pxe:
    mode: proxy
    interfaces: [eth0]
    responseDelaySeconds: 2
    unknownComputers: {namePattern: "lon-%serial%"}
    passwordHash: $argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    ignore: ["52-54-00-00-00-09"]
    sharedAdapters: ["5254.0000.000a"]
    wipesPerHour: 10
    secretsAfter: password
  distributionPoint:
    quotaGiB: 500
    windows:
      - {days: [mon, fri], from: "22:00", to: "06:00"}
    rateMbps: 100
    protected: true
    connections: 20
  stateMigrationPoint:
    folders:
      - {path: states, maxClients: 50, minFreeGiB: 10}
    deleteAfterHours: 48
    restoreOnly: true
  media: {maxValidDays: 90}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec:
  description: By the window
  site: LON
  macAddresses: ["52:54:00:00:00:01", "52:54:00:00:00:02"]
  smbiosGUID: 4c4c4544-0042-3510-8052-b4c04f4d3432
  tpm: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  infrastructure: true
  variables: {OSDTimeZone: GMT}
  secrets: {JoinPassword: "sealed:AAAA"}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
spec:
  macAddresses: ["52:54:00:00:00:03"]
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: accounts}
spec:
  description: Accounts department
  computers: [desk-1]
  query: inventory.memoryMiB >= 8192
  variables: {Department: accounts}
  secrets: {ProductKey: "sealed:AAAA"}
---
apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian}
spec: {description: Debian 13, package: debian-13, version: 1}
---
apiVersion: branchpoint/v1
kind: OperatingSystemInstallPackage
metadata: {name: debian-medium}
spec: {description: The installer, package: debian-iso, version: 2}
---
apiVersion: branchpoint/v1
kind: BootImage
metadata: {name: desktops}
spec: {description: UEFI only, architectures: [uefi-x64, uefi-http-x64]}
---
apiVersion: branchpoint/v1
kind: DriverPackage
metadata: {name: laptops}
spec: {description: Laptops, package: drivers, version: 1}
---
apiVersion: branchpoint/v1
kind: SoftwarePackage
metadata: {name: office}
spec: {description: Office, package: software, version: 1}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  description: Install
  bootImage: desktops
  variables: {A: b}
  secrets: {Licence: "sealed:AAAA"}
  steps:
    - partitionDisk:
        disk: {number: 0}
        table: gpt
        partitions:
          - {name: system, type: esp, size: 256MiB, fileSystem: vfat, label: ESP, mount: /boot/efi}
          - {type: root, size: rest, fileSystem: ext4, mount: /}
    - partitionDisk:
        disk: {serial: S1}
        partitions:
          - {fileSystem: ext4}
    - applyOperatingSystemImage: {image: debian, disk: {serial: S1}}
    - applyOperatingSystemImage: {image: debian, disk: {number: 1}}
    - applyNetworkSettings: {address: 10.7.0.5/24, gateway: 10.7.0.1, dns: [10.7.0.1], search: example.org}
    - applyNetworkSettings: {dhcp: true}
    - applyOperatingSystemSettings:
        computerName: "%OSDComputerName%"
        timeZone: Europe/London
        administrator: {name: admin, passwordHash: $6$saltsalt$hash, sshKeys: [ssh-ed25519 AAAA jo]}
    - name: Say hello
      runCommandLine: {command: echo hello, in: target, successCodes: [0, 3], timeoutMinutes: 5}
    - restart: {}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: inventory}
spec:
  steps:
    - runCommandLine: {command: lshw, in: boot-image}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec:
  taskSequence: inventory
  collection: accounts
  purpose: required
  priority: 5
  availableTo: [pxe, media, client]
  rerun: if-failed
  client: {when: log-off, countdownMinutes: 15, remindMinutes: 5, userMayStart: true, hideProgress: true}
  wakeOnLAN: true
  downloadFirst: true
  maintenanceWindows:
    - {days: [sat], from: "20:00", to: "23:00"}
  fallbackToUnprotected: true
  start: 2026-11-20T09:00:00+01:00
  expires: 2027-11-20T08:00:00Z
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: choice}
spec: {taskSequence: install, computers: [desk-1, desk-2], purpose: available}
---
apiVersion: branchpoint/v1
kind: ComputerAssociation
metadata: {name: jo}
spec: {description: Jo's new computer, source: desk-2, destination: desk-1}
---
apiVersion: branchpoint/v1
kind: Role
metadata: {name: london}
spec: {description: The people of London, rights: operator, accounts: [jo], sites: [LON], collections: [accounts, all-systems]}
`

// everyPackage is the content that every names.
var everyPackage = map[string]int{"debian-13": 1, "debian-iso": 2, "drivers": 1, "software": 1}

func decodeAll(t *testing.T, text string) (Catalog, []Key) {
	t.Helper()
	objects, ps := Decode(File{"a.yaml", []byte(text)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	c, ps := NewCatalog(objects)
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	keys := make([]Key, 0, len(objects))
	for _, o := range objects {
		keys = append(keys, o.Key())
	}
	return c, keys
}

func TestEveryKind(t *testing.T) {
	c, keys := decodeAll(t, every)
	if ps := c.Check(keys, everyPackage); len(ps) > 0 {
		t.Error(ps)
	}
	seen := map[Kind]bool{}
	for _, k := range keys {
		seen[k.Kind] = true
	}
	for _, k := range Kinds {
		if _, ok := rules[k]; !ok || !seen[k] {
			t.Errorf("%s has no rules, or does not occur", k)
		}
	}
	if len(rules) != len(Kinds) {
		t.Errorf("%d rules, %d kinds", len(rules), len(Kinds))
	}
	lon := c[Key{KindSite, "LON"}].Site.Spec
	if lon.Boundaries[1] != "2001:db8:7::/48" || lon.PXE.Ignore[0] != "52:54:00:00:00:09" || lon.PXE.SharedAdapters[0] != "52:54:00:00:00:0a" {
		t.Errorf("not canonical: %+v %+v", lon.Boundaries, lon.PXE)
	}
}

// TestEveryFieldOccurs keeps every from missing a field that is added: what does not occur is not tested.
func TestEveryFieldOccurs(t *testing.T) {
	// Only one mode of the PXE service point can stand in a document; TestRelayedPools has the other.
	set := map[string]bool{"Site.pxe.dhcp": true}
	var fields []string
	var mark func(path string, v reflect.Value)
	var list func(path string, typ reflect.Type)
	mark = func(path string, v reflect.Value) {
		switch {
		case v.Kind() == reflect.Pointer && !v.IsNil():
			mark(path, v.Elem())
		case v.Kind() == reflect.Slice:
			for i := range v.Len() {
				mark(path, v.Index(i))
			}
		case v.Kind() == reflect.Struct:
			for name, i := range fieldsOf(v.Type()) {
				if !v.Field(i).IsZero() {
					set[path+"."+name] = true
					mark(path+"."+name, v.Field(i))
				}
			}
		}
	}
	list = func(path string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() == reflect.Struct && path != "Site.pxe.dhcp" {
			for name, i := range fieldsOf(typ) {
				fields = append(fields, path+"."+name)
				list(path+"."+name, typ.Field(i).Type)
			}
		}
	}
	c, _ := decodeAll(t, every)
	for k, o := range c {
		mark(string(k.Kind), reflect.ValueOf(o.spec()))
	}
	for _, k := range Kinds {
		o := Object{Kind: k}
		list(string(k), reflect.TypeOf(o.make()))
	}
	if len(fields) < 80 {
		t.Fatalf("only %d fields were looked at", len(fields))
	}
	slices.Sort(fields)
	for _, f := range fields {
		if !set[f] {
			t.Errorf("%s does not occur", f)
		}
	}
}

// TestEncodeEveryKind: what every document says survives being stored, in one form.
func TestEncodeEveryKind(t *testing.T) {
	c, keys := decodeAll(t, every)
	for _, k := range keys {
		o := c[k]
		text, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := (&Document{Kind: k.Kind, Name: k.Name, Text: text}).Decode()
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(back.spec(), o.spec()) {
			t.Errorf("%v is changed by encoding:\n%s", k, text)
		}
		if again, err := back.Encode(); err != nil || again != text {
			t.Errorf("%v encodes differently the second time, %v:\n%s\n%s", k, err, text, again)
		}
	}
	o := c[Key{KindAdvertisement, "rollout"}]
	if text, _ := o.Encode(); !strings.Contains(text, `start: "2026-11-20T08:00:00Z"`) {
		t.Errorf("the start is not in UTC:\n%s", text)
	}
}

func TestEncodeOfNothing(t *testing.T) {
	for _, o := range []Object{{}, {Kind: "Sight", Name: "a"}, {Kind: KindSite, Name: "a"}, {Kind: KindSite, Name: "a", Role: &Role{}}} {
		if text, err := o.Encode(); CodeOf(err) != CodeInternal {
			t.Errorf("%s: %q, %v", o.Kind, text, err)
		}
		if ps := o.Validate(); len(ps) != 1 {
			t.Errorf("%s: %v", o.Kind, ps)
		}
	}
}

// TestChangedStaysOutOfDocuments: the number of an advertisement's change is no part of what a person wrote.
func TestChangedStaysOutOfDocuments(t *testing.T) {
	c, _ := decodeAll(t, every)
	o := c[Key{KindAdvertisement, "choice"}]
	o.Advertisement.Changed = 7
	text, err := o.Encode()
	if err != nil || strings.Contains(text, "changed") {
		t.Error(err, text)
	}
	if b, err := json.Marshal(o.Advertisement); err != nil || !strings.Contains(string(b), `"changed":7`) {
		t.Errorf("%s %v", b, err)
	}
	if _, ps := Decode(File{"a", []byte(strings.Replace(every, "kind: Advertisement\n", "kind: Advertisement\nchanged: 7\n", 1))}); len(ps) != 1 {
		t.Error(ps)
	}
}

func TestValidateObject(t *testing.T) {
	o := Object{Kind: KindComputer, Name: "desk-9", Computer: &Computer{Name: "desk-9", Spec: ComputerSpec{MACAddresses: []MAC{"52-54-00-AA-00-01"}}}}
	if ps := o.Validate(); len(ps) > 0 || o.Computer.Spec.MACAddresses[0] != "52:54:00:aa:00:01" {
		t.Error(ps, o.Computer.Spec)
	}
	o.Computer.Spec.MACAddresses = nil
	if ps := o.Validate(); len(ps) != 1 || ps[0].Line != 0 || !strings.Contains(ps[0].Message, "give at least one") {
		t.Error(ps)
	}
}
