package appliance

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/initramfs/disk"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

func TestDecideClaim(t *testing.T) {
	foreign := Candidate{Path: "/dev/vdc", Size: 8 << 30, Serial: "WD-1  23", Holds: "GPT at byte 512"}
	ours := Candidate{Path: "/dev/vdd", Size: 8 << 30, Serial: "OURS", Ours: true}
	with := func(c Candidate, f func(*Candidate)) Candidate { f(&c); return c }
	for _, c := range []struct {
		name   string
		disks  []Candidate
		serial string
		used   string
		want   string // the path
		code   provisioning.Code
		says   string
		next   string
	}{
		{name: "foreign", disks: []Candidate{foreign}, serial: "WD-1 23", want: "/dev/vdc"},
		{name: "blank", disks: []Candidate{with(foreign, func(c *Candidate) { c.Blank, c.Holds = true, "" })}, serial: "WD-1 23", want: "/dev/vdc"},
		{name: "claimed in part", disks: []Candidate{with(foreign, func(c *Candidate) { c.Unfinished = true })}, serial: "WD-1 23", want: "/dev/vdc"},
		{name: "behind USB", disks: []Candidate{with(foreign, func(c *Candidate) { c.Removable = true })}, serial: "WD-1 23", want: "/dev/vdc"},
		{name: "another site's data disk", disks: []Candidate{with(ours, func(c *Candidate) { c.Refused = "it belongs to site PAR" })}, serial: "OURS", want: "/dev/vdd"},
		{name: "the data disk itself, which cannot be mounted", disks: []Candidate{ours}, serial: "OURS", want: "/dev/vdd"},
		{name: "beside another site's data disk", disks: []Candidate{foreign, with(ours, func(c *Candidate) { c.Refused = "it belongs to site PAR" })}, serial: "WD-1 23", want: "/dev/vdc"},
		{name: "beside a data disk", disks: []Candidate{foreign, ours}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "OURS) is a data disk already", next: "Detach"},
		{name: "beside a data disk that has no serial", disks: []Candidate{foreign, with(ours, func(c *Candidate) { c.Serial = "" })}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "is a data disk already", next: "Detach"},
		{name: "one of two data disks", disks: []Candidate{ours, with(ours, func(c *Candidate) { c.Serial = "OURS2" })}, serial: "OURS", code: provisioning.CodeConflict, says: "OURS2) is a data disk already", next: "Detach"},
		{name: "while the data disk is in use", disks: []Candidate{foreign}, serial: "WD-1 23", used: "/dev/vdd", code: provisioning.CodeConflict, says: "/dev/vdd is in use"},
		{name: "unknown", disks: []Candidate{foreign}, serial: "WD-1", code: provisioning.CodeNotFound, says: `no disk with the serial "WD-1"`, next: "disks"},
		{name: "no other letters", disks: []Candidate{foreign}, serial: "wd-1 23", code: provisioning.CodeNotFound, says: "no disk"},
		{name: "empty", disks: []Candidate{with(foreign, func(c *Candidate) { c.Serial = "" })}, serial: "", code: provisioning.CodeNotFound, says: "no disk", next: "zeros on another computer"},
		{name: "no serial", disks: []Candidate{with(foreign, func(c *Candidate) { c.Serial = "" })}, serial: "X", code: provisioning.CodeNotFound, says: "no disk", next: "zeros on another computer"},
		{name: "two with one serial", disks: []Candidate{foreign, with(foreign, func(c *Candidate) { c.Path, c.Serial = "/dev/vde", "WD-1 23 " })}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "2 disks have", next: "Detach all but one"},
		{name: "two with one serial, one of them the medium", disks: []Candidate{foreign, with(foreign, func(c *Candidate) { c.Path, c.Medium = "/dev/vde", true })}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "2 disks have"},
		{name: "the medium", disks: []Candidate{with(foreign, func(c *Candidate) { c.Medium = true })}, serial: "WD-1 23", code: provisioning.CodeForbidden, says: "own file"},
		{name: "in use", disks: []Candidate{with(foreign, func(c *Candidate) { c.InUse, c.Err = true, "it is in use" })}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "in use"},
		{name: "read-only", disks: []Candidate{with(foreign, func(c *Candidate) { c.ReadOnly = true })}, serial: "WD-1 23", code: provisioning.CodeConflict, says: "read-only"},
		{name: "unreadable", disks: []Candidate{with(foreign, func(c *Candidate) { c.Err = "input/output error" })}, serial: "WD-1 23", code: provisioning.CodeUnavailable, says: "input/output error"},
		{name: "too small", disks: []Candidate{with(foreign, func(c *Candidate) { c.Size = 1 << 30 })}, serial: "WD-1 23", code: provisioning.CodeInvalid, says: "too small"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := DecideClaim(c.disks, c.serial, c.used)
			if got.Path != c.want || provisioning.CodeOf(err) != c.code {
				t.Fatalf("%q, %v; want %q, %q", got.Path, err, c.want, c.code)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || !strings.Contains(provisioning.NextOf(err), c.next)) {
				t.Errorf("%v; next %q", err, provisioning.NextOf(err))
			}
		})
	}
}

