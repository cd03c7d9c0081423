package qemutests

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// seed chooses the moments at which machines are cut off, so that a run can be repeated.
var seed = flag.Uint64("seed", 1, "chooses the moments of power cuts and the contents of generated images")

// random is the source of a test's choices.
func random(t testing.TB) *rand.Rand {
	t.Logf("-seed=%d", *seed)
	return rand.New(rand.NewPCG(*seed, 0))
}

// dataDisk is the file of the appliance's data disk, as startAppliance makes it.
func (s *site) dataDisk() string { return s.lab.Path("disks", "data.img") }

// loseCentral ends central's process where it stands, and cuts the line to it with all connections that it carried.
func (s *site) loseCentral() {
	s.t.Helper()
	if err := s.process.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Wait(); err == nil || s.process.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		s.t.Fatalf("central ended by itself: %v", s.process.ProcessState)
	}
	s.wan.Cut()
	s.wan.Break()
}

// findCentral brings central and the line to it back.
func (s *site) findCentral() {
	s.t.Helper()
	s.startCentral()
	s.wan.Restore()
}

// poll calls f until it is true. The test fails after the limit.
func poll(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// lastEvent is the newest event of a machine, for lab.After.
func lastEvent(m *lab.Machine) lab.Event {
	all := m.Events()
	if len(all) == 0 {
		return lab.Event{}
	}
	return all[len(all)-1]
}

// message is what a scenario looks at of a status message.
type message struct {
	ID       string `json:"id"`
	Computer string `json:"computer"`
	Run      string `json:"run"`
	Sequence int    `json:"sequence"`
	Code     int    `json:"code"`
	Step     int    `json:"step"`
}

// Codes of status messages (docs/architecture.md: they are numbered as the field's classic products number them).
const (
	codeStepStarted  = 11133
	codeStepDone     = 11134
	codeSequenceDone = 11143
)

// messages reads status messages out of a database, in the order in which they came in.
func messages(t testing.TB, database, query string) []message {
	t.Helper()
	out, err := exec.Command("sqlite3", database, query).CombinedOutput()
	if err != nil {
		t.Fatalf("read %s: %v: %s", database, err, out)
	}
	var list []message
	for line := range strings.Lines(string(out)) {
		var m message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("read %s: %v in %q", database, err, line)
		}
		list = append(list, m)
	}
	return list
}

// centralMessages are the status messages that central has.
func (s *site) centralMessages() []message {
	s.t.Helper()
	return messages(s.t, filepath.Join(s.data, "central.db"), "SELECT message FROM status ORDER BY number")
}

// requireExactlyOnce fails the test unless central has every message that the branch has, in the branch's order, each once,
// those of each run numbered without a gap, and as many of each step as the computers told of as events. The appliance must
// be off.
func (s *site) requireExactlyOnce(pcs map[string]*lab.Machine) {
	s.t.Helper()
	files := s.lab.FromExt4(s.dataDisk(), "/branch.db", "/branch.db-wal")
	branch := messages(s.t, filepath.Join(files, "branch.db"), "SELECT message FROM outbox ORDER BY number")
	central := s.centralMessages()
	if !slices.Equal(branch, central) {
		s.t.Errorf("the branch has the messages\n%s\nand central\n%s", listed(branch), listed(central))
	}
	ids, next := map[string]bool{}, map[string]int{}
	count := map[[2]any]int{} // by computer and what happened
	for _, m := range central {
		if ids[m.ID] {
			s.t.Errorf("message %s came twice", m.ID)
		}
		ids[m.ID] = true
		if next[m.Run]++; m.Sequence != next[m.Run] {
			s.t.Errorf("run %s of %s: message %d came as number %d", m.Run, m.Computer, m.Sequence, next[m.Run])
		}
		count[[2]any{m.Computer, fmt.Sprint(m.Code, " ", m.Step)}]++
	}
	for computer, pc := range pcs {
		told := map[string]int{}
		for _, e := range pc.Events() {
			switch e.Name {
			case "step-start":
				told[fmt.Sprint(codeStepStarted, " ", e.String("step"))]++
			case "step-end":
				told[fmt.Sprint(codeStepDone, " ", e.String("step"))]++
			case "sequence-done":
				told[fmt.Sprint(codeSequenceDone, " 0")]++
			}
		}
		if told[fmt.Sprint(codeSequenceDone, " 0")] != 1 {
			s.t.Errorf("%s told of %v", computer, told)
		}
		for what, n := range told {
			if got := count[[2]any{computer, what}]; got != n {
				s.t.Errorf("central has %d messages %q of %s, which told of it %d times", got, what, computer, n)
			}
		}
	}
}

func listed(list []message) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "  %+v\n", m)
	}
	return b.String()
}

// lookOnly is a task sequence that changes nothing, advertised to a computer of its own.
func lookOnly(computer string) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: look}
spec:
  steps:
    - name: Look around
      runCommandLine: {in: boot-image, command: "uname -a"}
    - name: Look again
      runCommandLine: {in: boot-image, command: "true"}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: look}
spec:
  taskSequence: look
  computers: [%s]
  purpose: required
