package content_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// image is a disk image in a store behind HTTP.
type image struct {
	whole []byte
	index *caibx.Index
	store *content.Store
	line  *line
	c     *client.Client
}

func newImage(t *testing.T, path string) *image {
	t.Helper()
	s, _ := newStore(t)
	return newVersion(t, s, path)
}

// newVersion adds an image to a store as a version of the package "disk".
func newVersion(t *testing.T, s *content.Store, path string) *image {
	t.Helper()
	i := &image{store: s}
	ref := add(t, i.store, "disk", path).Ref
	i.line = newLine(t, content.NewReadHandler(i.store, everybody, nil))
	i.c = i.line.client()
	m, err := i.c.Manifest(t.Context(), ref.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if i.index, err = i.c.Index(t.Context(), m.Files[0]); err != nil {
		t.Fatal(err)
	}
	if i.whole, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return i
}

// distinct returns how many different chunks with something in them the image has.
func (i *image) distinct() int64 {
	ids := map[caibx.ID]bool{}
	for _, k := range i.index.Chunks {
		if !k.Zero() {
			ids[k.ID] = true
		}
	}
	return int64(len(ids))
}

// target makes a file of n bytes that is full of old data.
func target(t *testing.T, n int) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "target"), bytes.Repeat([]byte("old data"), n/8))
}

// loop makes a block device of a file.
func loop(t *testing.T, path string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a loop device takes root")
	}
	out, err := exec.Command("losetup", "--show", "-f", path).CombinedOutput()
	if err != nil {
		t.Skipf("make a loop device: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dev
}

func openDisk(t testing.TB, path string) *client.Disk {
	t.Helper()
	d, err := client.OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// check compares a written disk with the image, and what lies behind it with the old data.
func (i *image) check(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:len(i.whole)], i.whole) {
		for n := range i.whole {
			if got[n] != i.whole[n] {
				t.Fatalf("the disk differs from the image from byte %d on", n)
			}
		}
	}
	rest := got[len(i.whole):]
	if !bytes.Equal(rest, bytes.Repeat([]byte("old data"), len(rest)/8)) {
		t.Error("what lies behind the image was changed")
	}
}

