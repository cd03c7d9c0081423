package lab

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFlipBit damages one of two files behind a file system's back: the other one and the file system stay as they were.
func TestFlipBit(t *testing.T) {
	l := New(t)
	tree := t.TempDir()
	random, want := rand.NewChaCha8([32]byte{1}), map[string][]byte{}
	if err := os.Mkdir(filepath.Join(tree, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in/a", "in/b"} {
		b := make([]byte, 100_001)
		_, _ = random.Read(b)
		want[name] = b
		if err := os.WriteFile(filepath.Join(tree, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := l.BlankDisk("data", 1<<30)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-d", tree, disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	at := FlipBit(t, disk, "/in/a")
	if at <= 0 || at >= 1<<30 {
		t.Errorf("the flipped bit is in byte %d", at)
	}
	got := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(l.FromExt4(disk, "/in"), name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !bytes.Equal(got("in/b"), want["in/b"]) {
		t.Error("the other file is damaged, too")
	}
	flipped := 0
	for i, b := range got("in/a") {
		flipped += bits.OnesCount8(b ^ want["in/a"][i])
	}
	if flipped != 1 {
		t.Errorf("%d bits were flipped, want 1", flipped)
	}
	FlipBit(t, disk, "/in/a")
	if !bytes.Equal(got("in/a"), want["in/a"]) {
		t.Error("flipped again, the bit is not what it was")
	}
}

func TestWireGUID(t *testing.T) {
	b, err := wireGUID("00112233-4455-6677-8899-aabbccddeeff")
	if want := "\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff"; err != nil || string(b) != want {
		t.Errorf("wireGUID gives %x (%v), want %x", b, err, want)
	}
	for _, bad := range []string{"", "00112233", "00112233-4455-6677-8899-aabbccddee0g"} {
		if _, err := wireGUID(bad); err == nil {
			t.Errorf("wireGUID takes %q", bad)
		}
	}
}