`, computer)
}

// wanCut loses central and the line to it once the appliance has what it needs: a deployment goes through to its end; the
// appliance, cut off from power, comes back and serves from its disk; and when central is back it learns of
// everything, once.
func wanCut(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.pc("pc", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("pc", 4<<30)})
	late := s.pc("late", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("late", 4<<30)})
	s.apply("site.yaml", strings.Join([]string{
		siteProxy, computer("desk-cut", pc), computer("desk-late", late), osImage, wholeDisk, advertisement("desk-cut"), lookOnly("desk-late"),
	}, "---\n"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	s.loseCentral()
	_, before := s.wan.Bytes()

	pc.Start()
	pc.WaitEvent(20*time.Minute, "sequence-done", nil)
	pc.WaitEvent(time.Minute, "agent-restart", nil) // comes only when the branch has every message on its disk
	pc.PowerCut()                                   // what is deployed boots: that is shown elsewhere
	s.appliance.PowerCut()
	off := lastEvent(s.appliance)
	s.appliance.Start()
	steps(t, pc, "applyOperatingSystemImage", "applyNetworkSettings", "applyOperatingSystemSettings", "runCommandLine", "restart")
	s.appliance.WaitEvent(5*time.Minute, "serving", lab.After(off))
	late.Start()
	late.WaitEvent(5*time.Minute, "sequence-done", nil)
	if _, after := s.wan.Bytes(); after != before {
		t.Errorf("%d bytes came from central while it was away", after-before)
	}
	if early := s.centralMessages(); len(early) > 0 {
		t.Errorf("central had messages before it was back:\n%s", listed(early))
	}

	s.findCentral()
	poll(t, 5*time.Minute, "central knows that both computers' runs have succeeded", func() bool {
		runs := s.runs()
		return len(runs) == 2 && runs[0].State == "succeeded" && runs[1].State == "succeeded"
	})
	s.shutDown()
	s.requireExactlyOnce(map[string]*lab.Machine{"desk-cut": pc, "desk-late": late})
}

// imageOnly writes the image and does nothing else.
const imageOnly = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - applyOperatingSystemImage: {image: debian}
`

// stored is how many bytes the chunks in a directory have, compressed as they travel.
func stored(t testing.TB, dir string) int64 {
	t.Helper()
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// percent is n of a hundred parts of all.
func percent(n, all int64) string { return fmt.Sprintf("%d %% of %d", n*100/max(all, 1), all) }

// What travels beside chunks (TLS, HTTP, TCP, and the ends of what was cut off) is less than a tenth of them and this.
const overhead = 16 << 20

// powerCut cuts the appliance off while it copies a package, and a client while it writes that package to its disk. Both go
// on where they were.
func powerCut(t *testing.T) {
	r := random(t)
	image := newSmallImage(t, *seed, 192<<20)
	s := newSite(t, image.path)
	disk := s.lab.BlankDisk("pc", 200<<20)
	pc := s.pc("pc", lab.BIOS, lab.Disk{Path: disk})
	s.apply("site.yaml", strings.Join([]string{siteDHCP, computer("desk-power", pc), osImage, imageOnly, advertisement("desk-power")}, "---\n"))
	total := stored(t, filepath.Join(s.data, "content", "chunks"))

	// The appliance.
	s.startAppliance(lab.BIOS)
	cut := total * (50 + r.Int64N(35)) / 100
	poll(t, 10*time.Minute, "the appliance copies", func() bool { _, down := s.wan.Bytes(); return down >= cut })
	s.appliance.PowerCut()
	_, first := s.wan.Bytes()
	for _, e := range s.appliance.Events() {
		if e.Name == "content-installed" {
			t.Fatalf("the appliance had everything when it was cut off after %s", percent(first, total))
		}
	}
	there := stored(t, filepath.Join(s.lab.FromExt4(s.dataDisk(), "/content/chunks"), "chunks"))
	off := lastEvent(s.appliance)
	s.appliance.Start()
	s.appliance.WaitEvent(10*time.Minute, "serving", lab.After(off))
	_, down := s.wan.Bytes()
	t.Logf("appliance: cut off after %s, %s were on its disk; it then fetched %s", percent(first, total), percent(there, total), percent(down-first, total))
	if want := total - there; there == 0 || down-first > want+want/10+overhead {
		t.Errorf("the appliance had %d bytes of %d on its disk and fetched %d", there, total, down-first)
	}

	// The client.
	_, all := image.inPlace(t, image.path)
	cut = all * (25 + r.Int64N(50)) / 100
	pc.Start()
	start := pc.WaitEvent(5*time.Minute, "step-start", nil)
	poll(t, 10*time.Minute, "the client writes", func() bool { return allocated(t, disk) >= smallDataAt+cut })
	pc.PowerCut()
	image.requireNothingWrong(t, disk)
	have, _ := image.inPlace(t, disk)
	pc.Start()
	started := pc.WaitEvent(5*time.Minute, "sequence-start", lab.After(start))
	if started.String("resumed") != "true" {
		t.Errorf("the agent takes its run for a new one: %s", started.Raw)
	}
	before := pc.Port(0).Counters().OutBytes
	pc.WaitEvent(10*time.Minute, "sequence-done", lab.After(start))
	fetched := int64(pc.Port(0).Counters().OutBytes - before)
	s.waitRun("desk-power") // switched off before the branch has noted its end, the run would be gone on with
	pc.PowerCut()
	t.Logf("client: cut off with %s in place; it then fetched %s", percent(have, all), percent(fetched, all))
	if want := all - have; have == 0 || fetched > want+want/10+overhead {
		t.Errorf("the client had %d bytes of %d in place and fetched %d", have, all, fetched)
	}
	image.requireWritten(t, disk)
}

// allocated is how many bytes of a sparse file hold data.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// shutDown switches the appliance off by its console.
func (s *site) shutDown() {
	s.t.Helper()
	s.appliance.SendSerial("shutdown\n")
	s.appliance.WaitOff(time.Minute)
}
