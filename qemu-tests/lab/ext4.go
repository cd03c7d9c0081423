package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// FromExt4 copies files and whole directories out of the ext4 file system that a disk file is, as whoever mounts it next
// would see them: its journal is replayed, on a copy. It returns the directory that holds them, by their last names. The
// machine whose disk it is must be off. The test fails if the file system is damaged or lacks one of the paths.
func (l *Lab) FromExt4(disk string, paths ...string) string {
	l.t.Helper()
	work := l.t.TempDir()
	image := filepath.Join(work, "disk.img")
	if out, err := exec.Command("cp", "--sparse=auto", "--reflink=auto", "--", disk, image).CombinedOutput(); err != nil {
		l.t.Fatalf("copy %s: %v: %s", disk, err, out)
	}
	ReplayJournal(l.t, image)
	to := filepath.Join(work, "files")
	if err := os.Mkdir(to, 0o700); err != nil {
		l.t.Fatal(err)
	}
	for _, p := range paths {
		out, err := exec.Command("debugfs", "-R", fmt.Sprintf("rdump %s %s", p, to), image).CombinedOutput()
		if _, serr := os.Stat(filepath.Join(to, path.Base(p))); err != nil || serr != nil {
			l.t.Fatalf("copy %s out of %s: %v: %s", p, disk, errors.Join(err, serr), out)
		}
	}
	if err := os.Remove(image); err != nil {
		l.t.Fatal(err)
	}
	return to
}

// ReplayJournal does to the ext4 file system that a file is what the next mount would do after a loss of power. The test
// fails if more than that is wrong with it.
func ReplayJournal(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-p", image).CombinedOutput()
	// 1: errors were corrected, of which the replay is one (e2fsck(8)).
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		t.Fatalf("check %s: %v: %s", image, err, out)
	}
}

// FlipBit turns one bit over in the middle of a file of the ext4 file system that a disk file is, as a failing disk does:
// behind the file system's back. Its journal must have been replayed ([ReplayJournal]). It returns the byte's offset.
func FlipBit(t testing.TB, disk, file string) int64 {
	t.Helper()
	const blockSize = 4096 // what mkfs.ext4 chooses for disks from 512 MiB
	out, err := exec.Command("debugfs", "-R", "blocks "+file, disk).Output()
	blocks := strings.Fields(string(out))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("find %s in %s: %v: %s", file, disk, err, out)
	}
	n, err := strconv.ParseInt(blocks[(len(blocks)-1)/2], 10, 64)
	if err != nil {
		t.Fatalf("find %s in %s: %v", file, disk, err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := n*blockSize + 64 // files are longer than that, and the byte belongs to them even in a last block
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatalf("damage %s: %v", file, err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatalf("damage %s: %v", file, err)
	}
	return at
}
