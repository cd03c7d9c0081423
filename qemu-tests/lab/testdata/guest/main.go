// Command guest is the only program of a machine that tests the lab: PID 1 that reports events, uses the WAN, and does at the
// end what the kernel's command line says (guest.end=panic|off|wait).
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var events *os.File

func emit(name string, fields map[string]any) {
	m := map[string]any{"time": time.Now().UTC().Format(time.RFC3339Nano), "event": name}
	for k, v := range fields {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	events.Write(append(b, '\n'))
}

func main() {
	if os.Getpid() != 1 {
		os.Exit(1) // the kernel takes the layer's /init for modprobe too
	}
	for _, m := range [][3]string{{"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}, {"devtmpfs", "/dev", "devtmpfs"}} {
		os.MkdirAll(m[1], 0o755)
		unix.Mount(m[0], m[1], m[2], 0, "")
	}
	if tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0); err == nil {
		unix.Dup3(int(tty.Fd()), 1, 0)
		unix.Dup3(int(tty.Fd()), 2, 0)
	}
	fmt.Println("guest: hello on the serial console")
	loadModules()
	var err error
	if events, err = openPort("org.branchpoint.events"); err != nil {
		fmt.Println("guest:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	emit("guest-ready", map[string]any{"secure-boot": secureBoot()})
	events.Write([]byte("not an event\n" + strings.Repeat("x", 300_000) + "\n"))
	emit("after-garbage", nil)
	options := map[string]string{}
	line, _ := os.ReadFile("/proc/cmdline")
	for _, f := range strings.Fields(string(line)) {
		if k, v, ok := strings.Cut(f, "="); ok {
			options[k] = v
		}
	}
	if a := options["guest.wan"]; a != "" {
		wan(a, options["guest.outside"])
	}
	emit("guest-done", nil)
	switch options["guest.end"] {
	case "panic":
		panic("the end of PID 1 is the kernel's panic")
	case "off":
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	select {}
}

// loadModules loads what drives virtio, in whatever order it takes.
func loadModules() {
	var todo []string
	filepath.WalkDir("/lib/modules", func(p string, _ fs.DirEntry, err error) error {
		name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(p), ".ko"), "-", "_")
		if err == nil && strings.HasSuffix(p, ".ko") && (strings.HasPrefix(name, "virtio") || strings.HasSuffix(name, "failover")) {
			todo = append(todo, p)
		}
		return nil
	})
	for progress := true; progress; {
		progress = false
		var left []string
		for _, p := range todo {
			f, err := os.Open(p)
			if err != nil {
				continue
			}
			if err := unix.FinitModule(int(f.Fd()), "", 0); err == nil {
				progress = true
			} else {
				left = append(left, p)
			}
			f.Close()
		}
		todo = left
	}
}

func openPort(name string) (*os.File, error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == name {
				return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(n))), os.O_WRONLY, 0)
			}
		}
	}
	return nil, fmt.Errorf("there is no port %s", name)
}

func secureBoot() bool {
	unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", 0, "")
	b, err := os.ReadFile("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	return err == nil && len(b) == 5 && b[4] == 1
}

// wan fetches from the address over many connections at once, and tries what must not be reached.
func wan(addr, outside string) {
	if err := networkUp(); err != nil {
		emit("wan", map[string]any{"error": err.Error()})
		return
	}
	const many = 16
	var wg sync.WaitGroup
	var mu sync.Mutex
	hashes := map[string]int{}
	begin := time.Now()
	for i := range many {
		wg.Go(func() {
			c := http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			what := ""
			resp, err := c.Get(fmt.Sprintf("http://%s/data?%d", addr, i))
			if err == nil {
				h := sha256.New()
				_, err = io.Copy(h, resp.Body)
				resp.Body.Close()
				what = hex.EncodeToString(h.Sum(nil))
			}
			if err != nil {
				what = err.Error()
			}
			mu.Lock()
			hashes[what]++
			mu.Unlock()
		})
	}
	wg.Wait()
	took := time.Since(begin)
	reached := []string{}
	for _, a := range strings.Split(outside, ",") {
		if c, err := net.DialTimeout("tcp", a, 2*time.Second); err == nil {
			c.Close()
			reached = append(reached, a)
		}
	}
	emit("wan", map[string]any{"hashes": hashes, "reached": reached, "milliseconds": took.Milliseconds()})
}

// networkUp gives the first card the address that the user network expects.
func networkUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	for _, set := range []struct {
		op uint
		ip [4]byte
	}{{unix.SIOCSIFADDR, [4]byte{10, 0, 2, 15}}, {unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 0}}} {
		if err := req.SetInet4Addr(set.ip[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(s, set.op, req); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
