package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// guestLayers returns the kernel and the layers of a machine whose only program is testdata/guest.
func guestLayers(t *testing.T) (kernel string, layers []string) {
	t.Helper()
	kernel, err := artifact("build/boot/vmlinuz")
	if err != nil {
		t.Skip(err)
	}
	base, err := artifact("build/boot/base.cpio.zst")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	return kernel, []string{base, writeFile(t, "guest.cpio", CPIO(map[string]CPIOFile{"/init": {Mode: 0o755, Contents: b}}))}
}

// TestGuest starts a kernel whose program reports events, with garbage between them, and loads from the host over many
// connections at once.
func TestGuest(t *testing.T) {
	kernel, layers := guestLayers(t)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	serve := func() string {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })}
		go srv.Serve(ln)
		t.Cleanup(func() { srv.Close() })
		return ln.Addr().String()
	}
	central, other := serve(), serve()
	link := NewLink(t, central)
	_, otherPort, err := net.SplitHostPort(other)
	if err != nil {
		t.Fatal(err)
	}
	const guestAddr = "10.0.2.100:8443"
	l := New(t)
	m := l.Machine(Config{
		Name: "m", MemoryMB: 512, Kernel: kernel, Initrd: layers,
		CommandLine: "console=ttyS0 quiet panic=-1 net.ifnames=0 guest.end=panic guest.wan=" + guestAddr + " guest.outside=10.0.2.2:" + otherPort + ",10.0.2.3:53,1.1.1.1:80,127.0.0.1:80",
		NICs:        []NIC{{WAN: &WAN{Forwards: []Forward{{Guest: guestAddr, Host: link.Addr()}}}}},
	})
	m.Start()
	m.WaitSerial(bootLimit, "guest: hello on the serial console")
	ready := m.WaitEvent(bootLimit, "guest-ready", nil)
	if ready.Time.IsZero() || ready.String("secure-boot") != "false" {
		t.Errorf("%s", ready.Raw)
	}
	m.WaitEvent(bootLimit, "after-garbage", After(ready))
	wan := m.WaitEvent(2*bootLimit, "wan", nil)
	h := sha256.Sum256(data)
	want, err := json.Marshal(map[string]int{hex.EncodeToString(h[:]): 16})
	if err != nil {
		t.Fatal(err)
	}
	if got := wan.String("hashes"); got != string(want) {
		t.Errorf("over the WAN came %s, not %s", got, want)
	}
	if got := wan.String("reached"); got != "[]" {
		t.Errorf("the guest reached %s outside of the WAN", got)
	}
	t.Logf("16 connections of 1 MiB took %s ms", wan.String("milliseconds"))
	if n := link.Connections(); n != 16 {
		t.Errorf("%d connections", n)
	}
	m.WaitEvent(bootLimit, "guest-done", nil)
	// What cannot come any more is not waited for.
	begin := time.Now()
	_, err = m.AwaitEvent(time.Hour, "never", nil)
	if err == nil || !strings.Contains(err.Error(), "panicked") || !strings.Contains(err.Error(), "guest-done") {
		t.Errorf("waiting for a machine that has panicked: %v", err)
	}
	if took := time.Since(begin); took > bootLimit {
		t.Errorf("it took %v to see the panic", took)
	}
}
