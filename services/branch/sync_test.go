package branch

import (
	"context"
	"errors"
	"testing"
	"time"

	"branchpoint/provisioning"
)

// told is a central site that answers a poll with what it is told to.
type told struct {
	*central
	answers chan error
}

func (c told) Snapshot(ctx context.Context, _, _ uint64, _ time.Duration) (*provisioning.SignedSnapshot, error) {
	select {
	case err := <-c.answers:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestFollowTellsOfContact: what came of each poll is told, and that it was given up at the end is not.
func TestFollowTellsOfContact(t *testing.T) {
	s := enrolled(t)
	away := errors.New("no route to host")
	c, heard := told{s.central, make(chan error)}, make(chan error, 10)
	s.cfg.Central, s.cfg.Contact = c, func(err error) { heard <- err }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = s.Follow(ctx); close(done) }()
	for _, answer := range []error{nil, away, nil} {
		c.answers <- answer
		if err := <-heard; !errors.Is(err, answer) {
			t.Errorf("%v is told as %v", answer, err)
		}
	}
	cancel()
	<-done
	select {
	case err := <-heard:
		t.Error("the end is told as", err)
	default:
	}
}