// loopDisk makes a disk of a sparse file.
func loopDisk(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "branchpoint-") // in memory: a test is no reason to wait for this machine's disk
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("this machine lets nobody attach loop devices: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return device
}

// candidate looks at a disk.
func candidate(t *testing.T, device string) Candidate {
	t.Helper()
	_, size, err := disk.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	c := Candidate{Path: device, Size: size, Serial: "TEST"}
	look(t.Context(), &c)
	return c
}

// sh runs a command, which has to succeed.
func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestClaimErasesWhatWasThere(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, device string){
		"blank": func(*testing.T, string) {},
		"ext4":  func(t *testing.T, device string) { sh(t, "mkfs.ext4", "-q", "-F", "-L", "somebodys", device) },
		"FAT":   func(t *testing.T, device string) { sh(t, "mkfs.vfat", "-I", "-F", "32", device) },
		"swap":  func(t *testing.T, device string) { sh(t, "mkswap", "-q", device) },
		"data disk": func(t *testing.T, device string) {
			sh(t, "mkfs.ext4", "-q", "-F", "-L", DataLabel, device)
		},
		"both copies of a GPT": func(t *testing.T, device string) {
			sh(t, "sh", "-c", "printf 'label: gpt\\n,100M\\n' | sfdisk -q --no-reread --no-tell-kernel "+device)
		},
	} {
		t.Run(name, func(t *testing.T) {
			device := loopDisk(t, minDataDisk)
			fill(t, device)
			c := candidate(t, device)
			if c.Blank != (name == "blank") || c.Ours != (name == "data disk") {
				t.Fatalf("before: %+v", c)
			}
			if err := claim(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if c := candidate(t, device); !c.Ours || c.Err != "" || c.Medium || c.Unfinished {
				t.Errorf("after: %+v", c)
			}
			sh(t, "e2fsck", "-f", "-n", device)
		})
	}
}

func TestClaimTouchesNothingThatHasChanged(t *testing.T) {
	device := loopDisk(t, minDataDisk)
	blank := candidate(t, device)
	sh(t, "mkfs.ext4", "-q", "-F", "-L", "somebodys", device)
	before := candidate(t, device)
	refused := func(what string, c Candidate) {
		t.Helper()
		if err := claim(t.Context(), c); provisioning.CodeOf(err) != provisioning.CodeConflict {
			t.Errorf("%s: %v", what, err)
		}
		if now := candidate(t, device); now != before {
			t.Errorf("%s: the disk holds %+v", what, now)
		}
		sh(t, "e2fsck", "-f", "-n", device)
	}
	refused("it was blank", blank)
	other := before
	other.Holds = "NTFS at byte 3"
	refused("it held something else", other)
	other = before
	other.Size++
	refused("it had another size", other)

	dir := t.TempDir()
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	err := claim(t.Context(), before)
	if uerr := unix.Unmount(dir, 0); uerr != nil {
		t.Fatal(uerr)
	}
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("it was mounted: %v", err)
	}
	sh(t, "e2fsck", "-f", "-n", device)
}

