package client

import (
	"context"
	"sync"
)

// DefaultWorkers is how many requests are in flight at one time, unless said otherwise, each for up to a megabyte of
// content: enough to fill a gigabit with tens of milliseconds of delay, and to keep the processors of a small machine busy.
const DefaultWorkers = 6

// Progress is how far something is, in bytes.
type Progress struct {
	// Done of Total bytes have been dealt with; Total is 0 while it is not known.
	Done, Total int64
	// New is how much had to be stored or fetched, compressed; the rest was there already.
	New int64
}

// job is an item on its way through a pipeline, with room for batchBytes.
type job[T any] struct {
	item T
	room *[batchBytes]byte
	err  error
	done chan struct{}
}

// pipeline works on several items at one time and gives them out in their order. Its memory is bounded by the number of
// workers, whatever the order in which they finish.
type pipeline[T any] struct {
	ctx    context.Context
	cancel context.CancelFunc
	queue  chan *job[T]
	free   sync.Pool
	wg     sync.WaitGroup
}

func newPipeline[T any](ctx context.Context, items []T, workers int, work func(ctx context.Context, item T, room []byte) error) *pipeline[T] {
	if workers <= 0 {
		workers = DefaultWorkers
	}
	p := &pipeline[T]{queue: make(chan *job[T], 2*workers)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.free.New = func() any { return new([batchBytes]byte) }
	todo := make(chan *job[T])
	p.wg.Go(func() {
		defer close(todo)
		defer close(p.queue)
		for _, item := range items {
			j := &job[T]{item: item, done: make(chan struct{})}
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
				j.room = p.free.Get().(*[batchBytes]byte)
				j.err = work(p.ctx, j.item, j.room[:])
				close(j.done)
			}
		})
	}
	return p
}

// next returns the next item, when it is ready; nil after the last. It is to be given back.
func (p *pipeline[T]) next() (*job[T], error) {
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

func (p *pipeline[T]) release(j *job[T]) {
	p.free.Put(j.room)
	j.room = nil
}

// stop ends the work and waits for that.
func (p *pipeline[T]) stop() {
	p.cancel()
	p.wg.Wait()
}
