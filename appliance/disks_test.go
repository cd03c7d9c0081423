package appliance

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"branchpoint/initramfs/disk"
	"branchpoint/provisioning"
)

func TestBlankDiskIsClaimedOnlyAmongSettledDisks(t *testing.T) {
	blank := disk.Disk{Path: "/dev/sda", Size: 8 << 30, Serial: "BLANK"}
	late := disk.Disk{Path: "/dev/sdb", Size: 8 << 30, Serial: "DATA"}
	empty := disk.Disk{Path: "/dev/sdc"}
	looked := []Candidate{{Path: blank.Path, Size: blank.Size, Serial: blank.Serial, Blank: true}}
	for _, c := range []struct {
		name string
		list func(poll int) []disk.Disk
		want bool
	}{
		{"the same all the time", func(int) []disk.Disk { return []disk.Disk{blank, empty} }, true},
		{"a disk that comes late", func(poll int) []disk.Disk {
			if poll < settlePolls {
				return []disk.Disk{blank}
			}
			return []disk.Disk{blank, late}
		}, false},
		{"a drive that takes long to tell its size", func(poll int) []disk.Disk {
			d := late
			if poll < settlePolls {
				d.Size = 0
			}
			return []disk.Disk{blank, d}
		}, false},
		{"another one in its place", func(int) []disk.Disk { d := late; d.Path = blank.Path; return []disk.Disk{d} }, false},
		{"it was pulled out", func(int) []disk.Disk { return nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			polls := 0
			got, err := settled(t.Context(), looked, func() ([]disk.Disk, error) { polls++; return c.list(polls), nil },
				func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
			if err != nil || got != c.want {
				t.Errorf("settled %v, error %v, want %v", got, err, c.want)
			}
		})
	}
	unreadable := errors.New("unreadable")
	if _, err := settled(t.Context(), looked, func() ([]disk.Disk, error) { return nil, unreadable }, func(context.Context, time.Duration) error { return nil }); !errors.Is(err, unreadable) {
		t.Errorf("error %v, want the list's", err)
	}
}

// TestOnlyAnExt4IsTheDataDisk writes the signatures of other formats with our label.
func TestOnlyAnExt4IsTheDataDisk(t *testing.T) {
	superblock := func(extents byte) []byte {
		b := make([]byte, 1<<20)
		copy(b[0x438:], "\x53\xef")
		b[1024+0x60] = extents
		copy(b[1024+0x78:], DataLabel)
		return b
	}
	swap := make([]byte, 1<<20)
	copy(swap[4086:], "SWAPSPACE2")
	copy(swap[1052:], DataLabel)
	for _, c := range []struct {
		name string
		disk []byte
		ours bool
	}{{"ext4", superblock(0x40), true}, {"ext2", superblock(0), false}, {"swap", swap, false}} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(path, c.disk, 0o600); err != nil {
				t.Fatal(err)
			}
			got := Candidate{Path: path}
			look(t.Context(), &got)
			if got.Ours != c.ours || got.Blank || got.Err != "" {
				t.Errorf("ours %v, blank %v, error %q; want ours %v", got.Ours, got.Blank, got.Err, c.ours)
			}
		})
	}
}

func TestOnlyAnE2fsckThatEndedHasMended(t *testing.T) {
	for script, want := range map[string]bool{"exit 1": true, "exit 2": true, "exit 3": true, "exit 4": false, "exit 8": false, "exit 12": false, "kill -KILL $$": false} {
		if err := exec.Command("/bin/sh", "-c", script).Run(); err == nil || mended(err) != want {
			t.Errorf("%s: %v counts as mended: %v, want %v", script, err, mended(err), want)
		}
	}
	if mended(errors.New("there is no e2fsck")) {
		t.Error("a program that did not run has mended something")
	}
}

func TestMediumIsRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "medium.json")
	if _, err := loadMedium(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v where nothing was saved", err)
	}
	m := &medium{Device: "/dev/sda", Site: provisioning.File{Name: "site.yaml", Text: []byte("site: \"\xff\"\n# \u00e9\n")}}
	if err := m.save(path); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v; site.yaml holds a secret", fi.Mode(), err)
	}
	got, err := loadMedium(path)
	if err != nil || got.Device != m.Device || got.Site.Name != m.Site.Name || !bytes.Equal(got.Site.Text, m.Site.Text) {
		t.Errorf("%+v, error %v, want %+v", got, err, m)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadMedium(path); err == nil {
		t.Error("a file that is cut off was taken")
	}
}
