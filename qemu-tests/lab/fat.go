package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"unicode/utf16"
)

// FATImage makes a FAT file system of that many bytes in a file without partitions, holding the given files (path with
// slashes to contents), and returns its path.
func (l *Lab) FATImage(name string, size int64, files map[string][]byte) string {
	l.t.Helper()
	p := l.BlankDisk(name, size)
	if err := mtools("mformat", "-i", p, "-v", "LAB", "::"); err != nil {
		l.t.Fatalf("make FAT image %s: %v", name, err)
	}
	for f, b := range files {
		WriteFAT(l.t, p, 0, f, b)
	}
	return p
}

// WriteFAT writes a file into the FAT file system that begins at a byte offset of an image, replacing what is there.
func WriteFAT(t testing.TB, image string, offset int64, name string, contents []byte) {
	t.Helper()
	at := fmt.Sprintf("%s@@%d", image, offset)
	name = strings.Trim(path.Clean("/"+name), "/")
	if dir := path.Dir(name); dir != "." {
		parts := strings.Split(dir, "/")
		for i := range parts {
			d := "::/" + strings.Join(parts[:i+1], "/")
			if mtools("mdir", "-b", "-i", at, d) == nil {
				continue
			}
			if err := mtools("mmd", "-i", at, d); err != nil {
				t.Fatalf("make %s in %s: %v", d, image, err)
			}
		}
	}
	f, err := os.CreateTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(contents)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatalf("write %s: %v", f.Name(), err)
	}
	if err := mtools("mcopy", "-o", "-i", at, f.Name(), "::/"+name); err != nil {
		t.Fatalf("write %s into %s: %v", name, image, err)
	}
}

// ReadFAT reads a file of the FAT file system that begins at a byte offset of an image.
func ReadFAT(t testing.TB, image string, offset int64, name string) []byte {
	t.Helper()
	cmd := exec.Command("mtype", "-i", fmt.Sprintf("%s@@%d", image, offset), "::/"+strings.Trim(name, "/"))
	cmd.Env = mtoolsEnv()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("read %s from %s: %v: %s", name, image, err, errOut.String())
	}
	return out.Bytes()
}

func mtools(argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = mtoolsEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// mtoolsEnv makes mtools take images whose geometry it finds odd, as those of hybrid images are.
func mtoolsEnv() []string { return append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null") }

// Partition is an entry of a GUID partition table.
type Partition struct {
	Name string
	// Type is the partition type in the usual mixed-endian notation, upper case.
	Type string
	// Offset and Size are in bytes.
	Offset, Size int64
}

// ESPType is the partition type of an EFI system partition (UEFI specification, 5.3.3).
const ESPType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"

// Partitions reads the GUID partition table of a raw disk image with sectors of 512 bytes.
func Partitions(t testing.TB, image string) []Partition {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatalf("read partitions: %v", err)
	}
	defer f.Close()
	list, err := readGPT(f)
	if err != nil {
		t.Fatalf("read partitions of %s: %v", image, err)
	}
	return list
}

// ESP returns the EFI system partition of a raw disk image. The test fails if it does not have exactly one.
func ESP(t testing.TB, image string) Partition {
	t.Helper()
	var found []Partition
	for _, p := range Partitions(t, image) {
		if p.Type == ESPType {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d EFI system partitions, not one", image, len(found))
	}
	return found[0]
}

// readGPT reads the primary table (UEFI specification, 5.3).
func readGPT(r io.ReaderAt) ([]Partition, error) {
	const sector = 512
	h := make([]byte, 92)
	if _, err := r.ReadAt(h, sector); err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	if string(h[:8]) != "EFI PART" {
		return nil, errors.New("there is no GUID partition table")
	}
	lba, count, size := binary.LittleEndian.Uint64(h[72:]), binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if size < 128 || size > 4096 || count > 1024 || lba > 1<<40 {
		return nil, fmt.Errorf("the table of %d entries of %d bytes at sector %d makes no sense", count, size, lba)
	}
	var list []Partition
	e := make([]byte, size)
	for i := range int64(count) {
		if _, err := r.ReadAt(e, int64(lba)*sector+i*int64(size)); err != nil {
			return nil, fmt.Errorf("read entry %d: %w", i, err)
		}
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if last < first || last > 1<<50 {
			return nil, fmt.Errorf("entry %d reaches from sector %d to %d", i, first, last)
		}
		var name []uint16
		for j := 56; j < 128; j += 2 {
			if c := binary.LittleEndian.Uint16(e[j:]); c != 0 {
				name = append(name, c)
			}
		}
		list = append(list, Partition{
			Name: string(utf16.Decode(name)), Type: guid(e[:16]),
			Offset: int64(first) * sector, Size: int64(last-first+1) * sector,
		})
	}
	return list, nil
}

func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
