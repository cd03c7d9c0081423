package qemutests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// named is a task sequence that deploys the small image, and gives it the computer's name.
const named = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - applyOperatingSystemImage: {image: debian}
    - applyOperatingSystemSettings: {}
    - restart: {}
`

// smallHostName is the host name in the small image on a disk.
func smallHostName(t testing.TB, l *lab.Lab, disk string) string {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := make([]byte, smallRootSize)
	if _, err := f.ReadAt(root, smallRootAt); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(t.TempDir(), "root.img")
	if err := os.WriteFile(part, root, 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(read(t, filepath.Join(l.FromExt4(part, "/etc/hostname"), "hostname"))))
}

// unknownComputers boots a machine that no record names at a site that wants none, then switches support for unknown
// computers on from central.
func unknownComputers(t *testing.T) {
	s := newSite(t, newSmallImage(t, *seed, 24<<20).path)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	disk := s.lab.BlankDisk("stranger", smallDisk)
	pc := s.lab.Machine(lab.Config{
		Name: "stranger", Firmware: lab.BIOS, SMBIOS: lab.SMBIOS{Serial: "SN 47/11"},
		Disks: []lab.Disk{{Path: disk, Serial: "PC0001", Boot: 2}}, NICs: []lab.NIC{{Switch: s.office, Boot: 1}},
	})
	rest := joined(osImage, named, advertised("newcomers", "install", "purpose: required, collection: all-unknown-computers"))
	s.apply("site.yaml", joined(siteProxy, rest))
	s.startAppliance(lab.BIOS)
	s.waitServing()

	// Off: not a word.
	off := momentOf(pc)
	pc.Start()
	waitPassedBy(t, s.office, s.appliance, pc, lab.BIOS, off)
	pc.PowerCut()
	lab.RequireBlank(t, disk)
	requireExplained(t, s.appliance, pc, "bios", "unknown computers are not served at site LON", "→ silent")

	// On: not without a person's word, as a required advertisement is for whoever comes.
	s.write(joined(siteOf("LON", `mode: proxy, unknownComputers: {namePattern: "pc-%serial%"}`), rest))
	s.refused([]string{"every unknown machine at LON", "--confirm unknown", "Nothing was changed"}, "apply", "-f", s.yaml)
	if site := s.must("get", "Site", "LON"); strings.Contains(site, "unknownComputers") {
		t.Errorf("what was refused has changed the site:\n%s", site)
	}
	requireExplained(t, s.appliance, pc, "bios", "unknown computers are not served at site LON", "→ silent")
	s.must("apply", "-f", s.yaml, "--confirm", "unknown")
	s.waitInForce("LON", s.appliance)

	const name = "pc-SN-47-11"
	pc.Start()
	if e := pc.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("computer") != name {
		t.Errorf("the machine is named %q, not %s", e.String("computer"), name)
	}
	restart := pc.WaitEvent(10*time.Minute, "agent-restart", nil)
	deployed := momentOf(pc)
	deployed.at = restart.Received

	// From now on it is known: what is for unknown computers is not for it.
	waitPassedBy(t, s.office, s.appliance, pc, lab.BIOS, deployed)
	pc.PowerCut()
	steps(t, pc, "applyOperatingSystemImage", "applyOperatingSystemSettings", "restart")
	if got := smallHostName(t, s.lab, disk); got != name {
		t.Errorf("the deployed system's host name is %q, want %s", got, name)
	}
	s.waitRun(name)
	var record string
	poll(t, time.Minute, "central has a record of the computer", func() bool {
		var err error
		record, _, err = s.cli("get", "Computer", name)
		return err == nil
	})
	for _, want := range []string{pc.MAC(0).String(), pc.UUID(), "site: LON"} {
		if !strings.Contains(strings.ToLower(record), strings.ToLower(want)) {
			t.Errorf("the record does not say %s:\n%s", want, record)
		}
	}
	// Not by what the appliance remembers alone, but by central's record.
	s.waitInForce("LON", s.appliance)
	text := explained(s.appliance, pc, "bios")
	if !strings.Contains(text, "is "+name) || !strings.Contains(text, "→ silent "+name) || strings.Contains(text, "not in the configuration yet") {
		t.Errorf("the console says\n%s", text)
	}
	if list := s.conflicts(); len(list) != 0 {
		t.Errorf("central has the conflicting records %+v", list)
	}
}
