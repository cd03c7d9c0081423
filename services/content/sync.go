package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// State is how far a package version is on its way to a branch.
type State string

// The states of a package version at a branch.
const (
	StateWaiting   State = "waiting"
	StateFetching  State = "fetching"
	StateInstalled State = "installed"
	StateFailed    State = "failed"
)

// Status is the state of one package version, and how far it is.
type Status struct {
	Ref   provisioning.ContentRef
	State State
	Progress
	// Err is why it failed.
	Err error
}

// SyncOptions say how to synchronize.
type SyncOptions struct {
	// Workers is how many requests, each for up to a megabyte of content, are in flight at one time, 8 if 0.
	Workers int
	// PlaceEvery is how many fetched bytes, compressed, are brought onto the disk together, 64 MiB if 0.
	PlaceEvery int64
	// Report, which may be nil, is told every change of a package's status, and at most every 200 ms how far it is. Calls
	// do not overlap.
	Report func(Status)
	// Log is for what a person should know.
	Log *slog.Logger
}

// What is fetched is brought onto the disk and moved into the store when it is this many bytes, unless said otherwise, or
// after this time: what a loss of power costs at most.
const (
	placeEvery = 64 << 20
	placeAfter = 5 * time.Second
)

// Sync brings the given versions from upstream into the store, one after the other, fetching only chunks that the store
// does not have. One that cannot be had does not keep the others back; the errors are joined. Calling it again goes on
// where it was.
func Sync(ctx context.Context, s *Store, upstream *client.Client, refs []provisioning.ContentRef, o SyncOptions) error {
	if o.Workers <= 0 {
		o.Workers = 8
	}
	if o.PlaceEvery <= 0 {
		o.PlaceEvery = placeEvery
	}
	if o.Report == nil {
		o.Report = func(Status) {}
	}
	for _, ref := range refs {
		o.Report(Status{Ref: ref, State: StateWaiting, Progress: Progress{Total: ref.Size}})
	}
	var errs []error
	for _, ref := range refs {
		y := &syncing{s: s, from: upstream, o: o, status: Status{Ref: ref, State: StateFetching, Progress: Progress{Total: ref.Size}}}
		err := y.run(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			err = fmt.Errorf("fetch content package %s version %d: %w", ref.Package, ref.Version, err)
			y.status.State, y.status.Err = StateFailed, err
			o.Log.Error("content is not complete", "package", ref.Package, "version", ref.Version, "error", err)
			errs = append(errs, err)
		}
		o.Report(y.status)
	}
	return errors.Join(errs...)
}

// syncing is one version on its way.
type syncing struct {
	s    *Store
	from *client.Client
	o    SyncOptions

	mu       sync.Mutex
	status   Status
	reported time.Time
	staged   map[caibx.ID]string
	size     int64 // of what is staged
	placed   time.Time
}

func (y *syncing) run(ctx context.Context) (err error) {
	if y.s.Installed(y.status.Ref) {
		y.s.await(y.status.Ref.Manifest, false)
		y.status.State, y.status.Done = StateInstalled, y.status.Total
		return nil
	}
	y.o.Report(y.status)
	ref := y.status.Ref
	y.s.await(ref.Manifest, true)
	y.s.metrics.syncDone.Set(0)
	y.s.metrics.syncTotal.Set(float64(ref.Size))
	m, indexes, chunks, err := y.describe(ctx, ref)
	if err != nil {
		return err
	}
	if err := y.fetch(ctx, chunks); err != nil {
		return storeError(y.s.dir, err)
	}
	y.s.mu.Lock()
	defer y.s.mu.Unlock()
	if err := y.s.publish(m, indexes); err != nil {
		return storeError(y.s.dir, err)
	}
	y.s.await(ref.Manifest, false)
	y.status.State = StateInstalled
	return nil
}

// describe gets manifest and indexes: those that are here, and the rest from upstream.
func (y *syncing) describe(ctx context.Context, ref provisioning.ContentRef) (*provisioning.Manifest, map[provisioning.SHA256][]byte, []caibx.Chunk, error) {
	m, err := y.s.Manifest(ref.Manifest)
	if err != nil {
		if m, err = y.from.Manifest(ctx, ref.Manifest); err != nil {
			return nil, nil, nil, err
		}
	}
	if m.Package != ref.Package || m.Version != ref.Version || provisioning.SumSHA256(m.Encode()) != ref.Manifest {
		return nil, nil, nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "manifest %s is for %s version %d", ref.Manifest, m.Package, m.Version)
	}
	indexes := map[provisioning.SHA256][]byte{}
	var chunks []caibx.Chunk
	for _, f := range m.Files {
		b, err := y.s.IndexBytes(f.Index)
		if err != nil {
			if _, b, err = y.from.IndexBytes(ctx, f); err != nil {
				return nil, nil, nil, err
			}
		}
		x, err := caibx.Decode(b)
		if err != nil {
			return nil, nil, nil, err
		}
		indexes[f.Index] = b
		chunks = append(chunks, x.Chunks...)
	}
	return m, indexes, chunks, nil
}

