package pxe

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// startTFTP serves the service's loaders on a port of the loopback, as if its MTU were Ethernet's; mods change that.
func startTFTP(t testing.TB, s *Service, mods ...func(*tftpServer)) (string, *tftpServer) {
	t.Helper()
	ts := s.newTFTP(Interface{"lo", netip.PrefixFrom(serverAddr, 24)})
	// Another address than the clients': busybox shares ports (SO_REUSEADDR), and might be given one of ours.
	ts.addr, ts.device, ts.mtu = netip.MustParseAddr("127.0.0.2"), "", func() int { return 1500 }
	for _, m := range mods {
		m(ts)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c, err := ts.open(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ts.serve(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		_ = c.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c.LocalAddr().String(), ts
}

// fetch reads a file with another's client; blksize 0 asks for no options.
func fetch(t *testing.T, addr, name string, blksize int) (body []byte, size int64, err error) {
	t.Helper()
	c, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	if blksize > 0 {
		c.SetBlockSize(blksize)
		c.RequestTSize(true)
	}
	w, err := c.Receive(name, "octet")
	if err != nil {
		return nil, 0, err
	}
	size = -1
	if n, ok := w.(tftp.IncomingTransfer).Size(); ok {
		size = n
	}
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), size, err
}

// counted is how often something was dropped or answered by TFTP.
func counted(s *Service, reason string) float64 {
	return testutil.ToFloat64(s.metrics.dropped.WithLabelValues(serviceTFTP, reason))
}

func answered(s *Service, kind string) float64 {
	return testutil.ToFloat64(s.metrics.answers.WithLabelValues(serviceTFTP, kind))
}

// eventually waits for something that another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func TestTFTP(t *testing.T) {
	s, _, _, _ := newTestService(t)
	addr, _ := startTFTP(t, s)
	want := bootFiles()[FileShim].Data
	for _, c := range []struct {
		name    string
		blksize int
	}{{"shimx64.efi", 0}, {"/shimx64.efi", 512}, {"//shimx64.efi", 1468}, {`\shimx64.efi`, 1432}, {"x/../shimx64.efi", 1024}, {"shimx64.efi", 65464}} {
		b, size, err := fetch(t, addr, c.name, c.blksize)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s with blksize %d: %d octets, %v", c.name, c.blksize, len(b), err)
		}
		if c.blksize > 0 && size != int64(len(want)) {
			t.Errorf("%s with blksize %d: tsize %d, want %d", c.name, c.blksize, size, len(want))
		}
	}
	for _, name := range []string{"//grub/grub.cfg", "grub/grub.cfg"} {
		b, size, err := fetch(t, addr, name, 1024)
		if err != nil || size != int64(len(b)) {
			t.Fatalf("%s: %d octets, tsize %d, %v", name, len(b), size, err)
		}
		golden(t, "grub-first", string(b))
		grubParses(t, string(b))
	}
	for _, name := range []string{
		"", "/", ".", "vmlinuz", "base.cpio.zst", "grubx64.efi.sig", "revocations_sku.efi", "grub", "grub/x86_64-efi/command.lst",
		"../../etc/passwd", "/etc/passwd", "grub/../../shimx64.efi/x", strings.Repeat("x", 400), "SHIMX64.EFI",
	} {
		if b, _, err := fetch(t, addr, name, 512); err == nil {
			t.Errorf("%q is handed out: %d octets", name, len(b))
		}
	}
	c, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	rf, err := c.Send("shimx64.efi", "octet")
	if err == nil {
		_, err = rf.ReadFrom(strings.NewReader("evil"))
	}
	if err == nil || !strings.Contains(err.Error(), "only be read") {
		t.Errorf("a file can be written: %v", err)
	}
}

func TestTFTPOptions(t *testing.T) {
	s, _, _, _ := newTestService(t)
	addr, _ := startTFTP(t, s)
	want := bootFiles()[FileShim].Data
	size := int64(len(want))
	for _, c := range []struct {
		c    tftpClient
		oack map[string]int64
	}{
		{tftpClient{}, nil},
		{tftpClient{tsize: true}, map[string]int64{"tsize": size}},
		{tftpClient{blksize: 1468, windowsize: 4, tsize: true}, map[string]int64{"tsize": size, "blksize": 1468, "windowsize": 4}},
		{tftpClient{windowsize: 16}, map[string]int64{"windowsize": 16}},
		{tftpClient{windowsize: 1}, map[string]int64{"windowsize": 1}},
		{tftpClient{blksize: 512, windowsize: 65535}, map[string]int64{"blksize": 512, "windowsize": maxWindow}},
		{tftpClient{blksize: 65464, windowsize: 65535}, map[string]int64{"blksize": 1468, "windowsize": maxWindow}}, // MTU 1500
		{tftpClient{blksize: 8, windowsize: 3}, map[string]int64{"blksize": 8, "windowsize": 3}},
		{tftpClient{blksize: 7}, map[string]int64(nil)},
		{tftpClient{blksize: 65465, tsize: true}, map[string]int64{"tsize": size}},
	} {
		c.c.server = addr
		got, err := c.c.get(t.Context(), FileShim)
		if err != nil || !bytes.Equal(got.body, want) {
			t.Errorf("%+v: %d octets, %v", c.c, len(got.body), err)
		}
		if !equalOptions(got.oack, c.oack) {
			t.Errorf("%+v: acknowledged %v, want %v", c.c, got.oack, c.oack)
		}
	}
}

func equalOptions(a, b map[string]int64) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestHeld(t *testing.T) {
	now, asked := start, 0
	f := held(time.Second, func() time.Time { return now }, func() int { asked++; return asked })
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {0, 1}, {999 * time.Millisecond, 1}, {time.Millisecond, 2}, {0, 2}, {-time.Hour, 3}} { // a clock that goes back
		now = now.Add(c.after)
		if got := f(); got != c.want {
			t.Errorf("at %s: %d, want %d", now, got, c.want)
		}
	}
}

// TestTFTPLargeBlocks: on an interface that carries them, blocks and bursts may be as large as UDP's packets.
func TestTFTPLargeBlocks(t *testing.T) {
	s, _, _, _ := newTestService(t)
	addr, _ := startTFTP(t, s, func(ts *tftpServer) { ts.mtu = func() int { return 65536 } })
	want := bootFiles()[FileShim].Data
	for _, size := range []int{1469, 9000, 32000, 65464} {
		got, err := (&tftpClient{server: addr, blksize: size, windowsize: 64}).get(t.Context(), FileShim)
		if err != nil || !bytes.Equal(got.body, want) || got.oack["blksize"] != int64(size) {
			t.Errorf("blksize %d: %d octets, %v, %v", size, len(got.body), got.oack, err)
		}
	}
}
