package pxe

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// captured returns the packets that real clients sent to the TFTP port: one a line, a name and the packet in hex.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/tftp-captured.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, packet, ok := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(packet)
		if !ok || err != nil || out[name] != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out[name] = b
	}
	return out
}

func TestCapturedRequests(t *testing.T) {
	all := captured(t)
	for name, want := range map[string]string{
		"ovmf-probe":       "shimx64.efi blksize 1468 windowsize 4 timeout 0 tsize true netascii false",
		"ovmf":             "shimx64.efi blksize 1468 windowsize 4 timeout 0 tsize false netascii false",
		"shim":             "grubx64.efi blksize 512 windowsize 4 timeout 0 tsize false netascii false",
		"grub":             "/grub/grub.cfg blksize 1024 windowsize 0 timeout 0 tsize true netascii false",
		"ipxe":             "undionly.kpxe blksize 1432 windowsize 0 timeout 0 tsize true netascii false",
		"tftp-hpa":         "shimx64.efi blksize 0 windowsize 0 timeout 0 tsize false netascii false",
		"tftp-hpa-ascii":   "shimx64.efi blksize 0 windowsize 0 timeout 0 tsize false netascii true",
		"tftp-hpa-write":   "write",
		"atftp":            "shimx64.efi blksize 0 windowsize 0 timeout 0 tsize false netascii false",
		"atftp-options":    "shimx64.efi blksize 1468 windowsize 8 timeout 2 tsize true netascii false",
		"curl":             "shimx64.efi blksize 512 windowsize 0 timeout 6 tsize true netascii false",
		"curl-blksize":     "shimx64.efi blksize 1468 windowsize 0 timeout 6 tsize true netascii false",
		"curl-no-options":  "shimx64.efi blksize 0 windowsize 0 timeout 0 tsize false netascii false",
		"ovmf-probe-abort": "unexpected",
		"busybox":          "shimx64.efi blksize 1468 windowsize 0 timeout 0 tsize true netascii false",
	} {
		r, err := parseReadRequest(all[name])
		got := fmt.Sprintf("%s blksize %d windowsize %d timeout %d tsize %t netascii %t", r.name, r.blksize, r.windowsize, r.timeout, r.tsize, r.netascii)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		delete(all, name)
	}
	for name := range all {
		t.Errorf("%s is not looked at", name)
	}
}

func TestMalformedRequests(t *testing.T) {
	long := readRequestPacket("shimx64.efi", "octet", "blksize", strings.Repeat("1", 600))
	for _, c := range []struct {
		packet string
		want   string
	}{
		{"", "malformed"},
		{"\x00", "malformed"},
		{"\x00\x01", "malformed"},
		{"\x00\x01shimx64.efi", "malformed"},
		{"\x00\x01shimx64.efi\x00", "malformed"},
		{"\x00\x01shimx64.efi\x00octet", "malformed"},
		{"\x00\x01shimx64.efi\x00mail\x00", "malformed"},
		{"\x00\x01shimx64.efi\x00octet\x00blksize", "malformed"},
		{"\x00\x01shimx64.efi\x00octet\x00blksize\x00", "malformed"},
		{"\x00\x01shimx64.efi\x00octet\x00blksize\x00512", "malformed"},
		{"\x00\x02shimx64.efi\x00octet\x00", "write"},
		{"\x00\x03\x00\x01hello", "unexpected"},
		{"\x00\x04\x00\x01", "unexpected"},
		{"\x00\x05\x00\x00x\x00", "unexpected"},
		{"\x00\x06blksize\x00512\x00", "unexpected"},
		{"\x00\x07", "malformed"},
		{"\x01\x00shimx64.efi\x00octet\x00", "malformed"},
		{string(long), "oversized"},
		{string(make([]byte, 2000)), "oversized"},
		{"\x00\x01shimx64.efi\x00OcTeT\x00", ""},
		{"\x00\x01shimx64.efi\x00octet\x00\x00\x00\x00\x00", ""},
		{"\x00\x01shimx64.efi\x00octet\x00blksize\x00-1\x00windowsize\x00x\x00multicast\x00\x00timeout\x00255\x00windowsize\x000\x00", ""},
	} {
		r, err := parseReadRequest([]byte(c.packet))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.packet, got, c.want)
		}
		if c.want == "" && (r.name != FileShim || r.blksize|r.windowsize|r.timeout != 0) {
			t.Errorf("%q: %+v", c.packet, r)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		name string
		r    readRequest
		mtu  int
		want string
	}{
		{"nothing", readRequest{}, 1500, "512 1 0s \"\""},
		{"Ethernet", readRequest{blksize: 1500}, 1500, "1468 1 0s \"\\x00\\x06blksize\\x001468\\x00\""},
		{"tunnel", readRequest{blksize: 1468}, 1400, "1368 1 0s \"\\x00\\x06blksize\\x001368\\x00\""},
		{"nonsense MTU", readRequest{blksize: 1468}, 0, "8 1 0s \"\\x00\\x06blksize\\x008\\x00\""},
		{"all", readRequest{blksize: 1024, windowsize: 100, timeout: 5, tsize: true}, 9000, "1024 64 5s \"\\x00\\x06blksize\\x001024\\x00tsize\\x00123456\\x00timeout\\x005\\x00windowsize\\x0064\\x00\""},
		{"large blocks", readRequest{blksize: 65464, windowsize: 64}, 65536, "65464 1 0s \"\\x00\\x06blksize\\x0065464\\x00windowsize\\x001\\x00\""},
	} {
		te := negotiate(&c.r, 123456, c.mtu)
		if got := fmt.Sprintf("%d %d %s %q", te.blksize, te.window, te.timeout, te.oack); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// FuzzReadRequest: whatever comes in, no terms are agreed to that the limits do not allow.
func FuzzReadRequest(f *testing.F) {
	for _, b := range captured(f) {
		f.Add(b, uint16(1500))
	}
	f.Add([]byte("\x00\x01x\x00octet\x00blksize\x0099999999999999999999\x00tsize\x00-1\x00"), uint16(68))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		in := bytes.Clone(b)
		r, err := parseReadRequest(b)
		if !bytes.Equal(in, b) {
			t.Fatal("the packet is changed")
		}
		if err != nil {
			if reason, answer := reasonOf(err); reason == "" || len(answer) > 100 {
				t.Fatalf("%q %q", reason, answer)
			}
			return
		}
		if len(b) > maxReadRequest || len(r.name) > maxReadRequest {
			t.Fatalf("%d octets are taken", len(b))
		}
		if name := cleanPath(r.name); strings.HasPrefix(name, "/") || strings.HasPrefix(name, "..") {
			t.Fatalf("%q becomes %q", r.name, name)
		}
		te := negotiate(&r, 1<<20, int(mtu))
		switch {
		case te.blksize < minBlock, te.blksize > maxBlock, r.blksize == 0 && te.blksize != defaultBlock,
			r.blksize > 0 && te.blksize > max(minBlock, min(r.blksize, int(mtu)-32)),
			te.window < 1, te.window > maxWindow, te.window > max(1, r.windowsize), te.window > 1 && te.window*te.blksize > maxWindowOctets,
			te.timeout < 0, te.timeout > maxTimeout*time.Second, len(te.oack) > 100,
			(te.oack == nil) != (r.blksize == 0 && r.windowsize == 0 && r.timeout == 0 && !r.tsize):
			t.Fatalf("%+v becomes %+v", r, te)
		}
	})
}
