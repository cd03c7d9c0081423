// Package qemutests runs Branchpoint's scenarios: real firmware, the real file, a real central, a real operating system.
// They use built artifacts and public protocols only.
//
//	go test ./qemu-tests -run '^TestScenario$/^no-offer$' -v -args -scenarios=all
package qemutests

import (
	"cmp"
	"flag"
	"slices"
	"strconv"
	"sync"
	"testing"
)

var (
	which = flag.String("scenarios", "none", "which scenarios TestScenario may run: none, short (the ones of make test), all")
	demo  = flag.Bool("demo", false, "let TestRun build the demonstration of make run")
)

// scenario is one of scenarios.
type scenario struct {
	name string
	// short marks those of make test.
	short bool
	// seconds is about what it takes beside another one on two cores (measured): the longest begin first, so that all end soon.
	seconds int
	run     func(*testing.T)
}

// scenarios are all of them, in the order in which a person would try them.
var scenarios = []scenario{
	{"boot-usb-secureboot", true, 75, bootUSBSecureBoot},
	{"boot-cd-bios", true, 55, bootCDBIOS},
	{"boot-usb-bios", false, 65, bootUSBBIOS},
	{"boot-usb-uefi", false, 70, bootUSBUEFI},
	{"boot-cd-uefi", false, 65, bootCDUEFI},
	{"boot-cd-secureboot", false, 80, bootCDSecureBoot},
	{"broken-site-yaml", false, 40, brokenSiteYAML},
	{"foreign-disk", true, 80, foreignDisk},
	{"no-offer", true, 280, noOffer},
	{"deploy-uefi-secureboot-proxy", true, 510, deployUEFISecureBootProxy},
	{"deploy-bios-dhcp", true, 400, deployBIOSDHCP},
	{"deploy-uefi-rootfs", false, 660, deployUEFIRootFileSystem},
	{"wan-cut", true, 330, wanCut},
	{"power-cut", true, 365, powerCut},
	{"soak-sample", true, 150, soakSample},
	{"bitrot", false, 360, bitrot},
	{"data-disk-faults", false, 700, dataDiskFaults},
	{"nic-models", false, 430, nicModels},
	{"deploy-relay", false, 560, deployRelay},
	{"deploy-httpboot", false, 590, deployHTTPBoot},
	{"no-driver", false, 90, noDriver},
	{"flood", false, 190, flooded},
	{"pxe-known-by-guid", false, 180, knownByGUID},
	{"pxe-unknown", false, 150, unknownComputers},
	{"pxe-required-once", false, 380, requiredOnce},
	{"pxe-available", false, 300, available},
	{"pxe-password", false, 300, password},
	{"pxe-password-ten", false, 990, passwordTen},
	{"sealed-site-key", false, 200, sealedSiteKey},
	{"pxe-replaced-appliance", false, 270, replacedAppliance},
	{"two-sites", false, 250, twoSites},
	{"secret-by-tpm", false, 250, secretByTPM},
	{"console-shell", false, 120, consoleShell},
}

func TestScenario(t *testing.T) {
	if *which == "none" {
		t.Skip("scenarios start virtual machines: run them with make test, make e2e-all or make e2e SCENARIO=name")
	}
	// Not t.Parallel: which of those that wait for it goes on next is left to chance.
	chosen := slices.Clone(scenarios)
	if *which == "short" {
		chosen = slices.DeleteFunc(chosen, func(s scenario) bool { return !s.short })
	}
	slices.SortStableFunc(chosen, func(a, b scenario) int { return cmp.Compare(b.seconds, a.seconds) })
	next := make(chan scenario, len(chosen))
	for _, s := range chosen {
		next <- s
	}
	close(next)
	var wg sync.WaitGroup
	for range atOnce(t) {
		wg.Go(func() {
			for s := range next {
				t.Run(s.name, s.run) // each has machines, switch and namespaces of its own
			}
		})
	}
	wg.Wait()
}

// atOnce is how many scenarios run at once, as go test's -parallel says.
func atOnce(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String())
	if err != nil || n < 1 {
		t.Fatalf("-parallel: %d, %v", n, err)
	}
	return n
}
