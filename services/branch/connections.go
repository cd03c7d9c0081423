package branch

import (
	"bytes"
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// maxConnections bounds the connections that one listener has at one time: those of 512 agents at work.
	maxConnections = 4096
	// maxPerAddress bounds those from one address. An agent makes up to eight; what it had before it was restarted may still
	// be there.
	maxPerAddress = 32
	// bodyTime is how long a request's body may take: an agent's has a few kilobytes.
	bodyTime = 30 * time.Second
	// answerTime is how long an answer may take: the largest one, a batch of chunks, comes in time at 20 KiB/s.
	answerTime = 15 * time.Minute
)

// agentListener bounds the connections of agents, in all and for each address. Where there is no room for another one, the
// connection on which no agent was answered for the longest time has to go: it is idle, or somebody's who has no token.
// Those that an agent's request is being answered on stay.
type agentListener struct {
	net.Listener
	dropped func(reason string)

	mu      sync.Mutex
	count   int
	perAddr map[netip.Addr]int
	// idle has the *agentConn that no agent is being answered on, in the order in which they came or last were.
	idle list.List
}

func limitAgents(l net.Listener, dropped func(reason string)) *agentListener {
	return &agentListener{Listener: l, dropped: dropped, perAddr: map[netip.Addr]int{}}
}

// agentConn is one connection.
type agentConn struct {
	net.Conn
	l    *agentListener
	from netip.Addr

	// mu of the listener guards these. place is where it stands in idle, nil while an agent is being answered.
	place *list.Element
	gone  bool
}

// Why a connection ended early: the values of the label "reason".
const (
	droppedDrivenOut = "driven-out"
	droppedAddress   = "too-many-from-address"
	droppedAll       = "too-many"
)

// Accept waits for a connection that there is room for.
func (l *agentListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &agentConn{Conn: conn, l: l}
		if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			c.from = a.Addr().Unmap()
		}
		evicted, reason := l.admit(c)
		if evicted != nil {
			l.dropped(droppedDrivenOut)
			_ = evicted.Conn.Close() // nobody waits for it
		}
		if reason == "" {
			return c, nil
		}
		l.dropped(reason)
		_ = conn.Close() // the agent tries again
	}
}

// admit gives a connection its place; evicted had to go for it, a reason is why there is none.
func (l *agentListener) admit(c *agentConn) (evicted *agentConn, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.perAddr[c.from] >= maxPerAddress:
		reason = droppedAddress
		evicted = l.oldest(func(x *agentConn) bool { return x.from == c.from })
	case l.count >= maxConnections:
		reason = droppedAll
		evicted = l.oldest(func(*agentConn) bool { return true })
	default:
		l.add(c)
		return nil, ""
	}
	if evicted == nil {
		return nil, reason
	}
	l.remove(evicted)
	l.add(c)
	return evicted, ""
}

// oldest is the first idle connection that fits, nil if none does. l.mu is held.
func (l *agentListener) oldest(fits func(*agentConn) bool) *agentConn {
	for e := l.idle.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*agentConn); fits(c) {
			return c
		}
	}
	return nil
}

// add gives a connection its place. l.mu is held.
func (l *agentListener) add(c *agentConn) {
	c.place = l.idle.PushBack(c)
	l.count++
	l.perAddr[c.from]++
}

// remove takes a connection's place away, once. l.mu is held.
func (l *agentListener) remove(c *agentConn) {
	if c.gone {
		return
	}
	c.gone = true
	if c.place != nil {
		l.idle.Remove(c.place)
		c.place = nil
	}
	l.count--
	if l.perAddr[c.from]--; l.perAddr[c.from] == 0 {
		delete(l.perAddr, c.from)
	}
}

// Close gives the place up.
func (c *agentConn) Close() error {
	c.l.mu.Lock()
	c.l.remove(c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// begin and end are called around the answer to an agent that has shown its token.
func (c *agentConn) begin() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.place != nil {
		c.l.idle.Remove(c.place)
		c.place = nil
	}
}

func (c *agentConn) end() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if !c.gone {
		c.place = c.l.idle.PushBack(c)
	}
}

type agentConnKey struct{}

// withAgentConn makes the connection of a request known to its handler.
func withAgentConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, agentConnKey{}, c)
}

// bounded gives the bodies that handler reads their time, and has the connections of agents that show their token stay until they are
// answered.
func (b *Branch) bounded(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// It ends with the body (net/http, startBackgroundRead): the answer may take longer.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // not every test has a connection
		}
		if c, ok := r.Context().Value(agentConnKey{}).(*agentConn); ok && b.AuthorizeContent(r) == nil {
			c.begin()
			defer c.end()
		}
		handler.ServeHTTP(w, r)
	})
}

// serverLog is where net/http says what goes wrong. Anybody can make handshakes fail, as often as they like: those are no
// news.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	level := slog.LevelError
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, "agents' server", "error", strings.TrimSpace(string(line)))
	return len(line), nil
}
