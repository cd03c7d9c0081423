package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
	"branchpoint/provisioning/sequence/steps"
)

// Console is something to write to. On a screen, progress overwrites itself; on a serial line it is a line now and then.
type Console struct {
	W      io.Writer
	Serial bool
}

// How often progress is written.
const (
	screenEvery = 250 * time.Millisecond
	serialEvery = 5 * time.Second
)

// Screen shows a run, plainly, on every console. Its methods may be called from anywhere.
type Screen struct {
	now      func() time.Time
	consoles []*console

	mu       sync.Mutex
	texts    provisioning.ShownTexts
	meter    Meter
	started  time.Time // the step
	text     string    // the progress's, when it was last shown
	troubled bool
	missing  string    // why content does not come, as shown; empty while it comes
	missed   time.Time // when that was shown
}

// console is a Console with the writer that feeds it.
type console struct {
	Console
	lines chan string
	ended chan struct{}
	shown time.Time
}

// maxLag is how many texts a console may be behind; more are dropped, so that a serial line that blocks never stops a run.
const maxLag = 256

// NewScreen makes a screen of consoles.
func NewScreen(now func() time.Time, list ...Console) *Screen {
	s := &Screen{now: now}
	for _, c := range list {
		k := &console{Console: c, lines: make(chan string, maxLag), ended: make(chan struct{})}
		s.consoles = append(s.consoles, k)
		go func() {
			defer close(k.ended)
			for l := range k.lines {
				_, _ = io.WriteString(k.W, l) // a console that cannot be written to is looked at by nobody
			}
		}()
	}
	return s
}

// consoles opens the consoles that there are: the screen, the first serial port, and standard output where it is neither.
func consoles() []Console {
	var out []Console
	seen := map[uint64]bool{}
	for _, c := range []struct {
		path   string
		serial bool
	}{{"/dev/tty1", false}, {"/dev/ttyS0", true}} {
		f, err := os.OpenFile(c.path, os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			continue
		}
		seen[deviceOf(f)] = true
		out = append(out, Console{f, c.serial})
	}
	if d := deviceOf(os.Stdout); d == 0 || !seen[d] {
		out = append(out, Console{os.Stdout, true})
	}
	return out
}

// deviceOf is the number of the device that a file is, 0 if it is none.
func deviceOf(f *os.File) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	return st.Rdev
}

// Close waits until everything is written, for a moment at most.
func (s *Screen) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.consoles {
		close(c.lines)
	}
	limit := time.After(2 * time.Second)
	for _, c := range s.consoles {
		select {
		case <-c.ended:
		case <-limit:
		}
	}
	s.consoles = nil
}

// put writes whole lines everywhere. The caller holds mu.
func (s *Screen) put(text string) {
	text = strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\r\n") + "\r\n"
	for _, c := range s.consoles {
		t := text
		if !c.Serial {
			t = "\r\x1b[K" + t // over the progress line
		}
		select {
		case c.lines <- t:
		default:
		}
		c.shown = time.Time{}
	}
}

// Say writes lines.
func (s *Screen) Say(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(text)
}

// Trouble says what does not work and is tried again.
func (s *Screen) Trouble(doing string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(renderTrouble(doing, err))
}

// Delivery says when status messages cannot be delivered, and when they can again (nil).
func (s *Screen) Delivery(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.troubled:
		s.put(renderTrouble("report to the branch", err))
	case err == nil && s.troubled:
		s.put("The branch answers again.")
	}
	s.troubled = err != nil
}

// Content says why content does not come, once, and again where that changes; and when it comes again (nil). It reports
// whether it had anything to say. It may be called as often as something is tried.
func (s *Screen) Content(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if s.missing != "" {
			s.put("Content comes again, and the step goes on.")
		}
		said := s.missing != ""
		s.missing = ""
		return said
	}
	text := renderMissing(err)
	now := s.now()
	// Requests that are in flight together fail in different ways, and a screen has few lines.
	if text == s.missing || s.missing != "" && now.Sub(s.missed) < missingEvery {
		return false
	}
	s.missing, s.missed = text, now
	s.put(text)
	return true
}

// missingEvery is how often it is said at most why content does not come.
const missingEvery = time.Minute

// renderMissing says why content does not come: the cause alone, without the address and the names of chunks before it.
func renderMissing(err error) string {
	cause := err
	if c := errors.Unwrap(err); c != nil {
		cause = c
	}
	text := fmt.Sprintf("Cannot fetch content: %v. Trying again; the step goes on by itself.", cause)
	if next := provisioning.NextOf(err); next != "" {
		text += "\n  " + next
	}
	return text
}

func renderTrouble(doing string, err error) string {
	text := fmt.Sprintf("Cannot %s: %v. Trying again.", doing, err)
	if next := provisioning.NextOf(err); next != "" {
		text += "\n  " + next
	}
	return text
}

// renderCards says which network cards have no driver, and what to do; where others have one it is a note.
func renderCards(c network.Cards) string {
	ids := strings.Join(c.IDs(), ", ")
	switch {
	case len(c.Undriven) == 0:
		return "Every network card has a driver now."
	case c.Driven > 0:
		return "Note: there is no driver for the network cards with the PCI ids " + ids + ". They are not used."
	}
	return "There is no driver for this computer's network cards. Their PCI ids are " + ids + ".\n" +
		"  Add a network card that has a driver, or give these ids to your administrator."
}

