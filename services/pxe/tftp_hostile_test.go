package pxe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"branchpoint/provisioning"
)

// liveService is a service with the real clock, which can be put forward; nil files are those of all tests.
func liveService(t testing.TB, files fstest.MapFS) (s *Service, forward *atomic.Int64, log *lockedBuffer) {
	t.Helper()
	if files == nil {
		files = bootFiles()
	}
	forward, log = &atomic.Int64{}, &lockedBuffer{}
	s, err := New(Config{Interfaces: []Interface{{"lo", netip.MustParsePrefix("127.0.0.1/8")}}, Mode: provisioning.PXEModeProxy}, Deps{
		Policy: newFakePolicy(), Boots: fakeBoots{}, Files: files, Now: func() time.Time { return time.Now().Add(time.Duration(forward.Load())) },
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, forward, log
}

// places is how many places of the table are taken.
func (t *tftpServer) places() int {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	return len(t.table.byClient)
}

// udpFrom is a socket at an address of the loopback.
func udpFrom(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func sendTo(t testing.TB, c *net.UDPConn, to string, b []byte) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(b, netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

// receive waits for a packet.
func receive(t testing.TB, c *net.UDPConn) ([]byte, string) {
	t.Helper()
	b := make([]byte, 2048)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], from.String()
}

// receiveBlock waits for block n and returns its octets. What came already may come again, where this test is slow.
func receiveBlock(t testing.TB, c *net.UDPConn, n uint16) []byte {
	t.Helper()
	for {
		b, _ := receive(t, c)
		if b[1] == opOACK {
			continue
		}
		if len(b) < tftpHeader || b[1] != opData || binary.BigEndian.Uint16(b[2:]) > n {
			t.Fatalf("%q instead of block %d", b[:min(tftpHeader, len(b))], n)
		}
		if binary.BigEndian.Uint16(b[2:]) == n {
			return b[tftpHeader:]
		}
	}
}

func TestTFTPMalformed(t *testing.T) {
	s, _, log := liveService(t, nil)
	addr, ts := startTFTP(t, s)
	c := udpFrom(t, "127.0.0.1:0")
	bad := map[string][]string{
		"malformed":  {"", "\x00", "\x00\x01", "\x00\x01shimx64.efi\x00", "\x00\x01shimx64.efi\x00mail\x00", "\x00\x09", "\x00\x01shimx64.efi\x00octet\x00blksize\x00"},
		"oversized":  {string(readRequestPacket("shimx64.efi", "octet", "x", strings.Repeat("y", 500))), strings.Repeat("z", 60000)},
		"unexpected": {"\x00\x03\x00\x01hello", "\x00\x04\x00\x00", "\x00\x05\x00\x00x\x00", "\x00\x06\x00"},
	}
	for _, packets := range bad {
		for _, p := range packets {
			sendTo(t, c, addr, []byte(p))
		}
	}
	sendTo(t, c, addr, readRequestPacket("no.efi", "octet"))
	if b, _ := receive(t, c); !bytes.Equal(b, errorPacket(errorNotFound, "no such file")) {
		t.Errorf("the first answer is %q", b) // what is malformed gets none
	}
	sendTo(t, c, addr, []byte("\x00\x02shimx64.efi\x00octet\x00"))
	if b, _ := receive(t, c); len(b) < 4 || b[1] != opError || b[3] != errorForbidden {
		t.Errorf("a write request is answered %q", b)
	}
	for reason, packets := range bad {
		if got := counted(s, reason); got != float64(len(packets)) {
			t.Errorf("%s: counted %v times, want %d", reason, got, len(packets))
		}
	}
	if counted(s, "write") != 1 || answered(s, "no-such-file") != 1 {
		t.Error("write request and missing file are not counted")
	}
	if ts.places() != 0 || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("%d transfers; log:\n%s", ts.places(), log)
	}
	if got, err := (&tftpClient{server: addr, blksize: 1468, windowsize: 4}).get(t.Context(), FileShim); err != nil || !bytes.Equal(got.body, bootFiles()[FileShim].Data) {
		t.Errorf("a client after it: %d octets, %v", len(got.body), err)
	}
}

// TestTFTPStranger: packets from elsewhere do not disturb a transfer; their sender is told (RFC 1350 section 4).
func TestTFTPStranger(t *testing.T) {
	s, _, _ := liveService(t, nil)
	addr, _ := startTFTP(t, s)
	c, stranger := udpFrom(t, "127.0.0.1:0"), udpFrom(t, "127.0.0.2:0")
	sendTo(t, c, addr, readRequestPacket(FileShim, "octet"))
	b, tid := receive(t, c)
	if tid == addr || !bytes.HasPrefix(b, []byte{0, opData, 0, 1}) {
		t.Fatalf("%q from %s", b, tid)
	}
	sendTo(t, stranger, tid, errorPacket(errorOther, "stop"))
	sendTo(t, stranger, tid, ackPacket(1))
	if b, _ := receive(t, stranger); len(b) < 4 || b[1] != opError || b[3] != errorUnknownTID {
		t.Errorf("the stranger is told %q", b)
	}
	sendTo(t, c, tid, []byte{0, 9, 0, 1})
	sendTo(t, c, tid, ackPacket(7))
	sendTo(t, c, tid, ackPacket(1))
	receiveBlock(t, c, 2)
	if counted(s, "unknown-tid") != 2 || counted(s, "malformed") != 1 || counted(s, "stale") != 1 {
		t.Errorf("unknown-tid %v, malformed %v, stale %v", counted(s, "unknown-tid"), counted(s, "malformed"), counted(s, "stale"))
	}
	sendTo(t, c, tid, errorPacket(errorOther, "enough"))
	eventually(t, "the transfer has ended", func() bool { return counted(s, "aborted") == 1 })
}

// TestTFTPSizeProbe does what OVMF does, with OVMF's packets.
func TestTFTPSizeProbe(t *testing.T) {
	s, _, log := liveService(t, nil)
	addr, ts := startTFTP(t, s)
	packets := captured(t)
	c := udpFrom(t, "127.0.0.1:0")
	sendTo(t, c, addr, packets["ovmf-probe"])
	b, tid := receive(t, c)
	if want := "\x00\x06blksize\x001468\x00tsize\x0060000\x00windowsize\x004\x00"; string(b) != want {
		t.Errorf("acknowledged %q, want %q", b, want)
	}
	sendTo(t, c, tid, packets["ovmf-probe-abort"])
	eventually(t, "the probe is counted", func() bool { return answered(s, "size-probe") == 1 })
	eventually(t, "its place is free", func() bool { return ts.places() == 0 })
	sendTo(t, c, addr, packets["ovmf"])
	if b, _ := receive(t, c); string(b) != "\x00\x06blksize\x001468\x00windowsize\x004\x00" {
		t.Errorf("acknowledged %q", b)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("log:\n%s", log)
	}
}

// TestTFTPFlood: requests with forged addresses neither take all places nor keep a client out.
func TestTFTPFlood(t *testing.T) {
	s, forward, _ := liveService(t, nil)
	addr, ts := startTFTP(t, s)
	before := runtime.NumGoroutine()
	forged := 0
	// flood hands over what the goroutine that reads the TFTP port would; whatever is answered finds nobody.
	flood := func(n int) {
		for range n {
			forged++
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(forged >> 16), byte(forged >> 8), byte(forged)}), 9)
			if b := ts.request(readRequestPacket(FileShim, "octet", "blksize", "1468", "windowsize", "64"), from); b != nil {
				t.Errorf("answered %q", b)
			}
		}
	}
	flood(tftpWaiting + 100)
	if n := counted(s, "driven-out"); n != 100 {
		t.Errorf("%v driven out", n)
	}
	want := bootFiles()[FileShim].Data
	for i := range 10 {
		done := make(chan error, 1)
		go func() {
			got, err := (&tftpClient{server: addr, blksize: 1468, windowsize: 4}).get(t.Context(), FileShim)
			if err == nil && !bytes.Equal(got.body, want) {
				err = fmt.Errorf("%d octets", len(got.body))
			}
			done <- err
		}()
		flood(tftpWaiting / 2)
		if err := <-done; err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	ts.table.mu.Lock()
	ts.table.check(t)
	ts.table.mu.Unlock()
	if n := runtime.NumGoroutine() - before; n > 50 {
		t.Errorf("%d goroutines more than before", n) // forged requests get none
	}
	forward.Store(int64(unprovenTime))
	eventually(t, "all places are free", func() bool { return ts.places() == 0 })
	eventually(t, "they are counted", func() bool { return counted(s, "never-acknowledged") >= tftpWaiting-100 })
}

