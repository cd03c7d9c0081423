package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func newTestEvents(t testing.TB) *eventLog {
	t.Helper()
	l, err := newEventLog(filepath.Join(t.TempDir(), "events"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.file.Close() })
	return l
}

func TestEvents(t *testing.T) {
	in := strings.Join([]string{
		`{"time":"2026-01-02T03:04:05Z","event":"first","step":"Partition Disk","code":9007199254740993,"list":[1,2]}`,
		``,
		`garbage`,
		`{"event":"two"} trailing`,
		`{"event":""}`,
		`[1]`,
		`{"event":"bad time","time":"yesterday"}`,
		"\x00\xff\xfe",
		`{"event":"long","x":"` + strings.Repeat("x", 2*maxEventLine) + `"}`,
		`{"event":"just fits","x":"` + strings.Repeat("x", 4000) + `"}` + "\r",
		`{"event":"cut by a re{"event":"after the reset","n":1}`,
		`{"event":"last"}`,
		`{"event":"cut o`,
	}, "\n")
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(in), "in bytes": iotest.OneByteReader(strings.NewReader(in)),
	} {
		t.Run(name, func(t *testing.T) {
			l := newTestEvents(t)
			if err := l.read(r); err != nil {
				t.Fatal(err)
			}
			var names []string
			for i, e := range l.all() {
				names = append(names, e.Name)
				if e.Seq != i+1 {
					t.Errorf("event %d has number %d", i, e.Seq)
				}
			}
			if got, want := strings.Join(names, ","), "first,just fits,after the reset,last"; got != want {
				t.Errorf("events are %s, not %s", got, want)
			}
			e := l.all()[0]
			if n, ok := e.Int("code"); !ok || n != 9007199254740993 {
				t.Errorf("code is %d", n)
			}
			if e.String("step") != "Partition Disk" || e.String("list") != "[1,2]" || e.String("none") != "" || e.Time.Year() != 2026 {
				t.Errorf("fields are %v", e.Fields)
			}
			if len(l.malformed) != 9 {
				t.Errorf("%d lines are malformed, not 9: %q", len(l.malformed), l.malformed)
			}
		})
	}
}

func TestEventWait(t *testing.T) {
	l := newTestEvents(t)
	r, w := io.Pipe()
	go l.read(r)
	defer w.Close()
	go func() {
		for i := range 100 {
			fmt.Fprintf(w, "{\"event\":\"tick\",\"n\":%d}\n", i)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	a, err := l.wait(ctx, Field("n", "41"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.wait(ctx, All(After(a), func(e Event) bool { return e.Name == "tick" }))
	if err != nil || b.String("n") != "42" {
		t.Errorf("after 41 came %v: %v", b.Raw, err)
	}
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := l.wait(short, Field("n", "100")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an event that never came: %v", err)
	}
	if s := l.summary(2); !strings.Contains(s, "earlier") || !strings.Contains(s, `"n":99`) {
		t.Errorf("summary is %s", s)
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("{\"event\":\"x\",\"time\":\"2026-01-02T03:04:05Z\"}\n"))
	f.Add([]byte("{\"event\":\"cut{\"event\":\"x\"}\n{\n\x00"))
	f.Add([]byte(`{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"{"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newTestEvents(t)
		// Whatever came before, an event on a line of its own is seen.
		b = append(append([]byte{}, b...), "\n{\"event\":\"the last\"}\n"...)
		if err := l.read(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		list := l.all()
		if len(list) == 0 || list[len(list)-1].Name != "the last" {
			t.Errorf("the last event is lost after %q", b)
		}
	})
}

func TestSerialLog(t *testing.T) {
	l, err := newSerialLog(filepath.Join(t.TempDir(), "serial"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.file.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() {
		for _, s := range []string{"\x1b[2J\x1b[01;01Hlog", "\x1b[0;37min", ": \r\n\x1b]0;title\x07user\x1b(B name=", "x\n"} {
			l.add([]byte(s))
		}
	}()
	m, end, err := l.wait(ctx, 0, regexp.MustCompile(`login: \nuser name=(\w)`))
	if err != nil || m[1] != "x" {
		t.Fatalf("match is %q: %v; text is %q", m, err, l.text)
	}
	over, stop := context.WithCancel(ctx)
	stop()
	if _, _, err := l.wait(over, end, regexp.MustCompile(`login`)); err == nil {
		t.Error("a text before the mark counts")
	}
	if got := l.tail(1); got != "user name=x" {
		t.Errorf("the last line is %q", got)
	}
	// A guest that never stops: memory is bounded, marks stay right.
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for range 24 {
		l.add(chunk)
	}
	mark := l.end()
	l.add([]byte("the end"))
	if _, _, err := l.wait(ctx, mark, regexp.MustCompile(`^the end$`)); err != nil {
		t.Error(err)
	}
	if len(l.text) > serialKept*3/2 {
		t.Errorf("%d bytes are kept", len(l.text))
	}
}

func FuzzSerialText(f *testing.F) {
	f.Add([]byte("\x1b[31mx\x1b]0;never ended"))
	f.Add([]byte("\x1b\x1b[\x1b(("))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &serialLog{change: make(chan struct{})}
		l.add(b)
		l.add([]byte("\n\n[ok] a line\n"))
		if !bytes.HasSuffix(l.text, []byte("[ok] a line\n")) {
			t.Errorf("a line after %q became %q", b, l.text)
		}
	})
}
