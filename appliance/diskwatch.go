package appliance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"branchpoint/initramfs/disk"
	"branchpoint/services/store"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// How the mounted data disk is watched.
const (
	watchPoll = time.Second
	// probeEvery is how many looks there are to one try whether it can be written.
	probeEvery = 10
	// probePatience is how long a try may take: a spinning disk that wakes up, or corrects its own errors, takes many seconds.
	probePatience = time.Minute
)

// errNoAnswer is what is wrong with a disk that does not come back from a try.
var errNoAnswer = errors.New("it does not answer")

// diskWatch looks after the data disk while it is mounted.
type diskWatch struct {
	// see looks at the disk without waiting for it.
	see func() diskSight
	// probe tries whether it can be written. It may take any time.
	probe func(context.Context) error
	sleep func(context.Context, time.Duration) error
	now   func() time.Time
	// tell is told how the disk stands whenever that changes, and what was seen at every look.
	tell func(state diskState, why string, seen diskSight)
	// kick has a value when something failed, so that the disk is tried at once.
	kick chan struct{}
	// database tries whether the database can be written, while there is one.
	database atomic.Pointer[func(context.Context) error]
}

func newDiskWatch() *diskWatch { return &diskWatch{kick: make(chan struct{}, 1)} }

// suspect has the disk tried at once: something on it failed. It never waits.
func (w *diskWatch) suspect() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run watches until ctx ends or the disk is lost.
func (w *diskWatch) run(ctx context.Context) {
	state := diskInUse
	var failed error       // how the last try ended
	var running chan error // ends the try that is under way
	var began time.Time    // when it began
	due := probeEvery      // looks since the last try ended
	for {
		select {
		case <-w.kick:
			due = probeEvery
		default:
		}
		if running == nil && due >= probeEvery {
			running, began = make(chan error, 1), w.now()
			go func(done chan<- error) { done <- w.probe(ctx) }(running)
		}
		if running != nil {
			select {
			case failed = <-running:
				running, due = nil, 0
			default:
				if w.now().Sub(began) > probePatience {
					failed = errNoAnswer
				}
			}
		} else {
			due++
		}
		if ctx.Err() != nil {
			return // what fails now, fails because it ends
		}
		seen := w.see()
		if seen.Present && failed != nil && !isFull(failed) {
			// A disk that is being pulled out fails before it is gone.
			if w.sleep(ctx, watchPoll) != nil {
				return
			}
			seen = w.see()
		}
		seen.Err = cmp.Or(seen.Err, failed)
		next, why := judgeDisk(state, seen)
		state = next
		w.tell(state, why, seen)
		if state.lost() || w.sleep(ctx, watchPoll) != nil {
			return
		}
	}
}

// write tries whether the database can be written. Where it cannot, or there is none, it finds out what is wrong: a device that
// cannot be read, a file system that cannot be written, or the database alone.
func (w *diskWatch) write(ctx context.Context, device, dir string) error {
	var err error
	if database := w.database.Load(); database != nil {
		if err = (*database)(ctx); err == nil {
			return nil
		}
	}
	// The device first: a file system on one that fails says no more than that it is read-only.
	return cmp.Or(readDevice(device), writeFileSystem(dir), err)
}

// writeFileSystem tries whether a file system can be written. One that finds an error in itself while it is being written
// says that this failed, and only afterwards that it takes no more: it is asked twice.
func writeFileSystem(dir string) error {
	probe := filepath.Join(dir, "probe")
	err := writeFile(probe)
	if err != nil {
		if again := writeFile(probe); errors.Is(again, unix.EROFS) {
			return again
		}
	}
	return err
}

// readDevice reads the first block of a device from itself, past what is in memory.
func readDevice(path string) error {
	const block = 4096
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return fmt.Errorf("try to read: %w", err)
	}
	defer f.Close()
	b, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) // aligned, as O_DIRECT wants it
	if err != nil {
		return fmt.Errorf("try to read: %w", err)
	}
	defer unix.Munmap(b) //nolint:errcheck // it is there
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("try to read: %w", err)
	}
	return nil
}

// writeFile writes a block to a file, in place, and waits until it is on the disk.
func writeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("try to write: %w", err)
	}
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("try to write: %w", err)
	}
	return nil
}

// mountedDisk is the data disk as long as it is mounted.
type mountedDisk struct {
	device, name string
	// sys is its folder below /sys/devices, which goes when it does.
	sys string
	// dir is where it is mounted.
	dir   string
	notes []string
}

func newMountedDisk(c Candidate, dir string, notes []string) (*mountedDisk, error) {
	sys, err := filepath.EvalSymlinks(filepath.Join("/sys/block", filepath.Base(c.Path)))
	if err != nil {
		return nil, fmt.Errorf("find the data disk %s: %w", c.Path, err)
	}
	return &mountedDisk{device: c.Path, name: c.name(), sys: sys, dir: dir, notes: notes}, nil
}

