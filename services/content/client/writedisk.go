package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// DiskOptions say how to write a disk.
type DiskOptions struct {
	// Workers is how many chunks are in flight at one time, DefaultWorkers if 0.
	Workers int
	// Blank says that nothing on the disk can be of use, so that it is not read before it is written. Without it, chunks
	// that are in their place already are neither fetched nor written: an interrupted call is gone on with, and an older
	// version changed into the new one. A disk that holds nothing of the image is found out by some samples.
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
	// Reused was in its place already.
	Reused int64 `json:"reused"`
	// Fetched is what came over the network, compressed.
	Fetched int64 `json:"fetched"`
}

// WriteDisk makes target begin with the file that x is the index of, and brings it onto the medium. Every chunk is
// checked before it is written; where the file has zeros, the disk has zeros afterwards. What lies behind the file's end
// stays. A target smaller than the file is an error with CodeInvalid, before anything is written. Repeating a call that
// failed goes on where it was.
func (c *Client) WriteDisk(ctx context.Context, target Target, x *caibx.Index, o DiskOptions) (DiskStats, error) {
	w := &diskWriter{c: c, t: target, o: o, chunks: x.Chunks, out: block{t: target}, stats: DiskStats{Size: x.Size()}}
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

type diskWriter struct {
	c      *Client
	t      Target
	o      DiskOptions
	chunks []caibx.Chunk
	out    block
	done   int64

	mu       sync.Mutex
	stats    DiskStats
	reported time.Time
}

func (w *diskWriter) report(now bool) {
	if w.o.Report == nil || !now && time.Since(w.reported) < 200*time.Millisecond {
		return
	}
	w.reported = time.Now()
	w.mu.Lock()
	p := Progress{Done: w.done, Total: w.stats.Size, New: w.stats.Fetched}
	w.mu.Unlock()
	w.o.Report(p)
}

func (w *diskWriter) write(ctx context.Context) error {
	compare := !w.o.Blank && w.worthComparing()
	p := newPipeline(ctx, w.chunks, w.o.Workers, func(ctx context.Context, j *job) error {
		if j.Zero() {
			return nil
		}
		if compare && w.holds(j.Chunk, j.buf) {
			j.same = true
			return nil
		}
		var n int
		var err error
		j.data, n, err = w.c.chunk(ctx, j.Chunk, j.buf)
		w.mu.Lock()
		w.stats.Fetched += int64(n)
		w.mu.Unlock()
		return err
	})
	defer p.stop()
	var zeroFrom, zeros int64
	for {
		j, err := p.next()
		if err != nil {
			return err
		}
		if zeros > 0 && (j == nil || !j.Zero()) {
			if err := w.zero(ctx, zeroFrom, zeros); err != nil {
				return err
			}
			zeros = 0
		}
		if j == nil {
			return w.out.flush()
		}
		switch {
		case j.same:
			w.stats.Reused += int64(j.Size)
		case j.data != nil:
			if err := w.out.write(j.data, j.Start); err != nil {
				return err
			}
			w.stats.Written += int64(j.Size)
		default:
			if zeros == 0 {
				zeroFrom = j.Start
			}
			zeros += int64(j.Size)
		}
		w.done = j.Start + int64(j.Size)
		p.release(j)
		w.report(false)
	}
}

// samples is how many chunks are compared to find out whether the disk holds any of the image.
const samples = 64

// worthComparing looks at the first chunks and at some from all over the image: an interrupted call leaves the first ones,
// an older version most.
func (w *diskWriter) worthComparing() bool {
	buf := make([]byte, caibx.MaxChunk)
	look := func(from, step int) bool {
		n := 0
		for i := from; i < len(w.chunks) && n < samples; i += step {
			if k := w.chunks[i]; !k.Zero() {
				n++
				if w.holds(k, buf) {
					return true
				}
			}
		}
		return false
	}
	return look(0, 1) || look(len(w.chunks)/samples/2, len(w.chunks)/samples+1)
}

// holds reports whether the disk has a chunk in its place. What cannot be read is not there.
func (w *diskWriter) holds(k caibx.Chunk, buf []byte) bool {
	b := buf[:k.Size]
	if n, _ := w.t.ReadAt(b, k.Start); n < len(b) {
		return false
	}
	return !caibx.IsZero(b) && caibx.Sum(b) == k.ID // most of a new disk is zeros, and that is seen sooner
}

// zeroStep is how much is made zeros in one go, in bytes, so that ctx can end it.
const zeroStep = 256 << 20

func (w *diskWriter) zero(ctx context.Context, off, n int64) error {
	if err := w.out.flush(); err != nil {
		return err
	}
	w.mu.Lock()
	w.stats.Zeroed += n
	w.mu.Unlock()
	check := !w.o.Blank && !w.t.ZeroIsFast()
	buf := make([]byte, 1<<20)
	for n > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		step := min(n, zeroStep)
		if check {
			step = min(n, int64(len(buf)))
			if m, _ := w.t.ReadAt(buf[:step], off); int64(m) == step && caibx.IsZero(buf[:step]) {
				off, n = off+step, n-step
				continue
			}
		}
		if err := w.t.Zero(off, step); err != nil {
			return diskError(fmt.Sprintf("write zeros to the disk at byte %d", off), err)
		}
		off, n = off+step, n-step
	}
	return nil
}

// verify reads everything back.
func (w *diskWriter) verify(ctx context.Context) error {
	p := newPipeline(ctx, w.chunks, min(4, DefaultWorkers), func(_ context.Context, j *job) error {
		b := j.buf[:j.Size]
		if n, err := w.t.ReadAt(b, j.Start); n < len(b) {
			return diskError(fmt.Sprintf("read the disk back at byte %d", j.Start), err)
		}
		if j.Zero() && !caibx.IsZero(b) || !j.Zero() && caibx.Sum(b) != j.ID {
			return provisioning.Errorf(provisioning.CodeCorrupt, "replace the disk: it does not keep what is written to it", "the disk gives back something else than was written at byte %d", j.Start)
		}
		return nil
	})
	defer p.stop()
	for {
		j, err := p.next()
		if j == nil || err != nil {
			return err
		}
		p.release(j)
	}
}

// blockSize is in what pieces a disk is written, in bytes: a multiple of every page and erase block size, so that the
// kernel need not read what is only partly overwritten.
const blockSize = 1 << 20

// block gathers what is to be written into blocks.
type block struct {
	t    Target
	from int64
	buf  []byte
}

func (b *block) write(p []byte, off int64) error {
	if len(b.buf) > 0 && b.from+int64(len(b.buf)) != off {
		if err := b.flush(); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		if b.buf == nil {
			b.buf = make([]byte, 0, blockSize)
		}
		if len(b.buf) == 0 {
			b.from = off
		}
		n := min(int64(len(p)), blockSize-(off%blockSize))
		b.buf = append(b.buf, p[:n]...)
		p, off = p[n:], off+n
		if off%blockSize == 0 {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *block) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	if _, err := b.t.WriteAt(b.buf, b.from); err != nil {
		return diskError(fmt.Sprintf("write to the disk at byte %d", b.from), err)
	}
	b.buf = b.buf[:0]
	return nil
}
