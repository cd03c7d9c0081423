package central

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// lab is a configuration with three sites, computers and an advertisement, as parts that cases replace.
var lab = map[string]string{
	"Site LON":                    `{pxe: {mode: proxy}}`,
	"Site PAR":                    `{pxe: {mode: proxy, unknownComputers: {}}}`,
	"Site ROM":                    `{}`,
	"Computer lon-1":              `{site: LON, macAddresses: ["52:54:00:00:00:01"]}`,
	"Computer lon-2":              `{site: LON, macAddresses: ["52:54:00:00:00:02"], smbiosGUID: 4c4c4544-0042-3510-8052-b4c04f4d3432}`,
	"Computer rom-1":              `{site: ROM, macAddresses: ["52:54:00:00:00:11"]}`,
	"Computer any-1":              `{macAddresses: ["52:54:00:00:00:21"]}`,
	"Collection both":             `{computers: [lon-1, lon-2]}`,
	"Collection query":            `{query: 'computer.site == "LON" && inventory.memoryMiB >= 4096'}`,
	"TaskSequence wipe":           `{steps: [{applyOperatingSystemImage: {image: debian}}]}`,
	"TaskSequence look":           `{steps: [{runCommandLine: {command: "true"}}]}`,
	"BootImage bios":              `{architectures: [bios]}`,
	"OperatingSystemImage debian": `{package: debian-13}`,
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// TestDanger makes one change each and wants to be asked about exactly what it would start.
func TestDanger(t *testing.T) {
	const ad = "Advertisement a"
	for _, c := range []struct {
		name string
		// before is what there is beside lab, change what is set ("" deletes).
		before, change map[string]string
		want           string // "computers | unknown sites | always", with limit 0
	}{
		{"required", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1, lon-2], purpose: required}`}, "lon-1 lon-2"},
		{"available", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: available}`}, ""},
		{"sequence that erases nothing", nil, map[string]string{ad: `{taskSequence: look, computers: [lon-1], purpose: required}`}, ""},
		{"for media alone", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, availableTo: [media]}`}, ""},
		{"for installed systems", nil, map[string]string{ad: `{taskSequence: wipe, computers: [rom-1], purpose: required, availableTo: [client]}`}, "rom-1"},
		{"site without PXE", nil, map[string]string{ad: `{taskSequence: wipe, computers: [rom-1], purpose: required}`}, ""},
		{"of no site", nil, map[string]string{ad: `{taskSequence: wipe, computers: [any-1], purpose: required}`}, "any-1"},
		{"collection", nil, map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, "lon-1 lon-2"},
		{"collection by query", nil, map[string]string{ad: `{taskSequence: wipe, collection: query, purpose: required}`}, "lon-2"},
		{"all systems", nil, map[string]string{ad: `{taskSequence: wipe, collection: all-systems, purpose: required}`}, "any-1 lon-1 lon-2"},
		{"unknown computers", nil, map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, "| PAR"},
		{"unknown computers, available", nil, map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: available}`}, ""},
		{"expired", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, expires: "2026-11-20T12:00:00Z"}`}, ""},
		{"begins later", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, start: "2027-01-01T00:00:00Z"}`}, "lon-1"},
		{"always", nil, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, rerun: always}`}, "lon-1 | | a"},

		{"the same again", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, ""},
		{"another description", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{"Collection both": `{computers: [lon-1, lon-2], description: x}`}, ""},
		{"one computer less", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{"Collection both": `{computers: [lon-2]}`}, ""},
		{"one computer more", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{"Collection both": `{computers: [lon-1, lon-2, any-1]}`}, "any-1"},
		{"no computers by name", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`}, map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, "lon-2"},
		{"available turns required", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: available}`}, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`}, "lon-1"},
		{"expiry put off", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, expires: "2026-11-20T11:00:00Z"}`}, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, expires: "2026-11-21T11:00:00Z"}`}, "lon-1"},
		{"if failed", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`}, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, rerun: if-failed}`}, "lon-1"},
		{"no longer if failed", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required, rerun: if-failed}`}, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`}, ""},
		{"sequence begins to erase", map[string]string{ad: `{taskSequence: look, computers: [lon-1], purpose: required}`}, map[string]string{"TaskSequence look": `{steps: [{applyOperatingSystemImage: {image: debian}}]}`}, "lon-1"},
		{"another sequence that erases", map[string]string{ad: `{taskSequence: look, computers: [lon-1], purpose: required}`}, map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`}, "lon-1"},
		{"more architectures", map[string]string{ad: `{taskSequence: wipe, computers: [lon-1], purpose: required}`, "TaskSequence wipe": `{bootImage: bios, steps: [{applyOperatingSystemImage: {image: debian}}]}`}, map[string]string{"BootImage bios": `{}`}, "lon-1"},
		{"PXE turned on", map[string]string{ad: `{taskSequence: wipe, computers: [rom-1, lon-1], purpose: required}`}, map[string]string{"Site ROM": `{pxe: {mode: proxy}}`}, "rom-1"},
		{"no longer ignored", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`, "Site LON": `{pxe: {mode: proxy, ignore: ["52:54:00:00:00:01"]}}`}, map[string]string{"Site LON": `{pxe: {mode: proxy}}`}, "lon-1"},
		{"no longer a dongle", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`, "Site LON": `{pxe: {mode: proxy, sharedAdapters: ["52:54:00:00:00:01"]}}`}, map[string]string{"Site LON": `{pxe: {mode: proxy}}`}, "lon-1"},
		{"no longer infrastructure", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`, "Computer lon-1": `{site: LON, macAddresses: ["52:54:00:00:00:01"], infrastructure: true}`}, map[string]string{"Computer lon-1": `{site: LON, macAddresses: ["52:54:00:00:00:01"]}`}, "lon-1"},
		{"another machine of that name", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{"Computer lon-1": `{site: LON, macAddresses: ["52:54:00:00:00:31"]}`}, "lon-1"},
		{"a network card less", map[string]string{ad: `{taskSequence: wipe, collection: both, purpose: required}`}, map[string]string{"Computer lon-2": `{site: LON, smbiosGUID: 4c4c4544-0042-3510-8052-b4c04f4d3432}`}, ""},
		{"new computer of all systems", map[string]string{ad: `{taskSequence: wipe, collection: all-systems, purpose: required}`}, map[string]string{"Computer lon-3": `{site: LON, macAddresses: ["52:54:00:00:00:03"]}`}, "lon-3"},
		{"of no site, ignored at one of them", map[string]string{"Site LON": `{pxe: {mode: proxy, ignore: ["52:54:00:00:00:21"]}}`}, map[string]string{ad: `{taskSequence: wipe, computers: [any-1], purpose: required}`}, "any-1"},
		{"of no site, ignored at each of them", map[string]string{"Site LON": `{pxe: {mode: proxy, ignore: ["52:54:00:00:00:21"]}}`, "Site PAR": `{pxe: {mode: proxy, sharedAdapters: ["52:54:00:00:00:21"]}}`}, map[string]string{ad: `{taskSequence: wipe, computers: [any-1], purpose: required}`}, ""},
		{"computer comes to a site with PXE", map[string]string{ad: `{taskSequence: wipe, computers: [rom-1], purpose: required}`}, map[string]string{"Computer rom-1": `{site: LON, macAddresses: ["52:54:00:00:00:11"]}`}, "rom-1"},

		{"unknown support turned on", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Site LON": `{pxe: {mode: proxy, unknownComputers: {}}}`}, "| LON"},
		{"unknown support turned off", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Site PAR": `{pxe: {mode: proxy}}`}, ""},
		{"another pattern for unknown ones", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Site PAR": `{pxe: {mode: proxy, unknownComputers: {namePattern: "x-%mac%"}}}`}, ""},
		{"unknown ones no longer ignored", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Site PAR": `{pxe: {mode: proxy, unknownComputers: {}, ignore: ["52:54:00:00:00:99"]}}`}, map[string]string{"Site PAR": `{pxe: {mode: proxy, unknownComputers: {}}}`}, "| PAR"},
		{"a known computer is forgotten where unknown ones are erased", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Computer any-1": ""}, "any-1"},
		{"a network card is forgotten where unknown ones are erased", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Computer any-1": `{macAddresses: ["52:54:00:00:00:21", "52:54:00:00:00:22"]}`}, map[string]string{"Computer any-1": `{macAddresses: ["52:54:00:00:00:22"]}`}, "any-1"},
		{"a network card is forgotten of a computer that is known by its GUID", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Computer any-1": `{macAddresses: ["52:54:00:00:00:21", "52:54:00:00:00:22"], smbiosGUID: 4c4c4544-0042-3510-8052-b4c04f4d3433}`}, map[string]string{"Computer any-1": `{macAddresses: ["52:54:00:00:00:22"], smbiosGUID: 4c4c4544-0042-3510-8052-b4c04f4d3433}`}, ""},
		{"a known computer is forgotten elsewhere", map[string]string{ad: `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Computer rom-1": ""}, ""},
		{"advertisement deleted", map[string]string{ad: `{taskSequence: wipe, collection: all-systems, purpose: required}`}, map[string]string{ad: ""}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := map[string]string{}
			for _, m := range []map[string]string{lab, c.before} {
				for k, v := range m {
					parts[k] = v
				}
			}
			decoded := &decodedDocuments{}
			stored := mustDecide(t, decoded, nil, parts).documents()
			p := mustDecide(t, decoded, stored, c.change)
			got := ""
			if d := p.danger(noon, map[string]provisioning.Inventory{"lon-1": {MemoryMiB: 2048}, "lon-2": {MemoryMiB: 8192}}, nil, 0); d != nil {
				got = strings.Join(d.Computers, " ")
				if len(d.UnknownSites)+len(d.Always) > 0 {
					got = strings.TrimSpace(got + " | " + strings.Join(d.UnknownSites, " "))
				}
				if len(d.Always) > 0 {
					got += " | " + strings.Join(d.Always, " ")
				}
				if len(d.Computers) != d.Count {
					t.Errorf("%d computers, but %v", d.Count, d.Computers)
				}
			}
			if got != c.want {
				t.Errorf("asks about %q, want %q", got, c.want)
			}
		})
	}
}

// mustDecide plans documents by "Kind name" → spec; an empty spec deletes.
func mustDecide(t *testing.T, decoded *decodedDocuments, stored []provisioning.Document, parts map[string]string) *plan {
	t.Helper()
	var remove []provisioning.Key
	text := ""
	for k, spec := range parts {
		kind, name, _ := strings.Cut(k, " ")
		if spec == "" {
			remove = append(remove, provisioning.Key{Kind: provisioning.Kind(kind), Name: name})
			continue
		}
		text += fmt.Sprintf("apiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n---\n", kind, name, spec)
	}
	e := edit{}
	if text != "" {
		given, err := decodeAll([]provisioning.File{{Name: "a.yaml", Text: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		e = want(given)
	}
	e.remove = remove
	p, err := decide(decoded, stored, e, map[string]int{"debian-13": 1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestConfirm: what is confirmed is exactly what was asked about, never more.
func TestConfirm(t *testing.T) {
	many := make([]string, 30)
	for i := range many {
		many[i] = fmt.Sprintf("pc-%02d", i)
	}
	for _, c := range []struct {
		count           int
		unknown, always []string
		caps            []client.RaisedCap
		confirm, said   string // confirm "" means that nobody is asked
	}{
		{10, nil, nil, nil, "", ""},
		{11, nil, nil, nil, "11", "11 computers: pc-00, pc-01"},
		{30, nil, nil, nil, "30", "pc-19 and 10 more"},
		{0, []string{"LON"}, nil, nil, "unknown", "every unknown machine at LON"},
		{3, []string{"LON", "PAR"}, nil, nil, "3+unknown", "3 computers: pc-00, pc-01, pc-02; and of every unknown machine at LON, PAR"},
		{1, nil, []string{"a"}, nil, "1", "1 computer: pc-00; at each boot by a"},
		{0, nil, nil, []client.RaisedCap{{Site: "LON", From: 30, To: 100}, {Site: "PAR", From: 2, To: 5}}, "105/h", "in an hour: at LON 100, not 30, PAR 5, not 2"},
		{3, []string{"LON"}, nil, []client.RaisedCap{{Site: "LON", From: 30, To: 31}}, "3+unknown+31/h", "unknown machine at LON; this would let more"},
	} {
		d := newDanger(c.count, many[:c.count], c.unknown, c.always, c.caps, 10)
		if (d == nil) != (c.confirm == "") {
			t.Errorf("%+v: %+v", c, d)
			continue
		}
		for _, given := range []string{"", "1", "10", "11", "30", "unknown", "3+unknown", "105/h", "105", "3+unknown+31/h"} {
			err := confirmed(d, given)
			if (err == nil) != (d == nil || given == c.confirm) {
				t.Errorf("%+v with %q: %v", c, given, err)
			}
			if err != nil && (provisioning.CodeOf(err) != provisioning.CodeConflict || !strings.Contains(err.Error(), c.said) ||
				!strings.HasSuffix(provisioning.NextOf(err), "--confirm "+c.confirm+".")) {
				t.Errorf("%+v: %v → %s", c, err, provisioning.NextOf(err))
			}
		}
	}
}

// TestRaisedCaps: what lets more disks be erased in an hour is asked about, by what holds where a site says nothing.
func TestRaisedCaps(t *testing.T) {
	for _, c := range []struct {
		name, before, after string // of site LON; "" is none
		want                string
	}{
		{"raised", `{pxe: {mode: proxy, wipesPerHour: 5}}`, `{pxe: {mode: proxy, wipesPerHour: 6}}`, "6/h"},
		{"above what holds", `{pxe: {mode: proxy}}`, `{pxe: {mode: proxy, wipesPerHour: 31}}`, "31/h"},
		{"no longer said", `{pxe: {mode: proxy, wipesPerHour: 5}}`, `{pxe: {mode: proxy}}`, "30/h"},
		{"of a new site", ``, `{pxe: {mode: proxy, wipesPerHour: 31}}`, "31/h"},
		{"with PXE", `{}`, `{pxe: {mode: proxy, wipesPerHour: 31}}`, "31/h"},
		{"lowered", `{pxe: {mode: proxy, wipesPerHour: 5}}`, `{pxe: {mode: proxy, wipesPerHour: 4}}`, ""},
		{"said", `{pxe: {mode: proxy}}`, `{pxe: {mode: proxy, wipesPerHour: 30}}`, ""},
		{"of a new site that says nothing", ``, `{pxe: {mode: proxy}}`, ""},
		{"without PXE", `{pxe: {mode: proxy, wipesPerHour: 5}}`, `{}`, ""},
		{"of a site that goes", `{pxe: {mode: proxy, wipesPerHour: 5}}`, ``, ""},
		{"the same", `{pxe: {mode: proxy, wipesPerHour: 50}}`, `{pxe: {mode: proxy, wipesPerHour: 50}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			decoded := &decodedDocuments{}
			var stored []provisioning.Document
			if c.before != "" {
				stored = mustDecide(t, decoded, nil, map[string]string{"Site LON": c.before}).documents()
			}
			got := ""
			if d := mustDecide(t, decoded, stored, map[string]string{"Site LON": c.after}).danger(noon, nil, nil, 10); d != nil {
				got = d.Confirm
			}
			if got != c.want {
				t.Errorf("asks for %q, want %q", got, c.want)
			}
		})
	}
}

// TestForgottenComputers are asked about, however few they are: they become unknown machines.
func TestForgottenComputers(t *testing.T) {
	parts := map[string]string{"Advertisement a": `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}
	maps.Copy(parts, lab)
	decoded := &decodedDocuments{}
	stored := mustDecide(t, decoded, nil, parts).documents()
	if d := mustDecide(t, decoded, stored, map[string]string{"Computer any-1": ""}).danger(noon, nil, nil, 10); d == nil || d.Confirm != "1" {
		t.Errorf("%+v", d)
	}
	if d := mustDecide(t, decoded, stored, map[string]string{"Computer any-1": `{macAddresses: ["52:54:00:00:00:21"], description: x}`}).danger(noon, nil, nil, 10); d != nil {
		t.Errorf("%+v", d)
	}
}

// TestClearDanger: what would run again on a computer is what it has as itself, and what it may have had as an unknown one.
func TestClearDanger(t *testing.T) {
	for _, c := range []struct{ ad, want string }{
		{`{taskSequence: wipe, collection: both, purpose: required}`, "lon-1 lon-2"},
		{`{taskSequence: wipe, collection: both, purpose: available}`, ""},
		{`{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "any-1 par-1"},
	} {
		parts := map[string]string{"Advertisement a": c.ad, "Computer par-1": `{site: PAR, macAddresses: ["52:54:00:00:00:41"]}`}
		maps.Copy(parts, lab)
		decoded := &decodedDocuments{}
		p := mustDecide(t, decoded, nil, parts)
		got := ""
		if d := clearDanger(p.after, []string{"any-1", "lon-1", "lon-2", "par-1", "rom-1"}, noon, nil, nil, 0); d != nil {
			got = strings.Join(d.Computers, " ")
		}
		if got != c.want {
			t.Errorf("%s: asks about %q, want %q", c.ad, got, c.want)
		}
	}
}

// TestHostsAreInNoDanger: the machines that appliances run on are no targets, and are again when their site is deleted.
func TestHostsAreInNoDanger(t *testing.T) {
	const everybody = `{taskSequence: wipe, collection: all-systems, purpose: required}`
	host := func(site string, guid provisioning.GUID, macs ...provisioning.MAC) []provisioning.Host {
		return []provisioning.Host{{Site: site, Hardware: provisioning.Hardware{MACAddresses: macs, SMBIOSGUID: guid}}}
	}
	for _, c := range []struct {
		name           string
		before, change map[string]string
		hosts          []provisioning.Host
		want           string
	}{
		{"by an address", nil, map[string]string{"Advertisement a": everybody}, host("ROM", "", "52:54:00:00:00:01"), "any-1 lon-2"},
		{"by a GUID", nil, map[string]string{"Advertisement a": everybody}, host("", "4c4c4544-0042-3510-8052-b4c04f4d3432"), "any-1 lon-1"},
		{"of a site that there is not", nil, map[string]string{"Advertisement a": everybody}, host("OSL", "", "52:54:00:00:00:01"), "any-1 lon-1 lon-2"},
		{"by an adapter that wanders", map[string]string{"Site PAR": `{pxe: {mode: proxy, sharedAdapters: ["52:54:00:00:00:01"]}}`}, map[string]string{"Advertisement a": everybody}, host("LON", "", "52:54:00:00:00:01"), "any-1 lon-1 lon-2"},
		{"site deleted", map[string]string{"Advertisement a": everybody, "Site OSL": `{}`}, map[string]string{"Site OSL": ""}, host("OSL", "", "52:54:00:00:00:01"), "lon-1"},
		{"site deleted, unknown ones", map[string]string{"Advertisement a": `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Site OSL": `{}`}, map[string]string{"Site OSL": ""}, host("OSL", "", "52:54:00:00:00:99"), "| PAR"},
		{"another site deleted, unknown ones", map[string]string{"Advertisement a": `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Site OSL": `{}`}, map[string]string{"Site OSL": ""}, host("LON", "", "52:54:00:00:00:99"), ""},
		{"forgotten by its GUID where unknown ones are erased", map[string]string{"Advertisement a": `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`, "Computer any-9": `{smbiosGUID: 99999999-9999-4999-8999-999999999999}`}, map[string]string{"Computer any-9": ""}, host("LON", "99999999-9999-4999-8999-999999999999"), ""},
		{"forgotten where unknown ones are erased", map[string]string{"Advertisement a": `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`}, map[string]string{"Computer any-1": ""}, host("LON", "", "52:54:00:00:00:21"), ""},
	} {
		parts := maps.Clone(lab)
		maps.Copy(parts, c.before)
		decoded := &decodedDocuments{}
		p := mustDecide(t, decoded, mustDecide(t, decoded, nil, parts).documents(), c.change)
		got := ""
		if d := p.danger(noon, nil, c.hosts, 0); d != nil {
			got = strings.Join(d.Computers, " ")
			if len(d.UnknownSites) > 0 {
				got = strings.TrimSpace(got + " | " + strings.Join(d.UnknownSites, " "))
			}
		}
		if got != c.want {
			t.Errorf("%s: asks about %q, want %q", c.name, got, c.want)
		}
	}
	parts := maps.Clone(lab)
	parts["Advertisement a"] = everybody
	p := mustDecide(t, &decodedDocuments{}, nil, parts)
	if d := clearDanger(p.after, []string{"lon-1", "lon-2"}, noon, nil, host("PAR", "", "52:54:00:00:00:01"), 0); d == nil || strings.Join(d.Computers, " ") != "lon-2" {
		t.Errorf("%+v", d)
	}
}

// TestForgottenHosts: a machine that was an appliance's and is one like others from then on can be erased, as what it is known as or
// as an unknown one; not where another appliance has told of it, too.
func TestForgottenHosts(t *testing.T) {
	const everybody, strangers = `{taskSequence: wipe, collection: all-systems, purpose: required}`, `{taskSequence: wipe, collection: all-unknown-computers, purpose: required}`
	host := func(guid provisioning.GUID, macs ...provisioning.MAC) provisioning.Host {
		return provisioning.Host{Site: "LON", Hardware: provisioning.Hardware{MACAddresses: macs, SMBIOSGUID: guid}}
	}
	one, stranger := host("", "52:54:00:00:00:01"), host("99999999-9999-4999-8999-999999999999", "52:54:00:00:00:99")
	for _, c := range []struct {
		name, advertisement string
		before, after       []provisioning.Host
		want                string
	}{
		{"a computer", everybody, []provisioning.Host{one}, nil, "lon-1"},
		{"one of two", everybody, []provisioning.Host{one, stranger}, []provisioning.Host{stranger}, "lon-1"},
		{"told twice", everybody, []provisioning.Host{one, host("", "52:54:00:00:00:01", "52:54:00:00:00:98")}, []provisioning.Host{one}, ""},
		{"an unknown machine", strangers, []provisioning.Host{stranger}, nil, "| PAR"},
		{"by its GUID", strangers, []provisioning.Host{stranger}, []provisioning.Host{host("", "52:54:00:00:00:99")}, "| PAR"},
		{"by its address", strangers, []provisioning.Host{stranger}, []provisioning.Host{host(stranger.SMBIOSGUID)}, "| PAR"},
		{"nothing", strangers, []provisioning.Host{stranger}, []provisioning.Host{stranger}, ""},
	} {
		parts := maps.Clone(lab)
		parts["Advertisement a"] = c.advertisement
		p := mustDecide(t, &decodedDocuments{}, nil, parts)
		world := func(hosts []provisioning.Host) *world { return newWorld(p.after, noon, nil, hosts) }
		got := ""
		if d := (&plan{}).between(world(c.before), world(c.after), nil, 0); d != nil {
			got = strings.Join(d.Computers, " ")
			if len(d.UnknownSites) > 0 {
				got = strings.TrimSpace(got + " | " + strings.Join(d.UnknownSites, " "))
			}
		}
		if got != c.want {
			t.Errorf("%s: asks about %q, want %q", c.name, got, c.want)
		}
	}
}
