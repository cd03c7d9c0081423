package screen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// terminal is a console with scripted input.
type terminal struct {
	in   io.Reader
	mu   sync.Mutex
	out  bytes.Buffer
	done chan struct{}
}

func (t *terminal) Read(b []byte) (int, error) {
	n, err := t.in.Read(b)
	if err != nil {
		close(t.done)
	}
	return n, err
}

func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.Write(b)
}

func (t *terminal) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.String()
}

// expect waits until the terminal shows everything that is wanted.
func (t *terminal) expect(tb testing.TB, want ...string) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, w := range want {
		for !strings.Contains(t.String(), w) {
			if time.Now().After(deadline) {
				tb.Fatalf("%q is missing in:\n%.4000s", w, t.String())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// held is a terminal that takes nothing until it is released.
type held struct {
	terminal
	writing, release chan struct{}
	once             sync.Once
}

func (h *held) Write(b []byte) (int, error) {
	h.once.Do(func() { close(h.writing) })
	<-h.release
	return h.terminal.Write(b)
}

func TestAHeldTerminalHoldsNobody(t *testing.T) {
	for _, redraw := range []bool{true, false} {
		h := &held{writing: make(chan struct{}), release: make(chan struct{})}
		s := New("Branchpoint", nil, []Console{{Name: "tty1", ReadWriter: h, Redraw: redraw}}, nil)
		s.Set("Topic", Item{Text: "first"})
		<-h.writing
		for i := range 5000 {
			s.Set("Topic", Item{Text: fmt.Sprintf("state %d, at some length", i)})
		}
		s.Set("Topic", Item{Text: "last"})
		close(h.release)
		h.expect(t, "first", "last")
		if n := len(h.String()); n > 2*maxPending {
			t.Errorf("redraw %v: %d bytes were kept for a terminal that took none", redraw, n)
		}
	}
}

func TestSetShowsStateAndNextStep(t *testing.T) {
	tty := &terminal{in: strings.NewReader(""), done: make(chan struct{})}
	s := New("Branchpoint", []string{"Network", "Data disk"}, []Console{{Name: "ttyS0", ReadWriter: tty}}, nil)
	s.Set("Data disk", Item{State: Problem, Text: "none\nvdb holds ext4", Next: "Attach a blank disk."})
	s.Set("Network", Item{State: OK, Text: "eth0 \x1b[31m192.0.2.1"})
	s.Set("Network", Item{State: OK, Text: "eth0 \x1b[31m192.0.2.1"})
	s.Set("Central", Item{State: OK, Text: "the last"})
	tty.expect(t, "none", "vdb holds ext4", "the last")
	if strings.Count(tty.String(), "192.0.2.1") != 1 {
		t.Error("what is no news was printed again")
	}
	text := s.Text()
	if strings.Index(text, "Network") > strings.Index(text, "Data disk") {
		t.Errorf("topics are out of order:\n%s", text)
	}
	for _, want := range []string{"[!!] Data disk    none", "vdb holds ext4", "→ Attach a blank disk."} {
		if !strings.Contains(text, want) || !strings.Contains(tty.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	if strings.Contains(tty.String(), "\x1b[31m") {
		t.Error("a control sequence from outside reached the terminal")
	}
}

func TestCommands(t *testing.T) {
	in, typed := io.Pipe()
	tty := &terminal{in: in, done: make(chan struct{})}
	s := New("Branchpoint", nil, []Console{{Name: "tty1", ReadWriter: tty, Redraw: true}}, []Command{
		{Name: "say", Help: "says it", Run: func(_ context.Context, args []string, out io.Writer) error {
			fmt.Fprintln(out, strings.Join(args, "+"))
			return nil
		}},
		{Name: "fail", Run: func(context.Context, []string, io.Writer) error { return errors.New("it broke") }},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.Serve(ctx)
	// One after the other, as a person types: a screen that is redrawn shows the last answer.
	for _, c := range []struct{ line, answer string }{
		{"help", "says it"},
		{"say hello you", "hello+you\r\n"},
		{"fail", "fail: it broke"},
		{"nonsense", `there is no command "nonsense"`},
		{strings.Repeat("x", 3000), `there is no command "xxx`},
	} {
		if _, err := io.WriteString(typed, c.line+"\n"); err != nil {
			t.Fatal(err)
		}
		tty.expect(t, c.answer)
	}
}
