package content_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
)

// archive makes a tar of regular files, or symbolic links where the content begins with "->".
func archive(t *testing.T, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h := &tar.Header{Name: entries[i], Mode: 0o755, Size: int64(len(entries[i+1]))}
		if target, ok := strings.CutPrefix(entries[i+1], "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
		} else if target, ok := strings.CutPrefix(entries[i+1], "=>"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(entries[i+1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRefusals hands in what is no operating system, or not all of one. Each gets one message, says what to do, and
// leaves nothing in the store.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	img, root := diskImage(t), rootTar(t)
	whole, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	plainTar, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	cut := func(from string, share float64) []byte {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		return b[:int(float64(len(b))*share)]
	}
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x01
		return b
	}
	run(t, "", "qemu-img", "convert", "-O", "qcow2", img, at("good.qcow2"))
	run(t, "", "qemu-img", "convert", "-c", "-O", "qcow2", img, at("small.qcow2"))
	run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", at("good.qcow2"), at("overlay.qcow2"))
	run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", at("blank.qcow2"), "1G")
	run(t, "", "qemu-img", "convert", "-O", "vmdk", img, at("disk.vmdk"))
	run(t, "", "qemu-img", "convert", "-O", "vhdx", img, at("disk.vhdx"))
	run(t, "", "qemu-img", "convert", "-O", "vdi", img, at("disk.vdi"))
	for ext, command := range map[string]string{"zst": "zstd -q -1", "gz": "gzip -1", "xz": "xz -0"} {
		run(t, "", "sh", "-c", command+" <"+img+" >"+at("good.img."+ext))
		run(t, "", "sh", "-c", command+" <"+root+" >"+at("good.tar."+ext))
		write(t, at("cut.img."+ext), cut(at("good.img."+ext), 0.6))
		write(t, at("cut.tar."+ext), cut(at("good.tar."+ext), 0.6))
		b := cut(at("good.tar."+ext), 1)
		write(t, at("damaged.tar."+ext), flip(b, len(b)/2))
	}
	run(t, "", "sh", "-c", "zstd -q -1 <"+at("good.qcow2")+" >"+at("inside.qcow2.zst"))
	run(t, "", "sh", "-c", "gzip -1 <"+at("good.tar.zst")+" >"+at("twice.tar.zst.gz"))
	run(t, "", "sh", "-c", "head -c 50000000 <"+img+" | zstd -q -1 >"+at("cutbefore.img.zst"))
	write(t, at("ext4.img"), nil)
	if err := os.Truncate(at("ext4.img"), 8<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mkfs.ext4", "-q", "-F", at("ext4.img"))
	iso := make([]byte, 1<<20)
	copy(iso, whole[:1024]) // hybrid: with a partition table
	copy(iso[32769:], "CD001")
	write(t, at("mbr.img"), nil)
	if err := os.Truncate(at("mbr.img"), 32<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "label: dos\nstart=2048, size=40000\n", "sfdisk", "-q", at("mbr.img"))
	if err := os.Truncate(at("mbr.img"), 16<<20); err != nil {
		t.Fatal(err)
	}
	write(t, at("four.img"), nil)
	if err := os.Truncate(at("four.img"), 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(at("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	release, init := []string{"./etc/os-release", "ID=x"}, []string{"./sbin/init", "x"}
	join := func(parts ...[]string) []string {
		var all []string
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}

	given := func(name string, b []byte) string { return write(t, at(name), b) }
	backup := bytes.Clone(whole)
	clear(backup[len(backup)-512:])
	for _, c := range []struct {
		path string
		says string
		code provisioning.Code
	}{
		{at("nothing"), "does not exist", provisioning.CodeNotFound},
		{dir, "directory", ""},
		{at("fifo"), "not a regular file", ""},
		{given("empty", nil), "empty", ""},
		{given("random", random(5, 1<<20)), "not an operating system image", ""},
		{given("text", text(5, 1<<20)), "not an operating system image", ""},
		{given("short", []byte("x")), "not an operating system image", ""},
		{given("zeros", make([]byte, 4<<20)), "not an operating system image", ""},
		{given("cd.iso", iso), "CD image", ""},
		{at("ext4.img"), "without a partition table", ""},
		{at("disk.vmdk"), "VMware", ""},
		{at("disk.vhdx"), "Hyper-V", ""},
		{at("disk.vdi"), "VirtualBox", ""},
		{given("cut.img", whole[:len(whole)-512]), "cut off", ""},
		{given("half.img", whole[:len(whole)/2]), "cut off", ""},
		{given("backup.img", backup), "cut off or damaged", ""},
		{given("gpt.img", flip(whole, 512+24)), "partition table is damaged", ""},
		{given("entries.img", flip(whole, 1024+40)), "partition table is damaged", ""},
		{given("nogpt.img", append(bytes.Clone(whole[:512]), make([]byte, 1<<20)...)), "partition table is damaged", ""},
		{at("mbr.img"), "cut off", ""},
		{given("cut.qcow2", cut(at("good.qcow2"), 0.9)), "cut off", ""},
		{given("cutsmall.qcow2", cut(at("small.qcow2"), 0.5)), "cut off", ""},
		{given("head.qcow2", cut(at("good.qcow2"), 0.0000005)), "cut off", ""},
		{given("header.qcow2", cut(at("good.qcow2"), 0.00001)), "cut off", ""},
		{at("overlay.qcow2"), "backing file", ""},
		{at("blank.qcow2"), "not an operating system image", ""},
		{given("secret.qcow2", flip(cut(at("good.qcow2"), 1), 35)), "encrypted", ""},
		{given("dirty.qcow2", flip(cut(at("good.qcow2"), 1), 79)), "not closed cleanly", ""},
		{given("bits.qcow2", flip(cut(at("good.qcow2"), 1), 20)), "makes no sense", ""},
		{at("inside.qcow2.zst"), "qcow2 image inside zstd", ""},
		{at("twice.tar.zst.gz"), "compressed twice", ""},
		{at("cut.img.zst"), "cut off", ""},
		{at("cut.img.gz"), "cut off", ""},
		{at("cut.img.xz"), "cut off", ""},
		{at("cut.tar.zst"), "cut off", ""},
		{at("cut.tar.gz"), "cut off", ""},
		{at("cut.tar.xz"), "cut off", ""},
		{at("cutbefore.img.zst"), "cut off", ""},
		{at("damaged.tar.zst"), "damaged", ""},
		{at("damaged.tar.gz"), "damaged", ""},
		{at("damaged.tar.xz"), "damaged", ""},
		{given("magic.zst", []byte("\x28\xb5\x2f\xfd")), "zstd", ""},
		{given("magic.xz", []byte("\xfd7zXZ\x00")), "xz", ""},
		{given("magic.gz", []byte("\x1f\x8b\x08")), "gzip", ""},
		{given("cut.tar", plainTar[:len(plainTar)/2]), "cut off", ""},
		{given("noend.tar", archive(t, join(release, init)...)[:2048]), "cut off", ""},
		{given("norelease.tar", archive(t, init...)), "os-release", ""},
		{given("noinit.tar", archive(t, release...)), "no init", ""},
		{given("deeper.tar", archive(t, "root/etc/os-release", "x", "root/sbin/init", "x")), "at its top", ""},
		{given("up.tar", archive(t, join(release, init, []string{"../etc/passwd", "x"})...)), "leads out", ""},
		{given("up2.tar", archive(t, join(release, init, []string{"./a/../../b", "x"})...)), "leads out", ""},
		{given("uplink.tar", archive(t, join(release, init, []string{"./a", "=>../b"})...)), "leads out", ""},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			s, storeDir := newStore(t)
			_, err := content.Add(t.Context(), s, "bad", c.path, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			if c.code == "" {
				c.code = provisioning.CodeInvalid
			}
			if code := provisioning.CodeOf(err); code != c.code {
				t.Errorf("code %s: %v", code, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("message %q does not say %q", err, c.says)
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
				t.Errorf("message is not one line: %q", err)
			}
			if provisioning.NextOf(err) == "" {
				t.Errorf("no next step: %v", err)
			}
			if left := files(t, storeDir); len(left) != 0 {
				t.Errorf("left in the store: %v", left)
			}
		})
	}
}

// TestAcceptedTars are root file systems that look unusual and are all right.
func TestAcceptedTars(t *testing.T) {
	for name, b := range map[string][]byte{
		"absolute":   archive(t, "/etc/os-release", "->../usr/lib/os-release", "/sbin/init", "->../../lib/systemd/systemd"),
		"merged usr": archive(t, "usr/lib/os-release", "x", "usr/lib/systemd/systemd", "x", "bin", "->usr/bin"),
	} {
		s, _ := newStore(t)
		if _, err := content.Add(t.Context(), s, "good", write(t, filepath.Join(t.TempDir(), "a.tar"), b), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInterruptedAdd ends an upload in the middle: nothing may be left, and a later one must work.
func TestInterruptedAdd(t *testing.T) {
	img := diskImage(t)
	s, dir := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("ctrl-c")
	var seen atomic.Bool
	_, err := content.Add(ctx, s, "disk", img, func(p content.Progress) {
		if p.New > 1<<20 {
			seen.Store(true)
			cancel(why)
		}
	})
	if !seen.Load() || !errors.Is(err, why) {
		t.Fatalf("interrupted: %v, error: %v", seen.Load(), err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left in the store: %d files", len(left))
	}
	if a := add(t, s, "disk", img); a.Ref.Version != 1 {
		t.Errorf("afterwards: %+v", a)
	}
}

// TestChangedMeanwhile writes to an image while it is read.
func TestChangedMeanwhile(t *testing.T) {
	img := diskImage(t)
	s, dir := newStore(t)
	var once atomic.Bool
	_, err := content.Add(t.Context(), s, "disk", img, func(content.Progress) {
		if once.CompareAndSwap(false, true) {
			f, err := os.OpenFile(img, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("x"), 5<<20)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	if provisioning.CodeOf(err) != provisioning.CodeConflict || !strings.Contains(err.Error(), "changed") {
		t.Errorf("%v", err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left in the store: %d files", len(left))
	}
}

// TestFullDisk adds to a store on a disk that is too small.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	img := diskImage(t)
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mount, "store")
	s, err := content.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// The store makes room by itself, also if whoever uploads has gone.
	u, err := s.Begin(t.Context(), "disk")
	for n := uint64(0); err == nil && n < 100; n++ {
		err = u.Put(t.Context(), caibx.Sum(random(n, 100_000)), caibx.Compress(random(n, 100_000)))
	}
	if provisioning.CodeOf(err) != provisioning.CodeNoSpace {
		t.Errorf("chunks: %v", err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left in the store: %d files", len(left))
	}
	if _, err := u.Missing(t.Context(), nil); provisioning.CodeOf(err) != provisioning.CodeNoSpace {
		t.Errorf("afterwards: %v", err)
	}
	_, err = content.Add(t.Context(), s, "disk", img, nil)
	if provisioning.CodeOf(err) != provisioning.CodeNoSpace || !strings.Contains(provisioning.NextOf(err), dir) {
		t.Errorf("%v; next: %s", err, provisioning.NextOf(err))
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left in the store: %d files", len(left))
	}
}
