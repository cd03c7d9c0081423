package central

import (
	"context"

	"branchpoint/provisioning"
)

// turns bounds how many do something dear at once, and how many wait for it.
type turns struct{ running, waiting chan struct{} }

func newTurns(running, waiting int) turns {
	return turns{running: make(chan struct{}, running), waiting: make(chan struct{}, running+waiting)}
}

// do runs f when it is its turn. It fails with CodeUnavailable where too many wait.
func (t turns) do(ctx context.Context, f func() error) error {
	select {
	case t.waiting <- struct{}{}:
		defer func() { <-t.waiting }()
	default:
		return provisioning.Errorf(provisioning.CodeUnavailable, "Try again.", "too many people ask for this at once")
	}
	select {
	case t.running <- struct{}{}:
		defer func() { <-t.running }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}
