package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// DiskOptions say how to write a disk.
type DiskOptions struct {
	// Workers is how many requests are in flight at one time, DefaultWorkers if 0.
	Workers int
	// Blank says that nothing on the disk can be of use, so that it is not read before it is written. Without it, chunks
	// that are in their place already are neither fetched nor written, and chunks that are elsewhere on the disk are not
	// fetched: an interrupted call is gone on with, and an older version changed into the new one. A disk that holds nothing
	// of use is found out by some samples.
	Blank bool
	// Verify reads everything back from the medium at the end.
	Verify bool
	// Report, which may be nil, is told how far it is, at most every 200 ms and at the end. Calls do not overlap.
	Report func(Progress)
}

// DiskStats say what writing a disk came to, in bytes. Written, Zeroed and Reused add up to Size.
type DiskStats struct {
	Size    int64 `json:"size"`
	Written int64 `json:"written"`
	// Zeroed was made zeros, or found to be.
	Zeroed int64 `json:"zeroed"`
	// Reused was on the disk already, in its place or elsewhere.
	Reused int64 `json:"reused"`
	// Fetched is what came over the network, compressed.
	Fetched int64 `json:"fetched"`
}

// WriteDisk makes target begin with the file that x is the index of, and brings it onto the medium. Every byte of it has
// been held against its chunk's name when WriteDisk returns without an error: what was fetched and what was moved before it
// was written, what stayed where it was in its place; where the file has zeros, the disk has zeros. What lies behind the
// file's end stays. A target smaller than the file is an error with CodeInvalid, before anything is written. Repeating a
// call that failed goes on where it was: nothing needs to be remembered, as what the disk holds is looked at anew.
func (c *Client) WriteDisk(ctx context.Context, target Target, x *caibx.Index, o DiskOptions) (DiskStats, error) {
	w := &diskWriter{c: c, t: target, o: o, x: x, stats: DiskStats{Size: x.Size()}, have: make([]bool, len(x.Chunks))}
	if target.Size() < x.Size() {
		return DiskStats{}, provisioning.Errorf(provisioning.CodeInvalid, "use a larger disk, or an image made for a smaller one",
			"the disk is too small: it has %d bytes, the image %d", target.Size(), x.Size())
	}
	if err := w.write(ctx); err != nil {
		return w.stats, err
	}
	if err := target.Flush(); err != nil {
		return w.stats, diskError("bring the disk's content onto the medium", err)
	}
	if o.Verify {
		if err := w.verify(ctx); err != nil {
			return w.stats, err
		}
	}
	w.report(true)
	return w.stats, nil
}

// diskError gives a failure of the disk itself its next step.
func diskError(doing string, err error) error {
	return provisioning.Errorf(provisioning.CodeInternal, "check the disk and its cabling, or replace it", "%s: %w", doing, err)
}

// diskWriter changes what is on a disk into an image. It looks at what is in its place first, then moves what lies
// elsewhere on the disk, and only then makes zeros and writes what it fetches: so nothing that can be of use is overwritten
// sooner than need be.
type diskWriter struct {
	c *Client
	t Target
	o DiskOptions
	x *caibx.Index

	mu       sync.Mutex
	have     []bool // which of x's chunks are in their place, and verified
	done     int64
	stats    DiskStats
	reported time.Time
}

// count adds to what has been done, of which reused was on the disk, and reports it.
func (w *diskWriter) count(written, zeroed, reused, fetched int64) {
	w.mu.Lock()
	w.stats.Written += written
	w.stats.Zeroed += zeroed
	w.stats.Reused += reused
	w.stats.Fetched += fetched
	w.done += written + zeroed + reused
	w.mu.Unlock()
	w.report(false)
}

func (w *diskWriter) report(now bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.o.Report == nil || !now && time.Since(w.reported) < 200*time.Millisecond {
		return
	}
	w.reported = time.Now()
	w.o.Report(Progress{Done: w.done, Total: w.stats.Size, New: w.stats.Fetched})
}

func (w *diskWriter) write(ctx context.Context) error {
	if !w.o.Blank {
		if err := w.reuse(ctx); err != nil {
			return err
		}
	}
	if err := w.zero(ctx); err != nil {
		return err
	}
	return w.fetch(ctx)
}

