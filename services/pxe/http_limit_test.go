package pxe

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// startHTTP serves on a port of the loopback; mod changes the server before it starts.
func startHTTP(t testing.TB, s *Service, mod func(*http.Server)) (addr string, l *httpListener) {
	t.Helper()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = limitHTTP(inner, s.metrics)
	hs := s.httpServer(t.Context(), Interface{"lo", prefix})
	if mod != nil {
		mod(hs)
	}
	done := make(chan error, 1)
	go func() { done <- hs.Serve(l) }()
	t.Cleanup(func() { _ = hs.Close(); <-done })
	return inner.Addr().String(), l
}

func droppedHTTP(s *Service, reason string) float64 {
	return testutil.ToFloat64(s.metrics.dropped.WithLabelValues(serviceHTTP, reason))
}

// dialFrom opens a connection from an address of the loopback and writes text.
func dialFrom(t testing.TB, from, to, text string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 30 * time.Second}).Dial("tcp4", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

// talk sends a request as text and returns the answer.
func talk(t testing.TB, from, to, text string) (status int, header http.Header, body []byte) {
	t.Helper()
	c := dialFrom(t, from, to, text)
	defer c.Close()
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: strings.Fields(text + " ?")[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err = io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, body
}

// TestUEFIHTTPBoot asks as firmware, shim and GRUB do.
func TestUEFIHTTPBoot(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, _ := startHTTP(t, s, nil)
	firmware := func(method, path, more string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: 192.0.2.10\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n" + more + "\r\n"
	}
	files := bootFiles()
	for _, c := range []struct {
		path, file string
	}{
		{"/boot/efi/shimx64.efi", FileShim},
		{"/boot/efi/grubx64.efi", FileGRUB},
		{"/boot/efi/mmx64.efi", FileMokManager},
		{"//grubx64.efi", FileGRUB},
		{"//mmx64.efi", FileMokManager},
		{"/boot/efi//grubx64.efi", FileGRUB},
		{"/boot/efi/../efi/grubx64.efi", FileGRUB},
		{"/boot/efi/%67rubx64.efi", FileGRUB},
		{"/shimx64.efi", FileShim},
	} {
		want := files[c.file].Data
		status, header, body := talk(t, "127.0.0.1", addr, firmware("HEAD", c.path, ""))
		if status != 200 || len(body) != 0 || header.Get("Content-Length") != fmt.Sprint(len(want)) {
			t.Errorf("HEAD %s: %d %v", c.path, status, header)
		}
		if status, _, body := talk(t, "127.0.0.1", addr, firmware("GET", c.path, "")); status != 200 || !bytes.Equal(body, want) {
			t.Errorf("GET %s: %d, %d octets", c.path, status, len(body))
		}
		if status, _, body := talk(t, "127.0.0.1", addr, firmware("GET", c.path, "Range: bytes=100-199\r\n")); status != 206 || !bytes.Equal(body, want[100:200]) {
			t.Errorf("part of %s: %d, %d octets", c.path, status, len(body))
		}
	}
	for _, path := range []string{"/grub/grub.cfg", "/boot/efi/grub/grub.cfg", "/boot/grub/grub.cfg", "//grub/grub.cfg"} {
		status, header, body := talk(t, "127.0.0.1", addr, "GET "+path+" HTTP/1.1\r\nHost: 192.0.2.10\r\nUser-Agent: GRUB 2.12\r\n\r\n")
		if status != 200 || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, status, header)
		}
		golden(t, "grub-first", string(body))
	}
	for _, path := range []string{
		"/boot/efi/revocations_sku.efi", "/boot/efi/revocations_sbat.efi", "/boot/efi/shim_certificate_0.efi", "/grub/x86_64-efi/command.lst",
		"/boot/efi/undionly.kpxe", "/boot/efi/vmlinuz", "/vmlinuz", "/site.yaml", "/boot/efi/", "/boot/efi", "/boot/efi/../../etc/passwd", "/grub/",
	} {
		if status, _, _ := talk(t, "127.0.0.1", addr, firmware("GET", path, "")); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if n := testutil.ToFloat64(s.metrics.answers.WithLabelValues(serviceHTTP, "not-found")); n != 12 {
		t.Errorf("counted %v times as not found", n)
	}
}

// TestLargeFilesByHTTP: more than one part, from every offset, on a connection that stays.
func TestLargeFilesByHTTP(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 7*httpChunk/32)
	s, _, _ := liveService(t, fstest.MapFS{FileKernel: {Data: want}})
	addr, _ := startHTTP(t, s, nil)
	hc := &http.Client{Timeout: time.Minute}
	defer hc.CloseIdleConnections()
	for _, c := range []struct{ from, to int }{{0, len(want) - 1}, {1, len(want) - 1}, {httpChunk - 1, httpChunk}, {httpChunk, 2*httpChunk - 1}, {len(want) - 1, len(want) - 1}} {
		r, err := http.NewRequest(http.MethodGet, "http://"+addr+"/boot/files/vmlinuz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", c.from, c.to))
		resp, err := hc.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 206 || !bytes.Equal(got, want[c.from:c.to+1]) {
			t.Errorf("%d to %d: %s, %d octets, %v", c.from, c.to, resp.Status, len(got), err)
		}
	}
}

