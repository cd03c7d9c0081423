package qemutests

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"

	"golang.org/x/sys/unix"
)

// The passwords of pxe-password: the site's, and what is typed instead.
const (
	sitePassword  = "hush7rightly"
	wrongPassword = "hush7wrongly"
)

// asksAgain is what stands on a computer's consoles when a password can be typed.
const asksAgain = `not shown while you type\)\n`

// password lets one computer give six wrong passwords, and passwordTen ten, which takes ten minutes.
func password(t *testing.T)    { passwords(t, 6) }
func passwordTen(t *testing.T) { passwords(t, 10) }

// passwords lets one computer give so many wrong passwords, of which each makes it wait for twice as long, start anew in
// between, and give the right one at last. Another one beside it has its own count. Afterwards none of them is to be found
// anywhere.
func passwords(t *testing.T, wrong int) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	slow := s.pc("slow", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("slow", smallDisk)})
	other := s.pc("other", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("other", smallDisk)})
	s.apply("site.yaml", joined(greeting(siteOf("LON", fmt.Sprintf("mode: proxy, passwordHash: %q", s.hash(sitePassword)))),
		computer("desk-slow", slow), computer("desk-other", other), erase("install", "true"),
		advertised("rollout", "install", "purpose: required, computers: [desk-slow, desk-other]")))
	s.startAppliance(lab.BIOS)
	s.waitServing()

	// Wrong, at the serial console.
	slow.Start()
	_, mark := slow.WaitSerialAfter(0, 10*time.Minute, greets)
	for n := 1; n <= wrong; n++ {
		_, mark = slow.WaitSerialAfter(mark, 10*time.Minute, asksAgain)
		if n == 3 {
			// To start the computer again is no way around.
			slow.Reset()
			_, mark = slow.WaitSerialAfter(mark, 10*time.Minute, asksAgain)
		}
		s.give(slow, func() { slow.SendSerial(wrongPassword + "\r") }, n)
		if n == wrong-1 {
			other.Start()
		}
	}

	// Another computer, at its keyboard: its own count.
	_, otherMark := other.WaitSerialAfter(0, 10*time.Minute, asksAgain)
	s.give(other, func() { other.Type(wrongPassword + "\n") }, 1)
	other.WaitSerialAfter(otherMark, 10*time.Minute, asksAgain)
	s.give(other, func() { other.Type(sitePassword + "\n") }, 0)
	other.WaitEvent(5*time.Minute, "agent-restart", nil)
	other.PowerCut()

	slow.WaitSerialAfter(mark, 10*time.Minute, asksAgain)
	if n := len(eventsNamed(slow, "sequence-start")); n != 0 {
		t.Fatalf("%d task sequences have begun before the right password", n)
	}
	lab.RequireBlank(t, s.lab.Path("disks", "slow.img"))
	s.give(slow, func() { slow.SendSerial(sitePassword + "\r") }, 0)
	slow.WaitEvent(5*time.Minute, "agent-restart", nil)
	slow.PowerCut()
	s.waitRuns("desk-slow", "desk-other")

	// None of it anywhere: consoles, logs, what went over the wire, databases.
	s.appliance.SendSerial("log\n")
	s.shutDown()
	for _, pc := range []*lab.Machine{slow, other, s.appliance} {
		if strings.Contains(pc.SerialText(0), "hush7") {
			t.Errorf("a password, or a part of it, stands on the console of %s", pc.Name())
		}
	}
	requireNowhere(t, []string{sitePassword, wrongPassword}, s.lab.Dir(), s.data)
}

// waitAfter is how many seconds after the n-th wrong password in a row another one is looked at, from 1.
func waitAfter(n int) int64 { return int64(min(1<<(n-1), 300)) }

// looked bounds how many seconds of that it takes to look at a password, by an appliance that is emulated.
const looked = 30

// give types a password, and requires what comes of it: where it is the n-th wrong one in a row, that the computer waits for as
// long as that makes it, and that the appliance says so in its log; where n is 0, that it is right.
func (s *site) give(pc *lab.Machine, typed func(), n int) {
	s.t.Helper()
	before, mark := lastEvent(pc), s.appliance.SerialMark()
	typed()
	e := pc.WaitEvent(2*time.Minute, "password-given", lab.After(before))
	wait, ok := e.Int("wait")
	most, right := int64(0), n == 0
	if !right {
		most = waitAfter(n)
	}
	if e.String("right") != fmt.Sprint(right) || !ok || wait > most || wait < most-looked {
		s.t.Errorf("%s: want right %t and up to %d s to wait, got %s", pc.Name(), right, most, e.Raw)
	}
	if wait >= looked/2 {
		pc.SendSerial(sitePassword + "\r") // too early: it counts for nothing, and is not shown
	}
	s.appliance.SendSerial("log\n")
	if right {
		s.appliance.WaitSerialAfter(mark, time.Minute, `msg="password given" mac=`+pc.MAC(0).String())
		return
	}
	s.appliance.WaitSerialAfter(mark, time.Minute, fmt.Sprintf(`msg="wrong password" mac=%s [^\n]*in_a_row=%d\n`, pc.MAC(0), n))
}

// eventsNamed are a machine's events of that name.
func eventsNamed(m *lab.Machine, name string) []lab.Event {
	var out []lab.Event
	for _, e := range m.Events() {
		if e.Name == name {
			out = append(out, e)
		}
	}
	return out
}

// hash is what branchpoint password makes of a password.
func (s *site) hash(password string) string {
	s.t.Helper()
	cmd := exec.Command(lab.Artifact(s.t, "build/bin/branchpoint"), "password")
	cmd.Stdin = strings.NewReader(password + "\n")
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("branchpoint password: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// requireNowhere fails the test where a text stands in any file of the directories, disks and captures of networks included.
func requireNowhere(t testing.TB, texts []string, dirs ...string) {
	t.Helper()
	files := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			files++
			for _, text := range texts {
				at, err := find(path, []byte(text))
				if err != nil {
					return err
				}
				if at >= 0 {
					t.Errorf("%s has %s at byte %d", path, text, at)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Errorf("there is no file in %v", dirs)
	}
}

// find is where a text begins in a file, -1 where it is not there. Holes are not read.
func find(path string, text []byte) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return -1, nil
		} else if err != nil {
			return 0, fmt.Errorf("find data in %s: %w", path, err)
		}
		at = max(at, data)
		n, err := f.ReadAt(buf, at)
		if i := bytes.Index(buf[:n], text); i >= 0 {
			return at + int64(i), nil
		}
		if n < len(buf) {
			return -1, nil // the end
		}
		_ = err                          // at the end only
		at += int64(n - (len(text) - 1)) // it may stand across two pieces
	}
}
