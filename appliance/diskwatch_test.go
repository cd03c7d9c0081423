package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/events"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

// watching is a watch of a disk that a test plays. Every look is one step.
type watching struct {
	*diskWatch
	sight  diskSight
	clock  atomic.Int64    // seconds
	probed chan chan error // one for each try, which the test ends
	looks  chan struct{}   // a value lets the watch look once more
	told   chan diskState
	ended  chan struct{}
}

func watchIn(t *testing.T) *watching {
	w := &watching{
		diskWatch: newDiskWatch(), sight: diskSight{Present: true, Free: 5 << 30, Total: 10 << 30},
		probed: make(chan chan error), looks: make(chan struct{}), told: make(chan diskState), ended: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.see = func() diskSight { return w.sight }
	w.now = func() time.Time { return time.Unix(w.clock.Load(), 0) }
	w.probe = func(ctx context.Context) error {
		end := make(chan error)
		select {
		case w.probed <- end:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case err := <-end:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.tell = func(state diskState, _ string, _ diskSight) {
		select {
		case w.told <- state:
		case <-ctx.Done():
		}
	}
	w.sleep = func(ctx context.Context, _ time.Duration) error {
		select {
		case <-w.looks:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() { w.run(ctx); close(w.ended) }()
	t.Cleanup(func() { cancel(); <-w.ended })
	return w
}

// until lets the watch look on until it tells the state.
func (w *watching) until(t *testing.T, want diskState) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case got := <-w.told:
			if got == want {
				return
			}
		case w.looks <- struct{}{}:
		case <-w.ended:
			t.Fatalf("it ended before it told %s", want)
		case <-deadline:
			t.Fatalf("it never told %s", want)
		}
	}
}

func TestWatchWaitsForADiskThatTakesItsTime(t *testing.T) {
	w := watchIn(t)
	next(t, w.probed, "the first try")
	for range 100 {
		if got := next(t, w.told, "what was seen"); got != diskInUse {
			t.Fatalf("it is %s while a try goes on", got)
		}
		w.looks <- struct{}{}
	}
	w.clock.Add(int64(probePatience/time.Second) + 1)
	w.until(t, diskFailing)
	<-w.ended
}

func TestWatchGoesOnAfterAFullDisk(t *testing.T) {
	w := watchIn(t)
	next(t, w.probed, "the first try") <- nil
	w.until(t, diskInUse)
	w.sight.Free = 1 << 20
	w.until(t, diskFull)
	w.sight.Free = 5 << 30
	w.until(t, diskInUse)
	// What fails on the disk has it tried at once.
	w.suspect()
	w.suspect()
	end := func(err error) {
		for deadline := time.After(time.Minute); ; {
			select {
			case p := <-w.probed:
				p <- err
				return
			case <-w.told:
			case w.looks <- struct{}{}:
			case <-deadline:
				t.Fatal("it is not tried")
			}
		}
	}
	end(provisioning.Errorf(provisioning.CodeNoSpace, "", "the disk is full"))
	w.until(t, diskFull)
	end(nil)
	w.until(t, diskInUse)
	end(fmt.Errorf("write: %w", unix.EIO))
	w.until(t, diskFailing)
	<-w.ended // nothing can stand on it any more
}

func TestWatchEndsWhereTheDiskIsGone(t *testing.T) {
	w := watchIn(t)
	next(t, w.probed, "the first try") <- nil
	w.until(t, diskInUse)
	w.sight = diskSight{}
	w.until(t, diskMissing)
	<-w.ended
}

func TestWatchFindsOutWhatIsWrong(t *testing.T) {
	w, dir, device := newDiskWatch(), t.TempDir(), loopDisk(t, 1<<20)
	none := filepath.Join(dir, "none")
	if err := w.write(t.Context(), device, dir); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "probe")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	var database error
	try := func(context.Context) error { return database }
	w.database.Store(&try)
	if err := w.write(t.Context(), none, none); err != nil {
		t.Errorf("the database can be written, and it says %v", err)
	}
	database = errors.New("it is no intact database")
	if err := w.write(t.Context(), device, dir); !errors.Is(err, database) {
		t.Errorf("%v, want what is wrong with the database", err)
	}
	if err := w.write(t.Context(), device, none); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "write") {
		t.Errorf("%v, want what is wrong with the file system", err)
	}
	if err := w.write(t.Context(), none, none); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "read") {
		t.Errorf("%v, want what is wrong with the device", err)
	}
}

