// Package events writes what happens in a machine for whoever runs it in a virtual machine: one JSON object per line into
// a FIFO that PID 1 reads and passes on to a virtio-serial port. On real hardware nobody listens, and that is no error.
package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// FIFO is where programs write events and PID 1 reads them.
const FIFO = "/run/branchpoint/events"

// Port is the name of the virtio-serial port events go to.
const Port = "org.branchpoint.events"

// MaxLine is the longest line in bytes, its newline included: what a pipe takes in one piece (PIPE_BUF of Linux, pipe(7)),
// so that lines of several programs never mix.
const MaxLine = 4096

// patience is how long Emit waits for room in a full pipe.
const patience = 2 * time.Second

// Emitter writes events. Its zero value is not usable; see New.
type Emitter struct {
	path string
	now  func() time.Time
}

// New returns an emitter into FIFO that takes its times from now.
func New(now func() time.Time) *Emitter { return &Emitter{path: FIFO, now: now} }

// Emit writes one event with fields, whose values are strings, numbers, booleans or lists of them. Fields named "time" and "event" are
// overwritten. Without a FIFO or a reader it does nothing. It waits at most two seconds for a slow reader.
func (e *Emitter) Emit(event string, fields map[string]any) error {
	line, err := Line(e.now(), event, fields)
	if err != nil {
		return err
	}
	// Without O_CREATE: a file in the FIFO's place would fill memory.
	f, err := os.OpenFile(e.path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("emit event %s: %w", event, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("emit event %s: %w", event, err)
	}
	if info.Mode()&fs.ModeNamedPipe == 0 {
		return fmt.Errorf("emit event %s: %s is not a FIFO", event, e.path)
	}
	if err := f.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("emit event %s: %w", event, err)
	}
	if _, err := f.Write(line); err != nil {
		return fmt.Errorf("emit event %s: %w", event, err)
	}
	return nil
}

// Line encodes an event as it goes through the FIFO.
func Line(now time.Time, event string, fields map[string]any) ([]byte, error) {
	object := make(map[string]any, len(fields)+2)
	for k, v := range fields {
		object[k] = v
	}
	object["time"] = now.UTC().Format(time.RFC3339Nano)
	object["event"] = event
	line, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", event, err)
	}
	if len(line)+1 > MaxLine {
		return nil, fmt.Errorf("event %s is %d bytes long, more than %d", event, len(line)+1, MaxLine)
	}
	return append(line, '\n'), nil
}
