package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// screens are the consoles on which people may look, whatever the kernel's own console is.
var screens = []string{"/dev/tty1", "/dev/ttyS0"}

// show writes text to every screen there is and to the kernel's log. It is the last resort, so it reports no errors.
func (s *system) show(text string) {
	shown := strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\r\n") + "\r\n"
	for _, path := range screens {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		_, _ = io.WriteString(f, "\r\n"+shown)
		_ = f.Close()
	}
	if s.log != nil {
		for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
			s.log.Info("shown", "text", line) // quietly: it is on the screens already
		}
	} else {
		fmt.Fprintln(os.Stderr, text)
	}
}

// guard runs part and reports whether it panicked, which it shows with the stack.
func guard(name string, show func(string), part func()) (panicked bool) {
	defer func() {
		if p := recover(); p != nil {
			panicked = true
			show(fmt.Sprintf("init: %s panicked: %v\n%s", name, p, debug.Stack()))
		}
	}()
	part()
	return false
}

// kernelLog writes each line to the kernel's log, where dmesg shows it with its time.
type kernelLog struct{ file *os.File }

// maxRecord is the longest line the kernel's log takes whole (PRINTKRB_RECORD_MAX is 1024, prefix included).
const maxRecord = 900

func (k kernelLog) Write(p []byte) (int, error) {
	priority := "<6>"
	switch {
	case bytes.Contains(p, []byte("level=ERROR")):
		priority = "<3>"
	case bytes.Contains(p, []byte("level=WARN")):
		priority = "<4>"
	}
	line := bytes.TrimRight(p, "\n")
	if len(line) > maxRecord {
		line = line[:maxRecord]
	}
	if _, err := k.file.WriteString(priority + "init: " + string(line)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// openLog returns a logger into the kernel's log, or to standard error where that cannot be had.
func openLog() *slog.Logger {
	// The kernel would drop all but a few messages in five seconds.
	_ = os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0o644)
	var w io.Writer = os.Stderr
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		w = kernelLog{f}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // the kernel has its own
		}
		return a
	}}))
}

// consoles returns the terminals behind /dev/console, the preferred one first, from /sys/class/tty/console/active, which
// names it last.
func consoles(active string) []string {
	var list []string
	fields := strings.Fields(active)
	for i := len(fields) - 1; i >= 0; i-- {
		name := fields[i]
		if name == "tty0" {
			name = "tty1" // tty0 is whichever is in front
		}
		list = append(list, "/dev/"+name)
	}
	return list
}
