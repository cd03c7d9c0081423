package provisioning

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
)

func hardware(guid GUID, macs ...MAC) Hardware { return Hardware{MACAddresses: macs, SMBIOSGUID: guid} }

const hostGUID GUID = "01020304-0506-0708-8999-999999999999"

// TestHardware takes what is canonical and bounded, and nothing else.
func TestHardware(t *testing.T) {
	many := make([]MAC, MaxHostMACs+1)
	for i := range many {
		many[i] = MAC(fmt.Sprintf("52:54:00:00:00:%02x", i))
	}
	for _, good := range []Hardware{{}, hardware(hostGUID), hardware("", many[:MaxHostMACs]...)} {
		if err := good.Validate(); err != nil {
			t.Error(err)
		}
	}
	for name, bad := range map[string]Hardware{
		"too many":       hardware("", many...),
		"unsorted":       hardware("", many[1], many[0]),
		"twice":          hardware("", many[0], many[0]),
		"not canonical":  hardware("", "52-54-00-00-00-01"),
		"no address":     hardware("", ""),
		"broadcast":      hardware("", "ff:ff:ff:ff:ff:ff"),
		"GUID":           hardware("x"),
		"a shared GUID":  hardware("03000200-0400-0500-0006-000700080009"),
		"a GUID of ones": hardware("ffffffff-ffff-ffff-ffff-ffffffffffff"),
	} {
		if err := bad.Validate(); CodeOf(err) != CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInfrastructure: hosts of sites that there are, each once, in an order of their own; and without adapters that wander.
func TestInfrastructure(t *testing.T) {
	objects, problems := Decode(File{Name: "a", Text: []byte(`apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy, sharedAdapters: ["52:54:00:00:00:da"]}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {}
`)})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	catalog, problems := NewCatalog(objects)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	told := []Host{
		{"PAR", hardware("", "52:54:00:00:00:02", "52:54:00:00:00:da")},
		{"PAR", hardware("", "52:54:00:00:00:da")},
		{"ROM", hardware("", "52:54:00:00:00:03")},
		{"LON", hardware(hostGUID, "52:54:00:00:00:01")},
		{"LON", hardware(hostGUID, "52:54:00:00:00:01")},
		{"", hardware("", "52:54:00:00:00:09")},
		{"LON", Hardware{}},
	}
	want := []Host{
		{"", hardware("", "52:54:00:00:00:09")},
		{"LON", hardware(hostGUID, "52:54:00:00:00:01")},
		{"PAR", hardware("", "52:54:00:00:00:02", "52:54:00:00:00:da")},
		{"PAR", hardware("", "52:54:00:00:00:da")},
	}
	for range 2 {
		if got := catalog.Infrastructure(told); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v", got)
		}
		slices.Reverse(told)
	}
	everywhere := []Host{want[0], want[1], {"PAR", hardware("", "52:54:00:00:00:02")}}
	if got := catalog.Everywhere(want); !reflect.DeepEqual(got, everywhere) || len(want[2].MACAddresses) != 2 {
		t.Errorf("%+v of %+v", got, want)
	}
	s, err := catalog.Resolve("PAR", Facts{Hosts: told})
	if err != nil || !reflect.DeepEqual(s.Infrastructure, want) {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestHostsAreFound by any of what they are recognised by, and by nothing else.
func TestHostsAreFound(t *testing.T) {
	x := NewHosts([]Host{{"LON", hardware(hostGUID, "52:54:00:00:00:01")}, {"", hardware("", "52:54:00:00:00:01", "52:54:00:00:00:02")}})
	for _, c := range []struct {
		mac  MAC
		guid GUID
		want string
	}{
		{"52:54:00:00:00:01", "", "an appliance of site LON"},
		{"52:54:00:00:00:02", "", "central's host"},
		{"52:54:00:00:00:03", hostGUID, "an appliance of site LON"},
		{"", "04030201-0605-0807-8999-999999999999", "an appliance of site LON"},
		{"52:54:00:00:00:03", "", ""},
		{"", "", ""},
		{"52:54:00:00:00:03", "01020304-0506-0708-8999-999999999998", ""},
	} {
		got := ""
		if h := x.Find(c.mac, c.guid); h != nil {
			got = h.String()
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
		if (Hosts{}).Find(c.mac, c.guid) != nil || NewHosts([]Host{{}}).Find(c.mac, c.guid) != nil {
			t.Errorf("%+v is found where there is nothing", c)
		}
		computer := &Computer{Spec: ComputerSpec{SMBIOSGUID: c.guid}}
		if c.mac != "" {
			computer.Spec.MACAddresses = []MAC{"52:54:00:00:00:99", c.mac}
		}
		if of := x.Of(computer); (of != nil) != (c.want != "") {
			t.Errorf("%+v as a computer: %v", c, of)
		}
	}
}
