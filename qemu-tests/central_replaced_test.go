package qemutests

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// loseHistory makes central unable to say what has run, as where its database is damaged; the function that it returns mends
// it. All else of central works.
func (s *site) loseHistory() (mend func()) {
	s.t.Helper()
	rename := func(from, to string) {
		s.t.Helper()
		out, err := exec.Command("sqlite3", "-cmd", ".timeout 30000", filepath.Join(s.data, "central.db"), "ALTER TABLE "+from+" RENAME TO "+to).CombinedOutput()
		if err != nil {
			s.t.Fatalf("rename a table of central's: %v: %s", err, out)
		}
	}
	rename("run_records", "run_records_away")
	return func() { s.t.Helper(); rename("run_records_away", "run_records") }
}

// replacedAppliance replaces an appliance, data disk and all, by one that cannot learn what has run at its site: it stays
// quiet about all that is required until central says it, or a person.
func replacedAppliance(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	disk := s.lab.BlankDisk("old", smallDisk)
	old := s.pc("old", lab.BIOS, lab.Disk{Path: disk})
	fresh := s.pc("fresh", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("fresh", smallDisk)})
	s.apply("site.yaml", joined(siteProxy, computer("desk-old", old), computer("desk-fresh", fresh), erase("install", "true"),
		advertised("rollout", "install", "purpose: required, computers: [desk-old, desk-fresh]")))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	old.Start()
	old.WaitEvent(10*time.Minute, "agent-restart", nil)
	s.waitRun("desk-old")
	old.PowerCut()
	s.appliance.PowerCut()

	// Another one, that does not know of the run: the computer would be erased again.
	mend := s.loseHistory()
	s.appliance = s.startAnother("appliance-2", "LON", s.office, lab.BIOS)
	s.waitServing()
	s.appliance.WaitSerial(time.Minute, words("nothing that is required begins"))
	unchanged := lab.RequireUnchanged(t, disk)
	quiet := momentOf(old)
	old.Start()
	waitPassedBy(t, s.office, s.appliance, old, lab.BIOS, quiet)
	old.PowerCut()
	unchanged()
	requireExplained(t, s.appliance, old, "bios", "the history of this site's runs is not back yet", "→ silent desk-old")
	requireExplained(t, s.appliance, fresh, "bios", "the history of this site's runs is not back yet", "→ silent desk-fresh")

	// It comes back from central by itself.
	mend()
	poll(t, 5*time.Minute, "the appliance has the history", func() bool {
		if strings.Contains(explained(s.appliance, fresh, "bios"), "→ boot desk-fresh") {
			return true
		}
		time.Sleep(time.Second) // a console is not asked all the time
		return false
	})
	requireExplained(t, s.appliance, old, "bios", "advertisement rollout has run", "→ silent desk-old")
	fresh.Start()
	if e := fresh.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("computer") != "desk-fresh" {
		t.Errorf("the machine is taken for %q", e.String("computer"))
	}
	fresh.WaitEvent(5*time.Minute, "agent-restart", nil)
	s.waitRuns("desk-old", "desk-fresh")
	fresh.PowerCut()
	s.appliance.PowerCut()

	// Or a person says that nothing has run: they are told what that means, and asked again.
	defer s.loseHistory()()
	s.appliance = s.startAnother("appliance-3", "LON", s.office, lab.BIOS)
	s.waitServing()
	requireExplained(t, s.appliance, fresh, "bios", "the history of this site's runs is not back yet", "→ silent desk-fresh")
	mark := s.appliance.SerialMark()
	s.appliance.SendSerial("approve history\n")
	_, mark = s.appliance.WaitSerialAfter(mark, time.Minute, `erases each computer that this appliance does not know(.|\n)*approve history yes`)
	requireExplained(t, s.appliance, fresh, "bios", "→ silent desk-fresh")
	s.appliance.SendSerial("approve history yes\n")
	s.appliance.WaitSerialAfter(mark, time.Minute, `what is required begins from now on`)
	requireExplained(t, s.appliance, fresh, "bios", "→ boot desk-fresh: advertisement rollout")
}