// TestAClaimThatIsCutShort stops between every two steps: whenever the power goes, the disk must neither count as blank nor
// as the data disk, and claiming it again must work.
func TestAClaimThatIsCutShort(t *testing.T) {
	steps := []struct {
		name string
		do   func(c Candidate) error
		// made is whether the disk is the data disk from then on.
		made bool
	}{
		{"marked and wiped", func(c Candidate) error { return wipe(t.Context(), c) }, false},
		{"formatted", func(c Candidate) error { return format(t.Context(), c.Path) }, false},
		{"labelled", func(c Candidate) error { return finishClaim(c.Path) }, true},
	}
	for n := range steps {
		t.Run(steps[n].name, func(t *testing.T) {
			device := loopDisk(t, minDataDisk)
			c := candidate(t, device)
			for _, s := range steps[:n+1] {
				if err := s.do(c); err != nil {
					t.Fatal(err)
				}
			}
			now := candidate(t, device)
			d := DecideDataDisk([]Candidate{now}, "")
			if steps[n].made {
				if !now.Ours || d.Use != device {
					t.Fatalf("%+v is not the data disk: %+v", now, d)
				}
				return
			}
			if !now.Unfinished || d.Use+d.Claim != "" || !strings.Contains(d.Next, "claim SERIAL") {
				t.Fatalf("%+v: %+v", now, d)
			}
			if err := claim(t.Context(), now); err != nil {
				t.Fatal("claiming it again:", err)
			}
			if now := candidate(t, device); !now.Ours {
				t.Errorf("%+v", now)
			}
		})
	}
	t.Run("formatted in part", func(t *testing.T) {
		// The mark alone is left, as the kernel writes in any order.
		device := loopDisk(t, minDataDisk)
		if err := wipe(t.Context(), candidate(t, device)); err != nil {
			t.Fatal(err)
		}
		if c := candidate(t, device); c.Blank || !c.Unfinished {
			t.Errorf("%+v", c)
		}
	})
}

func TestClaimIsConfirmedByTheSerial(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := &appliance{disksFree: make(chan struct{}, 1), refused: map[string]string{}, looked: true}
	a.Log, a.Now = slog.New(slog.DiscardHandler), func() time.Time { return now }
	run := func(command func(ctx context.Context, args []string, out *bytes.Buffer) error, line string) (string, error) {
		var out bytes.Buffer
		err := command(t.Context(), strings.Fields(line), &out)
		return out.String(), err
	}
	claim := func(ctx context.Context, args []string, out *bytes.Buffer) error {
		return a.proposeClaim(ctx, args, out)
	}
	confirm := func(ctx context.Context, args []string, out *bytes.Buffer) error {
		return a.confirmClaim(ctx, args, out)
	}

	if _, err := run(confirm, "TEST"); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Errorf("confirmed without anything shown: %v", err)
	}
	if _, err := run(claim, ""); provisioning.CodeOf(err) != provisioning.CodeInvalid {
		t.Errorf("no serial: %v", err)
	}
	if _, err := run(claim, "no disk has this serial"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Errorf("no such disk: %v", err)
	}
	shown := Candidate{Path: "/dev/none", Serial: "TEST"}
	for name, c := range map[string]struct {
		typed string
		wait  time.Duration
		says  string
	}{
		"another serial":      {"TSET", 0, "not the serial that was shown"},
		"nothing":             {"", 0, "not the serial that was shown"},
		"too late":            {"TEST", claimPatience + time.Second, "nothing to confirm"},
		"the disk is no more": {"TEST", 0, "no disk with the serial"},
	} {
		a.setClaim(&pendingClaim{shown, now.Add(claimPatience)})
		now = now.Add(c.wait)
		if out, err := run(confirm, c.typed); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if _, err := run(confirm, "TEST"); err == nil || !strings.Contains(err.Error(), "nothing to confirm") {
			t.Errorf("%s: it can be confirmed a second time: %v", name, err)
		}
	}
	a.data = "/dev/vdd"
	if _, err := run(claim, "TEST"); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Errorf("while a data disk is in use: %v", err)
	}
}
