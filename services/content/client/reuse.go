package client

import (
	"context"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"branchpoint/services/content/caibx"
)

// parallel works on batches with every processor, in no order. Each call has room for one batch.
func parallel(ctx context.Context, batches [][]caibx.Chunk, work func(chunks []caibx.Chunk, room []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			room := make([]byte, batchBytes)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(batches)) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := work(batches[i], room); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// reuse finds out what the disk holds of the image and moves what lies elsewhere on it.
func (w *diskWriter) reuse(ctx context.Context) error {
	here, blank := w.sample(w.x.Chunks)
	if here {
		if err := w.compare(ctx); err != nil {
			return err
		}
	}
	missing, _ := w.missing()
	if blank || len(missing) == 0 {
		return ctx.Err()
	}
	return w.move(ctx, w.sources(ctx, missing))
}

// samples is how many chunks are compared to find out whether the disk holds any of an image.
const samples = 64

// sample looks at the first chunks of an image and at some from all over it: an interrupted call leaves the first ones,
// an older version most. It reports whether any is in its place, and whether there is nothing but zeros.
func (w *diskWriter) sample(chunks []caibx.Chunk) (here, blank bool) {
	buf := make([]byte, caibx.MaxChunk)
	blank = true
	look := func(from, step int) bool {
		n := 0
		for i := from; i < len(chunks) && n < samples; i += step {
			k := chunks[i]
			if k.Zero() {
				continue
			}
			n++
			b := buf[:k.Size]
			if n, _ := w.readAt(b, k.Start); n < len(b) {
				continue
			}
			if caibx.IsZero(b) {
				continue
			}
			blank = false
			if caibx.Sum(b) == k.ID {
				return true
			}
		}
		return false
	}
	return look(0, 1) || look(len(chunks)/samples/2, len(chunks)/samples+1), blank
}

// readAt reads from the disk what lies within it.
func (w *diskWriter) readAt(b []byte, off int64) (int, error) {
	if n := w.t.Size() - off; n < int64(len(b)) {
		b = b[:max(n, 0)]
	}
	return w.t.ReadAt(b, off)
}

// compare notes every chunk that is in its place. What cannot be read is not there.
func (w *diskWriter) compare(ctx context.Context) error {
	first := make(map[int64]int, len(w.x.Chunks)) // number of the chunk that starts there
	var chunks []caibx.Chunk
	for i, k := range w.x.Chunks {
		if !k.Zero() {
			first[k.Start] = i
			chunks = append(chunks, k)
		}
	}
	return parallel(ctx, contiguous(chunks), func(chunks []caibx.Chunk, room []byte) error {
		last := chunks[len(chunks)-1]
		n, _ := w.t.ReadAt(room[:last.Start+int64(last.Size)-chunks[0].Start], chunks[0].Start)
		at := first[chunks[0].Start]
		var reused int64
		for i, k := range chunks {
			b := part(room, chunks, k)
			if k.Start+int64(k.Size)-chunks[0].Start > int64(n) {
				break
			}
			// Most of a new disk is zeros, and that is seen sooner.
			if !caibx.IsZero(b) && caibx.Sum(b) == k.ID {
				w.have[at+i] = true // nobody else has this chunk
				reused += int64(k.Size)
			}
		}
		w.count(0, 0, reused, 0)
		return nil
	})
}

// contiguous divides chunks into batches of such as follow each other without a gap.
func contiguous(chunks []caibx.Chunk) [][]caibx.Chunk {
	var all [][]caibx.Chunk
	from := 0
	for i := range chunks {
		if i+1 == len(chunks) || chunks[i].Start+int64(chunks[i].Size) != chunks[i+1].Start {
			all = append(all, Batches(chunks[from:i+1])...)
			from = i + 1
		}
	}
	return all
}

// move is a run of chunks that lie on the disk one after the other, and are to lie so elsewhere on it.
type move struct {
	chunks []caibx.Chunk
	at     []int // their numbers in the image
	from   int64
}

func (m move) size() int64 {
	last := m.chunks[len(m.chunks)-1]
	return last.Start + int64(last.Size) - m.chunks[0].Start
}

// planMoves says how to bring the chunks that are not in their place (have) there from where they may lie (sources), in
// an order that overwrites as little as it can of what is still to be moved: what goes towards the beginning of the disk
// from the front, what goes towards its end from the back.
func planMoves(chunks []caibx.Chunk, have []bool, sources map[caibx.ID]int64) []move {
	var front, back []move
	var run move
	end := func() {
		if len(run.chunks) == 0 {
			return
		}
		if run.from > run.chunks[0].Start {
			front = append(front, run)
		} else {
			back = append(back, run)
		}
		run = move{}
	}
	for i, k := range chunks {
		from, ok := sources[k.ID]
		if !ok || have[i] || k.Zero() || from == k.Start {
			end()
			continue
		}
		if n := len(run.chunks); n > 0 && (run.from+run.size() != from || run.at[n-1] != i-1 || run.size()+int64(k.Size) > batchBytes) {
			end()
		}
		if len(run.chunks) == 0 {
			run.from = from
		}
		run.chunks, run.at = append(run.chunks, k), append(run.at, i)
	}
	end()
	slices.Reverse(back)
	return append(front, back...)
}

// move moves what lies elsewhere on the disk. Each chunk is held against its name after it was read and before it is
// written: what has been overwritten meanwhile, or never was there, is found out and will be fetched.
func (w *diskWriter) move(ctx context.Context, sources map[caibx.ID]int64) error {
	p := newPipeline(ctx, planMoves(w.x.Chunks, w.have, sources), runtime.GOMAXPROCS(0), func(_ context.Context, m move, room []byte) error {
		n, _ := w.readAt(room[:m.size()], m.from)
		clear(room[n:m.size()])
		for _, k := range m.chunks {
			if b := part(room, m.chunks, k); caibx.Sum(b) != k.ID {
				clear(b) // which no chunk of a move is
			}
		}
		return nil
	})
	defer p.stop()
	for {
		j, err := p.next()
		if j == nil || err != nil {
			return err
		}
		out := block{t: w.t}
		for i, k := range j.item.chunks {
			b := part(j.room[:], j.item.chunks, k)
			if caibx.IsZero(b) {
				continue
			}
			if err := out.write(b, k.Start); err != nil {
				return err
			}
			w.have[j.item.at[i]] = true
			w.count(0, 0, int64(k.Size), 0)
		}
		if err := out.flush(); err != nil {
			return err
		}
		p.release(j)
	}
}
