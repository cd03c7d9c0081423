package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
)

// serialKept is how much of a serial console stays in memory. The file has all of it.
const serialKept = 8 << 20

// serialOverlap is how long a match may be that ends in new text.
const serialOverlap = 8 << 10

// serialLog is what a machine has written on its first serial port: as it came in a file, without terminal control
// sequences and carriage returns in memory, so that a text can be looked for whatever a boot loader does with its cursor.
type serialLog struct {
	file *os.File

	mu     sync.Mutex
	text   []byte
	base   int // offset of text[0]
	esc    escapeState
	change chan struct{}
}

func newSerialLog(path string) (*serialLog, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create serial log: %w", err)
	}
	return &serialLog{file: f, change: make(chan struct{})}, nil
}

func (l *serialLog) read(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			l.add(buf[:n])
		}
		if err != nil {
			if isConnectionEnd(err) {
				return nil
			}
			return err
		}
	}
}

func (l *serialLog) add(b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.file.Write(b) // a full disk shows in everything else
	for _, c := range b {
		if l.esc.keep(c) {
			l.text = append(l.text, c)
		}
	}
	if over := len(l.text) - serialKept; over > serialKept/4 {
		l.text = append(l.text[:0], l.text[over:]...)
		l.base += over
	}
	close(l.change)
	l.change = make(chan struct{})
}

func (l *serialLog) end() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base + len(l.text)
}

// wait returns the first match after the offset and the offset of its end.
func (l *serialLog) wait(ctx context.Context, from int, re *regexp.Regexp) ([]string, int, error) {
	for {
		l.mu.Lock()
		start := max(from, l.base) - l.base
		start = min(start, len(l.text))
		window := l.text[start:]
		loc := re.FindSubmatchIndex(window)
		var match []string
		if loc != nil {
			for i := 0; i < len(loc); i += 2 {
				s := ""
				if loc[i] >= 0 {
					s = string(window[loc[i]:loc[i+1]])
				}
				match = append(match, s)
			}
			end := l.base + start + loc[1]
			l.mu.Unlock()
			return match, end, nil
		}
		from = max(from, l.base+len(l.text)-serialOverlap)
		change := l.change
		l.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// tail returns the last lines.
func (l *serialLog) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := bytes.TrimRight(l.text, "\n")
	at := len(t)
	for range lines {
		i := bytes.LastIndexByte(t[:at], '\n')
		if i < 0 {
			at = 0
			break
		}
		at = i
	}
	return string(bytes.TrimLeft(t[at:], "\n"))
}

// escapeState follows terminal control sequences (ECMA-48) to leave them out.
type escapeState int

const (
	escText escapeState = iota
	escStart
	escControl // ESC [ … final byte
	escString  // ESC ] … BEL or ESC \
	escOne     // ESC ( x
)

func (s *escapeState) keep(c byte) bool {
	switch *s {
	case escStart:
		switch c {
		case '[':
			*s = escControl
		case ']', 'P', '_', '^':
			*s = escString
		case '(', ')', '#', '%':
			*s = escOne
		case 0x1b:
		default:
			*s = escText
		}
		return false
	case escControl:
		if c >= 0x40 && c <= 0x7e {
			*s = escText
		} else if c == 0x1b {
			*s = escStart
		} else if c == '\n' { // not a sequence after all
			*s = escText
			return true
		}
		return false
	case escString:
		if c == 0x07 || c == '\n' {
			*s = escText
		} else if c == 0x1b {
			*s = escStart
		}
		return false
	case escOne:
		*s = escText
		return false
	}
	if c == 0x1b {
		*s = escStart
		return false
	}
	return c != '\r' && c != 0
}
