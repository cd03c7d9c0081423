package client

import (
	"context"
	"sync"

	"branchpoint/services/content/caibx"
)

// DefaultWorkers is how many chunks are in flight at one time, unless said otherwise: enough to fill a gigabit with a few
// milliseconds of delay.
const DefaultWorkers = 8

// Progress is how far something is, in bytes.
type Progress struct {
	// Done of Total bytes have been dealt with; Total is 0 while it is not known.
	Done, Total int64
	// New is how much had to be stored or fetched, compressed; the rest was there already.
	New int64
}

// job is a chunk on its way through a pipeline.
type job struct {
	caibx.Chunk
	buf  []byte // room for the chunk
	data []byte // its bytes, if it is to be written
	same bool   // the target holds it already
	err  error
	done chan struct{}
}

// pipeline works on several chunks at one time and gives them out in their order. Its memory is bounded by the number of
// workers, whatever the order in which they finish.
type pipeline struct {
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan *job
	free   sync.Pool
	wg     sync.WaitGroup
}

func newPipeline(ctx context.Context, chunks []caibx.Chunk, workers int, work func(context.Context, *job) error) *pipeline {
	if workers <= 0 {
		workers = DefaultWorkers
	}
	p := &pipeline{queue: make(chan *job, 2*workers)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.free.New = func() any { b := make([]byte, caibx.MaxChunk); return &b }
	todo := make(chan *job)
	p.wg.Go(func() {
		defer close(todo)
		defer close(p.queue)
		for _, k := range chunks {
			j := &job{Chunk: k, done: make(chan struct{})}
			select {
			case p.queue <- j:
			case <-p.ctx.Done():
				return
			}
			select {
			case todo <- j:
			case <-p.ctx.Done():
				return
			}
		}
	})
	for range workers {
		p.wg.Go(func() {
			for j := range todo {
				j.buf = *p.free.Get().(*[]byte)
				j.err = work(p.ctx, j)
				close(j.done)
			}
		})
	}
	return p
}

// next returns the next chunk, when it is ready; nil after the last. The chunk is to be given back.
func (p *pipeline) next() (*job, error) {
	select {
	case j, ok := <-p.queue:
		if !ok {
			if p.ctx.Err() != nil { // cut short, not at its end
				return nil, context.Cause(p.ctx)
			}
			return nil, nil
		}
		select {
		case <-j.done:
			return j, j.err
		case <-p.ctx.Done():
		}
	case <-p.ctx.Done():
	}
	return nil, context.Cause(p.ctx)
}

func (p *pipeline) release(j *job) {
	b := j.buf
	j.buf, j.data = nil, nil
	p.free.Put(&b)
}

// stop ends the work and waits for that.
func (p *pipeline) stop() {
	p.cancel()
	p.wg.Wait()
}
