package main

import (
	"encoding/binary"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// phase is a part of a change at central, as its database shows it from outside.
type phase int

// The phases of a change, in order.
const (
	planning   phase = iota // it is read and decided
	storing                 // the transaction that stores the change
	resolving               // snapshots are made of it
	publishing              // the transaction that stores them
	answering               // all is done, or nothing is left to do but to say so
	phases
)

func (p phase) String() string {
	return [...]string{"before the change's transaction", "in the change's transaction", "between the transactions", "in the publication's transaction", "after it"}[p]
}

// phaseOf says in which phase central was killed: by what it has left behind, and whether it was writing.
func phaseOf(before configuration, left found, writing bool) phase {
	switch {
	case left.inForce == before && !writing:
		return planning
	case left.inForce == before:
		return storing
	case left.published != before:
		return answering
	case writing:
		return publishing
	}
	return resolving
}

// watch knows how long each phase of each command has taken, the last time that it was seen whole.
type watch map[string]*[phases]time.Duration

// wait waits until a command's change is in the wanted phase, and then for that part of the time that the phase takes; less if
// the command ends, which answer says. The phases are told by SQLite's lock, looked at again and again: one that is too short
// to be seen is passed over.
func (w watch) wait(lock *os.File, command string, want phase, part float64, answer <-chan error) (err error, answered bool) {
	usual := w[command]
	if usual == nil {
		usual = &[phases]time.Duration{}
		w[command] = usual
	}
	begin, now := time.Now(), planning
	next := func() {
		usual[now] = time.Since(begin)
		begin, now = time.Now(), now+1
	}
	for now < want || time.Since(begin) < time.Duration(part*float64(usual[want])) {
		select {
		case err := <-answer:
			if now < want {
				next()
			}
			return err, true
		default:
		}
		if held := writerHeld(lock); now < want && now < answering && held != (now == storing || now == publishing) {
			next()
		}
		if now == planning { // the longest; the others may be shorter than any sleep
			time.Sleep(50 * time.Microsecond)
		}
	}
	return nil, false
}

// writerHeld reports whether a process holds the lock that SQLite's writers take, for as long as a transaction writes: byte
// 120 of the file with the index of its log (WAL_WRITE_LOCK, sqlite.org/walformat.html).
func writerHeld(lock *os.File) bool {
	l := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart, Start: 120, Len: 1}
	err := unix.FcntlFlock(lock.Fd(), unix.F_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}

// torn reports whether a database's log ends in pages that no commit follows (sqlite.org/fileformat2.html section 4.1).
func torn(t *testing.T, path string) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header, frame = 32, 24
	if len(b) < header {
		return false
	}
	page, salt := int(binary.BigEndian.Uint32(b[8:])), binary.BigEndian.Uint64(b[16:])
	committed := true
	for b = b[header:]; len(b) >= frame && binary.BigEndian.Uint64(b[8:]) == salt; b = b[min(len(b), frame+page):] {
		committed = binary.BigEndian.Uint32(b[4:]) != 0
	}
	return !committed
}
