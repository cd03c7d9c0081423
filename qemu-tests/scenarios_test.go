// Package qemutests runs Branchpoint's scenarios: real firmware, the real file, a real central, a real operating system.
// They use built artifacts and public protocols only.
//
//	go test ./qemu-tests -run '^TestScenario$/^no-offer$' -v -args -scenarios=all
package qemutests

import (
	"flag"
	"testing"
)

var (
	which = flag.String("scenarios", "none", "which scenarios TestScenario may run: none, short (the ones of make test), all")
	demo  = flag.Bool("demo", false, "let TestRun build the demonstration of make run")
)

// scenarios are all of them, in the order in which a person would try them.
var scenarios = []struct {
	name string
	// short marks those of make test.
	short bool
	run   func(*testing.T)
}{
	{"boot-usb-secureboot", true, bootUSBSecureBoot},
	{"boot-cd-bios", true, bootCDBIOS},
	{"boot-usb-bios", false, bootUSBBIOS},
	{"boot-usb-uefi", false, bootUSBUEFI},
	{"boot-cd-uefi", false, bootCDUEFI},
	{"boot-cd-secureboot", false, bootCDSecureBoot},
	{"broken-site-yaml", false, brokenSiteYAML},
	{"foreign-disk", true, foreignDisk},
	{"no-offer", true, noOffer},
	{"deploy-uefi-secureboot-proxy", true, deployUEFISecureBootProxy},
	{"deploy-bios-dhcp", true, deployBIOSDHCP},
	{"deploy-uefi-rootfs", false, deployUEFIRootFileSystem},
	{"wan-cut", true, wanCut},
	{"power-cut", true, powerCut},
	{"bitrot", false, bitrot},
	{"data-disk-faults", false, dataDiskFaults},
	{"nic-models", false, nicModels},
	{"deploy-relay", false, deployRelay},
	{"deploy-httpboot", false, deployHTTPBoot},
	{"no-driver", false, noDriver},
	{"flood", false, flooded},
}

func TestScenario(t *testing.T) {
	if *which == "none" {
		t.Skip("scenarios start virtual machines: run them with make test, make e2e-all or make e2e SCENARIO=name")
	}
	for _, s := range scenarios {
		if *which == "short" && !s.short {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel() // go test's -parallel says how many at once: each has machines, switch and namespaces of its own
			s.run(t)
		})
	}
}
