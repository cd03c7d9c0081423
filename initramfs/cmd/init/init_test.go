package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/events"
)

func TestReadProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main")
	if p, err := readProgram(path); p != nil || err != nil {
		t.Fatalf("no file: %v, %v", p, err)
	}
	for text, ok := range map[string]bool{
		`{"argv":["/bbin/agent","x"]}`: true, `{"argv":[]}`: false, `{"argv":[""]}`: false, `{}`: false, ``: false,
		`{"argv":["a"],"env":1}`: false, `{"argv":"a"}`: false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := readProgram(path)
		if (err == nil) != ok || (ok && p.Argv[0] != "/bbin/agent") {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
}

func TestGuardShowsPanicWithStack(t *testing.T) {
	var shown string
	var list []int
	if !guard("part", func(s string) { shown = s }, func() { _ = list[len(list)] }) {
		t.Fatal("a panic was not seen")
	}
	if !strings.Contains(shown, "part panicked: runtime error: index out of range") || !strings.Contains(shown, "init_test.go") {
		t.Fatalf("shown: %s", shown)
	}
	if guard("part", func(string) { t.Error("shown") }, func() {}) {
		t.Fatal("a panic out of nowhere")
	}
}

func TestConsoles(t *testing.T) {
	for active, want := range map[string][]string{
		"tty0 ttyS0\n": {"/dev/ttyS0", "/dev/tty1"}, "ttyS0 tty0": {"/dev/tty1", "/dev/ttyS0"}, "": nil,
	} {
		if got := consoles(active); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v", active, got)
		}
	}
}

func TestRunOnceKeepsLastWords(t *testing.T) {
	s := &system{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	tail, err := s.runOnce(&program{Argv: []string{"/bin/sh", "-c", "yes long | head -c 40000 >&2; echo last words >&2; exit 7"}}, "/dev/null")
	if ending(err) != "exit status 7" || !strings.HasSuffix(tail, "last words\n") || len(tail) != 16<<10 {
		t.Fatalf("%d bytes, %v", len(tail), err)
	}
	if _, err := s.runOnce(&program{Argv: []string{"/no/such/program"}}, "/dev/nonesuch"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(ending(err), "no such file") {
		t.Fatalf("missing program: %v", err)
	}
	if _, err := s.runOnce(&program{Argv: []string{"/bin/sh", "-c", "kill -9 $$"}}, "/dev/null"); ending(err) != "signal: killed" {
		t.Fatalf("killed: %v", err)
	}
}

// TestReapLeavesOwnChildren checks that the reaper takes orphans and nothing else.
func TestReapLeavesOwnChildren(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	c := &children{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.reap(ctx); close(done) }()
	defer func() { stop(); <-done }()
	for range 20 {
		var out bytes.Buffer
		// The orphan's number, and an end of our own at about the same time.
		cmd := exec.Command("/bin/sh", "-c", "sh -c 'exit 3' & echo $!; exit 5")
		cmd.Stdout = &out
		if err := c.start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := c.wait(cmd); ending(err) != "exit status 5" {
			t.Fatalf("own child: %v", err)
		}
	}
	// No child is left once the reaper has seen the last signal.
	for deadline := 0; ; deadline++ {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.ECHILD) {
			return
		}
		if deadline > 100_000_000 {
			t.Fatalf("orphans are left: %v, %+v", err, info)
		}
	}
}

type fakePort struct {
	bytes.Buffer
	fail int
}

func (p *fakePort) Close() error { return nil }

func (p *fakePort) Write(b []byte) (int, error) {
	if p.fail > 0 {
		p.fail--
		return 0, errors.New("gone")
	}
	return p.Buffer.Write(b)
}

func TestPump(t *testing.T) {
	port := &fakePort{}
	there := false
	lines := "{\"dropped\":1}\n{\"a\":1}\n" + strings.Repeat("x", 3*events.MaxLine) + "\n{\"b\":2}\n{\"half"
	opened := 0
	err := pump(strings.NewReader(lines), func() (io.WriteCloser, error) {
		opened++
		if !there {
			there = true
			return nil, os.ErrNotExist
		}
		port.fail = 0
		if opened == 2 {
			port.fail = 1 // the first port is gone at once
		}
		return port, nil
	})
	if !errors.Is(err, io.EOF) || port.String() != "{\"a\":1}\n{\"b\":2}\n" || opened != 3 {
		t.Fatalf("%v, opened %d times, %q", err, opened, port.String())
	}
}

func TestFindPort(t *testing.T) {
	sysfs := t.TempDir()
	for port, name := range map[string]string{"vport1p1": "other\n", "vport1p2": events.Port + "\n"} {
		dir := filepath.Join(sysfs, "class/virtio-ports", port)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := findPort(sysfs, events.Port); got != "/dev/vport1p2" {
		t.Fatalf("found %q", got)
	}
	if got := findPort(t.TempDir(), events.Port); got != "" {
		t.Fatalf("found %q", got)
	}
}
