package sequence

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"branchpoint/provisioning"
)

// Deliver hands messages to the branch; nil means that it has stored them. It may be called again with messages that
// were delivered before: the branch knows them by their ids.
type Deliver func(ctx context.Context, messages []provisioning.StatusMessage) error

// Queue delivers status messages in order, each until the branch has acknowledged it. Run does the work; the other
// methods may be called from anywhere.
type Queue struct {
	deliver Deliver
	log     *slog.Logger
	wait    func(ctx context.Context, d time.Duration) error
	trouble func(error)

	mu      sync.Mutex
	pending []provisioning.StatusMessage
	refused map[string]error
	changed chan struct{} // closed and replaced whenever pending changes
}

// Limits of the queue's work.
const (
	maxBatch = 16               // messages in one call: below 1 MiB even if JSON has to escape every character
	minRetry = time.Second      // first wait after a failure; doubles
	maxRetry = 15 * time.Second // a branch that comes back is noticed within this time
)

// NewQueue makes a queue. wait waits for d or until ctx ends; trouble is told of each failure to deliver, and of nil
// when it works again (nil func: nobody is told).
func NewQueue(deliver Deliver, log *slog.Logger, wait func(ctx context.Context, d time.Duration) error, trouble func(error)) *Queue {
	if trouble == nil {
		trouble = func(error) {}
	}
	return &Queue{deliver: deliver, log: log, wait: wait, trouble: trouble, refused: map[string]error{}, changed: make(chan struct{})}
}

// Wait waits for d or until ctx ends, by the real clock.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Add appends a message.
func (q *Queue) Add(m provisioning.StatusMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending = append(q.pending, m)
	q.signal()
}

// signal wakes everybody who waits for a change. The caller holds mu.
func (q *Queue) signal() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Run delivers until ctx ends.
func (q *Queue) Run(ctx context.Context) {
	retry := minRetry
	failing := false
	single := false // after a refusal, to find the message it is about
	for {
		batch, changed := q.next(single)
		if len(batch) == 0 {
			single = false
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			continue
		}
		err := q.deliver(ctx, batch)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			q.drop(batch, nil)
			retry = minRetry
		case final(err) && len(batch) > 1:
			single = true
		case final(err):
			// The branch will never take this message; those behind it still matter.
			q.log.Error("the branch refused a status message", "id", batch[0].ID, "code", batch[0].Code, "error", err)
			q.drop(batch, err)
		default:
			q.log.Warn("status messages wait for the branch", "messages", len(batch), "error", err)
			failing = true
			q.trouble(err)
			if q.wait(ctx, retry) != nil {
				return
			}
			retry = min(2*retry, maxRetry)
			continue
		}
		if failing {
			failing = false
			q.trouble(nil)
		}
	}
}

// final reports whether delivering the same again cannot help. A branch that does not know the run (it was replaced, and
// its history is lost) never will.
func final(err error) bool {
	switch provisioning.CodeOf(err) {
	case provisioning.CodeInvalid, provisioning.CodeForbidden, provisioning.CodeConflict, provisioning.CodeNotFound:
		return true
	}
	return false
}

// next gives the oldest messages and what is closed when there is something new.
func (q *Queue) next(single bool) ([]provisioning.StatusMessage, <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.pending), maxBatch)
	if single {
		n = min(n, 1)
	}
	return append([]provisioning.StatusMessage(nil), q.pending[:n]...), q.changed
}

// drop takes the oldest messages out; refused says why the branch does not want them.
func (q *Queue) drop(batch []provisioning.StatusMessage, refused error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending = q.pending[len(batch):]
	if refused != nil {
		for _, m := range batch {
			q.refused[m.ID] = refused
		}
	}
	q.signal()
}

// Acknowledged waits until the branch has stored the message and all before it. It fails if the branch refused it.
func (q *Queue) Acknowledged(ctx context.Context, id string) error {
	for {
		q.mu.Lock()
		err, refused := q.refused[id]
		waiting := false
		for _, m := range q.pending {
			waiting = waiting || m.ID == id
		}
		changed := q.changed
		q.mu.Unlock()
		switch {
		case refused:
			return err
		case !waiting:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Flush waits until no message waits any more.
func (q *Queue) Flush(ctx context.Context) error {
	for {
		q.mu.Lock()
		n, changed := len(q.pending), q.changed
		q.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
