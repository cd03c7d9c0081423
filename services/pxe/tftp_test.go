package pxe

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/pin/tftp/v3"
)

// startTFTP serves the service's loaders on a port of the loopback and returns its address.
func startTFTP(t *testing.T, s *Service) (string, *tftpServer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.ctx = ctx
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ts, srv := s.newTFTP(serverAddr)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(c) }()
	t.Cleanup(func() { cancel(); srv.Shutdown(); <-done })
	return c.LocalAddr().String(), ts
}

// fetch reads a file; blksize 0 asks for no options.
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

func TestTFTP(t *testing.T) {
	s, _, _, _ := newTestService(t)
	addr, ts := startTFTP(t, s)
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
	if err == nil {
		t.Error("a file can be written")
	}
	for range tftpTransfers {
		ts.slots <- struct{}{}
	}
	if _, _, err := fetch(t, addr, "shimx64.efi", 512); err == nil || !strings.Contains(err.Error(), "too many transfers") {
		t.Errorf("more transfers than there may be: %v", err)
	}
}

func TestTFTPEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := io.ReadAll(&contextReader{ctx, strings.NewReader("x")}); err == nil {
		t.Error("a transfer goes on after its time")
	}
}