// fetch gets what is not on the disk, each chunk once, and writes it in the order of its first place.
func (w *diskWriter) fetch(ctx context.Context) error {
	missing, again := w.missing()
	var batches []*fetching
	for _, chunks := range Batches(missing) {
		batches = append(batches, &fetching{chunks: chunks})
	}
	p := newPipeline(ctx, batches, w.o.Workers, func(ctx context.Context, b *fetching, room []byte) (err error) {
		var bytes int64
		b.got, bytes, err = w.c.plain(ctx, b.chunks, func(i int) []byte { return packed(room, b.chunks, i) })
		w.count(0, 0, 0, bytes)
		return err
	})
	defer p.stop()
	out := block{t: w.t}
	for {
		j, err := p.next()
		if j == nil {
			return errors.Join(err, out.flush())
		}
		for i, k := range j.item.chunks[:j.item.got] {
			data := packed(j.room[:], j.item.chunks, i)
			if err := out.write(data, k.Start); err != nil {
				return err
			}
			w.count(int64(k.Size), 0, 0, 0)
			for _, at := range again[k.ID] {
				if _, err := w.t.WriteAt(data, at); err != nil {
					return diskError(fmt.Sprintf("write to the disk at byte %d", at), err)
				}
				w.count(int64(k.Size), 0, 0, 0)
			}
		}
		if err != nil { // what has come is of use to the next try
			return errors.Join(err, out.flush())
		}
		p.release(j)
	}
}

// fetching is a batch on its way: of its chunks, the first got have come.
type fetching struct {
	chunks []caibx.Chunk
	got    int
}

// packed returns the room of chunk i of a batch whose chunks lie in it one after the other.
func packed(room []byte, batch []caibx.Chunk, i int) []byte {
	from := 0
	for _, k := range batch[:i] {
		from += k.Size
	}
	return room[from:][:batch[i].Size]
}

// missing returns the chunks that are not in their place, each with its first place; again are the others.
func (w *diskWriter) missing() (missing []caibx.Chunk, again map[caibx.ID][]int64) {
	again = map[caibx.ID][]int64{}
	seen := map[caibx.ID]bool{}
	for i, k := range w.x.Chunks {
		switch {
		case w.have[i] || k.Zero():
		case seen[k.ID]:
			again[k.ID] = append(again[k.ID], k.Start)
		default:
			seen[k.ID] = true
			missing = append(missing, k)
		}
	}
	return missing, again
}

// zeroStep is how much is made zeros in one go, in bytes, so that ctx can end it.
const zeroStep = 256 << 20

// zero makes zeros where the image has them. A disk that has to write them is read first, which is faster.
func (w *diskWriter) zero(ctx context.Context) error {
	check := !w.o.Blank && !w.t.ZeroIsFast()
	buf := make([]byte, batchBytes)
	for _, r := range zeroRanges(w.x.Chunks) {
		for off, end := r.from, r.to; off < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			step := min(end-off, zeroStep)
			if check {
				step = min(step, int64(len(buf)))
				if n, _ := w.t.ReadAt(buf[:step], off); int64(n) == step && caibx.IsZero(buf[:step]) {
					w.count(0, step, 0, 0)
					off += step
					continue
				}
			}
			if err := w.t.Zero(off, step); err != nil {
				return diskError(fmt.Sprintf("write zeros to the disk at byte %d", off), err)
			}
			w.count(0, step, 0, 0)
			off += step
		}
	}
	return nil
}

// extent is a part of a disk, in bytes.
type extent struct{ from, to int64 }

// zeroRanges returns where an image is zeros, in order, as few ranges as there can be.
func zeroRanges(chunks []caibx.Chunk) []extent {
	var all []extent
	for _, k := range chunks {
		if !k.Zero() {
			continue
		}
		end := k.Start + int64(k.Size)
		if n := len(all); n > 0 && all[n-1].to == k.Start {
			all[n-1].to = end
		} else {
			all = append(all, extent{k.Start, end})
		}
	}
	return all
}

// verify reads everything back.
func (w *diskWriter) verify(ctx context.Context) error {
	return parallel(ctx, Batches(w.x.Chunks), func(chunks []caibx.Chunk, room []byte) error {
		from := chunks[0].Start
		last := chunks[len(chunks)-1]
		all := room[:last.Start+int64(last.Size)-from]
		if n, err := w.t.ReadAt(all, from); n < len(all) {
			return diskError(fmt.Sprintf("read the disk back at byte %d", from+int64(n)), err)
		}
		for _, k := range chunks {
			b := part(room, chunks, k)
			if k.Zero() && !caibx.IsZero(b) || !k.Zero() && caibx.Sum(b) != k.ID {
				return provisioning.Errorf(provisioning.CodeCorrupt, "replace the disk: it does not keep what is written to it", "the disk gives back something else than was written at byte %d", k.Start)
			}
		}
		return nil
	})
}
