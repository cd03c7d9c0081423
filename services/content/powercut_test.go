package content_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
)

// dataDisk is a file system on a device of its own, of which the power can be cut: ext4 then gives up everything that has
// not been written out, and its journal is replayed at the next mount.
type dataDisk struct {
	device, mount string
}

func newDataDisk(t *testing.T) *dataDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a file system of its own takes root")
	}
	file := filepath.Join(t.TempDir(), "disk")
	write(t, file, nil)
	if err := os.Truncate(file, 256<<20); err != nil {
		t.Fatal(err)
	}
	d := &dataDisk{device: loop(t, file), mount: t.TempDir()}
	run(t, "", "mkfs.ext4", "-q", "-F", d.device)
	d.on(t)
	t.Cleanup(func() { _ = unix.Unmount(d.mount, 0) })
	return d
}

func (d *dataDisk) on(t *testing.T) {
	t.Helper()
	if err := unix.Mount(d.device, d.mount, "ext4", 0, ""); err != nil {
		t.Skipf("mount ext4: %v", err)
	}
}

// cut cuts the power (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH).
func (d *dataDisk) cut() error {
	f, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint32(2)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flags))); e != 0 {
		return fmt.Errorf("shut ext4 down: %w", e)
	}
	return nil
}

// restart switches the power on again.
func (d *dataDisk) restart(t *testing.T) {
	t.Helper()
	if err := unix.Unmount(d.mount, 0); err != nil {
		t.Fatal(err)
	}
	d.on(t)
}

// churn makes the file system write its journal all the time, until stop: names then reach the disk as soon as they can,
// which is sooner than what they name, if nobody sees to the order.
func (d *dataDisk) churn(t *testing.T) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		f, err := os.Create(filepath.Join(d.mount, "churn"))
		if err != nil {
			return
		}
		defer f.Close()
		for n := int64(0); ; n++ {
			select {
			case <-done:
				return
			default:
			}
			if _, err := f.WriteAt([]byte("x"), n%4096); err != nil || f.Sync() != nil {
				return // the power is gone
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// TestPowerCut cuts the power of the data disk at many places of a synchronization. What has a name afterwards is whole, a
// version is there whole or not at all, and the next synchronization goes on with what there is.
func TestPowerCut(t *testing.T) {
	d := newDataDisk(t)
	up, _ := newStore(t)
	img := diskImage(t)
	refs := []provisioning.ContentRef{add(t, up, "root", rootTar(t)).Ref, add(t, up, "disk", img).Ref}
	for cut := range 8 {
		dir := filepath.Join(d.mount, "store")
		if cut%4 == 0 { // from the start
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		s, err := content.Open(dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		l := newLine(t, content.NewReadHandler(up, everybody, nil))
		l.onCut = func() {
			if err := d.cut(); err != nil {
				t.Error(err)
			}
		}
		l.left.Store(int64(200_000 + cut*1_900_000%9_000_000))
		stop := d.churn(t)
		_ = content.Sync(t.Context(), s, l.client(), refs, content.SyncOptions{Log: quiet, Workers: 3, PlaceEvery: 100_000})
		l.cut.Do(l.onCut) // now at the latest; and not before it is done
		stop()
		s.Close()
		d.restart(t)
		checkWhole(t, cut, dir, refs)
	}
	s, err := content.Open(filepath.Join(d.mount, "store"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := content.Sync(t.Context(), s, newLine(t, content.NewReadHandler(up, everybody, nil)).client(), refs, content.SyncOptions{Log: quiet}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs {
		if err := s.Verify(t.Context(), ref, nil); err != nil || !s.Installed(ref) {
			t.Error(err)
		}
	}
	if damage, _ := s.Damage(); damage.Found != 0 {
		t.Errorf("%+v", damage)
	}
}

// checkWhole opens a store after a cut.
func checkWhole(t *testing.T, cut int, dir string, refs []provisioning.ContentRef) {
	t.Helper()
	s, err := content.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name := range files(t, dir) {
		id, err := caibx.ParseID(strings.TrimSuffix(filepath.Base(name), ".cacnk"))
		if strings.HasPrefix(name, "chunks") && (err != nil || !s.CheckChunk(id)) {
			t.Errorf("cut %d: %s is not whole", cut, name)
		}
	}
	for _, ref := range refs {
		if _, err := s.Ref(ref.Package, ref.Version); err == nil {
			if err := s.Verify(t.Context(), ref, nil); err != nil {
				t.Errorf("cut %d: %s has its name and is not whole: %v", cut, ref.Package, err)
			}
		} else if provisioning.CodeOf(err) != provisioning.CodeNotFound {
			t.Errorf("cut %d: %v", cut, err)
		}
		if s.Installed(ref) {
			if err := s.Verify(t.Context(), ref, nil); err != nil {
				t.Errorf("cut %d: %s is called installed: %v", cut, ref.Package, err)
			}
		}
	}
}

// TestKilled kills a program in the middle of a synchronization, which is a cut of another kind: what it wrote is there,
// but nothing was put in order.
func TestKilled(t *testing.T) {
	const mark = "BRANCHPOINT_TEST_SYNC"
	if dir := os.Getenv(mark); dir != "" {
		syncForever(t, dir, os.Getenv(mark+"_URL"))
		return
	}
	up, _ := newStore(t)
	ref := add(t, up, "disk", diskImage(t)).Ref
	dir := filepath.Join(t.TempDir(), "store")
	kept := 0
	for n := range 4 {
		l := newLine(t, content.NewReadHandler(up, everybody, nil))
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), mark+"="+dir, mark+"_URL="+l.URL+" "+string(ref.Manifest))
		l.left.Store(int64(300_000 + 700_000*n))
		l.onCut = func() { _ = cmd.Process.Kill() }
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("it was not killed: %v\n%s", err, out)
		}
		checkWhole(t, n, dir, []provisioning.ContentRef{ref})
		kept = max(kept, len(files(t, dir)))
	}
	s, err := content.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := content.Sync(t.Context(), s, newLine(t, content.NewReadHandler(up, everybody, nil)).client(), []provisioning.ContentRef{ref}, content.SyncOptions{Log: quiet}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), ref, nil); err != nil {
		t.Error(err)
	}
}

// syncForever is the program that is killed.
func syncForever(t *testing.T, dir, what string) {
	url, manifest, _ := strings.Cut(what, " ")
	s, err := content.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ref := provisioning.ContentRef{Package: "disk", Version: 1, Format: provisioning.FormatDiskImage, Manifest: provisioning.SHA256(manifest)}
	t.Fatal(content.Sync(t.Context(), s, newClient(url), []provisioning.ContentRef{ref}, content.SyncOptions{Log: quiet, Workers: 2}))
}
