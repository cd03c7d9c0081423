package qemutests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// parisDelay is how long the appliance of twoSites' second site waits before it offers a boot, in seconds.
const parisDelay = 3

// twoSites has two offices with an appliance each and other rules at each, from one central: LON deploys what it knows, beside
// a foreign DHCP server, and is silent to others; PAR deploys whoever comes, as DHCP server and after a delay. One change
// reaches both.
func twoSites(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	annexe := s.lab.Switch("paris") // with the same addresses as the other office, which nobody there sees
	pc := func(name string, sw *lab.Switch, fw lab.Firmware) *lab.Machine {
		return s.lab.Machine(lab.Config{
			Name: name, Firmware: fw, NICs: []lab.NIC{{Switch: sw, Boot: 1}},
			Disks: []lab.Disk{{Path: s.lab.BlankDisk(name, smallDisk), Serial: "PC0001", Boot: 2}},
		})
	}
	londoner := pc("londoner", s.office, lab.UEFISecureBoot)
	stranger := pc("stranger", s.office, lab.BIOS)
	visitor := pc("visitor", annexe, lab.BIOS) // known in London, and carried to Paris
	parisian := pc("parisian", annexe, lab.BIOS)

	rules := func(unknown, rule string) string {
		return joined(
			siteOf("LON", "mode: proxy"),
			siteOf("PAR", fmt.Sprintf("mode: dhcp, dhcp: {rangeStart: 10.77.0.100, rangeEnd: 10.77.0.150}, responseDelaySeconds: %d%s", parisDelay, unknown)),
			known("desk-london", fmt.Sprintf(`site: LON, macAddresses: ["%s"], smbiosGUID: %s, variables: {rule: %s}`, londoner.MAC(0), londoner.UUID(), rule)),
			known("desk-visitor", fmt.Sprintf(`site: LON, macAddresses: ["%s"], smbiosGUID: %s`, visitor.MAC(0), visitor.UUID())),
			erase("lon", "test %_SMSTSAssignedSite% = LON && test %rule% = second"), erase("par", "test %_SMSTSAssignedSite% = PAR"),
			advertised("known-ones", "lon", "purpose: required, computers: [desk-london, desk-visitor]"),
			advertised("newcomers", "par", "purpose: required, collection: all-unknown-computers"))
	}
	s.apply("site.yaml", rules("", "first"))
	s.startAppliance(lab.UEFISecureBoot)
	par := s.startAnother("appliance-par", "PAR", annexe, lab.BIOS)
	s.waitServing()
	par.WaitEvent(10*time.Minute, "serving", nil)
	requireExplained(t, par, parisian, "bios", "unknown computers are not served at site PAR", "→ silent")

	// One change, and each site has its part of it.
	s.write(rules(", unknownComputers: {}", "second"))
	s.refused([]string{"every unknown machine at PAR", "--confirm unknown"}, "apply", "-f", s.yaml)
	s.must("apply", "-f", s.yaml, "--confirm", "unknown")
	s.waitInForce("LON", s.appliance)
	s.waitInForce("PAR", par)
	name := "pc-" + strings.ReplaceAll(parisian.MAC(0).String(), ":", "")
	requireExplained(t, s.appliance, stranger, "bios", "unknown computers are not served at site LON", "→ silent")
	requireExplained(t, par, parisian, "bios", "→ boot "+name+" (unknown until now): advertisement newcomers, task sequence par")

	started := momentOf(parisian)
	parisian.Start()
	londoner.Start()
	if e := parisian.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("computer") != name || e.String("sequence") != "par" {
		t.Errorf("Paris does %s", e.Raw)
	}
	delayed(t, annexe, par, parisian, started)
	parisian.WaitEvent(5*time.Minute, "agent-restart", nil)
	parisian.PowerCut()
	steps(t, parisian, erased...)
	if e := londoner.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("computer") != "desk-london" || e.String("sequence") != "lon" {
		t.Errorf("London does %s", e.Raw)
	}
	londoner.WaitEvent(5*time.Minute, "agent-restart", nil)
	londoner.PowerCut()
	steps(t, londoner, erased...)

	// Who is not for a site gets nothing there.
	at := [2]moment{momentOf(stranger), momentOf(visitor)}
	stranger.Start()
	visitor.Start()
	waitPassedBy(t, s.office, s.appliance, stranger, lab.BIOS, at[0])
	stranger.PowerCut()
	waitPassedBy(t, annexe, par, visitor, lab.BIOS, at[1])
	visitor.PowerCut()
	requireExplained(t, par, visitor, "bios", "desk-visitor belongs to site LON", "→ silent")
	for _, disk := range []string{"stranger", "visitor"} {
		lab.RequireBlank(t, s.lab.Path("disks", disk+".img"))
	}
	s.waitRuns("desk-london", name)

	// What is for every unknown machine is for no appliance: neither by its own word nor, at the other site, by central's.
	requireExplained(t, par, s.appliance, "uefi", "an appliance of site LON", "never a target", "→ silent")
	requireExplained(t, par, par, "bios", "never a target", "→ silent")
}

// delayed requires that an appliance's first offer to a machine came after the site's delay, by a clock that may be another
// one than the appliance's.
func delayed(t testing.TB, office *lab.Switch, appliance, pc *lab.Machine, since moment) {
	t.Helper()
	var asked time.Time
	for _, m := range office.DHCP() {
		switch kind := m.Message.MessageType(); {
		case m.Time.Before(since.at):
		case asked.IsZero() && lab.DHCPRequests(pc.MAC(0))(m) && kind == dhcpv4.MessageTypeDiscover:
			asked = m.Time
		case lab.DHCPAnswers(pc.MAC(0))(m) && m.From == appliance.Port(0).Name() && kind == dhcpv4.MessageTypeOffer:
			if waited := m.Time.Sub(asked); asked.IsZero() || waited < parisDelay*time.Second*9/10 {
				t.Errorf("%s was offered its boot %v after it asked; the site's delay is %d s", pc.Name(), waited, parisDelay)
			}
			return
		}
	}
	t.Errorf("the appliance has offered %s nothing", pc.Name())
}
