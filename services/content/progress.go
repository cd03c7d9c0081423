package content

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Bar shows progress: on a terminal as a bar that is drawn anew a few times a second, elsewhere as a line every few
// seconds.
type Bar struct {
	w        io.Writer
	terminal bool
	label    string
	now      func() time.Time

	mu           sync.Mutex
	begin, drawn time.Time
	last         Progress
	width        int
}

const (
	drawEvery  = 200 * time.Millisecond
	printEvery = 5 * time.Second
	barWidth   = 30
)

// NewBar returns a Bar that writes to w and calls what is going on label.
func NewBar(w io.Writer, label string) *Bar {
	f, ok := w.(*os.File)
	return &Bar{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), label: label, now: time.Now}
}

// Update shows p, unless the last drawing was just now.
func (b *Bar) Update(p Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.begin.IsZero() {
		b.begin = now
		if !b.terminal {
			b.drawn = now
		}
	}
	b.last = p
	every := printEvery
	if b.terminal {
		every = drawEvery
	}
	if now.Sub(b.drawn) >= every {
		b.drawn = now
		b.draw(now)
	}
}

// Finish shows how it ended: the last progress as complete, or, if it failed, nothing further.
func (b *Bar) Finish(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.begin.IsZero() {
		return
	}
	if err == nil {
		if b.last.Total > 0 {
			b.last.Done = b.last.Total
		}
		b.draw(b.now())
	}
	if b.terminal {
		fmt.Fprintln(b.w)
	}
}

func (b *Bar) draw(now time.Time) {
	line := line(b.label, b.last, now.Sub(b.begin), b.terminal)
	if !b.terminal {
		fmt.Fprintln(b.w, line)
		return
	}
	pad := max(0, b.width-len(line))
	b.width = len(line)
	fmt.Fprintf(b.w, "\r%s%s", line, strings.Repeat(" ", pad))
}

// line describes progress after the given time.
func line(label string, p Progress, took time.Duration, bar bool) string {
	var s strings.Builder
	s.WriteString(label)
	if p.Total > 0 {
		share := min(1, float64(p.Done)/float64(p.Total))
		if bar {
			n := int(share * barWidth)
			fmt.Fprintf(&s, " [%s%s]", strings.Repeat("#", n), strings.Repeat("-", barWidth-n))
		}
		fmt.Fprintf(&s, " %3d%% of %s", int(share*100), size(p.Total))
	} else {
		fmt.Fprintf(&s, " %s", size(p.Done))
	}
	if sec := took.Seconds(); sec >= 1 {
		rate := float64(p.Done) / sec
		fmt.Fprintf(&s, ", %s/s", size(int64(rate)))
		if p.Done > 0 && p.Done < p.Total {
			fmt.Fprintf(&s, ", %s left", time.Duration(float64(p.Total-p.Done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	fmt.Fprintf(&s, ", %s new", size(p.New))
	return s.String()
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
