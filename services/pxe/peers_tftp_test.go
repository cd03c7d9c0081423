package pxe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"branchpoint/benchmark"
	"branchpoint/provisioning"
)

const (
	// tftpBenchEnv tells the test binary, which starts itself again, that it is in a network namespace of its own
	// ("network"), or which folder it is to serve there.
	tftpBenchEnv = "BRANCHPOINT_TFTP_BENCH"
	// tftpBenchSize is the file's size in octets.
	tftpBenchSize = 48 << 20
)

// BenchmarkPeers_TFTPThroughput loads a file with the block and window sizes that OVMF asks for, by one client of ours
// from all servers. Each server is a process of its own, on a loopback with Ethernet's MTU in a new network namespace:
// dnsmasq serves port 69 only.
func BenchmarkPeers_TFTPThroughput(b *testing.B) {
	if os.Getenv(tftpBenchEnv) == "" {
		cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkPeers_TFTPThroughput$", "-test.benchtime=1x", "-test.v")
		cmd.Env = append(os.Environ(), tftpBenchEnv+"=network")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		b.Logf("%s", out)
		if err != nil {
			b.Fatalf("%v (a network namespace needs root)", err)
		}
		return
	}
	// tftpd-hpa does not listen where a host has no other address than the loopback's own.
	for _, args := range []string{"link set lo mtu 1500 up", "address add 192.0.2.1/32 dev lo", "address add 192.0.2.2/32 dev lo", "address add 192.0.2.3/32 dev lo", "address add 192.0.2.4/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			b.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	dir := b.TempDir()
	want := testFile(tftpBenchSize)
	if err := os.WriteFile(filepath.Join(dir, FileShim), want, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, tftpBenchSize+maxBlock)
	contender := func(name, address string, args ...string) benchmark.Contender {
		alive := startPeer(b, dir, args)
		run := func(ctx context.Context) (float64, error) {
			ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
			defer stop()
			defer context.AfterFunc(alive, stop)()
			c := &tftpClient{server: address + ":69", blksize: 1468, windowsize: 4, buf: buf}
			begun := time.Now()
			got, err := c.get(ctx, FileShim)
			took := time.Since(begun)
			if err == nil && !bytes.Equal(got.body, want) {
				err = fmt.Errorf("%d octets, not what is in the file", len(got.body))
			}
			if err == nil && got.oack["blksize"] != 1468 {
				err = fmt.Errorf("acknowledged %v", got.oack)
			}
			return tftpBenchSize / 1e6 / took.Seconds(), err
		}
		if _, err := run(b.Context()); err != nil { // waits for the server, and fills caches
			b.Fatalf("%s: %v", name, err)
		}
		return benchmark.Contender{Name: name, Run: run}
	}
	benchmark.Report(b, benchmark.Contest{
		Name: "tftp-throughput", Unit: "MB/s", HigherIsBetter: true, Runs: 5,
		Ours: contender("branchpoint", "192.0.2.1", os.Args[0], "-test.run=^TestServeForBenchmark$", "-test.timeout=0"),
		Peers: []benchmark.Contender{
			contender("tftpd-hpa", "192.0.2.2", "in.tftpd", "-L", "-a", "192.0.2.2:69", "-u", "root", "-s", dir),
			contender("dnsmasq", "192.0.2.3", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--listen-address=192.0.2.3",
				"--enable-tftp", "--tftp-root="+dir, "--user=root", "--pid-file=", "--log-facility=-"),
			contender("atftpd", "192.0.2.4", "atftpd", "--daemon", "--no-fork", "--bind-address", "192.0.2.4", "--port", "69", "--user", "root.root", "--logfile", "-", dir),
		},
	})
}

// startPeer runs a server until the benchmark ends. The context ends where the server ends by itself.
func startPeer(b *testing.B, dir string, args []string) (alive context.Context) {
	b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), tftpBenchEnv+"="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatalf("%v (setup.sh installs it)", err)
	}
	alive, ended := context.WithCancel(context.Background())
	go func() { _ = cmd.Wait(); ended() }()
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-alive.Done()
		if b.Failed() {
			b.Logf("%s: %s", args[0], &out)
		}
	})
	return alive
}

// TestServeForBenchmark is no test: it is the process that the benchmark measures, the whole service.
func TestServeForBenchmark(t *testing.T) {
	dir := os.Getenv(tftpBenchEnv)
	if dir == "" || dir == "network" {
		t.Skip("the benchmark starts this")
	}
	s, err := New(Config{Interfaces: []Interface{{"lo", netip.MustParsePrefix("192.0.2.1/32")}}, Mode: provisioning.PXEModeProxy}, Deps{
		Policy: newFakePolicy(), Boots: fakeBoots{}, Files: os.DirFS(dir), Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		err = s.Run(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}
