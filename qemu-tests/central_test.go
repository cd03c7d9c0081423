package qemutests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// What scenarios about central's rules have in common: documents, and what an appliance and a machine make of them.

// smallDisk is the size of a disk that nothing large is written to.
const smallDisk = 256 << 20

// joined makes one file of documents.
func joined(documents ...string) string { return strings.Join(documents, "---\n") }

// siteOf is the document of a site whose PXE service point is as the flow mapping says.
func siteOf(code, pxe string) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: Site
metadata: {name: %s}
spec:
  pxe: {%s}
  distributionPoint: {}
`, code, pxe)
}

// greeting adds to the document of a site what it shows to people: texts that would be commands of GRUB and iPXE, too, if they
// could.
func greeting(site string) string {
	return site + `  texts:
    organization: St Mary's Hospital
    welcome: 'Hands off; reboot || exit "${net0/mac}" $(reboot)'
    help: Ring 4711, day and night.
  admins: ["Jo Miller, +44 20 7946 0000"]
`
}

// greets is what stands at the head of a client's screen then.
var greets = words(`St Mary's Hospital Hands off; reboot || exit "${net0/mac}" $(reboot)`)

// known is the document of a computer that is known by what the flow mapping says.
func known(name, by string) string {
	return fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: %s}\nspec: {%s}\n", name, by)
}

// advertised is the document of an advertisement: of a task sequence, as the flow mapping says.
func advertised(name, sequence, spec string) string {
	return fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: %s}\nspec: {taskSequence: %s, %s}\n", name, sequence, spec)
}

// erase is a task sequence that erases the computer's disk, runs a command in the boot image and restarts: the least that a
// deployment can be.
func erase(name, command string) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: %s}
spec:
  steps:
    - partitionDisk:
        partitions:
          - {type: root, size: rest, fileSystem: ext4}
    - runCommandLine: {in: boot-image, command: %q}
    - restart: {}
`, name, command)
}

// erased are the actions of erase.
var erased = []string{"partitionDisk", "runCommandLine", "restart"}

// write replaces the configuration's one file without applying it.
func (s *site) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.yaml, "site.yaml"), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// refused runs the admin's command line, which must fail and say all of it.
func (s *site) refused(says []string, args ...string) {
	s.t.Helper()
	out, stderr, err := s.cli(args...)
	if err == nil {
		s.t.Fatalf("branchpoint %s was not refused: %s", strings.Join(args, " "), out)
	}
	for _, want := range says {
		if !strings.Contains(stderr, want) {
			s.t.Errorf("branchpoint %s was refused without saying %q: %s", strings.Join(args, " "), want, stderr)
		}
	}
}

// siteLine is a line of branchpoint sites: site, epoch and number of its snapshot, last contact, problem.
var siteLine = regexp.MustCompile(`(?m)^(\S+)\s+(\d+)\.(\d+)\s`)

// waitInForce waits until an appliance serves by the newest snapshot that central has made for its site.
func (s *site) waitInForce(code string, appliance *lab.Machine) {
	s.t.Helper()
	sites := s.must("sites")
	for _, m := range siteLine.FindAllStringSubmatch(sites, -1) {
		if m[1] != code {
			continue
		}
		epoch, _ := strconv.ParseInt(m[2], 10, 64) // digits, as the pattern says
		number, _ := strconv.ParseInt(m[3], 10, 64)
		appliance.WaitEvent(3*time.Minute, "serving", func(e lab.Event) bool {
			n, ok := e.Int("number")
			x, ok2 := e.Int("epoch")
			return ok && ok2 && x == epoch && n >= number
		})
		return
	}
	s.t.Fatalf("branchpoint sites does not say which snapshot %s is given:\n%s", code, sites)
}

// explained is what an appliance's console says a machine would get.
func explained(appliance *lab.Machine, pc *lab.Machine, firmware string) string {
	mark := appliance.SerialMark()
	appliance.SendSerial(fmt.Sprintf("explain %s %s %s\n", pc.MAC(0), pc.UUID(), firmware))
	_, end := appliance.WaitSerialAfter(mark, time.Minute, `→ (silent|boot|offer)[^\n]*\n`)
	text := appliance.SerialText(mark)
	return text[:min(len(text), end-mark)]
}

// requireExplained fails the test unless the console's explanation says all of it.
func requireExplained(t testing.TB, appliance, pc *lab.Machine, firmware string, says ...string) {
	t.Helper()
	text := strings.Join(strings.Fields(explained(appliance, pc, firmware)), " ")
	for _, want := range says {
		if !strings.Contains(text, want) {
			t.Errorf("of %s the console does not say %q: %s", pc.Name(), want, text)
		}
	}
}

// moment is where a machine is: what it says and asks for after that is new.
type moment struct {
	at               time.Time
	serial, firmware int
}

// momentOf is now, of a machine that is on, or is to be switched on.
func momentOf(pc *lab.Machine) moment {
	m := moment{at: time.Now(), serial: pc.SerialMark()}
	if pc.Running() { // its firmware's log begins anew with each power-on
		m.firmware = len(pc.FirmwareLog())
	}
	return m
}

// waitPassedBy waits until a machine's firmware has got nothing from the network and goes on to its next boot device, and
// requires that it has asked since the given moment, and that the appliance has not said a word to it.
func waitPassedBy(t testing.TB, office *lab.Switch, appliance, pc *lab.Machine, firmware lab.Firmware, since moment) {
	t.Helper()
	if firmware == lab.BIOS {
		poll(t, 5*time.Minute, pc.Name()+"'s firmware goes on to the disk", func() bool {
			log := pc.FirmwareLog()
			return strings.Contains(log[min(since.firmware, len(log)):], "Booting from Hard Disk")
		})
	} else {
		pc.WaitSerialAfter(since.serial, 5*time.Minute, `PXE-E16: No valid offer received`)
	}
	requireSilence(t, office, appliance, pc, since.at)
}

// requireSilence requires that a machine's firmware has asked since the given moment, and that the appliance has not answered.
func requireSilence(t testing.TB, office *lab.Switch, appliance, pc *lab.Machine, since time.Time) {
	t.Helper()
	asked := 0
	for _, m := range office.DHCP() {
		switch {
		case m.Time.Before(since):
		case lab.DHCPRequests(pc.MAC(0))(m) && strings.HasPrefix(m.Message.ClassIdentifier(), "PXEClient"):
			asked++
		case lab.DHCPAnswers(pc.MAC(0))(m) && m.From == appliance.Port(0).Name():
			t.Errorf("the appliance has answered %s: %s", pc.Name(), m.Message.Summary())
		}
	}
	if asked == 0 {
		t.Errorf("%s has not asked since, so that it got no answer means nothing", pc.Name())
	}
}
