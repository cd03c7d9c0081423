package pxe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// httpListener bounds the connections of one interface, in all and for each address. Where there is no room for another
// one, the connection that has gone longest without a request has to go: it is idle, or does not get its request done.
// Those that a request is being answered on stay.
type httpListener struct {
	net.Listener
	metrics *metrics

	mu      sync.Mutex
	perAddr map[netip.Addr]int
	// conns are in the order in which they came, or ended their last request.
	conns []*httpConn
}

func limitHTTP(l net.Listener, m *metrics) *httpListener {
	return &httpListener{Listener: l, metrics: m, perAddr: map[netip.Addr]int{}}
}

// httpConn is one connection. It embeds the TCP connection itself, so that files are sent by the kernel.
type httpConn struct {
	*net.TCPConn
	l      *httpListener
	client netip.Addr

	// mu of the listener guards these. began is true once octets of a request that nobody answers yet have come, late
	// where its time has run out.
	serving, began, late, closed bool
	// idle is true between an answer and the next request.
	idle bool
}

// Accept waits for a connection that there is room for.
func (l *httpListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			return nil, errors.New("not a TCP connection")
		}
		h := &httpConn{TCPConn: t, l: l}
		if a, err := netip.ParseAddrPort(t.RemoteAddr().String()); err == nil {
			h.client = a.Addr().Unmap()
		}
		evicted, reason := l.admit(h)
		if evicted != nil {
			l.metrics.drop(serviceHTTP, "driven-out")
			_ = evicted.TCPConn.Close()
		}
		if reason == "" {
			return h, nil
		}
		l.metrics.drop(serviceHTTP, reason)
		_ = t.SetLinger(0) // nothing is kept of it
		_ = t.Close()
	}
}

// admit gives a connection its place; evicted had to go for it, a reason is why there is none.
func (l *httpListener) admit(c *httpConn) (evicted *httpConn, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.perAddr[c.client] >= httpPerAddress:
		if evicted = l.oldest(c.client); evicted == nil {
			return nil, "too-many-from-address"
		}
	case len(l.conns) >= httpConnections:
		if evicted = l.oldest(netip.Addr{}); evicted == nil {
			return nil, "too-many"
		}
	}
	if evicted != nil {
		l.remove(evicted)
	}
	l.conns = append(l.conns, c)
	l.perAddr[c.client]++
	return evicted, ""
}

// oldest is the connection that has gone longest without a request, of address a where that is valid.
func (l *httpListener) oldest(a netip.Addr) *httpConn {
	for _, c := range l.conns {
		if !c.serving && (!a.IsValid() || c.client == a) {
			return c
		}
	}
	return nil
}

// remove takes a connection out; false where it was not in any more.
func (l *httpListener) remove(c *httpConn) bool {
	if c.closed {
		return false
	}
	c.closed = true
	for i, x := range l.conns {
		if x == c {
			l.conns = append(l.conns[:i], l.conns[i+1:]...)
			break
		}
	}
	if l.perAddr[c.client]--; l.perAddr[c.client] == 0 {
		delete(l.perAddr, c.client)
	}
	return true
}

// Read notes what comes.
func (c *httpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if !c.serving {
		c.began = c.began || n > 0
		c.late = c.late || errors.Is(err, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Close gives the place up, and counts a connection that ends with a request that net/http could not make sense of, or
// that did not come to its end in time.
//
// Between two requests nothing is left of it at once, and the client is told so (RST). Else the kernel would keep it for
// minutes, be it in TIME_WAIT or until the client answers, which after the boot image's start it does not; and GRUB, which
// uses the same few ports in each start of a machine and takes no other where one is refused, would fail until then.
func (c *httpConn) Close() error {
	c.l.mu.Lock()
	if c.l.remove(c) && c.began {
		if c.late {
			c.l.metrics.drop(serviceHTTP, "timeout")
		} else {
			c.l.metrics.drop(serviceHTTP, "malformed")
		}
	}
	idle := c.idle
	c.l.mu.Unlock()
	if idle && c.drained() {
		_ = c.SetLinger(0)
	}
	return c.TCPConn.Close()
}

// noteState notes whether a connection is between two requests, for [http.Server.ConnState].
func noteState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*httpConn)
	if !ok || state == http.StateClosed { // it stays what it was when it ended
		return
	}
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.idle = state == http.StateIdle
}

// drained reports whether the client has acknowledged all that was sent to it (SIOCOUTQ, tcp(7)).
func (c *httpConn) drained() bool {
	left := -1
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
				left = n
			}
		})
	}
	return left == 0
}

// restarted ends the connections of address a, all but one: its machine has just been started, and knows nothing of those
// that it had before. They would stand in the way of its new ones: see Close.
func (l *httpListener) restarted(a netip.Addr, but *httpConn) {
	l.mu.Lock()
	var old []*httpConn
	for _, c := range l.conns {
		if c.client == a && c != but {
			old = append(old, c)
		}
	}
	for _, c := range old {
		l.remove(c)
	}
	l.mu.Unlock()
	for _, c := range old {
		l.metrics.drop(serviceHTTP, "restarted")
		_ = c.SetLinger(0)
		_ = c.TCPConn.Close()
	}
}

// begin and end are called around the answer to a request.
func (c *httpConn) begin() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.serving, c.began, c.late = true, false, false
}

func (c *httpConn) end() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.serving = false
	for i, x := range c.l.conns {
		if x == c {
			c.l.conns = append(append(c.l.conns[:i], c.l.conns[i+1:]...), c)
			break
		}
	}
}

type httpConnKey struct{}

// withHTTPConn makes the connection of a request known to its handler.
func withHTTPConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, httpConnKey{}, c)
}

func httpConnOf(r *http.Request) *httpConn {
	c, _ := r.Context().Value(httpConnKey{}).(*httpConn)
	return c
}

// steadyWriter gives each part of an answer its time, in place of one time for all of it: large files may take long, and
// who stops reading does not hold a connection.
type steadyWriter struct {
	http.ResponseWriter
	c *http.ResponseController
}

// ReadFrom sends src; a file is sent by the kernel.
func (s *steadyWriter) ReadFrom(src io.Reader) (sent int64, err error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	for whole.N > 0 {
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, httpChunk)}
		want := part.N
		_ = s.c.SetWriteDeadline(time.Now().Add(httpWriteTimeout)) // not every test has a connection
		n, err := io.Copy(s.ResponseWriter, part)
		sent += n
		whole.N -= n
		if err != nil || n < want {
			return sent, err
		}
	}
	return sent, nil
}
