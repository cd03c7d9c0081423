package content_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/content"
)

// TestSyncResumes cuts the line again and again: what had come is kept, the next try fetches only the rest, and at the end
// every chunk is what its name says.
func TestSyncResumes(t *testing.T) {
	up, _ := newStore(t)
	ref := add(t, up, "disk", diskImage(t)).Ref
	l := newLine(t, content.NewReadHandler(up, everybody, nil))
	branch, dir := newStore(t)
	var last content.Status
	o := content.SyncOptions{Workers: 2, Log: quiet, Report: func(s content.Status) { last = s }}
	kept, tries := 0, 0
	for {
		l.left.Store(1_500_000)
		l.chunks.Store(0)
		err := content.Sync(t.Context(), branch, l.client(), []provisioning.ContentRef{ref}, o)
		if err == nil {
			break
		}
		if provisioning.CodeOf(err) != provisioning.CodeUnavailable || last.State != content.StateFailed || last.Err == nil {
			t.Fatalf("cut off: %v, %+v", err, last)
		}
		if branch.Installed(ref) {
			t.Fatal("installed, after being cut off")
		}
		if refs, err := branch.List(); err != nil || len(refs) != 0 {
			t.Fatalf("listed: %v, %v", refs, err)
		}
		now := len(files(t, dir))
		if now <= kept {
			t.Fatalf("try %d kept nothing: %d chunks", tries, now)
		}
		kept, tries = now, tries+1
		// The branch starts again.
		branch.Close()
		if branch, err = content.Open(dir, quiet); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(branch.Close)
	}
	if tries < 2 {
		t.Errorf("the line was cut %d times", tries)
	}
	if last.State != content.StateInstalled || last.Done != last.Total || last.Total != ref.Size {
		t.Errorf("at the end: %+v", last)
	}
	if !branch.Installed(ref) {
		t.Error("not installed")
	}
	if err := branch.Verify(t.Context(), ref, nil); err != nil {
		t.Error(err)
	}
	if n, total := int(l.chunks.Load()), len(files(t, dir)); n != total-kept-3 { // all but manifest, index and the version's name
		t.Errorf("%d chunks were asked for in the last try, of %d files, %d of them kept", n, total, kept)
	}
	// Once more nothing is asked for.
	l.requests.Store(0)
	if err := content.Sync(t.Context(), branch, l.client(), []provisioning.ContentRef{ref}, o); err != nil || l.requests.Load() != 0 {
		t.Errorf("again: %v, %d requests", err, l.requests.Load())
	}
}

// TestSyncRefusesDamage has a damaged chunk upstream: the version is not installed, the other one is.
func TestSyncRefusesDamage(t *testing.T) {
	up, upDir := newStore(t)
	bad := add(t, up, "root", rootTar(t)).Ref
	before := files(t, upDir)
	for name := range before {
		if filepath.Ext(name) == ".cacnk" {
			b, err := os.ReadFile(filepath.Join(upDir, name))
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)-1] ^= 1
			write(t, filepath.Join(upDir, name), b)
			break
		}
	}
	single(t, up, random(77, 1000))
	good, err := up.Ref("single", 0)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, up, nil)
	branch, _ := newStore(t)
	states := map[string]content.State{}
	err = content.Sync(t.Context(), branch, newClient(srv.URL), []provisioning.ContentRef{bad, good}, content.SyncOptions{
		Log: quiet, Report: func(s content.Status) { states[s.Ref.Package] = s.State },
	})
	if err == nil || branch.Installed(bad) || states["root"] != content.StateFailed {
		t.Errorf("the damaged one: %v, %s", err, states["root"])
	}
	if !branch.Installed(good) || states["single"] != content.StateInstalled {
		t.Errorf("the other one: %s", states["single"])
	}
}

// TestSyncRefusesOtherManifest is given a reference that does not fit its manifest.
func TestSyncRefusesOtherManifest(t *testing.T) {
	up, _ := newStore(t)
	single(t, up, random(77, 1000))
	ref, err := up.Ref("single", 0)
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, up, nil)
	branch, _ := newStore(t)
	other := ref
	other.Package = "other"
	err = content.Sync(t.Context(), branch, newClient(srv.URL), []provisioning.ContentRef{other}, content.SyncOptions{Log: quiet})
	if provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Errorf("%v", err)
	}
	if refs, err := branch.List(); err != nil || len(refs) != 0 {
		t.Errorf("%v, %v", refs, err)
	}
}

func TestSyncEndsWithContext(t *testing.T) {
	up, _ := newStore(t)
	ref := add(t, up, "root", rootTar(t)).Ref
	srv := serve(t, up, nil)
	branch, _ := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("shutting down")
	err := content.Sync(ctx, branch, newClient(srv.URL), []provisioning.ContentRef{ref}, content.SyncOptions{
		Log: quiet, Report: func(s content.Status) {
			if s.State == content.StateFetching {
				cancel(why)
			}
		},
	})
	if !errors.Is(err, why) || branch.Installed(ref) {
		t.Errorf("%v", err)
	}
}

// TestSyncToFullDisk has too little room at the branch.
func TestSyncToFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	up, _ := newStore(t)
	ref := add(t, up, "root", rootTar(t)).Ref
	srv := serve(t, up, nil)
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	branch, err := content.Open(filepath.Join(mount, "store"), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer branch.Close()
	err = content.Sync(t.Context(), branch, newClient(srv.URL), []provisioning.ContentRef{ref}, content.SyncOptions{Log: quiet})
	if provisioning.CodeOf(err) != provisioning.CodeNoSpace {
		t.Errorf("%v", err)
	}
	if refs, err := branch.List(); err != nil || len(refs) != 0 {
		t.Errorf("%v, %v", refs, err)
	}
}
