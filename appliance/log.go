package appliance

import (
	"bytes"
	"io"
	"os"
	"sync"
)

// maxLog bounds the log in bytes; the one before it is kept beside, so twice that much of memory is used at most.
const maxLog = 4 << 20

// LogPath is where the log of the running appliance is, in memory.
const LogPath = "/run/branchpoint/appliance.log"

// Log is the appliance's log: a bounded file in memory, and the kernel's log, which the serial console shows.
type Log struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
	kmsg io.Writer
}

// OpenLog opens the log. It works, with less, where a part cannot be opened.
func OpenLog() *Log {
	l := &Log{path: LogPath, kmsg: io.Discard}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		l.kmsg = f
	}
	return l
}

// maxKmsg is what one write to /dev/kmsg may have (LOG_LINE_MAX of Linux is 1024, with a prefix of the kernel's).
const maxKmsg = 900

// Write writes one record, which ends with a newline.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := bytes.TrimRight(b, "\n"); len(rest) > 0; {
		n := min(len(rest), maxKmsg)
		_, _ = l.kmsg.Write(append([]byte("branchpoint: "), rest[:n]...)) // the file has it too
		rest = rest[n:]
	}
	if l.file == nil || l.size+int64(len(b)) > maxLog {
		if l.file != nil {
			l.file.Close()
			if err := os.Rename(l.path, l.path+".1"); err != nil {
				return 0, err
			}
		}
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return 0, err
		}
		l.file, l.size = f, 0
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}
