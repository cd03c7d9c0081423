package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// mainFile names the program to run. A layer brings it; without it there is a shell.
const mainFile = "/etc/branchpoint/main"

// How long init waits before it starts an ended program again: doubled each time, and from the start again once the program
// has run for a while.
const (
	firstDelay = time.Second
	lastDelay  = time.Minute
	goodRun    = 5 * time.Minute
)

// maxOutput is how much of a program's last words an event carries, in bytes: JSON may write one as six.
const maxOutput = 600

// program is the content of mainFile.
type program struct {
	Argv []string `json:"argv"`
}

// readProgram reads mainFile. No file gives no program and no error.
func readProgram(path string) (*program, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	p := &program{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(p.Argv) == 0 || p.Argv[0] == "" {
		return nil, fmt.Errorf("read %s: argv is empty", path)
	}
	return p, nil
}

// supervise runs the main program for ever; a shell on every console if there is none, or if what names it is broken.
func (s *system) supervise(ctx context.Context) {
	p, err := readProgram(mainFile)
	if err != nil {
		s.show(fmt.Sprintf("init: %v: starting a shell instead", err))
	}
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		s.log.Warn("consoles not known", "err", err)
	}
	list := consoles(string(active))
	if len(list) == 0 {
		list = []string{"/dev/console"}
	}
	if p == nil {
		shell := &program{Argv: []string{"/bin/sh"}}
		for _, console := range list[1:] {
			s.background(ctx, "shell on "+console, func(ctx context.Context) { s.keep(ctx, shell, console) })
		}
		s.show("No program is set to run on this machine; this is a shell.")
		s.keep(ctx, shell, list[0])
		return
	}
	s.keep(ctx, p, list[0])
}

// keep runs a program on a console, again and again.
func (s *system) keep(ctx context.Context, p *program, console string) {
	delay := firstDelay
	for ctx.Err() == nil {
		started := time.Now()
		tail, err := s.runOnce(p, console)
		ran := time.Since(started)
		if ran >= goodRun {
			delay = firstDelay
		}
		how := ending(err)
		text := fmt.Sprintf("%s ended after %s: %s", strings.Join(p.Argv, " "), ran.Round(time.Millisecond), how)
		if tail != "" {
			text += "\nThe last it wrote:\n" + tail
		}
		s.show(fmt.Sprintf("%s\nStarting it again in %s.", text, delay))
		if err := s.events.Emit("program-ended", map[string]any{
			"program": p.Argv[0], "how": how, "seconds": ran.Seconds(), "output": lastBytes(tail, maxOutput),
		}); err != nil {
			s.log.Warn("event not sent", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
	}
}

// runOnce starts the program with the console as its terminal and waits for its end. What it writes to standard error goes
// to the console as well, and the last of it is returned: a Go program's panic is there.
func (s *system) runOnce(p *program, console string) (tail string, err error) {
	terminal, err := os.OpenFile(console, os.O_RDWR, 0)
	if err != nil {
		// A console that is named but missing is no reason not to work.
		s.log.Warn("console not there", "console", console, "err", err)
		if terminal, err = os.OpenFile("/dev/null", os.O_RDWR, 0); err != nil {
			return "", fmt.Errorf("open console: %w", err)
		}
	}
	defer func() { _ = terminal.Close() }()
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir = "/root"
	cmd.Stdin, cmd.Stdout = terminal, terminal
	last := &ring{limit: 16 << 10}
	cmd.Stderr = io.MultiWriter(last, terminal)
	cmd.SysProcAttr = ownTerminal(terminal)
	// A grandchild that keeps standard error open must not keep us waiting.
	cmd.WaitDelay = time.Second
	if err := s.children.start(cmd); err != nil {
		return "", err
	}
	s.log.Info("program started", "argv", p.Argv, "pid", cmd.Process.Pid, "console", console)
	err = s.children.wait(cmd)
	return last.String(), err
}

// ring keeps the last bytes written to it.
type ring struct {
	mu    sync.Mutex
	limit int
	kept  []byte
}

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, p...)
	if over := len(r.kept) - r.limit; over > 0 {
		r.kept = append(r.kept[:0], r.kept[over:]...)
	}
	return len(p), nil
}

func (r *ring) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.kept)
}

// lastBytes returns the end of s, at most n bytes of valid text.
func lastBytes(s string, n int) string {
	if len(s) > n {
		s = s[len(s)-n:]
	}
	return strings.ToValidUTF8(s, "")
}
