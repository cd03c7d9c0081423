package content_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/folbricht/desync"

	"branchpoint/provisioning"
	"branchpoint/services/content"
)

// TestSameDiskSameChunks adds one disk in every form there is: each must give the same version.
func TestSameDiskSameChunks(t *testing.T) {
	img := diskImage(t)
	dir := t.TempDir()
	out := func(name string) string { return filepath.Join(dir, name) }
	whole, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	write(t, out("full.img"), whole) // without holes
	run(t, "", "qemu-img", "convert", "-O", "qcow2", img, out("plain.qcow2"))
	run(t, "", "qemu-img", "convert", "-c", "-O", "qcow2", img, out("zlib.qcow2"))
	run(t, "", "qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=2M", img, out("zstd.qcow2"))
	run(t, "", "qemu-img", "convert", "-O", "qcow2", "-o", "compat=0.10,cluster_size=4k", img, out("old.qcow2"))
	run(t, "", "qemu-img", "convert", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k", img, out("extended.qcow2"))
	run(t, "", "zstd", "-q", "-1", img, "-o", out("disk.img.zst"))
	run(t, "", "sh", "-c", "gzip -1 <"+img+" >"+out("disk.img.gz"))
	run(t, "", "sh", "-c", "xz -0 -T2 <"+img+" >"+out("disk.img.xz"))

	s, storeDir := newStore(t)
	first := add(t, s, "disk", img)
	if first.Unchanged || first.Ref.Version != 1 || first.Ref.Format != provisioning.FormatDiskImage || first.Ref.Size != 96<<20 {
		t.Fatalf("first add: %+v", first)
	}
	before := files(t, storeDir)
	for _, name := range []string{"full.img", "plain.qcow2", "zlib.qcow2", "zstd.qcow2", "old.qcow2", "extended.qcow2", "disk.img.zst", "disk.img.gz", "disk.img.xz"} {
		a := add(t, s, "disk", out(name))
		if !a.Unchanged || a.Ref != first.Ref {
			t.Errorf("%s: %+v, want the first one unchanged", name, a)
		}
	}
	if after := files(t, storeDir); len(after) != len(before) {
		t.Errorf("the store has %d files instead of %d", len(after), len(before))
	}
	if err := s.Verify(t.Context(), first.Ref, nil); err != nil {
		t.Error(err)
	}
	if !s.Installed(first.Ref) {
		t.Error("not installed")
	}
	if got := assemble(t, s, storeDir, first.Ref); !bytes.Equal(got, whole) {
		t.Error("desync makes another disk of the store")
	}
}

// assemble lets desync make the file of a version out of the store.
func assemble(t *testing.T, s *content.Store, dir string, ref provisioning.ContentRef) []byte {
	t.Helper()
	m, err := s.Manifest(ref.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "indexes", string(m.Files[0].Index)+".caibx"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	idx, err := desync.IndexFromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	ls, err := desync.NewLocalStore(filepath.Join(dir, "chunks"), desync.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := desync.AssembleFile(t.Context(), out, idx, ls, nil, desync.AssembleOptions{N: 2}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if provisioning.SumSHA256(b) != m.Files[0].SHA256 {
		t.Error("the manifest's sum is not that of the file")
	}
	return b
}

func TestRootFileSystem(t *testing.T) {
	plain := rootTar(t)
	dir := t.TempDir()
	s, storeDir := newStore(t)
	first := add(t, s, "root", plain)
	if first.Ref.Format != provisioning.FormatRootFileSystem {
		t.Errorf("format %s", first.Ref.Format)
	}
	for ext, command := range map[string]string{"zst": "zstd -q -3 --long=27", "gz": "gzip -1", "xz": "xz -0"} {
		path := filepath.Join(dir, "root.tar."+ext)
		run(t, "", "sh", "-c", command+" <"+plain+" >"+path)
		if a := add(t, s, "root", path); !a.Unchanged {
			t.Errorf("%s is a new version: %+v", ext, a)
		}
	}
	want, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(assemble(t, s, storeDir, first.Ref), want) {
		t.Error("desync makes another archive of the store")
	}
}

// TestVersionsShareChunks changes a little: the second version must cost little.
func TestVersionsShareChunks(t *testing.T) {
	img := diskImage(t)
	s, dir := newStore(t)
	add(t, s, "disk", img)
	var before int64
	for _, n := range files(t, dir) {
		before += n
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(random(9, 4096), 60<<20); err != nil {
		t.Fatal(err)
	}
	second := add(t, s, "disk", img)
	if second.Ref.Version != 2 || second.Unchanged {
		t.Fatalf("%+v", second)
	}
	var after int64
	for _, n := range files(t, dir) {
		after += n
	}
	if grown := after - before; grown <= 4096 || grown > 600<<10 {
		t.Errorf("4 KiB changed, the store grew by %d bytes from %d", grown, before)
	}
	refs, err := s.List()
	if err != nil || len(refs) != 2 {
		t.Fatalf("%v, %v", refs, err)
	}
	if newest, err := s.Ref("disk", 0); err != nil || newest != second.Ref {
		t.Errorf("newest is %v, %v", newest, err)
	}
	if _, err := s.Ref("disk", 3); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Errorf("version 3: %v", err)
	}
}

func TestStoreIsOpenedOnce(t *testing.T) {
	_, dir := newStore(t)
	if _, err := content.Open(dir, quiet); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Errorf("second opening: %v", err)
	}
}

// TestOpenDropsLeftovers opens a store that another program left in the middle of an upload.
func TestOpenDropsLeftovers(t *testing.T) {
	s, dir := newStore(t)
	u, err := s.Begin(t.Context(), "half")
	if err != nil {
		t.Fatal(err)
	}
	plain := random(1, 1000)
	put(t, u, plain)
	if len(files(t, dir)) == 0 {
		t.Fatal("nothing was staged")
	}
	s.Close()
	if s, err = content.Open(dir, quiet); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestDamage damages what a store holds in every place: Verify must see it.
func TestDamage(t *testing.T) {
	s, dir := newStore(t)
	ref := add(t, s, "root", rootTar(t)).Ref
	for name := range files(t, dir) {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(name) == filepath.Join("packages", "root") {
			continue // what names the version; Verify is given the version
		}
		bad := bytes.Clone(b)
		bad[len(bad)/2] ^= 0x10
		write(t, path, bad)
		if err := s.Verify(t.Context(), ref, nil); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
			t.Fatalf("%s damaged: %v", name, err)
		}
		write(t, path, b)
	}
	if err := s.Verify(t.Context(), ref, nil); err != nil {
		t.Error(err)
	}
}

// FuzzManifest reads anything as a manifest: it is refused with a code, or is one that can be read again.
func FuzzManifest(f *testing.F) {
	m := provisioning.Manifest{Package: "p", Version: 1, Format: provisioning.FormatDiskImage, Files: []provisioning.ManifestFile{{
		Path: "disk.img", Mode: 0o644, Size: 5, SHA256: provisioning.SumSHA256(nil), Index: provisioning.SumSHA256([]byte("x")),
	}}}
	f.Add(m.Encode())
	f.Add([]byte(`{"package":"../x","version":-1,"files":[{"path":"/etc/passwd"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := provisioning.DecodeManifest(b, provisioning.SumSHA256(b))
		if err != nil {
			if code := provisioning.CodeOf(err); code != provisioning.CodeInvalid && code != provisioning.CodeCorrupt {
				t.Errorf("%s: %v", code, err)
			}
			return
		}
		again := m.Encode()
		if _, err := provisioning.DecodeManifest(again, provisioning.SumSHA256(again)); err != nil {
			t.Errorf("it does not survive: %v", err)
		}
	})
}
