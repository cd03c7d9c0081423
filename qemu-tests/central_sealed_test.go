package qemutests

import (
	"os"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// sealedSiteKey: an appliance seals its site key to its TPM, and speaks with central by it after a power cut. With another TPM it says
// that it cannot, goes on by what it has without central, and enrols again with a new token.
func sealedSiteKey(t *testing.T) {
	s := newBareSite(t)
	desk := s.pc("desk", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("desk", smallDisk)})
	config := func(version string) {
		s.apply("site.yaml", joined(siteProxy, computer("desk-1", desk), erase(version, "true"), advertised("rollout", version, "purpose: required, computers: [desk-1]")))
	}
	config("one")
	c := s.applianceConfig(lab.UEFI)
	c.TPM = true
	c.Disks = append(c.Disks, lab.Disk{Path: s.lab.BlankDisk("data", 8<<30), Serial: "DATA0001"})
	s.appliance = s.lab.Machine(c)
	const sealed, limit = "sealed to this computer's TPM", 5 * time.Minute
	mark := 0
	start := func(says string) {
		t.Helper()
		mark = s.appliance.SerialMark()
		s.appliance.Start()
		s.appliance.WaitSerialAfter(mark, limit, words(says))
	}
	start(sealed)
	s.waitInForce("LON", s.appliance)

	s.appliance.PowerCut()
	config("two")
	start(sealed)
	s.waitInForce("LON", s.appliance)
	requireExplained(t, s.appliance, desk, "bios", "→ boot desk-1", "two")

	s.appliance.PowerCut()
	s.appliance.ReplaceTPM()
	config("three")
	start("another computer's TPM has sealed it")
	s.appliance.WaitSerialAfter(mark, limit, words("branchpoint enrol-token create --site LON"))
	s.appliance.WaitSerialAfter(mark, limit, words("served on")) // clients, all the same
	// The configuration of before comes from the data disk, as central is not heard. What is required waits for a person, as another
	// appliance may have served the site meanwhile.
	requireExplained(t, s.appliance, desk, "bios", "the history of this site's runs is not back yet", "→ silent desk-1")
	s.appliance.SendSerial("approve history yes\n")
	poll(t, limit, "the appliance serves by what it has", func() bool {
		text := explained(s.appliance, desk, "bios")
		if strings.Contains(text, "→ boot desk-1") && strings.Contains(text, "two") {
			return true
		}
		time.Sleep(time.Second) // a console is not asked all the time
		return false
	})
	if text := s.appliance.SerialText(mark); strings.Contains(text, sealed) || strings.Contains(explained(s.appliance, desk, "bios"), "three") {
		t.Errorf("with another TPM it goes on as if nothing had happened:\n%s", text)
	}

	s.appliance.PowerCut()
	again := s.applianceConfig(lab.UEFI) // with another token
	if err := os.Rename(again.Disks[0].Path, c.Disks[0].Path); err != nil {
		t.Fatal(err)
	}
	start(sealed)
	s.waitInForce("LON", s.appliance)
	requireExplained(t, s.appliance, desk, "bios", "→ boot desk-1", "three")
}
