package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

// Accel is what runs a guest's instructions.
type Accel string

// The accelerators that the lab knows.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg" // emulation, everywhere available
)

// probeLimit is how long a kernel may take to say its first word under KVM. It takes less than a second where KVM works.
const probeLimit = 20 * time.Second

var acceleration struct {
	sync.Mutex
	known Accel
}

// Acceleration says what machines run with: KVM if a kernel boots under it, which a /dev/kvm that exists does not promise,
// and TCG otherwise. The probe needs build/boot/vmlinuz; its result is cached in build/cache/accel until the host is booted
// again. The environment variable LAB_ACCEL ("kvm" or "tcg") decides without a probe.
func Acceleration(t testing.TB) Accel {
	t.Helper()
	acceleration.Lock()
	defer acceleration.Unlock()
	if acceleration.known != "" {
		return acceleration.known
	}
	switch a := Accel(os.Getenv("LAB_ACCEL")); a {
	case KVM, TCG:
		acceleration.known = a
		return a
	case "":
	default:
		t.Fatalf("LAB_ACCEL=%q is neither kvm nor tcg", a)
	}
	root, err := RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Logf("acceleration is not cached: %v", err)
	}
	p := prober{
		device: "/dev/kvm",
		kernel: filepath.Join(root, "build", "boot", "vmlinuz"),
		cache:  filepath.Join(root, "build", "cache", "accel"),
		host:   string(boot),
		limit:  probeLimit,
		boot:   bootUnderKVM,
	}
	a, why := p.probe()
	t.Logf("acceleration: %s (%s)", a, why)
	acceleration.known = a
	return a
}

// prober decides on an accelerator. Its parts are fields, so that a test can let the boot hang.
type prober struct {
	device, kernel, cache, host string
	limit                       time.Duration
	// boot starts a kernel and returns nil once it has spoken. It returns when the context ends.
	boot func(ctx context.Context, kernel string) error
}

type probeResult struct {
	Key   string `json:"key"`
	Accel Accel  `json:"accel"`
	Why   string `json:"why"`
}

func (p *prober) probe() (Accel, string) {
	dev, err := os.OpenFile(p.device, os.O_RDWR, 0)
	if err != nil {
		return TCG, fmt.Sprintf("no KVM: %v", err)
	}
	dev.Close()
	if _, err := os.Stat(p.kernel); err != nil {
		return TCG, "no kernel to try KVM with is built yet"
	}
	h := sha256.Sum256([]byte("1\x00" + p.host))
	key := hex.EncodeToString(h[:8])
	if p.host != "" {
		if r, ok := p.cached(key); ok {
			return r.Accel, r.Why + ", cached"
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.limit)
	defer cancel()
	begin := time.Now()
	r := probeResult{Key: key, Accel: KVM}
	done := make(chan error, 1)
	go func() { done <- p.boot(ctx, p.kernel) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// QEMU itself may hang in the kernel and not even die: leave it behind.
		err = ctx.Err()
	}
	switch {
	case err == nil:
		r.Why = fmt.Sprintf("a kernel booted under KVM in %v", time.Since(begin).Round(time.Millisecond))
	case errors.Is(err, context.DeadlineExceeded):
		r.Accel, r.Why = TCG, fmt.Sprintf("a kernel under KVM said nothing within %v", p.limit)
	default:
		r.Accel, r.Why = TCG, fmt.Sprintf("no kernel boots under KVM: %v", err)
	}
	if p.host != "" {
		p.store(r)
	}
	return r.Accel, r.Why
}

func (p *prober) cached(key string) (probeResult, bool) {
	b, err := os.ReadFile(p.cache)
	if err != nil {
		return probeResult{}, false
	}
	var r probeResult
	if json.Unmarshal(b, &r) != nil || r.Key != key || r.Accel != KVM && r.Accel != TCG {
		return probeResult{}, false
	}
	return r, true
}

// store keeps the result. That it cannot is no reason to fail: the next run probes again.
func (p *prober) store(r probeResult) {
	b, err := json.Marshal(r)
	if err != nil || os.MkdirAll(filepath.Dir(p.cache), 0o755) != nil {
		return
	}
	tmp := fmt.Sprintf("%s.%d", p.cache, os.Getpid())
	if os.WriteFile(tmp, b, 0o644) == nil {
		_ = os.Rename(tmp, p.cache)
	}
}

// bootUnderKVM starts a kernel until it has written its banner on the serial console.
func bootUnderKVM(ctx context.Context, kernel string) error {
	dir, err := os.MkdirTemp("", "labprobe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	log, err := newSerialLog(filepath.Join(dir, "serial"))
	if err != nil {
		return err
	}
	defer log.file.Close()
	cmd := exec.Command("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "kvm",
		"-cpu", "host", "-m", "512", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1")
	cmd.Stdout = serialWriter{log}
	p, err := startProcess(spawner(), cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if p.wait(ctx) == nil {
			cancel(fmt.Errorf("QEMU ended: %v", p.cmd.ProcessState))
		}
	}()
	_, _, err = log.wait(ctx, 0, linuxBanner)
	p.kill()
	return err
}

var linuxBanner = regexp.MustCompile(`Linux version [0-9]`)

// serialWriter makes a serial log of a program's output.
type serialWriter struct{ log *serialLog }

func (w serialWriter) Write(b []byte) (int, error) {
	w.log.add(b)
	return len(b), nil
}