// Fail shows what ended the work, and what to do.
func (s *Screen) Fail(headline string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(renderFailure(headline, err, s.texts))
}

// renderFailure is the error screen.
func renderFailure(headline string, err error, texts provisioning.ShownTexts) string {
	next := provisioning.NextOf(err)
	if next == "" {
		next = "Tell your administrator what is shown here. The log is in /run/branchpoint/agent.log."
	}
	bar := strings.Repeat("=", 72)
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", bar)
	for _, l := range provisioning.WrapLine(texts.Organization, screenWidth) {
		b.WriteString(l + "\n")
	}
	fmt.Fprintf(&b, "%s\n\nWhat happened:  %v\nWhat to do:     %s\n", headline, err, next)
	b.WriteString(renderHelp(texts) + bar + "\n")
	return b.String()
}

// Done shows the end.
func (s *Screen) Done(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put("\n" + s.organization() + text + "\n")
}

// Show shows an event of the run.
func (s *Screen) Show(e sequence.Event, a *provisioning.Assignment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	switch e.Kind {
	case sequence.EventSequenceStarted:
		s.put(s.organization() + fmt.Sprintf("Computer %s, task sequence %s, %d steps", a.Computer.Name, e.Title, e.Steps))
		if a.Run.Spent {
			s.put("This task sequence was interrupted and starts again.")
		}
	case sequence.EventStepStarted:
		s.started, s.meter, s.text = now, Meter{}, ""
		s.put(fmt.Sprintf("[%d/%d] %s", e.Step, e.Steps, e.Title))
	case sequence.EventProgress:
		s.meter.Add(now, e.Progress.Done)
		line := renderProgress(e.Progress, s.meter)
		changed := e.Progress.Text != s.text
		s.text = e.Progress.Text
		last := e.Progress.Total > 0 && e.Progress.Done == e.Progress.Total
		for _, c := range s.consoles {
			every, text := screenEvery, "\r\x1b[K"+line
			if c.Serial {
				every, text = serialEvery, line+"\r\n"
			}
			if !changed && !last && now.Sub(c.shown) < every {
				continue
			}
			c.shown = now
			select {
			case c.lines <- text:
			default:
			}
		}
	case sequence.EventStepEnded:
		result := "done"
		if e.Err != nil {
			result = fmt.Sprintf("FAILED (exit code %d)", e.ExitCode)
		}
		s.put(fmt.Sprintf("[%d/%d] %s: %s, %s", e.Step, e.Steps, e.Title, result, clock(now.Sub(s.started))))
		if e.Err != nil && e.Output != "" {
			s.put("The last output:\n" + printable(sequence.Tail(e.Output, 1500)))
		}
	}
}

// printable takes out what could change a terminal's state.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if (r < ' ' && r != '\n' && r != '\t') || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, s)
}

// barWidth is the progress bar's, in characters: with everything else a line stays below 80.
const barWidth = 20

// renderProgress is a line of progress.
func renderProgress(p sequence.Progress, m Meter) string {
	if p.Total <= 0 {
		return "      " + clipLine(p.Text, 72)
	}
	done := min(max(p.Done, 0), p.Total)
	full := int(float64(done) / float64(p.Total) * barWidth)
	line := fmt.Sprintf("      [%s%s] %3d%%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), int(float64(done)/float64(p.Total)*100))
	if rate := m.Rate(); rate > 0 {
		line += fmt.Sprintf("  %s/s", steps.Bytes(int64(rate)))
		if left := float64(p.Total-done) / rate; done < p.Total && left < 100*3600 {
			line += fmt.Sprintf("  %s left", clock(time.Duration(left*float64(time.Second))))
		}
	}
	return clipLine(line+"  "+p.Text, 79)
}

// clipLine cuts a line so that it does not wrap: a wrapped line cannot be overwritten.
func clipLine(s string, n int) string {
	if r := []rune(printable(s)); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return printable(s)
}

// clock writes a duration as 0:07 or 1:02:03.
func clock(d time.Duration) string {
	n := int64(d.Round(time.Second) / time.Second)
	if n >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", n/3600, n/60%60, n%60)
	}
	return fmt.Sprintf("%d:%02d", n/60, n%60)
}

// Meter measures a rate over the last seconds.
type Meter struct{ samples []sample }

type sample struct {
	at   time.Time
	done int64
}

// meterWindow is what the rate is an average of, meterStep how far apart its samples are, and meterLeast how many seconds
// it takes to know one.
const (
	meterLeast  = 2.0
	meterWindow = 15 * time.Second
	meterStep   = 250 * time.Millisecond
)

// Add notes how far something is.
func (m *Meter) Add(now time.Time, done int64) {
	if n := len(m.samples); n > 1 && now.Sub(m.samples[n-2].at) < meterStep {
		m.samples[n-1] = sample{now, done}
		return
	}
	m.samples = append(m.samples, sample{now, done})
	for len(m.samples) > 2 && now.Sub(m.samples[0].at) > meterWindow {
		m.samples = m.samples[1:]
	}
}

// Rate is in bytes per second, 0 while it is not known.
func (m Meter) Rate() float64 {
	if len(m.samples) < 2 {
		return 0
	}
	a, b := m.samples[0], m.samples[len(m.samples)-1]
	if d := b.at.Sub(a.at).Seconds(); d >= meterLeast && b.done > a.done {
		return float64(b.done-a.done) / d
	}
	return 0
}
