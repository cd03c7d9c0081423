package qemutests

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/qemu-tests/lab"
)

// The small image's layout: an MBR, a root file system that the agent mounts and may change, and a partition of a type that
// it leaves as it is, which holds nearly all of the data.
const (
	smallRootAt   = 1 << 20
	smallRootSize = 16 << 20
	smallDataAt   = smallRootAt + smallRootSize
)

// smallImage is a disk image that is quickly written: no operating system, but what the agent takes for one.
type smallImage struct {
	path string
	size int64
	tree string // what its root file system was made of
}

// newSmallImage makes a small image of size bytes, always the same for a seed. One eighth of its data partition are zeros.
func newSmallImage(t testing.TB, seed uint64, size int64) smallImage {
	t.Helper()
	s := smallImage{path: filepath.Join(t.TempDir(), "small.img"), size: size, tree: filepath.Join(t.TempDir(), "tree")}
	for name, text := range map[string]string{"etc/os-release": "ID=small\nPRETTY_NAME=\"A small system\"\n", "etc/fstab": "# nothing\n", "etc/hostname": "small\n"} {
		p := filepath.Join(s.tree, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	random, mib := rand.NewChaCha8(key), make([]byte, 1<<20)
	for at := int64(smallDataAt); at+int64(len(mib)) <= size; at += int64(len(mib)) {
		_, _ = random.Read(mib) // never fails
		if at>>20%8 == 7 {
			continue
		}
		if _, err := f.WriteAt(mib, at); err != nil {
			t.Fatal(err)
		}
	}
	table := fmt.Sprintf("label: dos\nlabel-id: 0x%08x\nstart=%d, size=%d, type=83, bootable\nstart=%d, type=da\n", uint32(seed)|1, smallRootAt/512, smallRootSize/512, smallDataAt/512)
	sfdisk := exec.Command("sfdisk", "--quiet", s.path)
	sfdisk.Stdin = strings.NewReader(table)
	if out, err := sfdisk.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	mkfs := exec.Command("mkfs.ext4", "-q", "-F", "-d", s.tree, "-E", fmt.Sprintf("offset=%d", smallRootAt), s.path, fmt.Sprintf("%dk", smallRootSize>>10))
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return s
}

// zeroOutside are the zeros that a comparison compares with.
var zeroMiB = make([]byte, 1<<20)

// inPlace returns how many bytes of the image's data partition a disk has in their place, and how many there are, in units of
// 64 KiB; zeros do not count.
func (s smallImage) inPlace(t testing.TB, disk string) (have, all int64) {
	t.Helper()
	s.each(t, disk, 64<<10, func(_ int64, want, got []byte) {
		if !bytes.Equal(want, zeroMiB[:len(want)]) {
			all += int64(len(want))
			if bytes.Equal(want, got) {
				have += int64(len(want))
			}
		}
	})
	return have, all
}

// each calls f with each piece of the data partition, and what the disk has there.
func (s smallImage) each(t testing.TB, disk string, piece int, f func(at int64, want, got []byte)) {
	t.Helper()
	a, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	want, got := make([]byte, piece), make([]byte, piece)
	for at := int64(smallDataAt); at < s.size; at += int64(piece) {
		n := min(int64(piece), s.size-at)
		if _, err := a.ReadAt(want[:n], at); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadAt(got[:n], at); err != nil {
			t.Fatal(err)
		}
		f(at, want[:n], got[:n])
	}
}

// requireNothingWrong fails the test if the disk holds, in the image's data partition, anything but what the image has
// there or zeros, in units of a sector.
func (s smallImage) requireNothingWrong(t testing.TB, disk string) {
	t.Helper()
	wrong := 0
	s.each(t, disk, 512, func(at int64, want, got []byte) {
		if !bytes.Equal(want, got) && !bytes.Equal(got, zeroMiB[:len(got)]) {
			if wrong++; wrong <= 3 {
				t.Errorf("%s has at byte %d what is neither the image's nor zeros", disk, at)
			}
		}
	})
}

// requireWritten fails the test unless the disk begins with the image: byte for byte where nothing but the image was ever
// written, file by file in the root file system, which the agent mounts; and unless the rest of the disk is blank.
func (s smallImage) requireWritten(t testing.TB, disk string) {
	t.Helper()
	a, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, part := range []struct{ from, to int64 }{{0, smallRootAt}, {smallDataAt, s.size}} {
		want, got := make([]byte, 1<<20), make([]byte, 1<<20)
		for at := part.from; at < part.to; at += 1 << 20 {
			n := min(1<<20, part.to-at)
			if _, err := a.ReadAt(want[:n], at); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadAt(got[:n], at); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want[:n], got[:n]) {
				t.Fatalf("%s differs from the image in the MiB at byte %d", disk, at)
			}
		}
	}
	rest := io.NewSectionReader(b, s.size, 1<<40)
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(rest, buf)
		if !bytes.Equal(buf[:n], zeroMiB[:n]) {
			t.Fatalf("%s was written to behind the image's end", disk)
		}
		if err != nil {
			break
		}
	}
	s.requireRoot(t, b)
}

// requireRoot compares the files of the root file system.
func (s smallImage) requireRoot(t testing.TB, disk io.ReaderAt) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.img")
	f, err := os.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, io.NewSectionReader(disk, smallRootAt, smallRootSize))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	lab.ReplayJournal(t, root)
	to := t.TempDir()
	if out, err := exec.Command("debugfs", "-R", "rdump / "+to, root).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	err = fs.WalkDir(os.DirFS(s.tree), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := os.ReadFile(filepath.Join(s.tree, name))
		if err != nil {
			return err
		}
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("/%s of the written root file system is %q (%v), want %q", name, got, err, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
