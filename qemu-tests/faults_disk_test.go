package qemutests

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// dataDiskFaults takes the appliance's data disk away in every way: each stands on the console with what to do, no client
// is answered, the console goes on to work, and so does the site as soon as the fault has ended.
func dataDiskFaults(t *testing.T) {
	t.Run("missing", dataDiskMissing)
	t.Run("read-only", dataDiskReadOnly)
	t.Run("full", dataDiskFull)
	t.Run("failing", dataDiskFailing)
	t.Run("pulled-out", dataDiskPulledOut)
	t.Run("claim", dataDiskClaim)
}

// diskSite is a site whose appliance's data disk is plugged and unplugged, and a client's boot ROM that asks it.
type diskSite struct {
	*site
	rom *lab.BootROM
	mac net.HardwareAddr
}

// newDiskSite starts an appliance with the given data disk, none if it is empty.
func newDiskSite(t *testing.T, disks ...lab.Disk) *diskSite {
	t.Helper()
	image := newSmallImage(t, *seed, 96<<20)
	s := newSite(t, image.path)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.pc("pc", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("pc", 112<<20)})
	s.apply("site.yaml", strings.Join([]string{siteProxy, computer("desk-asks", pc), osImage, imageOnly, advertisement("desk-asks")}, "---\n"))
	c := s.applianceConfig(lab.BIOS)
	c.Disks = append(c.Disks, disks...)
	c.Args = lab.HotPlug
	s.appliance = s.lab.Machine(c)
	s.appliance.Start()
	return &diskSite{s, s.lab.BootROM(pc, "10.77.0.200/24"), pc.MAC(0)}
}

// window is how long a client asks where no answer may come: several DISCOVERs. That of a site that serves comes in
// milliseconds.
const window = 8 * time.Second

// waitFault waits until the appliance tells of the data disk's state, and what the console says of it.
func (s *diskSite) waitFault(after lab.Event, state, console string) {
	s.t.Helper()
	s.appliance.WaitEvent(5*time.Minute, "data-disk", lab.All(lab.After(after), lab.Field("state", state)))
	s.appliance.WaitSerial(time.Minute, console)
}

// silent requires that a client is not answered, and that the console answers.
func (s *diskSite) silent() {
	s.t.Helper()
	if err := s.rom.Boot(window, func(*http.Client, net.IP) error { return nil }); err == nil {
		s.t.Error("a boot server answered a client without a working data disk")
	}
	s.office.RequireNoDHCPAnswer(s.t, s.mac, "foreign-dhcp")
	s.console()
}

// console requires that the console answers.
func (s *diskSite) console() {
	s.t.Helper()
	s.types("disks", `medium this appliance was started from`)
}

// serves waits until the site serves, and requires that the client is answered.
func (s *diskSite) serves(after lab.Event) {
	s.t.Helper()
	s.appliance.WaitEvent(10*time.Minute, "serving", lab.After(after))
	if err := s.rom.Boot(time.Minute, func(*http.Client, net.IP) error { return nil }); err != nil {
		s.t.Error(err)
	}
}

// formatted makes a data disk that an appliance has claimed before, with a file system of the given size in KiB, 0 for all.
func formatted(t *testing.T, path, sizeKiB string) {
	t.Helper()
	args := []string{"-q", "-F", "-L", "branchpoint-data", path}
	if sizeKiB != "" {
		args = append(args, sizeKiB)
	}
	if out, err := exec.Command("mkfs.ext4", args...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
}

func dataDiskMissing(t *testing.T) {
	s := newDiskSite(t)
	s.waitFault(lab.Event{}, "missing", `there is no data disk[^→]*→ .*Attach`)
	s.silent()
	last := lastEvent(s.appliance)
	s.appliance.Plug("data", lab.Plugged{Path: s.lab.BlankDisk("data", 4<<30), Serial: "DATA0001"})
	s.serves(last)
}

func dataDiskReadOnly(t *testing.T) {
	s := newDiskSite(t)
	path := s.lab.BlankDisk("data", 4<<30)
	formatted(t, path, "")
	check := lab.RequireUnchanged(t, path)
	s.appliance.WaitEvent(5*time.Minute, "data-disk", lab.Field("state", "missing"))
	last := lastEvent(s.appliance)
	s.appliance.Plug("locked", lab.Plugged{Path: path, Serial: "DATA0001", ReadOnly: true})
	s.waitFault(last, "read-only", `DATA0001\)[^→]*read-only[^→]*→ `)
	s.silent()
	check()
	last = lastEvent(s.appliance)
	s.appliance.Unplug("locked")
	s.appliance.Plug("data", lab.Plugged{Path: path, Serial: "DATA0001"})
	s.serves(last)
}

// dataDiskFull gives the appliance less room than the content needs, then none at all for the database; at last a person
// gives the file system the rest of the disk.
func dataDiskFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<30); err != nil {
		t.Fatal(err)
	}
	formatted(t, path, "307200")
	s := newDiskSite(t, lab.Disk{Path: path, Serial: "DATA0001"})
	s.appliance.WaitSerial(5*time.Minute, `the data disk has no room for it: needed [^→]*→ .*larger data disk`)
	s.silent()
	s.shutDown()

	filler := filepath.Join(t.TempDir(), "filler")
	if err := os.WriteFile(filler, bytes.Repeat([]byte{1}, 240<<20), 0o600); err != nil { // debugfs would leave out zeros
		t.Fatal(err)
	}
	tool(t, "e2fsck", "-f", "-y", path)
	tool(t, "debugfs", "-w", "-R", "write "+filler+" /filler", path)
	last := lastEvent(s.appliance)
	s.appliance.Start()
	s.waitFault(last, "full", `it is full: [^→]*→ `)
	s.silent()
	s.shutDown()

	tool(t, "e2fsck", "-f", "-y", path)
	tool(t, "resize2fs", path)
	last = lastEvent(s.appliance)
	s.appliance.Start()
	s.serves(last)
}