// see looks at the disk.
func (m *mountedDisk) see() diskSight {
	size, err := os.ReadFile(filepath.Join(m.sys, "size"))
	if err != nil || strings.TrimSpace(string(size)) == "0" {
		return diskSight{}
	}
	s := diskSight{Present: true}
	ro, err := os.ReadFile(filepath.Join(m.sys, "ro"))
	s.ReadOnly = err == nil && strings.TrimSpace(string(ro)) == "1"
	var fs unix.Statfs_t
	if err := unix.Statfs(m.dir, &fs); err != nil {
		s.Err = fmt.Errorf("ask for its room: %w", err)
		return s
	}
	s.ReadOnly = s.ReadOnly || fs.Flags&unix.ST_RDONLY != 0
	s.Free, s.Total = int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
	return s
}

// errorCount is how many errors the file system has noted; "" if it does not say.
func (m *mountedDisk) errorCount() string {
	b, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(m.device), "errors_count"))
	if err != nil {
		return ""
	}
	return string(b)
}

// watchDataDisk watches the mounted data disk until ctx ends, and calls lost when nothing can stand on it any more.
func (a *appliance) watchDataDisk(ctx context.Context, w *diskWatch, m *mountedDisk, lost func()) {
	errorCount := m.errorCount()
	w.sleep, w.now = pause, time.Now
	w.probe = func(ctx context.Context) error { return w.write(ctx, m.device, m.dir) }
	w.see = func() diskSight {
		if now := m.errorCount(); now != errorCount {
			errorCount = now
			w.suspect()
		}
		return m.see()
	}
	w.tell = func(state diskState, why string, seen diskSight) {
		a.metrics.room(seen)
		a.setDisk(state, why, m)
		if state.lost() {
			lost()
		}
	}
	w.run(ctx)
}

// setDisk notes how the data disk stands, and says so on the screen, as an event and in the log where that is news. m is
// nil where no disk is known.
func (a *appliance) setDisk(state diskState, why string, m *mountedDisk) {
	device := ""
	if m != nil {
		device = m.device
	}
	a.mu.Lock()
	news := a.diskState != state || a.diskDevice != device
	a.diskState, a.diskDevice, a.diskWhy = state, device, why
	a.mu.Unlock()
	if !news {
		return
	}
	a.metrics.disk(state)
	if m != nil {
		a.screen.Set(topicDisk, diskItem(m.name, state, why, m.notes))
	}
	a.Log.Info("data disk", "state", string(state), "device", device, "why", why)
	a.emit("data-disk", map[string]any{"state": string(state), "device": device})
}

// writable says why no machine may be started now: nil where its run can be stored.
func (a *appliance) writable() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.diskState == diskInUse {
		return nil
	}
	return fmt.Errorf("the data disk cannot be used: %s", a.diskWhy)
}

// roomFor says why content of the given size in bytes may not be put on the data disk now: nil if it may. A sync that is
// under way asks again as it goes on, so that the database keeps its room whatever else fills the disk.
func (a *appliance) roomFor(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dataDir, &fs); err != nil {
		return fmt.Errorf("ask the data disk for its room: %w", err)
	}
	return roomFor(bytes, int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize)
}

// unmountData takes the data disk off, whatever still holds it.
func (a *appliance) unmountData(ctx context.Context) {
	const tries = 40
	for range tries {
		err := unix.Unmount(dataDir, 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return
		}
		if pause(ctx, 250*time.Millisecond) != nil {
			break
		}
	}
	if err := unix.Unmount(dataDir, unix.MNT_DETACH); err != nil {
		a.Log.Error("the data disk stays mounted", "error", err)
	}
}

// openDatabase opens the branch's database on the data disk, and proves that it can be written. The watch tries it from then
// on; a database that cannot be opened is an error of the disk, too.
func openDatabase(ctx context.Context, w *diskWatch, registry prometheus.Registerer) (*store.Store, error) {
	db, err := store.Open(ctx, filepath.Join(dataDir, "branch.db"), store.Alone(), store.Metrics(registry), store.OnFailure(func(error) { w.suspect() }))
	if err == nil {
		if err = db.Probe(ctx); err != nil {
			err = errors.Join(err, db.Close())
		}
	}
	try := func(context.Context) error { return err }
	if err == nil {
		try = db.Probe
	}
	w.database.Store(&try)
	w.suspect()
	return db, err
}

// sameDisks reports whether the disks are those that were looked at.
func sameDisks(looked []Candidate, now []disk.Disk) bool {
	now = slices.DeleteFunc(slices.Clone(now), noMedium)
	return slices.EqualFunc(looked, now, func(c Candidate, d disk.Disk) bool {
		return d.Path == c.Path && d.Size == c.Size && d.Serial == c.Serial && d.ReadOnly == c.ReadOnly
	})
}