func TestWriteDisk(t *testing.T) {
	i := newImage(t, diskImage(t))
	file := target(t, len(i.whole)+1<<20)
	for name, path := range map[string]string{"file": target(t, len(i.whole)+1<<20), "device": loop(t, file)} {
		t.Run(name, func(t *testing.T) {
			d := openDisk(t, path)
			i.line.chunks.Store(0)
			var last client.Progress
			stats, err := i.c.WriteDisk(t.Context(), d, i.index, client.DiskOptions{Verify: true, Report: func(p client.Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if stats.Size != 96<<20 || stats.Written+stats.Zeroed+stats.Reused != stats.Size || stats.Reused != 0 || stats.Zeroed < 64<<20 {
				t.Errorf("%+v", stats)
			}
			if last.Done != stats.Size || last.Total != stats.Size || last.New != stats.Fetched {
				t.Errorf("last report %+v, %+v", last, stats)
			}
			if n := i.line.chunks.Load(); n != i.distinct() {
				t.Errorf("%d chunks were asked for, of %d", n, i.distinct())
			}
			i.check(t, path)
			// Again: nothing is fetched, nothing is written.
			i.line.requests.Store(0)
			again, err := i.c.WriteDisk(t.Context(), d, i.index, client.DiskOptions{})
			if err != nil || again.Written != 0 || again.Fetched != 0 || again.Reused != stats.Written || i.line.requests.Load() != 0 {
				t.Errorf("again: %+v, %v, %d requests", again, err, i.line.requests.Load())
			}
			// Unless it is said that nothing there is of use.
			blank, err := i.c.WriteDisk(t.Context(), d, i.index, client.DiskOptions{Blank: true, Workers: 1})
			if err != nil || blank.Written != stats.Written || blank.Reused != 0 {
				t.Errorf("blank: %+v, %v", blank, err)
			}
			i.check(t, path)
		})
	}
}

// TestWriteDiskResumes cuts the line again and again while a disk is written. Each try goes on where the one before it
// stopped, and nothing that is on the disk is fetched again.
func TestWriteDiskResumes(t *testing.T) {
	i := newImage(t, diskImage(t))
	path := target(t, len(i.whole))
	d := openDisk(t, path)
	var fetched, reused, tries int64
	for done := false; !done; tries++ {
		i.line.left.Store(700_000)
		stats, err := i.c.WriteDisk(t.Context(), d, i.index, client.DiskOptions{Workers: 1})
		switch {
		case err == nil:
			done = true
		case provisioning.CodeOf(err) != provisioning.CodeUnavailable:
			t.Fatalf("cut off: %v", err)
		}
		if stats.Reused < reused || tries > 50 {
			t.Fatalf("try %d: it went backwards: %+v", tries, stats)
		}
		fetched, reused = fetched+stats.Fetched, stats.Reused
	}
	i.check(t, path)
	once, err := i.c.WriteDisk(t.Context(), openDisk(t, target(t, len(i.whole))), i.index, client.DiskOptions{})
	if err == nil {
		t.Fatal("the line has not been cut")
	}
	i.line.left.Store(uncut)
	if once, err = i.c.WriteDisk(t.Context(), openDisk(t, target(t, len(i.whole))), i.index, client.DiskOptions{Verify: true}); err != nil {
		t.Fatal(err)
	}
	// What is lost with a cut is the batch that was on its way.
	if tries < 3 || fetched > once.Fetched+tries*700_000 {
		t.Errorf("%d tries fetched %d bytes, of %d", tries, fetched, once.Fetched)
	}
}

func TestWriteDiskRefuses(t *testing.T) {
	i := newImage(t, diskImage(t))
	small := target(t, len(i.whole)-4096)
	if _, err := i.c.WriteDisk(t.Context(), openDisk(t, small), i.index, client.DiskOptions{}); provisioning.CodeOf(err) != provisioning.CodeInvalid || provisioning.NextOf(err) == "" {
		t.Errorf("a disk that is too small: %v", err)
	}
	b, err := os.ReadFile(small)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, bytes.Repeat([]byte("old data"), len(b)/8)) || i.line.chunks.Load() != 0 {
		t.Error("a disk that is too small was written to")
	}
	if _, err := client.OpenDisk(t.TempDir()); provisioning.CodeOf(err) != provisioning.CodeInvalid {
		t.Errorf("a directory: %v", err)
	}
	if _, err := client.OpenDisk("/dev/null"); err == nil {
		t.Error("a character device was opened")
	}
	if _, err := client.OpenDisk("/dev/nonesuch"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Errorf("no disk: %v", err)
	}
	dev := loop(t, target(t, 16<<20))
	run(t, "", "mkfs.ext4", "-q", "-F", dev)
	mount := t.TempDir()
	run(t, "", "mount", dev, mount)
	_, err = client.OpenDisk(dev)
	run(t, "", "umount", mount)
	if provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Errorf("a mounted disk: %v", err)
	}
}

// TestWriteDiskWithDamage has a damaged chunk at the branch: it must not reach the disk, whatever else does.
func TestWriteDiskWithDamage(t *testing.T) {
	i := newImage(t, diskImage(t))
	var victim caibx.Chunk
	for n, k := range i.index.Chunks {
		if n > len(i.index.Chunks)/2 && !k.Zero() {
			victim = k
			break
		}
	}
	bad := random(4, victim.Size)
	var lies atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == client.PathBatch {
			w.WriteHeader(http.StatusNotFound) // as if it knew of single chunks alone
			return
		}
		if strings.HasSuffix(r.URL.Path, victim.ID.String()) {
			lies.Add(1)
			_, _ = w.Write(caibx.Compress(bad))
			return
		}
		content.NewReadHandler(i.store, everybody, nil).ServeHTTP(w, r)
	}))
	defer srv.Close()
	c := newClient(srv.URL)
	path := target(t, len(i.whole))
	if _, err := c.WriteDisk(t.Context(), openDisk(t, path), i.index, client.DiskOptions{}); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Errorf("%v", err)
	}
	if lies.Load() != 3 {
		t.Errorf("the damaged chunk was asked for %d times", lies.Load())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, bad[:64]) {
		t.Error("the damaged chunk is on the disk")
	}
}

// badDisk forgets what is written to one of its places, or fails there.
type badDisk struct {
	*client.Disk
	at   int64
	fail error
}

func (d *badDisk) WriteAt(p []byte, off int64) (int, error) {
	if off <= d.at && d.at < off+int64(len(p)) {
		if d.fail != nil {
			return 0, d.fail
		}
		p = bytes.Clone(p)
		p[d.at-off] ^= 1
	}
	return d.Disk.WriteAt(p, off)
}

func TestWriteDiskToBadDisk(t *testing.T) {
	i := newImage(t, diskImage(t))
	path := target(t, len(i.whole))
	bad := &badDisk{Disk: openDisk(t, path), at: 1080 + 1<<20}
	if _, err := i.c.WriteDisk(t.Context(), bad, i.index, client.DiskOptions{Verify: true}); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Errorf("a disk that forgets: %v", err)
	}
	bad.fail = errors.New("input/output error")
	if _, err := i.c.WriteDisk(t.Context(), bad, i.index, client.DiskOptions{}); !errors.Is(err, bad.fail) || provisioning.NextOf(err) == "" {
		t.Errorf("a disk that fails: %v", err)
	}
}

func TestWriteDiskEndsWithContext(t *testing.T) {
	i := newImage(t, diskImage(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("switched off")
	cancel(why)
	if _, err := i.c.WriteDisk(ctx, openDisk(t, target(t, len(i.whole))), i.index, client.DiskOptions{}); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

// TestStatsTravel keeps the names that status messages use.
func TestStatsTravel(t *testing.T) {
	b, err := json.Marshal(client.DiskStats{Size: 5, Written: 4, Zeroed: 3, Reused: 2, Fetched: 1})
	if err != nil || string(b) != `{"size":5,"written":4,"zeroed":3,"reused":2,"fetched":1}` {
		t.Errorf("%s, %v", b, err)
	}
}
