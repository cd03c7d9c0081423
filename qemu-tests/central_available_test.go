package qemutests

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// Where the entries of a menu lead: to the first choice, and to the next boot device.
var (
	chosenPage = regexp.MustCompile(`^/boot/offer/[0-9a-f]+/1\.(cfg|ipxe)$`)
	passedPage = regexp.MustCompile(`^/boot/offer/[0-9a-f]+/next\.(cfg|ipxe)$`)
	menuPage   = regexp.MustCompile(`^/boot/(grub/.*\.cfg|ipxe\?.*)$`)
)

// available lets two computers have something that nobody requires: under GRUB and under iPXE, once with a key pressed at the
// menu, and once with nobody there.
func available(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	asked := watchPages(s.office)
	grub := s.pc("grub", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("grub", smallDisk)})
	ipxe := s.pc("ipxe", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("ipxe", smallDisk)})
	s.apply("site.yaml", joined(greeting(siteProxy), computer("desk-grub", grub), computer("desk-ipxe", ipxe),
		watch("look", "true"), advertised("at-will", "look", "purpose: available, computers: [desk-grub, desk-ipxe]")))
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()

	// One menu at a time: they wait ten seconds. A key pressed under GRUB, nobody at iPXE's, which goes on at once.
	chosen := momentOf(grub)
	grub.Start()
	press(t, asked, grub, chosen)
	alone := momentOf(ipxe)
	ipxe.Start()
	waitPage(t, asked, ipxe, alone, "the next boot device", passedPage)
	poll(t, 3*time.Minute, "iPXE's computer starts from its disk", func() bool {
		return strings.Contains(ipxe.FirmwareLog(), "Booting from Hard Disk")
	})
	ipxe.PowerCut()
	requireRuns(t, grub, "desk-grub")
	grub.WaitSerial(time.Minute, greets)
	s.waitRuns("desk-grub")

	// The other way round. GRUB cannot go on by itself: its computer starts once more, and is offered nothing then.
	chosen = momentOf(ipxe)
	ipxe.Start()
	press(t, asked, ipxe, chosen)
	alone = momentOf(grub)
	grub.Reset()
	waitPage(t, asked, grub, alone, "the next boot device", passedPage)
	passed := momentOf(grub)
	requireRuns(t, ipxe, "desk-ipxe")
	ipxe.WaitSerial(time.Minute, greets)
	waitPassedBy(t, s.office, s.appliance, grub, lab.UEFISecureBoot, passed)
	s.waitRuns("desk-grub", "desk-ipxe")
}

// requireRuns waits until a computer has done what was chosen at its menu.
func requireRuns(t testing.TB, pc *lab.Machine, name string) {
	t.Helper()
	if e := pc.WaitEvent(5*time.Minute, "sequence-start", nil); e.String("sequence") != "look" || e.String("computer") != name {
		t.Errorf("what was chosen is not what runs: %s", e.Raw)
	}
	pc.WaitEvent(5*time.Minute, "sequence-done", nil)
}

// waitPage waits until a computer has asked for a page.
func waitPage(t testing.TB, asked *pages, pc *lab.Machine, since moment, what string, page *regexp.Regexp) {
	t.Helper()
	poll(t, 5*time.Minute, pc.Name()+" asks for "+what, func() bool { return asked.has(pc.MAC(0), since.at, page) })
}

// press waits for a computer's menu, and presses the first choice's key until it is taken.
func press(t testing.TB, asked *pages, pc *lab.Machine, since moment) {
	t.Helper()
	waitPage(t, asked, pc, since, "its menu", menuPage)
	for deadline := time.Now().Add(time.Minute); !asked.has(pc.MAC(0), since.at, chosenPage); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			pc.Screenshot("menu")
			t.Fatalf("%s does not take the key", pc.Name())
		}
		if asked.has(pc.MAC(0), since.at, passedPage) {
			pc.Screenshot("menu")
			t.Fatalf("%s goes on to its next boot device although keys are pressed", pc.Name())
		}
		pc.PressKeys("1")
	}
}

// watch is a task sequence that changes nothing.
func watch(name, command string) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: %s}
spec:
  steps:
    - runCommandLine: {in: boot-image, command: %q}
`, name, command)
}

// page is what a machine has asked for by HTTP.
type page struct {
	mac, path string
	at        time.Time
}

// pages are the pages that machines of an office ask for by HTTP.
type pages struct {
	mu   sync.Mutex
	list []page
}

// watchPages notes them from now on.
func watchPages(office *lab.Switch) *pages {
	p := &pages{}
	get := []byte("GET ")
	office.SetFilter(func(_ *lab.Port, k lab.Packet) bool {
		if k.Protocol != lab.ProtocolTCP || k.DstPort != 80 || !bytes.HasPrefix(k.Payload, get) {
			return true
		}
		path, _, _ := strings.Cut(string(k.Payload[len(get):min(len(k.Payload), 300)]), " ")
		p.mu.Lock()
		defer p.mu.Unlock()
		p.list = append(p.list, page{k.Src.String(), path, time.Now()})
		return true
	})
	return p
}

// has reports whether a card has asked since for a page whose path fits the pattern.
func (p *pages) has(mac net.HardwareAddr, since time.Time, pattern *regexp.Regexp) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.list {
		if x.mac == mac.String() && !x.at.Before(since) && pattern.MatchString(x.path) {
			return true
		}
	}
	return false
}
