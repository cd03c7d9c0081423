package target

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// failingDisk makes a disk of size bytes that takes no more than room bytes: what is written beyond is lost, and as the
// kernel writes back later, whoever wrote it is not told.
func failingDisk(t *testing.T, size, room int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for loop devices and mounts")
	}
	dir := t.TempDir()
	// Bytes of a file are refused by a tmpfs that is full, at any time.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.FormatInt(room, 10)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return loopOver(t, filepath.Join(dir, "disk"), size)
}

// TestUnmountTellsOfWhatWasLost: a disk that loses what is written to it must not pass for one that was written.
func TestUnmountTellsOfWhatWasLost(t *testing.T) {
	for name, before := range map[string]func(){
		"written back by Unmount": func() {},
		"written back already":    unix.Sync, // which tells nobody
	} {
		t.Run(name, func(t *testing.T) {
			const size, room = 512 << 20, 64 << 20
			dev := failingDisk(t, size, room)
			if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", dev).CombinedOutput(); err != nil {
				t.Fatalf("mke2fs: %v %s", err, out)
			}
			s := machine(t, dev, size)
			ctx := context.Background()
			if err := s.Mount(ctx, dev, "ext4", "/", false); err != nil {
				t.Fatal(err)
			}
			block := []byte(strings.Repeat("branchpoint.", 1<<20))
			f, err := os.Create(filepath.Join(s.Dir, "file"))
			for n := 0; err == nil && n < 2*room; n += len(block) {
				_, err = f.Write(block)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Logf("a busy kernel wrote back before the end, and this writer was told: %v", err)
			}
			before()
			err = s.Unmount(ctx)
			if err == nil || provisioning.NextOf(err) == "" {
				t.Errorf("most of what was written is lost, and Unmount says %v", err)
			}
			if points, err := mountsBelow(s.Dir); err != nil || len(points) != 0 {
				t.Errorf("still mounted: %v %v", points, err)
			}
			if err := s.Unmount(ctx); err != nil {
				t.Errorf("there is nothing left to unmount: %v", err)
			}
		})
	}
}
