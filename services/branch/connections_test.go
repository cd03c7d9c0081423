package branch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// key is a certificate as an agent shows it: anybody can make one.
func key(t *testing.T) tls.Certificate {
	t.Helper()
	id, err := newIdentity("X", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := id.agentCertificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// shown is the state of a connection on which a certificate was shown.
func shown(t *testing.T, cert tls.Certificate) *tls.ConnectionState {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
}

func (s *site) dropped(reason string) float64 {
	return testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reason))
}

// silent makes a connection from an address to the agents' port that nothing is said on.
func (s *site) silent(t *testing.T, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.DialContext(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", s.cfg.AgentPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// patiently asks as agents do: again while the branch cannot be reached, for a connection that was idle may have gone.
func patiently(t *testing.T, what string, ask func() error) {
	t.Helper()
	err := ask()
	for end := time.Now().Add(time.Minute); provisioning.CodeOf(err) == provisioning.CodeUnavailable && time.Now().Before(end); err = ask() {
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestHTTP1Alone: a client that offers HTTP/2 gets HTTP/1.1.
func TestHTTP1Alone(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{key(t)}}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get(fmt.Sprintf("https://127.0.0.1:%d/", s.cfg.AgentPort))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 1 || resp.TLS.NegotiatedProtocol == "h2" {
		t.Errorf("%s, %q", resp.Proto, resp.TLS.NegotiatedProtocol)
	}
}

// TestSilentConnections: whoever opens connections by the thousand keeps no agent out, from other addresses or its own.
func TestSilentConnections(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	a := agent(t, s.boot(t))
	if _, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	for i := range maxConnections + maxPerAddress {
		s.silent(t, fmt.Sprintf("127.0.%d.%d", 1+i/maxPerAddress/200, 1+i/maxPerAddress%200))
	}
	var as *provisioning.Assignment
	patiently(t, "the agent's assignment", func() (err error) {
		as, err = a.Assignment(t.Context())
		return err
	})
	patiently(t, "the agent's report", func() error {
		return a.Report(t.Context(), []provisioning.StatusMessage{message(as, 1, provisioning.StatusStepStarted, "runCommandLine")})
	})
	for range 3 * maxPerAddress {
		s.silent(t, "127.0.0.1")
	}
	patiently(t, "another agent of an address that has its share", func() error {
		_, err := agent(t, s.boot(t)).Register(t.Context(), client.Facts{MAC: desk.MAC})
		return err
	})
	if s.dropped(droppedDrivenOut) == 0 || s.dropped(droppedAll) != 0 || s.dropped(droppedAddress) != 0 {
		t.Errorf("%v driven out, %v and %v too many", s.dropped(droppedDrivenOut), s.dropped(droppedAll), s.dropped(droppedAddress))
	}
}

// TestAgentsAtWorkStay: connections that an agent is being answered on are not driven out, those of others are.
func TestAgentsAtWorkStay(t *testing.T) {
	l := limitAgents(nil, func(string) {})
	conn := func(i int) *agentConn {
		return &agentConn{l: l, from: netip.AddrFrom4([4]byte{10, 0, byte(i / maxPerAddress >> 8), byte(i / maxPerAddress)})}
	}
	var all []*agentConn
	for i := range maxConnections {
		c := conn(i)
		if evicted, reason := l.admit(c); evicted != nil || reason != "" {
			t.Fatalf("%d: %s", i, reason)
		}
		c.begin()
		all = append(all, c)
	}
	if evicted, reason := l.admit(conn(0)); evicted != nil || reason != droppedAddress {
		t.Errorf("%v %q", evicted, reason)
	}
	if evicted, reason := l.admit(conn(maxConnections)); evicted != nil || reason != droppedAll {
		t.Errorf("%v %q", evicted, reason)
	}
	all[7].end()
	all[5].end()
	if evicted, reason := l.admit(conn(0)); evicted != all[7] || reason != "" {
		t.Errorf("%v %q", evicted, reason)
	}
	all[7].end() // its handler ends after it was driven out
	if evicted, reason := l.admit(conn(maxConnections)); evicted != all[5] || reason != "" {
		t.Errorf("%v %q", evicted, reason)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range append(all, all...) {
		l.remove(c)
	}
	if l.count != 2 || l.idle.Len() != 2 || len(l.perAddr) != 2 {
		t.Errorf("%d connections, %d idle, of %d addresses are left", l.count, l.idle.Len(), len(l.perAddr))
	}
}

// TestOnlyAgentsHoldTheirPlace: what is asked without a token can be driven out while it is being answered.
func TestOnlyAgentsHoldTheirPlace(t *testing.T) {
	s := enrolled(t)
	l := limitAgents(nil, func(string) {})
	var idle int
	h := s.bounded(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { idle = l.idle.Len() }))
	c := &agentConn{l: l}
	l.admit(c)
	r := httptest.NewRequestWithContext(withAgentConn(t.Context(), c), http.MethodPost, client.PathStatus, strings.NewReader("[]"))
	r.TLS = shown(t, key(t))
	h.ServeHTTP(httptest.NewRecorder(), r)
	if idle != 1 {
		t.Error("a request without a token holds its connection")
	}
	sum, err := peerKey(r)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.identity.Load().sign(claims{Machine: desk, Computer: "desk-1", Key: sum, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	h.ServeHTTP(httptest.NewRecorder(), r)
	if idle != 0 || l.idle.Len() != 1 {
		t.Errorf("%d and then %d idle connections of an agent", idle, l.idle.Len())
	}
}

// counted is a body that tells how much of it was read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestStrangersAreNotRead: nothing is read of those who have shown no token, but for as much as a registration has.
func TestStrangersAreNotRead(t *testing.T) {
	s := enrolled(t)
	state := shown(t, key(t))
	for path, want := range map[string]struct {
		status, most int
	}{
		client.PathRegister:   {http.StatusBadRequest, maxRegister + 1},
		client.PathAssignment: {http.StatusUnauthorized, 0},
		client.PathStatus:     {http.StatusUnauthorized, 0},
	} {
		body := &counted{Reader: strings.NewReader("[" + strings.Repeat(" ", maxRequest))}
		r := httptest.NewRequest(http.MethodPost, path, body)
		r.TLS = state
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != want.status || body.n > want.most {
			t.Errorf("%s: %d, %d bytes were read", path, w.Code, body.n)
		}
	}
}

// TestLongFacts: what firmware says of its machine fits into a registration, also where it is long.
func TestLongFacts(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	long := strings.Repeat("\"é", 300)
	if _, err := agent(t, s.boot(t)).Register(t.Context(), client.Facts{MAC: desk.MAC, GUID: desk.GUID, Manufacturer: long, Product: long, Serial: long}); err != nil {
		t.Error(err)
	}
}

// pipes is a listener of connections in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestHalfSentRequests: a body that does not come ends its connection, and what is answered slowly goes on.
func TestHalfSentRequests(t *testing.T) {
	for _, c := range []struct {
		name, send string
		want       string
	}{
		{"a registration", "POST " + client.PathRegister + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", "503 "},
		{"what is not looked at", "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", "200 "},
		{"a slow answer", "PUT /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "200 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
			cert := key(t)
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				l, done := make(pipes), make(chan error, 1)
				mux := http.NewServeMux()
				mux.Handle("/", s.Handler())
				mux.HandleFunc("POST /slow", func(http.ResponseWriter, *http.Request) {})
				var gaveUp error
				mux.HandleFunc("PUT /slow", func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadAll(r.Body)
					time.Sleep(3 * bodyTime) // of the bubble's clock: content that is fetched first
					gaveUp = r.Context().Err()
				})
				go func() { done <- s.ServeAgents(ctx, l, mux) }()
				here, there := net.Pipe()
				l <- there
				began := time.Now()
				agent := tls.Client(here, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
				if _, err := io.WriteString(agent, c.send); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(agent) // until the server closes
				if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Error(err)
				}
				if !strings.HasPrefix(string(answer), "HTTP/1.1 "+c.want) || gaveUp != nil {
					t.Errorf("%q; the answer was given up: %v", answer, gaveUp)
				}
				if took := time.Since(began); took > 10*time.Minute { // of the bubble's clock
					t.Errorf("the connection was held for %s", took)
				}
				here.Close()
				cancel()
				close(l)
				<-done
			})
		})
	}
}
