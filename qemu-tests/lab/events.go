package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// EventsPort is the name of the virtio-serial port on which a guest reports events, one JSON object per line.
const EventsPort = "org.branchpoint.events"

// maxEventLine is the longest line in bytes that can be an event. Guests keep to 4096.
const maxEventLine = 64 << 10

// maxEventBytes bounds what is kept of one machine's events, against a guest that never stops.
const maxEventBytes = 256 << 20

// Event is one line that a guest has reported: {"time": RFC 3339, "event": name, further fields}.
type Event struct {
	// Seq numbers the events of a machine from 1, over all its power-ons.
	Seq int
	// Received is when the lab saw it, Time is what the guest's clock said.
	Received, Time time.Time
	Name           string
	// Fields holds the whole object. Numbers are json.Number.
	Fields map[string]any
	Raw    string
}

// String returns a field as text: strings as they are, everything else as JSON, "" if there is no such field.
func (e Event) String(field string) string {
	switch v := e.Fields[field].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(b)
	}
}

// Int returns a field that is a whole number.
func (e Event) Int(field string) (int64, bool) {
	n, ok := e.Fields[field].(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return i, err == nil
}

// ParseEvent reads one line. It must be exactly one JSON object with a non-empty string "event"; "time" may be missing.
func ParseEvent(line []byte) (Event, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		return Event{}, fmt.Errorf("parse event: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Event{}, errors.New("parse event: text after the object")
	}
	name, ok := fields["event"].(string)
	if !ok || name == "" {
		return Event{}, errors.New(`parse event: no "event" with a name`)
	}
	e := Event{Name: name, Fields: fields, Raw: string(line)}
	if s, ok := fields["time"].(string); ok {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return Event{}, fmt.Errorf("parse event: %w", err)
		}
		e.Time = t
	}
	return e, nil
}

// recoverEvent finds an event at the end of a line that begins with the rest of another: a guest that is reset while it
// writes leaves half a line, and its next boot goes on in it.
func recoverEvent(line []byte) (Event, bool) {
	for tries := 0; tries < 16; tries++ {
		i := bytes.Index(line[min(1, len(line)):], []byte(`{"`))
		if i < 0 {
			return Event{}, false
		}
		line = line[1+i:]
		if e, err := ParseEvent(line); err == nil {
			return e, true
		}
	}
	return Event{}, false
}

// eventLog keeps every event of a machine, and what came on the port but was none.
type eventLog struct {
	file *os.File

	mu        sync.Mutex
	events    []Event
	malformed []string
	bytes     int
	change    chan struct{}
}

func newEventLog(path string) (*eventLog, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create event log: %w", err)
	}
	return &eventLog{file: f, change: make(chan struct{})}, nil
}

// read takes lines until the stream ends. It reads on whatever comes, as a port that nobody reads blocks the guest.
func (l *eventLog) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, maxEventLine)
	for {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			l.addMalformed(line, "longer than an event may be")
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = br.ReadSlice('\n')
			}
		case err == nil:
			l.add(bytes.TrimRight(line, "\r\n"))
		case len(line) > 0:
			l.addMalformed(line, "cut off")
		}
		if err != nil {
			if isConnectionEnd(err) {
				return nil
			}
			return err
		}
	}
}

func (l *eventLog) add(line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	e, err := ParseEvent(line)
	if err != nil {
		l.addMalformed(line, err.Error())
		var ok bool
		if e, ok = recoverEvent(line); !ok {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes += len(line); l.bytes > maxEventBytes {
		return
	}
	e.Seq = len(l.events) + 1
	e.Received = time.Now()
	l.events = append(l.events, e)
	fmt.Fprintln(l.file, e.Raw)
	close(l.change)
	l.change = make(chan struct{})
}

func (l *eventLog) addMalformed(line []byte, why string) {
	const shown, kept = 200, 100
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.malformed) < kept {
		l.malformed = append(l.malformed, fmt.Sprintf("%s: %.*q", why, shown, line))
	}
}

func (l *eventLog) all() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Event(nil), l.events...)
}

// wait returns the first event that matches, waiting for it until the context ends.
func (l *eventLog) wait(ctx context.Context, match func(Event) bool) (Event, error) {
	for seen := 0; ; {
		l.mu.Lock()
		change, events := l.change, l.events
		l.mu.Unlock()
		for ; seen < len(events); seen++ {
			if match(events[seen]) {
				return events[seen], nil
			}
		}
		select {
		case <-change:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

func (l *eventLog) summary(last int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	from := max(0, len(l.events)-last)
	if from > 0 {
		fmt.Fprintf(&b, "  (%d earlier)\n", from)
	}
	for _, e := range l.events[from:] {
		fmt.Fprintf(&b, "  %d %.500s\n", e.Seq, e.Raw)
	}
	if len(l.events) == 0 {
		b.WriteString("  none\n")
	}
	for _, m := range l.malformed {
		fmt.Fprintf(&b, "  not an event: %s\n", m)
	}
	if l.bytes > maxEventBytes {
		b.WriteString("  and more than is kept\n")
	}
	return b.String()
}
