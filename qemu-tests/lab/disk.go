package lab

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// BlankDisk makes a sparse raw file of that many bytes among the artifacts and returns its path.
func (l *Lab) BlankDisk(name string, size int64) string {
	l.t.Helper()
	p := l.Path("disks", safeName(name)+".img")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		l.t.Fatalf("make disk %s: %v", name, err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		l.t.Fatalf("make disk %s of %d bytes: %v", name, size, err)
	}
	return p
}

// Overlay makes a qcow2 file that holds only what is written over the base file, and returns its path: the way to start a
// machine from a built artifact that must stay as it is. A size of 0 is the base's.
func (l *Lab) Overlay(name, base, baseFormat string, size int64) string {
	l.t.Helper()
	p := l.Path("disks", safeName(name)+".qcow2")
	args := []string{"create", "-q", "-f", "qcow2", "-F", baseFormat, "-b", base, p}
	if size > 0 {
		args = append(args, fmt.Sprint(size))
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("make overlay %s of %s: %v: %s", name, base, err, out)
	}
	return p
}

// CopyFile copies a file among the artifacts, sparse where it is sparse, and returns the copy's path.
func (l *Lab) CopyFile(name, from string) string {
	l.t.Helper()
	p := l.Path("disks", safeName(name))
	if out, err := exec.Command("cp", "--sparse=auto", "--reflink=auto", "--", from, p).CombinedOutput(); err != nil {
		l.t.Fatalf("copy %s: %v: %s", from, err, out)
	}
	return p
}

// HashFile returns the SHA-256 of a file's contents in hexadecimal.
func HashFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("hash: %v", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, bufio.NewReaderSize(f, 1<<20)); err != nil {
		t.Fatalf("hash %s: %v", path, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RequireUnchanged returns a function that fails the test unless the file has the contents and the size that it has now.
func RequireUnchanged(t testing.TB, path string) func() {
	t.Helper()
	before := HashFile(t, path)
	return func() {
		t.Helper()
		if after := HashFile(t, path); after != before {
			t.Errorf("%s was written to: SHA-256 was %s, is %s", path, before, after)
		}
	}
}

// RequireBlank fails the test unless every byte of a raw disk file is zero.
func RequireBlank(t testing.TB, path string) {
	t.Helper()
	at, err := firstNonZero(path)
	if err != nil {
		t.Fatal(err)
	}
	if at >= 0 {
		t.Errorf("%s was written to: byte %d is not zero", path, at)
	}
}

// RequireNotBlank fails the test if every byte of a raw disk file is zero.
func RequireNotBlank(t testing.TB, path string) {
	t.Helper()
	at, err := firstNonZero(path)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		t.Errorf("%s is still blank", path)
	}
}

// firstNonZero returns the offset of the first byte that is not zero, -1 if there is none. Holes of the file are not read.
func firstNonZero(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read disk: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read disk: %w", err)
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("read disk %s: it is not a file", path)
	}
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < st.Size(); {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return -1, nil // nothing but a hole to the end
		} else if err != nil {
			return 0, fmt.Errorf("find data in %s: %w", path, err)
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return 0, fmt.Errorf("find holes in %s: %w", path, err)
		}
		for at = data; at < hole; {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), hole-at)], at)
			if n == 0 && err != nil {
				return 0, fmt.Errorf("read %s at %d: %w", path, at, err)
			}
			if !bytes.Equal(buf[:n], zero[:n]) {
				for i, b := range buf[:n] {
					if b != 0 {
						return at + int64(i), nil
					}
				}
			}
			at += int64(n)
		}
	}
	return -1, nil
}
