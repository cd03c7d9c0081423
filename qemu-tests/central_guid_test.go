package qemutests

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// conflict is what branchpoint conflicts --json says of a conflicting record.
type conflict struct {
	Site, ID string
	Conflict struct {
		Machine       struct{ MAC, GUID string }
		ByMAC, ByGUID []string
	}
}

func (s *site) conflicts() []conflict {
	s.t.Helper()
	var out []conflict
	if err := json.Unmarshal([]byte(s.must("conflicts", "--json")), &out); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// knownByGUID boots a computer that has got another network card than its record names, and a machine of whose two records
// one has its address and the other its GUID.
func knownByGUID(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.pc("pc", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("pc", smallDisk)})
	blank := s.lab.BlankDisk("mixed", smallDisk)
	mixed := s.pc("mixed", lab.BIOS, lab.Disk{Path: blank})
	rest := joined(siteProxy, known("desk-guid", `macAddresses: ["52:54:00:0d:1d:01"], smbiosGUID: `+pc.UUID()),
		erase("install", "test %OSDComputerName% = desk-guid"))
	byMAC, byGUID := fmt.Sprintf(`macAddresses: ["%s"]`, mixed.MAC(0)), "smbiosGUID: "+mixed.UUID()
	s.apply("site.yaml", joined(rest, known("desk-a", byMAC), known("desk-b", byGUID),
		advertised("rollout", "install", "purpose: required, computers: [desk-guid, desk-a, desk-b]")))
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()
	since := momentOf(mixed)
	pc.Start()
	mixed.Start()

	// Two computers at once: nothing.
	waitPassedBy(t, s.office, s.appliance, mixed, lab.BIOS, since)
	mixed.PowerCut()
	lab.RequireBlank(t, blank)
	var found []conflict
	poll(t, 2*time.Minute, "central has the conflicting record", func() bool { found = s.conflicts(); return len(found) > 0 })
	c := found[0]
	if len(found) != 1 || c.Site != "LON" || c.Conflict.Machine.MAC != mixed.MAC(0).String() || !strings.EqualFold(c.Conflict.Machine.GUID, mixed.UUID()) ||
		!slices.Equal(c.Conflict.ByMAC, []string{"desk-a"}) || !slices.Equal(c.Conflict.ByGUID, []string{"desk-b"}) {
		t.Fatalf("central has the conflicting records %+v", found)
	}
	if text := s.must("conflicts"); !strings.Contains(text, "desk-a,desk-b") || !strings.Contains(text, mixed.MAC(0).String()) {
		t.Errorf("branchpoint conflicts says\n%s", text)
	}
	s.appliance.WaitSerial(time.Minute, `1 conflicting record`)

	// Another card in a computer that its GUID names: it gets what is required of it.
	e := pc.WaitEvent(5*time.Minute, "agent-ready", nil)
	if e.String("mac") != pc.MAC(0).String() || e.String("secureboot") != "true" {
		t.Errorf("the boot image says %s", e.Raw)
	}
	if e := pc.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("computer") != "desk-guid" {
		t.Errorf("the machine is taken for %q", e.String("computer"))
	}
	pc.WaitEvent(5*time.Minute, "sequence-done", nil)
	s.waitRun("desk-guid")
	steps(t, pc, erased...)
	pc.PowerCut()
	lab.RequireNotBlank(t, s.lab.Path("disks", "pc.img"))

	// A person makes one record of the two, and takes the conflict from the list.
	s.write(joined(rest, known("desk-a", byMAC+", "+byGUID), advertised("rollout", "install", "purpose: required, computers: [desk-guid, desk-a]")))
	s.must("apply", "--prune", "-f", s.yaml)
	s.must("conflicts", "resolve", "LON", c.ID)
	if left := s.conflicts(); len(left) != 0 {
		t.Errorf("central still has the conflicting records %+v", left)
	}
	s.waitInForce("LON", s.appliance)
	requireExplained(t, s.appliance, mixed, "bios", "→ boot desk-a: advertisement rollout")
}
