package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// errOff says that a machine went off while something was expected of it.
var errOff = errors.New("the machine is off")

// errPanic says that the guest's kernel has panicked.
var errPanic = errors.New("the guest's kernel has panicked")

var kernelPanic = regexp.MustCompile(`Kernel panic - not syncing[^\n]*`)

// watch makes a context that also ends when the machine goes off, or its kernel panics.
func (m *Machine) watch(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancelLimit := m.lab.limit(limit)
	ctx, cancel := context.WithCancelCause(ctx)
	m.mu.Lock()
	p, readers := m.proc, m.readers
	m.mu.Unlock()
	if p == nil {
		cancel(errors.New("the machine was never started"))
	} else {
		go func() {
			if p.wait(ctx) == nil {
				readers.Wait() // what it has said last counts
				cancel(errOff)
			}
		}()
	}
	if !m.config.MayPanic {
		go func() {
			if _, _, err := m.serial.wait(ctx, 0, kernelPanic); err == nil {
				cancel(errPanic)
			}
		}()
	}
	return ctx, func() { cancel(nil); cancelLimit() }
}

// AwaitEvent returns the first event of that name that match accepts, waiting for it up to the time limit. Events that came
// before the call count: use [After] to leave them out. A nil match accepts all. The error says what was missing, and what
// the machine did instead.
func (m *Machine) AwaitEvent(limit time.Duration, name string, match func(Event) bool) (Event, error) {
	ctx, cancel := m.watch(limit)
	defer cancel()
	is := func(e Event) bool { return e.Name == name && (match == nil || match(e)) }
	e, err := m.events.wait(ctx, is)
	if err == nil {
		return e, nil
	}
	for _, e := range m.events.all() { // it may have been the last word before the end
		if is(e) {
			return e, nil
		}
	}
	return Event{}, m.missing(fmt.Sprintf("event %q", name), limit, err)
}

// WaitEvent is AwaitEvent for the test's goroutine: the test fails if the event does not come.
func (m *Machine) WaitEvent(limit time.Duration, name string, match func(Event) bool) Event {
	m.lab.t.Helper()
	e, err := m.AwaitEvent(limit, name, match)
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return e
}

// Events returns all events so far, in order.
func (m *Machine) Events() []Event { return m.events.all() }

// After accepts events that came after e.
func After(e Event) func(Event) bool {
	return func(o Event) bool { return o.Seq > e.Seq }
}

// Field accepts events whose field has that text (see [Event.String]).
func Field(name, value string) func(Event) bool {
	return func(e Event) bool { return e.String(name) == value }
}

// All accepts what all of them accept.
func All(match ...func(Event) bool) func(Event) bool {
	return func(e Event) bool {
		for _, f := range match {
			if !f(e) {
				return false
			}
		}
		return true
	}
}

// SerialMark returns where the serial console is now, for [Machine.WaitSerialAfter].
func (m *Machine) SerialMark() int { return m.serial.end() }

// WaitSerial waits until the serial console has shown a text, ever since the machine was made, and returns the match and its
// groups. Terminal control sequences and carriage returns are left out. A match is at most 8 KiB long if it grows in pieces.
func (m *Machine) WaitSerial(limit time.Duration, pattern string) []string {
	m.lab.t.Helper()
	match, _ := m.WaitSerialAfter(0, limit, pattern)
	return match
}

// WaitSerialAfter is WaitSerial for what comes after the mark. It also returns the mark of the match's end.
func (m *Machine) WaitSerialAfter(mark int, limit time.Duration, pattern string) ([]string, int) {
	m.lab.t.Helper()
	match, end, err := m.AwaitSerial(mark, limit, pattern)
	if err != nil {
		m.lab.t.Fatal(err)
	}
	return match, end
}

// AwaitSerial is WaitSerialAfter for any goroutine.
func (m *Machine) AwaitSerial(mark int, limit time.Duration, pattern string) ([]string, int, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, 0, fmt.Errorf("machine %s: %w", m.name, err)
	}
	ctx, cancel := m.watch(limit)
	defer cancel()
	match, end, err := m.serial.wait(ctx, mark, re)
	if err != nil {
		over, stop := context.WithCancel(context.Background())
		stop()
		if match, end, e := m.serial.wait(over, mark, re); e == nil {
			return match, end, nil
		}
		return nil, 0, m.missing(fmt.Sprintf("%q on the serial console", pattern), limit, err)
	}
	return match, end, nil
}

// SerialText returns what the serial console has shown after the mark, the last 8 MiB at most.
func (m *Machine) SerialText(mark int) string {
	m.serial.mu.Lock()
	defer m.serial.mu.Unlock()
	return string(m.serial.text[min(max(0, mark-m.serial.base), len(m.serial.text)):])
}

// WaitOff waits until the machine has powered itself off (or was reset, with NoReboot). The test fails if it stays on.
func (m *Machine) WaitOff(limit time.Duration) {
	m.lab.t.Helper()
	m.mu.Lock()
	p, tpm, readers := m.proc, m.tpm, m.readers
	m.mu.Unlock()
	if p == nil {
		m.lab.t.Fatalf("machine %s: wait until it is off: it was never started", m.name)
		return
	}
	ctx, cancel := m.lab.limit(limit)
	defer cancel()
	if err := p.wait(ctx); err != nil {
		m.lab.t.Fatal(m.missing("the end of the machine", limit, err))
	}
	readers.Wait()
	tpm.kill()
	if !p.cmd.ProcessState.Success() {
		m.lab.t.Fatalf("machine %s: QEMU ended with %v: %s", m.name, p.cmd.ProcessState, m.qemuSaid())
	}
}

// WaitReboots waits until the guest has reset the machine n times in all.
func (m *Machine) WaitReboots(limit time.Duration, n int) {
	m.lab.t.Helper()
	ctx, cancel := m.watch(limit)
	defer cancel()
	if err := m.awaitQMP(ctx, func() bool { return m.reboots() >= n }); err != nil {
		m.lab.t.Fatal(m.missing(fmt.Sprintf("reboot number %d", n), limit, err))
	}
}

// missing describes what did not come, with what helps to see why.
func (m *Machine) missing(what string, limit time.Duration, err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("not within %v", limit)
	case errors.Is(err, errPanic):
		why = errPanic.Error() + ": " + kernelPanic.FindString(m.SerialText(0))
	case errors.Is(err, errOff):
		why = fmt.Sprintf("%v (QEMU: %v) %s", errOff, m.proc.cmd.ProcessState, m.qemuSaid())
	}
	var qmp []string
	m.mu.Lock()
	for _, e := range m.qmpLog[max(0, len(m.qmpLog)-10):] {
		qmp = append(qmp, e.Name)
	}
	m.mu.Unlock()
	return fmt.Errorf("machine %s: %s is missing: %s\nlast events:\n%slast messages of QEMU: %s\nend of the serial console:\n%s\nartifacts: %s",
		m.name, what, why, m.events.summary(15), strings.Join(qmp, " "), indent(m.serial.tail(40)), m.dir)
}

func indent(s string) string {
	if s == "" {
		return "  (nothing)"
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ")
}