// deadlines is a response that counts how often its time is set.
type deadlines struct {
	*httptest.ResponseRecorder
	set int
}

func (d *deadlines) SetWriteDeadline(time.Time) error { d.set++; return nil }

func TestEachPartHasItsTime(t *testing.T) {
	d := &deadlines{httptest.NewRecorder(), 0}
	w := &steadyWriter{d, http.NewResponseController(d)}
	n, err := io.CopyN(w, bytes.NewReader(make([]byte, 4*httpChunk)), 3*httpChunk+5)
	if err != nil || n != 3*httpChunk+5 || d.Body.Len() != int(n) || d.set != 4 {
		t.Errorf("%d octets in %d parts, %v", n, d.set, err)
	}
	d = &deadlines{httptest.NewRecorder(), 0}
	w = &steadyWriter{d, http.NewResponseController(d)}
	if n, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(make([]byte, httpChunk+1))}); err != nil || n != httpChunk+1 {
		t.Errorf("%d octets, %v", n, err)
	}
}

func TestMalformedHTTP(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, l := startHTTP(t, s, nil)
	malformed := 0
	for _, c := range []struct {
		text   string
		status int
		reason string
	}{
		{"hello\r\n\r\n", 400, "malformed"},
		{"GET /boot/files/vmlinuz HTTP/1.1\r\n\r\n", 400, "malformed"}, // no Host
		{"GET /boot/files/vmlinuz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "malformed"},
		{"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", 400, "malformed"},
		{"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "malformed"},
		{"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 20000) + "\r\n\r\n", 431, "malformed"},
		{"GET /" + strings.Repeat("y", 20000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, "malformed"},
		{"POST /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "method"},
		{"DELETE /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"},
		{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"},
		{"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"},
		{"GET /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nx", 400, "body"},
		{"GET /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400, "body"},
		{"GET /boot/ipxe?mac=%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad-mac"},
		{"GET http://example.org/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
	} {
		before := droppedHTTP(s, c.reason)
		if status, _, _ := talk(t, "127.0.0.1", addr, c.text); status != c.status {
			t.Errorf("%.60q: %d, want %d", c.text, status, c.status)
		}
		if c.reason != "" {
			eventually(t, c.reason+" is counted for "+c.text[:min(40, len(c.text))], func() bool { return droppedHTTP(s, c.reason) == before+1 })
		}
		if c.reason == "malformed" {
			malformed++
		}
	}
	// Connections that come and go, and requests that follow each other on one, are nothing special.
	_ = dialFrom(t, "127.0.0.1", addr, "").Close()
	c := dialFrom(t, "127.0.0.1", addr, strings.Repeat("GET /grub/grub.cfg HTTP/1.1\r\nHost: x\r\n\r\n", 3))
	r := bufio.NewReader(c)
	for range 3 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			t.Errorf("%s %v", resp.Status, err)
		}
	}
	_ = c.Close()
	eventually(t, "no connection is left", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.conns) == 0 && len(l.perAddr) == 0 })
	if n := droppedHTTP(s, "malformed"); n != float64(malformed) || droppedHTTP(s, "timeout") != 0 {
		t.Errorf("%v malformed, want %d; %v timeouts", n, malformed, droppedHTTP(s, "timeout"))
	}
}

// TestSlowRequests: whoever sends a request one octet at a time keeps nobody out, and is cut off.
func TestSlowRequests(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, l := startHTTP(t, s, func(hs *http.Server) { hs.ReadHeaderTimeout, hs.ReadTimeout = time.Hour, time.Hour })
	for i := range httpConnections {
		dialFrom(t, fmt.Sprintf("127.0.1.%d", 1+i/httpPerAddress), addr, "GET /boot/files/vmlinuz HT")
	}
	eventually(t, "every place is taken", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.conns) == httpConnections })
	want := bootFiles()[FileKernel].Data
	request := "GET /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n"
	if status, _, body := talk(t, "127.0.0.1", addr, request); status != 200 || !bytes.Equal(body, want) {
		t.Errorf("another client: %d, %d octets", status, len(body))
	}
	if status, _, body := talk(t, "127.0.1.3", addr, request); status != 200 || !bytes.Equal(body, want) {
		t.Errorf("from an address that has its share: %d, %d octets", status, len(body))
	}
	if n := droppedHTTP(s, "driven-out"); n != 2 {
		t.Errorf("%v driven out", n)
	}

	s, _, _ = liveService(t, nil)
	addr, _ = startHTTP(t, s, func(hs *http.Server) { hs.ReadHeaderTimeout, hs.ReadTimeout = 20*time.Millisecond, 20*time.Millisecond })
	c := dialFrom(t, "127.0.0.1", addr, "GET /boot/files/vmlinuz HT")
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("it is not cut off: %v", err)
	}
	eventually(t, "it is counted", func() bool { return droppedHTTP(s, "timeout") == 1 })
}

// TestHTTPPlaces: where every place is in use, nobody is driven out.
func TestHTTPPlaces(t *testing.T) {
	l := limitHTTP(nil, newMetrics(nil))
	conn := func(i int) *httpConn {
		return &httpConn{l: l, client: netip.AddrFrom4([4]byte{10, 0, byte(i / httpPerAddress >> 8), byte(i / httpPerAddress)})}
	}
	var all []*httpConn
	for i := range httpConnections {
		c := conn(i)
		if evicted, reason := l.admit(c); evicted != nil || reason != "" {
			t.Fatalf("%d: %s", i, reason)
		}
		c.begin()
		all = append(all, c)
	}
	if evicted, reason := l.admit(conn(0)); evicted != nil || reason != "too-many-from-address" {
		t.Errorf("%v %q", evicted, reason)
	}
	if evicted, reason := l.admit(conn(httpConnections)); evicted != nil || reason != "too-many" {
		t.Errorf("%v %q", evicted, reason)
	}
	all[7].end()
	all[5].end()
	if evicted, reason := l.admit(conn(httpConnections)); evicted != all[7] || reason != "" {
		t.Errorf("%v %q", evicted, reason)
	}
	for _, c := range append(all, all...) {
		l.remove(c)
	}
	if len(l.conns) != 1 || len(l.perAddr) != 1 {
		t.Errorf("%d connections of %d addresses are left", len(l.conns), len(l.perAddr))
	}
}

// TestManyMachinesAtOnce: GRUB has its layers on the way all at once, and every machine of a large room gets its own.
func TestManyMachinesAtOnce(t *testing.T) {
	const machines, layers = 500, 4
	l := limitHTTP(nil, newMetrics(nil))
	for layer := range layers {
		for i := range machines {
			c := &httpConn{l: l, client: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
			if evicted, reason := l.admit(c); evicted != nil || reason != "" {
				t.Fatalf("machine %d, layer %d: %v has to go, %q", i, layer, evicted, reason)
			}
			c.begin()
		}
	}
}

// FuzzHTTPRequest: whatever is asked for, nothing but boot files is handed out.
func FuzzHTTPRequest(f *testing.F) {
	for _, s := range []string{
		"HEAD /boot/efi/shimx64.efi HTTP/1.1\r\nHost: 192.0.2.10\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n",
		"GET //grubx64.efi HTTP/1.1\r\nHost: 192.0.2.10\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n",
		"GET /boot/files/vmlinuz HTTP/1.1\r\nHost: 192.0.2.10\r\nUser-Agent: GRUB 2.12\r\nRange: bytes=0-\r\n\r\n",
		"GET /boot/ipxe?mac=52:54:00:00:00:01 HTTP/1.1\r\nUser-Agent: iPXE/1.21.1\r\nConnection: keep-alive\r\nHost: 192.0.2.10\r\n\r\n",
		"GET /boot/grub/52:54:00:00:00:01.cfg HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /boot/secret/00112233445566778899aabbccddeeff.cpio HTTP/1.0\r\n\r\n",
		"GET /boot/files/%2e%2e/site.yaml HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
	} {
		f.Add([]byte(s))
	}
	s, _, _ := liveService(f, nil)
	h := &handler{s, Interface{"lo", prefix}}
	private := bootFiles()["site.yaml"].Data
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.101:1000"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 200, 206, 304, 400, 404, 405, 412, 416:
		default:
			t.Fatalf("%q: status %d", b, w.Code)
		}
		if bytes.Contains(w.Body.Bytes(), private[:20]) {
			t.Fatalf("%q: a file that is nobody's business", b)
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && w.Code != 405 {
			t.Fatalf("%q: status %d", b, w.Code)
		}
	})
}
