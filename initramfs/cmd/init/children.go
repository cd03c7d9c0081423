package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children are the processes init started itself, to tell them from orphans, which nobody else waits for.
type children struct {
	mu   sync.Mutex
	pids map[int]bool
}

// start starts a command; its end must be waited for by wait.
func (c *children) start(cmd *exec.Cmd) error {
	// Holding the lock keeps the reaper from taking a child that ends before it is known.
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	if c.pids == nil {
		c.pids = map[int]bool{}
	}
	c.pids[cmd.Process.Pid] = true
	return nil
}

func (c *children) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.pids, cmd.Process.Pid)
	c.mu.Unlock()
	return err
}

// reap waits for orphans as they end.
func (c *children) reap(ctx context.Context) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	// Signals merge, and one of our own that is not waited for yet hides orphans behind it; so it looks now and then, too.
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		for c.reapOne() {
		}
		select {
		case <-ctx.Done():
			return
		case <-ended:
		case <-tick.C:
		}
	}
}

// reapOne waits for one orphan that has ended and reports whether there was one.
func (c *children) reapOne() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Look without taking: a child of our own belongs to its cmd.Wait.
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil || info.Signo == 0 {
		return false
	}
	pid := siginfoPid(&info)
	if pid <= 0 || c.pids[pid] {
		return false
	}
	_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return err == nil
}

// end asks all processes to end, and kills those that are left after the grace period.
func (c *children) end(grace time.Duration) {
	_ = unix.Kill(-1, unix.SIGTERM)
	deadline := time.Now().Add(grace)
	for time.Now().Before(deadline) {
		c.mu.Lock()
		left := len(c.pids)
		c.mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
}

// ending describes how a process ended.
func ending(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "exit status 0"
	case errors.As(err, &exit):
		return exit.ProcessState.String()
	default:
		return fmt.Sprintf("not known: %v", err)
	}
}
