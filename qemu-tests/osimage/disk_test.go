package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// memory is a small image in memory.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func TestInstallBIOS(t *testing.T) {
	image := make(memory, espStart)
	for i := 0x1b8; i < 510; i++ {
		image[i] = byte(i) // disk signature and partition table
	}
	image[510], image[511] = 0x55, 0xaa
	before := bytes.Clone(image[:sector])
	boot := bytes.Repeat([]byte{0xbb}, sector)
	core := bytes.Repeat([]byte{0xcc}, 3*sector+100)
	binary.LittleEndian.PutUint16(core[sector-4:], 3)

	if err := installBIOS(image, boot, core); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(image[0x1b8:sector], before[0x1b8:]) {
		t.Error("partition table was changed")
	}
	if !bytes.Equal(image[3:0x5a], before[3:0x5a]) {
		t.Error("BIOS parameter block was changed")
	}
	if got := binary.LittleEndian.Uint64(image[0x5c:]); got != 2048 {
		t.Errorf("boot sector loads sector %d, want 2048", got)
	}
	if got := binary.LittleEndian.Uint64(image[biosStart+sector-12:]); got != 2049 {
		t.Errorf("core image goes on at sector %d, want 2049", got)
	}
	if !bytes.Equal(image[biosStart+sector:biosStart+len(core)], core[sector:]) {
		t.Error("core image is not in the partition")
	}

	for name, bad := range map[string]struct{ boot, core []byte }{
		"short boot sector": {boot[:100], core},
		"core too large":    {boot, make([]byte, 2*mib)},
		"no core":           {boot, nil},
		"wrong count":       {boot, core[:2*sector+1]},
	} {
		if err := installBIOS(image, bad.boot, bad.core); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := installBIOS(make(memory, espStart), boot, core); err == nil {
		t.Error("image without partition table: no error")
	}
}

func TestChooseMirror(t *testing.T) {
	for name, c := range map[string]struct{ lines, want string }{
		"label":           {"Other|http://a.invalid/x/\nDebian-Security|http://b.invalid/debian-security/\nDebian|http://c.invalid/mirror/\n", "http://c.invalid/mirror/"},
		"never fetched":   {"|http://b.invalid/debian-security/\n|http://c.invalid/debian/\n", "http://c.invalid/debian/"},
		"nothing of ours": {"Other|http://a.invalid/x/\n\n", ""},
	} {
		if got := chooseMirror(c.lines); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestIndexDate(t *testing.T) {
	got, err := indexDate([]byte("Origin: Debian\nDate: Sat, 05 Sep 2026 10:02:13 UTC\n"))
	if want := time.Date(2026, 9, 5, 10, 2, 13, 0, time.UTC); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := indexDate([]byte("<html>log in</html>")); err == nil {
		t.Error("a log-in page passed as an index")
	}
}

func TestUpToDate(t *testing.T) {
	out := t.TempDir()
	if upToDate(out, "k") == "" {
		t.Error("an empty directory is up to date")
	}
	r := record{Key: "k", Files: map[string]fileRecord{}}
	for _, name := range []string{imageName, archiveName} {
		if err := os.WriteFile(filepath.Join(out, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := describe(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		r.Files[name] = f
	}
	if err := r.write(out); err != nil {
		t.Fatal(err)
	}
	if reason := upToDate(out, "k"); reason != "" {
		t.Errorf("not up to date: %s", reason)
	}
	if upToDate(out, "other") == "" {
		t.Error("up to date with another recipe")
	}
	if err := os.Truncate(filepath.Join(out, imageName), 1); err != nil {
		t.Fatal(err)
	}
	if reason := upToDate(out, "k"); !strings.Contains(reason, imageName) {
		t.Errorf("a cut image: %q", reason)
	}
}

func TestRecipeKeyFollowsIndex(t *testing.T) {
	a := recipeKey(packageIndex{inRelease: []byte("a")})
	if a == recipeKey(packageIndex{inRelease: []byte("b")}) {
		t.Error("another package index has the same key")
	}
	if a != recipeKey(packageIndex{inRelease: []byte("a")}) {
		t.Error("the key is not stable")
	}
}