// fetch brings the chunks that the store does not have. What it has got when it fails stays in the store: the next try
// needs it.
func (y *syncing) fetch(ctx context.Context, chunks []caibx.Chunk) (err error) {
	dir, err := os.MkdirTemp(y.s.path("staging"), "sync-")
	if err != nil {
		return fmt.Errorf("make room for chunks: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil {
			y.o.Log.Error("remove fetched chunks' leftovers", "directory", dir, "error", rerr)
		}
	}()
	y.staged, y.placed = map[caibx.ID]string{}, time.Now()
	defer func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		if perr := y.place(); perr != nil && err == nil {
			err = perr
		}
	}()
	missing, here := y.divide(chunks)
	if err := y.fetchAll(ctx, dir, missing); err != nil {
		return err
	}
	// Last, as it takes long, and a try that fails because upstream is away fails before it.
	missing, err = y.lookAt(ctx, here)
	if err != nil {
		return err
	}
	return y.fetchAll(ctx, dir, missing)
}

// fetchAll fetches chunks, several at one time.
func (y *syncing) fetchAll(ctx context.Context, dir string, chunks []caibx.Chunk) error {
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(y.o.Workers)
	for _, batch := range client.Batches(chunks) {
		if work.Err() != nil {
			break
		}
		g.Go(func() error {
			_, err := y.from.StoredChunks(work, batch, func(k caibx.Chunk, stored []byte) error { return y.keep(dir, k, stored) })
			return err
		})
	}
	return cmp.Or(g.Wait(), context.Cause(ctx)) // the latter ends the loop too, with nothing in flight
}

// divide returns the chunks that the store does not have, by their files, and those that it has, each once.
func (y *syncing) divide(chunks []caibx.Chunk) (missing, here []caibx.Chunk) {
	seen := map[caibx.ID]bool{}
	for _, k := range chunks {
		switch {
		case seen[k.ID]:
			y.count(k.Size, 0)
		case y.s.HasChunk(k.ID):
			here = append(here, k)
		default:
			missing = append(missing, k)
		}
		seen[k.ID] = true
	}
	return missing, here
}

// lookAt reads chunks that the store has and returns those that are damaged.
func (y *syncing) lookAt(ctx context.Context, chunks []caibx.Chunk) ([]caibx.Chunk, error) {
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(y.o.Workers)
	lacks := make([]bool, len(chunks))
	for i, k := range chunks {
		if work.Err() != nil {
			break
		}
		g.Go(func() error {
			room := chunkFiles.Get().(*chunkFile)
			defer chunkFiles.Put(room)
			if _, err := y.s.StoredChunk(k.ID, room.chunk()); err != nil {
				lacks[i] = true
			} else {
				y.count(k.Size, 0)
			}
			return context.Cause(work)
		})
	}
	if err := cmp.Or(g.Wait(), context.Cause(ctx)); err != nil {
		return nil, err
	}
	var missing []caibx.Chunk
	for i, k := range chunks {
		if lacks[i] {
			missing = append(missing, k)
		}
	}
	return missing, nil
}

// keep writes a fetched chunk to the staging directory, and moves all there to the store when it is enough.
func (y *syncing) keep(dir string, k caibx.Chunk, stored []byte) error {
	path, err := stage(dir, k.ID, stored)
	if err != nil {
		return err
	}
	y.s.metrics.chunksFetched.Inc()
	y.s.metrics.bytesFetched.Add(float64(len(stored)))
	y.mu.Lock()
	y.staged[k.ID] = path
	y.size += int64(len(stored))
	if y.size >= y.o.PlaceEvery || time.Since(y.placed) >= placeAfter {
		err = y.place()
	}
	y.mu.Unlock()
	y.count(k.Size, len(stored))
	return err
}

// place moves what was fetched into the store. y.mu is held.
func (y *syncing) place() error {
	y.s.mu.Lock()
	defer y.s.mu.Unlock()
	_, err := y.s.place(y.staged)
	y.staged, y.size, y.placed = map[caibx.ID]string{}, 0, time.Now()
	return err
}

func (y *syncing) count(size, stored int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.status.Done += int64(size)
	y.status.New += int64(stored)
	y.s.metrics.syncDone.Set(float64(y.status.Done))
	if time.Since(y.reported) >= 200*time.Millisecond {
		y.reported = time.Now()
		y.o.Report(y.status)
	}
}
