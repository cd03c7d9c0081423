package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

func isCutOff(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

// isConnectionEnd says whether an error is the peer's going away, by whatever way a killed process does that.
func isConnectionEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// portContext makes a channel that is closed once usable as a context.
type portContext struct{ done <-chan struct{} }

func (c portContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c portContext) Done() <-chan struct{}       { return c.done }
func (c portContext) Value(any) any               { return nil }
func (c portContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// shellJoin quotes a command line for a shell.
func shellJoin(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = shellQuote(a)
	}
	return strings.Join(q, " ")
}

func shellQuote(s string) string {
	safe := s != ""
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=,:+@%", r)) {
			safe = false
		}
	}
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
