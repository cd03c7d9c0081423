package events

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func testEmitter(t *testing.T) *Emitter {
	t.Helper()
	e := New(func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600)) })
	e.path = filepath.Join(t.TempDir(), "events")
	return e
}

func TestEmitReachesReader(t *testing.T) {
	e := testEmitter(t)
	if err := unix.Mkfifo(e.path, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(e.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	const writers, each = 8, 20
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				if err := e.Emit("step", map[string]any{"writer": w, "n": n, "pad": strings.Repeat("x", 3000), "event": "forged"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	for len(seen) < writers*each && lines.Scan() {
		var got struct {
			Time, Event string
			Writer, N   int
		}
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatalf("lines mixed: %v: %s", err, lines.Text())
		}
		if got.Event != "step" || got.Time != "2026-01-02T02:04:05Z" {
			t.Fatalf("got %+v", got)
		}
		seen[fmt.Sprint(got.Writer, " ", got.N)] = true
	}
	all.Wait()
}

func TestEmitWithoutReader(t *testing.T) {
	e := testEmitter(t)
	if err := e.Emit("x", nil); err != nil {
		t.Fatalf("no FIFO: %v", err)
	}
	if err := unix.Mkfifo(e.path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Emit("x", nil); err != nil {
		t.Fatalf("no reader: %v", err)
	}
	r, err := os.OpenFile(e.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	// A reader that never reads: the pipe fills, and the writer gives up.
	for n := 0; ; n++ {
		err := e.Emit("x", map[string]any{"pad": strings.Repeat("x", 4000)})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil || n > 1000 {
			t.Fatalf("after %d events: %v", n, err)
		}
	}
}

func TestEmitRefuses(t *testing.T) {
	e := testEmitter(t)
	if err := e.Emit("x", map[string]any{"pad": strings.Repeat("x", MaxLine)}); err == nil {
		t.Error("a line longer than a pipe takes whole was accepted")
	}
	if err := e.Emit("x", map[string]any{"f": func() {}}); err == nil {
		t.Error("a function was encoded")
	}
	if err := os.WriteFile(e.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Emit("x", nil); err == nil {
		t.Error("an ordinary file was filled")
	}
}
