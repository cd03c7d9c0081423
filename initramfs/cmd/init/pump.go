package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/events"
)

// pumpEvents makes the FIFO and passes each line on to the virtio-serial port, if there is one.
func (s *system) pumpEvents(ctx context.Context, fifo string) {
	if err := os.MkdirAll(filepath.Dir(fifo), 0o755); err != nil {
		s.show(fmt.Sprintf("init: no events: %v", err))
		return
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		s.show(fmt.Sprintf("init: no events: make %s: %v", fifo, err))
		return
	}
	// Open for writing, too, or reading would end whenever the last writer goes.
	r, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		s.show(fmt.Sprintf("init: no events: %v", err))
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	port := ""
	err = pump(r, func() (io.WriteCloser, error) {
		if port == "" {
			port = findPort("/sys", events.Port)
		}
		if port == "" {
			return nil, fs.ErrNotExist
		}
		return os.OpenFile(port, os.O_WRONLY, 0)
	})
	if ctx.Err() == nil {
		s.show(fmt.Sprintf("init: events end: %v", err))
	}
}

// pump copies whole lines from r to the port, which is opened once it is there. Lines before that are dropped; a line that
// could not be written is written again once after opening the port anew.
func pump(r io.Reader, open func() (io.WriteCloser, error)) error {
	lines := bufio.NewReaderSize(r, events.MaxLine)
	var port io.WriteCloser
	defer func() {
		if port != nil {
			_ = port.Close()
		}
	}()
	for skipping := false; ; {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			skipping = true // nobody may write more than MaxLine
			continue
		}
		if err != nil {
			return err
		}
		if skipping {
			skipping = false
			continue
		}
		for range 2 {
			if port == nil {
				if port, err = open(); err != nil {
					port = nil
					break
				}
			}
			if _, err = port.Write(line); err == nil {
				break
			}
			_ = port.Close()
			port = nil
		}
	}
}

// findPort returns the device of the virtio-serial port of that name, "" if there is none.
func findPort(sysfs, name string) string {
	files, err := filepath.Glob(filepath.Join(sysfs, "class/virtio-ports/*/name"))
	if err != nil {
		return ""
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(f)))
		}
	}
	return ""
}
