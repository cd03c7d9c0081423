package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner is a thread that lives as long as the process and starts the children. The kernel sends a child its
// parent-death signal when the thread that started it ends, not when the process does, and Go ends threads at will.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// onOwnThread runs f on a thread that ends with it. That must not be the first thread of the process, which cannot end and
// whose namespaces count as those of the process.
func onOwnThread(f func()) {
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onOwnThread(f) // returns once another thread has it
			close(locked)
			runtime.UnlockOSThread()
			return
		}
		close(locked)
		f()
	}()
	<-locked
}

// startBound starts a command, from a thread that takes work, that the kernel kills when that thread ends: with this process
// at the latest, whatever ends it.
func startBound(thread chan<- func(), cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error, 1)
	thread <- func() { done <- cmd.Start() }
	return <-done
}

// Start starts a command that ends with this process at the latest, and not before for a reason of ours. That is more than
// Pdeathsig alone: where the thread that happened to start it is one that onOwnThread uses later, the child would end with that.
func Start(cmd *exec.Cmd) error { return startBound(spawner(), cmd) }

// process is a child whose end can be waited for by many.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func startProcess(thread chan<- func(), cmd *exec.Cmd) (*process, error) {
	if err := startBound(thread, cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	if p == nil {
		return
	}
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Kill() // the only error is that it is gone already
	<-p.done
}

func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
