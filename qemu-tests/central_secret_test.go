package qemutests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// secretByTPM: a secret from a document reaches a command on the computer whose TPM proves that it is the one, is shown and told
// nowhere, and does not reach the same computer with another TPM in it.
func secretByTPM(t *testing.T) {
	const secret = "Corr3ct-horse-battery-staple"
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.lab.Machine(lab.Config{
		Name: "pc", Firmware: lab.UEFISecureBoot, MemoryMB: 1024, TPM: true, NICs: []lab.NIC{{Switch: s.office, Boot: 1}},
		Disks: []lab.Disk{{Path: s.lab.BlankDisk("pc", smallDisk), Serial: "PC0001", Boot: 2}},
	})
	s.apply("site.yaml", joined(siteOf("LON", "mode: proxy, secretsAfter: tpm"),
		known("desk-1", fmt.Sprintf(`macAddresses: ["%s"], smbiosGUID: %s, tpm: %s, secrets: {JoinPassword: %s}`, pc.MAC(0), pc.UUID(), pc.EndorsementSum(), secret)),
		erase("join", "test %JoinPassword% = "+secret+" && echo the secret is %JoinPassword%"),
		advertised("rollout", "join", "purpose: required, computers: [desk-1]")))
	s.startAppliance(lab.UEFI)
	s.waitServing()
	pc.Start()
	if e := pc.WaitEvent(10*time.Minute, "agent-tpm", nil); e.String("proved") != "true" {
		t.Errorf("the TPM: %s", e.Raw)
	}
	started := pc.WaitEvent(5*time.Minute, "sequence-start", nil)
	restart := pc.WaitEvent(5*time.Minute, "agent-restart", nil)
	s.waitRun("desk-1")
	pc.PowerCut()
	told := s.must("status", "--run", started.String("run")) + s.must("get", "Computer", "desk-1") + s.must("audit") + pc.SerialText(0) + s.appliance.SerialText(0)
	if strings.Contains(told, secret) {
		t.Errorf("the secret is shown:\n%s", told)
	}
	if !strings.Contains(told, "the secret is (secret)") || !strings.Contains(told, "sealed:") {
		t.Errorf("shown is\n%s", told)
	}

	s.must("pxe", "clear", "desk-1")
	s.waitInForce("LON", s.appliance)
	pc.ReplaceTPM()
	pc.Start()
	failed := pc.WaitEvent(10*time.Minute, "agent-failed", lab.After(restart))
	if failed.String("in") != "assignment" || failed.String("code") != "forbidden" || !strings.Contains(failed.String("error"), "TPM") {
		t.Errorf("with another TPM: %s", failed.Raw)
	}
}
