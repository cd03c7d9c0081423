package sequence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// fakeBranch stores messages once each, as a branch does, and fails as told.
type fakeBranch struct {
	mu     sync.Mutex
	stored []provisioning.StatusMessage
	calls  int
	fail   func(call int, m []provisioning.StatusMessage) error
	// lost makes the answer get lost although the messages were stored.
	lost func(call int) bool
}

func (b *fakeBranch) deliver(_ context.Context, m []provisioning.StatusMessage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fail != nil {
		if err := b.fail(b.calls, m); err != nil {
			return err
		}
	}
	for _, n := range m {
		if !slices.ContainsFunc(b.stored, func(o provisioning.StatusMessage) bool { return o.ID == n.ID }) {
			b.stored = append(b.stored, n)
		}
	}
	if b.lost != nil && b.lost(b.calls) {
		return errors.New("connection reset")
	}
	return nil
}

func (b *fakeBranch) texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, m := range b.stored {
		out = append(out, m.Text)
	}
	return out
}

// noWait does not wait, but ends with its context.
func noWait(ctx context.Context, _ time.Duration) error { return ctx.Err() }

// start runs a queue until the test ends.
func start(t *testing.T, q *Queue) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return ctx
}

func message(n int) provisioning.StatusMessage {
	return provisioning.StatusMessage{ID: fmt.Sprintf("%032x", n), Text: fmt.Sprint(n)}
}

func TestQueueKeepsOrderThroughFailures(t *testing.T) {
	b := &fakeBranch{
		fail: func(call int, _ []provisioning.StatusMessage) error {
			if call%3 != 0 {
				return provisioning.Errorf(provisioning.CodeUnavailable, "", "down")
			}
			return nil
		},
		lost: func(call int) bool { return call%2 == 0 },
	}
	var troubles []string
	q := NewQueue(b.deliver, quiet, noWait, func(err error) { troubles = append(troubles, fmt.Sprint(err)) })
	var want []string
	ctx := start(t, q)
	for i := range 100 {
		q.Add(message(i))
		want = append(want, fmt.Sprint(i))
	}
	if err := q.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got := b.texts(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if !slices.Contains(troubles, "down") {
		t.Errorf("nobody was told of the trouble: %v", troubles)
	}
}

func TestQueueDropsOnlyWhatIsRefused(t *testing.T) {
	b := &fakeBranch{fail: func(_ int, m []provisioning.StatusMessage) error {
		if slices.ContainsFunc(m, func(m provisioning.StatusMessage) bool { return m.Text == "2" }) {
			return provisioning.Errorf(provisioning.CodeInvalid, "", "no")
		}
		return nil
	}}
	q := NewQueue(b.deliver, quiet, noWait, nil)
	for i := range 5 {
		q.Add(message(i))
	}
	ctx := start(t, q)
	if err := q.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := b.texts(), []string{"0", "1", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if err := q.Acknowledged(ctx, message(2).ID); provisioning.CodeOf(err) != provisioning.CodeInvalid {
		t.Errorf("the refused message: %v", err)
	}
	if err := q.Acknowledged(ctx, message(4).ID); err != nil {
		t.Errorf("the last message: %v", err)
	}
}

func TestQueueWaitsForAcknowledgement(t *testing.T) {
	release := make(chan struct{})
	q := NewQueue(func(ctx context.Context, _ []provisioning.StatusMessage) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, quiet, noWait, nil)
	q.Add(message(1))
	ctx := start(t, q)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := q.Acknowledged(short, message(1).ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("acknowledged before it was: %v", err)
	}
	close(release)
	if err := q.Acknowledged(ctx, message(1).ID); err != nil {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 5, "abc"}, {"abcdef", 3, "def"}, {"aäö", 3, "ö"}, {"\xff\xfex", 9, "?x"}, {"", 0, ""}} {
		if got := Tail(c.in, c.n); got != c.want {
			t.Errorf("Tail(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
	m := bound(provisioning.StatusMessage{Output: strings.Repeat("\xff\n", 9000), Text: strings.Repeat("ä", 4000), Title: strings.Repeat("ü", 300)})
	if len(m.Output) > provisioning.MaxStatusOutput || len(m.Text) > provisioning.MaxStatusOutput || len(m.Title) > 256 || m.Output == "" {
		t.Errorf("bounds: %d %d %d", len(m.Output), len(m.Text), len(m.Title))
	}
}