// TestTFTPGreedyAddress: one address gets its share, and no more.
func TestTFTPGreedyAddress(t *testing.T) {
	s, _, log := liveService(t, nil)
	addr, _ := startTFTP(t, s)
	var all []*net.UDPConn
	var tids []string
	for i := range tftpPerAddress + 1 {
		c := udpFrom(t, "127.0.0.1:0")
		sendTo(t, c, addr, readRequestPacket(FileShim, "octet"))
		if i == tftpPerAddress {
			break
		}
		_, tid := receive(t, c)
		sendTo(t, c, tid, ackPacket(1))
		receive(t, c)
		all, tids = append(all, c), append(tids, tid)
	}
	eventually(t, "one is refused", func() bool { return counted(s, "too-many-from-address") == 1 })
	if !strings.Contains(log.String(), "as many transfers at once as there may be") {
		t.Errorf("nothing is said of it:\n%s", log)
	}
	c := udpFrom(t, "127.0.0.2:0")
	sendTo(t, c, addr, readRequestPacket(FileShim, "octet"))
	receive(t, c)
	for i, c := range all { // they go on
		sendTo(t, c, tids[i], ackPacket(2))
		receiveBlock(t, c, 3)
	}
}

// TestTFTPDoesNotFillTheLog: whoever loads a file again and again is not worth a line each time.
func TestTFTPDoesNotFillTheLog(t *testing.T) {
	s, _, _, log := newTestService(t) // its clock stands still
	addr, _ := startTFTP(t, s)
	const times = 3 * clientLineBurst
	for i := range times {
		if _, err := (&tftpClient{server: addr}).get(t.Context(), grubFirstFile); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	eventually(t, "all are counted", func() bool { return answered(s, "sent") == times })
	if n := strings.Count(log.String(), "TFTP: sent"); n != clientLineBurst {
		t.Errorf("%d lines about %d transfers", n, times)
	}
}

// TestTFTPUnreadable: what cannot be read is said to client and log, and the log does not fill with it.
func TestTFTPUnreadable(t *testing.T) {
	files := bootFiles()
	delete(files, FileShim)
	delete(files, FileMokManager)
	files[FileGRUB].Mode |= 1 << 31 // a directory
	s, _, log := liveService(t, files)
	addr, _ := startTFTP(t, s)
	for name, want := range map[string]string{FileShim: "no such file", FileMokManager: "no such file", FileGRUB: "log says why"} {
		if _, err := (&tftpClient{server: addr}).get(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 50 {
		_, _ = (&tftpClient{server: addr}).get(t.Context(), FileShim)
	}
	eventually(t, "all is counted", func() bool { return counted(s, "unreadable") == 52 })
	if n := strings.Count(log.String(), "read a boot file"); n < 2 || n > 12 || strings.Contains(log.String(), FileMokManager) && strings.Contains(log.String(), "file=mmx64.efi err") {
		t.Errorf("%d lines:\n%s", n, log)
	}
}

func TestNetascii(t *testing.T) {
	text := []byte(strings.Repeat("line\none\r\rmore\r\n", 3000))
	s, _, _ := liveService(t, fstest.MapFS{FileShim: {Data: text}})
	addr, _ := startTFTP(t, s)
	c := udpFrom(t, "127.0.0.1:0")
	sendTo(t, c, addr, readRequestPacket(FileShim, "netascii", "tsize", "0"))
	var wire []byte
	b, tid := receive(t, c)
	oack, err := parseOACK(b[2:])
	if err != nil {
		t.Fatal(err)
	}
	sendTo(t, c, tid, ackPacket(0))
	for n := uint16(1); ; n++ {
		block := receiveBlock(t, c, n)
		wire = append(wire, block...)
		sendTo(t, c, tid, ackPacket(n))
		if len(block) < defaultBlock {
			break
		}
	}
	want := strings.ReplaceAll(strings.ReplaceAll(string(text), "\r", "\r\x00"), "\n", "\r\n")
	if string(wire) != want || oack["tsize"] != int64(len(want)) {
		t.Errorf("%d octets, tsize %d, want %d", len(wire), oack["tsize"], len(want))
	}
	s, _, _ = liveService(t, fstest.MapFS{FileShim: {Data: make([]byte, netasciiMaxFile+1)}})
	addr, _ = startTFTP(t, s)
	c = udpFrom(t, "127.0.0.1:0")
	sendTo(t, c, addr, readRequestPacket(FileShim, "netascii"))
	if b, _ := receive(t, c); !bytes.Equal(b, answerNoText) {
		t.Errorf("a large file in netascii: %q", b)
	}
}
