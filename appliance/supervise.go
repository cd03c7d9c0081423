package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
)

// maxRestartPause bounds the pause before a role that failed is started again.
const maxRestartPause = 30 * time.Second

// supervise runs a role until ctx ends and starts it again when it fails, with growing pauses. What went wrong stands on
// the screen meanwhile; a panic is an error like any other, with its stack in the log.
func supervise(ctx context.Context, log *slog.Logger, scr *screen.Screen, topic string, role func(context.Context) error) {
	pause := time.Second
	for ctx.Err() == nil {
		started := time.Now()
		err := guarded(ctx, log, topic, role)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = fmt.Errorf("it ended by itself")
		}
		log.Error("role failed and is started again", "role", topic, "error", err)
		scr.Set(topic, problem(err))
		if time.Since(started) > time.Minute {
			pause = time.Second
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(pause*2, maxRestartPause)
	}
}

// guarded runs f and turns a panic into an error.
func guarded(ctx context.Context, log *slog.Logger, topic string, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("panic", "role", topic, "panic", p, "stack", string(debug.Stack()))
			err = provisioning.Errorf(provisioning.CodeInternal, "", "panic: %v", p)
		}
	}()
	return f(ctx)
}

// problem is an error as the screen shows it.
func problem(err error) screen.Item {
	return screen.Item{State: screen.Problem, Text: err.Error(), Next: provisioning.NextOf(err)}
}
