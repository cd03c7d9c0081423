package pxe

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grubPort is a port of the client's own, as GRUB uses the same in each start.
func grubPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// dialAs opens a connection from a port of the loopback.
func dialAs(t *testing.T, port int, to string) *net.TCPConn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, Timeout: 30 * time.Second}).Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// getShim asks for shim, and reads the answer to its end.
func getShim(t *testing.T, c net.Conn, more string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET /boot/files/shimx64.efi HTTP/1.1\r\nHost: x\r\n"+more+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
		t.Fatal(r.Status, err)
	}
}

// TestPortIsFreeAtOnce: a client that has read its answer and hangs up can come again from the same port, with nothing left of
// the connection before. (On one computer what is left would be at the client's end.)
func TestPortIsFreeAtOnce(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, l := startHTTP(t, s, nil)
	port := grubPort(t)
	for range 3 {
		c := dialAs(t, port, addr)
		getShim(t, c, "")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		// Nothing is left to be waited for: it is told so, where else it would be let go in order.
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("the connection ended with %v", err)
		}
		_ = c.Close()
	}
	eventually(t, "every connection has gone", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 0 && len(l.perAddr) == 0
	})
}

// TestEndsInOrder: right behind an answer nothing is cut off.
func TestEndsInOrder(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, _ := startHTTP(t, s, nil)
	c := dialFrom(t, "127.0.0.1", addr, "")
	getShim(t, c, "Connection: close\r\n")
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the connection ended with %d, %v", n, err)
	}
}

// TestRestartedMachine: a machine that loads shim anew has nothing to do with its connections of before, be they in the middle
// of an answer; others' stay.
func TestRestartedMachine(t *testing.T) {
	s, _, _ := liveService(t, nil)
	release := make(chan struct{})
	defer close(release)
	addr, l := startHTTP(t, s, func(hs *http.Server) {
		inner := hs.Handler
		hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/stands" {
				inner.ServeHTTP(w, r)
				return
			}
			c := httpConnOf(r)
			c.begin()
			defer c.end()
			_, _ = io.WriteString(w, "a part")
			_ = http.NewResponseController(w).Flush()
			<-release
		})
	})
	const stands = "GET /stands HTTP/1.1\r\nHost: x\r\n\r\n"
	part := func(c net.Conn) net.Conn {
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		return c
	}
	idle, middle := dialFrom(t, "127.0.0.1", addr, ""), part(dialFrom(t, "127.0.0.1", addr, stands))
	getShim(t, idle, "")
	other := part(dialFrom(t, "127.0.0.3", addr, stands))

	tftpAddr, _ := startTFTP(t, s, func(ts *tftpServer) { ts.restarted = func(a netip.Addr) { l.restarted(a, nil) } })
	// What is not to its end, and what shim and GRUB load themselves, is no start.
	if _, _, err := fetch(t, tftpAddr, FileGRUB, 1024); err != nil {
		t.Fatal(err)
	}
	if n := droppedHTTP(s, "restarted"); n != 0 {
		t.Fatalf("%v connections have ended because of GRUB's loading", n)
	}
	if _, _, err := fetch(t, tftpAddr, FileShim, 1024); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"idle": idle, "in the middle of an answer": middle} {
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the connection that is %s ended with %v", name, err)
		}
	}
	eventually(t, "the other machine's connection alone is left", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 1 && l.conns[0].client.String() == "127.0.0.3"
	})
	if n := droppedHTTP(s, "restarted"); n != 2 {
		t.Errorf("%v connections have ended, want 2", n)
	}
	_ = other

	// Firmware that boots by HTTP asks how large shim is, on a connection that it goes on with.
	third := dialFrom(t, "127.0.0.3", addr, "HEAD "+httpBootDir+FileShim+" HTTP/1.1\r\nHost: x\r\n\r\n")
	if r, err := http.ReadResponse(bufio.NewReader(third), &http.Request{Method: http.MethodHead}); err != nil || r.StatusCode != http.StatusOK {
		t.Fatal(r, err)
	}
	if _, err := io.Copy(io.Discard, other); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection of before ended with %v", err)
	}
	getShim(t, third, "")
}