func testAppliance() *appliance {
	a := &appliance{screen: screen.New("", nil, nil, nil), events: events.New(time.Now), metrics: newMetrics(), disksFree: make(chan struct{}, 1), refused: map[string]string{}}
	a.Log, a.Now = slog.New(slog.DiscardHandler), time.Now
	return a
}

// TestAFileSystemWithErrorsIsSeen makes a real file system find an error in itself.
func TestAFileSystemWithErrorsIsSeen(t *testing.T) {
	device := loopDisk(t, 512<<20)
	sh(t, "mkfs.ext4", "-q", "-F", "-L", DataLabel, device)
	dir := t.TempDir()
	if err := unix.Mount(device, dir, "ext4", 0, "errors=remount-ro"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	m, err := newMountedDisk(Candidate{Path: device, Size: 512 << 20}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := m.see(); !s.Present || s.ReadOnly || s.Err != nil || s.Free <= 0 || s.Free > s.Total || s.Total > 512<<20 {
		t.Fatalf("%+v", s)
	}
	a := testAppliance()
	var states []diskState
	ended := make(chan struct{})
	lost := make(chan struct{})
	go func() {
		defer close(ended)
		a.watchDataDisk(t.Context(), newDiskWatch(), m, func() { close(lost) })
	}()
	a.setDisk(diskInUse, "", m)
	states = append(states, diskInUse)
	if a.writable() != nil {
		t.Error("it is in use, and cannot be written")
	}
	if err := os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error"), []byte("a test"), 0o200); err != nil {
		t.Skip("this kernel cannot be told to find an error:", err)
	}
	select {
	case <-lost:
	case <-time.After(time.Minute):
		t.Fatal("it was not noticed")
	}
	<-ended
	a.mu.Lock()
	states = append(states, a.diskState)
	a.mu.Unlock()
	if !reflect.DeepEqual(states, []diskState{diskInUse, diskReadOnly}) {
		t.Errorf("states %v", states)
	}
	if err := a.writable(); err == nil || !strings.Contains(err.Error(), "only be read") {
		t.Errorf("writable: %v", err)
	}
	if it := a.screen.Items()[topicDisk]; it.State != screen.Problem || it.Next == "" || !strings.Contains(it.Text, device) {
		t.Errorf("the screen says %+v", it)
	}
}

func TestAgentsAreToldToWait(t *testing.T) {
	a := testAppliance()
	a.setDisk(diskReadOnly, "it can only be read", &mountedDisk{device: "/dev/vdb", name: "/dev/vdb (10 GB)"})
	w := httptest.NewRecorder()
	a.heldAgents(w, httptest.NewRequest(http.MethodPost, "/agent/v1/status", nil))
	err := provisioning.DecodeProblem(w.Code, w.Body.Bytes())
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || provisioning.CodeOf(err) != provisioning.CodeUnavailable || provisioning.NextOf(err) == "" || !strings.Contains(err.Error(), "it can only be read") {
		t.Errorf("%d, %v, %v", w.Code, w.Header(), err)
	}
}

func TestServeHTTPEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int32
	ended := make(chan error, 1)
	go func() {
		ended <- serveHTTP(ctx, l, &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })})
	}()
	r, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	cancel()
	if err := next(t, ended, "the end"); !errors.Is(err, context.Canceled) || asked.Load() != 1 {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

// TestADiskThatIsPulledOutIsMissing has a disk fail just before it is gone.
func TestADiskThatIsPulledOutIsMissing(t *testing.T) {
	var looks atomic.Int32 // since something was told
	var told []diskState
	w := newDiskWatch()
	w.now, w.sleep = time.Now, func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	w.probe = func(context.Context) error { return unix.EIO }
	w.see = func() diskSight { return diskSight{Present: looks.Add(1) == 1} } // gone where it is looked at twice
	w.tell = func(state diskState, _ string, _ diskSight) {
		looks.Store(0)
		told = append(told, state)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w.run(ctx)
	if len(told) == 0 || told[len(told)-1] != diskMissing || slices.Contains(told, diskFailing) {
		t.Errorf("it was told to be %v", told)
	}
}
