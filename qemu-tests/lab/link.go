package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Link is a line between a guest and a service on the host, which the test can cut: a TCP proxy on the loopback.
type Link struct {
	target string
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while data may pass
	conns map[net.Conn]struct{}

	up, down, accepted atomic.Int64
}

// NewLink makes a link to a TCP address of the host. It ends with the test.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("link to %s: %v", target, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Link{target: target, ln: ln, ctx: ctx, cancel: cancel, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(l.open)
	l.wg.Go(l.serve)
	t.Cleanup(func() {
		cancel()
		ln.Close()
		l.Break()
		l.wg.Wait()
	})
	return l
}

// Addr returns the address of the link's end, "127.0.0.1:port".
func (l *Link) Addr() string { return l.ln.Addr().String() }

// Cut cuts the line as if a cable had been pulled: connections stay open on both sides, and nothing passes until Restore.
// Connections that are made meanwhile hang. What has left a side before may be lost only by Break.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
		l.open = make(chan struct{})
	default:
	}
}

// Restore undoes Cut: connections that both sides still hold go on.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

// Break ends every connection that is open now, as a router does that forgets them. Together with Cut it is a long outage.
func (l *Link) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // reset rather than an orderly end
		}
		c.Close()
	}
}

// Bytes returns how much has passed towards the service and back from it.
func (l *Link) Bytes() (toService, fromService int64) { return l.up.Load(), l.down.Load() }

// Connections returns how many connections were made in all.
func (l *Link) Connections() int64 { return l.accepted.Load() }

func (l *Link) serve() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return
		}
		l.accepted.Add(1)
		l.wg.Go(func() { l.carry(c) })
	}
}

func (l *Link) track(c net.Conn, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on {
		l.conns[c] = struct{}{}
	} else {
		delete(l.conns, c)
	}
}

// pass waits until data may pass.
func (l *Link) pass() error {
	for {
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		select {
		case <-open:
			return nil
		case <-l.ctx.Done():
			return fmt.Errorf("the link has ended: %w", l.ctx.Err())
		}
	}
}

func (l *Link) carry(client net.Conn) {
	defer client.Close()
	l.track(client, true)
	defer l.track(client, false)
	if l.pass() != nil {
		return
	}
	var d net.Dialer
	service, err := d.DialContext(l.ctx, "tcp", l.target)
	if err != nil {
		if t, ok := client.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		return
	}
	defer service.Close()
	l.track(service, true)
	defer l.track(service, false)
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(service, client, &l.up) })
	wg.Go(func() { l.copy(client, service, &l.down) })
	wg.Wait()
}

// copy carries one direction to its end, which it passes on as the end of that direction only.
func (l *Link) copy(to, from net.Conn, count *atomic.Int64) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if l.pass() != nil {
			return
		}
		if n > 0 {
			count.Add(int64(n)) // first, so that who has received it finds it counted
			if _, werr := to.Write(buf[:n]); werr != nil {
				from.Close()
				return
			}
		}
		if err == io.EOF {
			if t, ok := to.(*net.TCPConn); ok {
				_ = t.CloseWrite()
			}
			return
		}
		if err != nil {
			to.Close()
			return
		}
	}
}