// tool runs a program on a disk file; e2fsck's exit code 1 says that it has mended what it found.
func tool(t *testing.T, argv ...string) {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !(ok && argv[0] == "e2fsck" && exit.ExitCode() == 1) {
		t.Fatalf("%s: %v: %s", argv[0], err, out)
	}
}

// dataDiskFailing makes every request to the data disk of an appliance that serves fail, and then none any more.
func dataDiskFailing(t *testing.T) {
	s := newDiskSite(t)
	s.appliance.WaitEvent(5*time.Minute, "data-disk", lab.Field("state", "missing"))
	disk := s.lab.FlakyDisk(s.lab.BlankDisk("data", 4<<30))
	s.appliance.Plug("data", lab.Plugged{Flaky: disk, Serial: "DATA0001"})
	s.serves(lab.Event{})
	last := lastEvent(s.appliance)
	disk.Break()
	s.waitFault(last, "failing", `cannot be used: it fails[^→]*→ `)
	s.silentNow()
	last = lastEvent(s.appliance)
	disk.Mend()
	s.serves(last)
}

// dataDiskPulledOut pulls the data disk out of an appliance that serves, and puts it back.
func dataDiskPulledOut(t *testing.T) {
	s := newDiskSite(t)
	path := s.lab.BlankDisk("data", 4<<30)
	s.appliance.WaitEvent(5*time.Minute, "data-disk", lab.Field("state", "missing"))
	s.appliance.Plug("data", lab.Plugged{Path: path, Serial: "DATA0001"})
	s.serves(lab.Event{})
	last := lastEvent(s.appliance)
	s.appliance.Unplug("data")
	s.waitFault(last, "missing", `cannot be used: it is gone[^→]*→ .*Attach it again`)
	s.silentNow()
	last = lastEvent(s.appliance)
	s.appliance.Plug("again", lab.Plugged{Path: path, Serial: "DATA0001"})
	s.serves(last)
}

// silentNow is silent for a site that has answered before.
func (s *diskSite) silentNow() {
	s.t.Helper()
	answers := len(s.answers())
	_ = s.rom.Boot(window, func(*http.Client, net.IP) error { return nil })
	if got := len(s.answers()); got > answers {
		s.t.Errorf("the client was answered %d times without a working data disk", got-answers)
	}
	s.console()
}

// answers are the DHCP answers of the appliance to the client so far.
func (s *diskSite) answers() (list []lab.DHCPMessage) {
	for _, m := range s.office.DHCP() {
		if lab.DHCPAnswers(s.mac)(m) && m.From != "foreign-dhcp" {
			list = append(list, m)
		}
	}
	return list
}

// dataDiskClaim types the serial of a disk that somebody else has used, first wrongly.
func dataDiskClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "papers.img")
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "letter.txt"), []byte("the only copy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "PAPERS", "-d", tree, path, "4G").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	check := lab.RequireUnchanged(t, path)
	s := newDiskSite(t, lab.Disk{Path: path, Serial: "PAPERS01"})
	s.waitFault(lab.Event{}, "missing", `PAPERS01\) is not used: it is not blank`)
	s.silent()
	s.types("claim PAPERS02", `there is no disk with the serial "PAPERS02"`)
	s.types("confirm PAPERS01", `there is nothing to confirm`)
	s.types("claim PAPERS01", `It holds: [^\n]*ext4[^\n]*\n *EVERYTHING ON IT WILL BE ERASED`)
	s.types("confirm PAPERS02", `is not the serial that was shown; nothing was done`)
	s.types("confirm PAPERS01", `there is nothing to confirm`)
	check()
	last := lastEvent(s.appliance)
	s.types("claim PAPERS01", `EVERYTHING ON IT WILL BE ERASED`)
	check()
	s.types("confirm PAPERS01", `is this appliance's data disk now`)
	s.serves(last)
}

// types types a line on the appliance's console and waits for what it answers.
func (s *diskSite) types(line, answer string) {
	s.t.Helper()
	mark := s.appliance.SerialMark()
	s.appliance.SendSerial(line + "\n")
	s.appliance.WaitSerialAfter(mark, time.Minute, answer)
}
