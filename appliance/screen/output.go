package screen

import (
	"io"
	"strings"
	"sync"
)

// maxPending bounds what waits for a console, in bytes; the oldest goes first.
const maxPending = 64 << 10

// output writes to one console in its own time: a screen that Scroll Lock holds, or a serial line that nobody reads, must
// not hold those who have something to show.
type output struct {
	Console

	mu      sync.Mutex
	pending string
	held    bool          // the console is another's: what is shown is not for it
	wake    chan struct{} // has a value when something is pending
}

// newOutput makes an output, whose goroutine lives as long as the program.
func newOutput(c Console) *output {
	o := &output{Console: c, wake: make(chan struct{}, 1)}
	go func() {
		for range o.wake {
			o.mu.Lock()
			text := o.pending
			o.pending = ""
			o.mu.Unlock()
			// With the line ends a terminal in raw mode wants. A console that is gone is no reason to stop.
			_, _ = io.WriteString(o, strings.ReplaceAll(text, "\n", "\r\n"))
		}
	}()
	return o
}

// add writes text after what waits.
func (o *output) add(text string) { o.put(func(pending string) string { return pending + text }) }

// replace writes text in place of what waits.
func (o *output) replace(text string) { o.put(func(string) string { return text }) }

// hold keeps everything from the console, also what waits for it, until it is let go.
func (o *output) hold(held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held, o.pending = held, ""
}

func (o *output) put(change func(pending string) string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.held {
		return
	}
	o.pending = change(o.pending)
	o.pending = strings.ToValidUTF8(o.pending[max(0, len(o.pending)-maxPending):], "")
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
