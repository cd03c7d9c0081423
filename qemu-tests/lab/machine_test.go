package lab

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// bootSector is testdata/bootsector.s, assembled: it says hello on the serial console, echoes what is typed there and on the
// keyboard, and resets (r), writes a sector (w), or powers off (p) when told to there.
func bootSector(t *testing.T) []byte {
	t.Helper()
	code, err := hex.DecodeString("fa31c08ed88ec08ed0bc007cfbfcbe8b7ce85b00bafd03eca8017413baf803ec3c7274213c7074233c777428e84b00b401cd" +
		"1674df30e4cd1650b04be83b0058e83700ebcfb0fee664ebc9ba0406b80020efebc0b80103b90200ba8100bb007ccd13be9e" +
		"7c7303bea67ce80200eba5ac84c07405e80300ebf6c35250bafd03eca82074fb58baf803ee5ac3626f6f7420736563746f72" +
		"2072756e730d0a0077726f74650d0a006661696c65640d0a00")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20) // SeaBIOS does not boot a disk without a cylinder
	copy(b, code)
	b[510], b[511] = 0x55, 0xaa
	return b
}

const bootLimit = 60 * time.Second

func TestMachineControl(t *testing.T) {
	l := New(t)
	data := l.BlankDisk("data", 16<<20)
	m := l.Machine(Config{
		Name: "m", MemoryMB: 64,
		Disks: []Disk{{Path: writeFile(t, "boot", bootSector(t)), Boot: 1, Snapshot: true}, {Path: data, Boot: 2}},
	})
	m.Start()
	_, mark := m.WaitSerialAfter(0, bootLimit, `boot sector runs\n`)
	m.SendSerial("xyz")
	_, mark = m.WaitSerialAfter(mark, bootLimit, `xyz`)
	m.Type("q")
	_, mark = m.WaitSerialAfter(mark, bootLimit, `Kq`)
	if img := m.Screenshot("screen"); img.Bounds().Dx() < 320 {
		t.Errorf("the screen is %v", img.Bounds())
	}
	RequireBlank(t, data)
	m.SendSerial("w")
	_, mark = m.WaitSerialAfter(mark, bootLimit, `wrote`)
	m.PowerCut()
	if m.Running() {
		t.Fatal("it runs without power")
	}
	RequireNotBlank(t, data)

	m.Start()
	_, mark = m.WaitSerialAfter(mark, bootLimit, `boot sector runs`)
	n := m.Reboots()
	m.SendSerial("r")
	m.WaitReboots(bootLimit, n+1)
	_, mark = m.WaitSerialAfter(mark, bootLimit, `boot sector runs`)
	m.Reset()
	_, mark = m.WaitSerialAfter(mark, bootLimit, `boot sector runs`)
	m.SendSerial("p")
	m.WaitOff(bootLimit)

	// A wait for what cannot come any more ends at once, and says why.
	if _, err := m.AwaitEvent(time.Hour, "never", nil); err == nil || !strings.Contains(err.Error(), "off") {
		t.Errorf("waiting for a machine that is off: %v", err)
	}
	if _, _, err := m.AwaitSerial(mark, time.Hour, "never"); err == nil || !strings.Contains(err.Error(), "off") {
		t.Errorf("waiting for a machine that is off: %v", err)
	}
}

func TestReboots(t *testing.T) {
	m := &Machine{}
	for _, guest := range []bool{true, false, true} {
		m.qmpLog = append(m.qmpLog, QMPEvent{Name: "RESET", Data: map[string]any{"guest": guest}}, QMPEvent{Name: "STOP"})
	}
	if n := m.Reboots(); n != 2 {
		t.Errorf("%d resets of the guest, not 2", n)
	}
}

// TestBuses boots from each kind of disk, in the order that the machine says.
func TestBuses(t *testing.T) {
	l := New(t)
	boot := writeFile(t, "boot", bootSector(t))
	unchanged := RequireUnchanged(t, boot)
	blank := l.BlankDisk("blank", 1<<20)
	for _, chipset := range []string{"q35", "pc"} {
		for _, bus := range []Bus{Virtio, AHCI, NVMe, USB} {
			name := chipset + "-" + string(bus)
			m := l.Machine(Config{
				Name: name, Chipset: chipset, MemoryMB: 64, NoReboot: true,
				Disks: []Disk{
					{Path: blank, Bus: AHCI, Snapshot: true},
					{Path: l.Overlay(name, boot, "raw", 0), Format: "qcow2", Bus: bus, Boot: 1},
				},
			})
			m.Start()
			m.WaitSerial(bootLimit, "boot sector runs")
			m.SendSerial("r")
			m.WaitOff(bootLimit)
		}
	}
	unchanged()
}

// TestTwoMachines lets two machines ask for addresses on one switch beside a real DHCP server.
func TestTwoMachines(t *testing.T) {
	l := New(t)
	lan := l.Switch("lan")
	router := l.DNSMasq("router", lan, "192.168.77.1/24", DNSMasqOptions{})
	var machines []*Machine
	for i, chipset := range []string{"pc", "q35"} {
		m := l.Machine(Config{
			Name: fmt.Sprintf("m%d", i+1), Chipset: chipset, MemoryMB: 128, NICs: []NIC{{Switch: lan, Boot: 1}},
			SMBIOS: SMBIOS{Serial: fmt.Sprintf("SERIAL%d", i+1)},
		})
		m.Start()
		machines = append(machines, m)
	}
	for _, m := range machines {
		mac := m.MAC(0)
		ask := lan.WaitDHCP(t, bootLimit, "a discover of "+m.Name(), 1, DHCPRequests(mac))[0]
		if ask.From != m.Port(0).Name() {
			t.Errorf("%s asks on port %s", m.Name(), ask.From)
		}
		id := ask.Message.Options.Get(dhcpv4.OptionClientMachineIdentifier)
		if want := smbiosUUID(t, m.UUID()); hex.EncodeToString(id) != "00"+want {
			t.Errorf("%s: option 97 is %x, not 00%s", m.Name(), id, want)
		}
		lan.WaitDHCP(t, bootLimit, "an address for "+m.Name(), 1, func(d DHCPMessage) bool {
			return DHCPAnswers(mac)(d) && d.From == "router" && d.Message.MessageType() == dhcpv4.MessageTypeAck
		})
		lan.RequireNoDHCPAnswer(t, mac, "router")
		if !strings.Contains(router.Leases(), mac.String()) {
			t.Errorf("dnsmasq has no lease for %s: %s", mac, router.Leases())
		}
	}
}

// smbiosUUID is the order of bytes that firmware sends: the first three fields little-endian.
func smbiosUUID(t *testing.T, s string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7] = b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]
	return hex.EncodeToString(b)
}

// TestWAN lets the firmware's own HTTP client fetch from the host, through a link that is cut meanwhile, and fail to reach
// anything else.
func TestWAN(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	var mu sync.Mutex
	var paths []string
	seen := make(chan string, 100)
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
		seen <- r.URL.Path
		switch r.URL.Path {
		case "/script":
			io.WriteString(w, "#!ipxe\nimgfetch http://10.0.2.100:8080/large\nimgfetch --timeout 1000 http://10.0.2.2:"+port+"/outside ||\n"+
				"imgfetch http://10.0.2.100:8080/again\nreboot\n")
		case "/large":
			<-release
			w.Write(make([]byte, 1<<20))
		}
	})
	srv := &http.Server{Handler: mux}
	srv.SetKeepAlivesEnabled(false) // a connection for each file: a forward must take more than one
	go srv.Serve(ln)
	defer srv.Close()

	l := New(t)
	link := NewLink(t, ln.Addr().String())
	m := l.Machine(Config{
		Name: "m", MemoryMB: 128, NoReboot: true,
		NICs: []NIC{{Boot: 1, WAN: &WAN{
			Forwards: []Forward{{Guest: "10.0.2.100:8080", Host: link.Addr()}}, GuestPorts: []int{22}, BootFile: "http://10.0.2.100:8080/script",
		}}},
	})
	m.Start()
	if a := m.HostAddr(22); !strings.HasPrefix(a, "127.0.0.1:") || a == "127.0.0.1:0" {
		t.Errorf("port 22 of the guest is at %s", a)
	}
	wait := func(path string) {
		t.Helper()
		select {
		case p := <-seen:
			if p != path {
				t.Fatalf("the guest asked for %s, not for %s", p, path)
			}
		case <-time.After(bootLimit):
			t.Fatalf("the guest did not ask for %s", path)
		}
	}
	wait("/script")
	wait("/large")
	link.Cut()
	close(release)
	_, before := link.Bytes()
	select {
	case p := <-seen:
		t.Fatalf("through a cut link came a request for %s", p)
	case <-time.After(500 * time.Millisecond):
	}
	if _, now := link.Bytes(); now != before {
		t.Errorf("%d bytes passed a cut link", now-before)
	}
	link.Restore()
	wait("/again")
	m.WaitOff(bootLimit)
	if link.Connections() < 3 {
		t.Errorf("%d connections, not one for each file", link.Connections())
	}
	mu.Lock()
	defer mu.Unlock()
	for _, p := range paths {
		if p == "/outside" {
			t.Error("the guest reached the host past the link")
		}
	}
}

// TestDiesWithTest starts a machine in a process of its own and kills that.
func TestDiesWithTest(t *testing.T) {
	if os.Getenv("LAB_TEST_HELPER") == "1" {
		l := New(t)
		m := l.Machine(Config{Name: "m", MemoryMB: 64, TPM: true})
		m.Start()
		d := l.DNSMasq("router", l.Switch("lan"), "192.168.77.1/24", DNSMasqOptions{})
		fmt.Printf("pids %d %d %d\n", m.proc.cmd.Process.Pid, m.tpm.cmd.Process.Pid, d.proc.cmd.Process.Pid)
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiesWithTest$", "-test.v")
	cmd.Env = append(os.Environ(), "LAB_TEST_HELPER=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids [3]int
	sc := bufio.NewScanner(out)
	var said []string
	for sc.Scan() {
		said = append(said, sc.Text())
		if n, _ := fmt.Sscanf(sc.Text(), "pids %d %d %d", &pids[0], &pids[1], &pids[2]); n == 3 {
			break
		}
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for _, pid := range pids {
		if pid == 0 || syscall.Kill(pid, 0) != nil {
			t.Fatalf("the helper's machine does not run: %v\n%s", pids, strings.Join(said, "\n"))
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	New(t) // takes the artifact directory over, which the helper could not remove
	deadline := time.Now().Add(10 * time.Second)
	for _, pid := range pids {
		for !gone(pid) {
			if time.Now().After(deadline) {
				t.Errorf("process %d outlives its test", pid)
				syscall.Kill(pid, syscall.SIGKILL)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestKeepsArtifacts lets a test fail, in a process of its own, and looks at what it leaves.
func TestKeepsArtifacts(t *testing.T) {
	if os.Getenv("LAB_TEST_HELPER") == "1" {
		l := New(t)
		lan := l.Switch("lan")
		m := l.Machine(Config{
			Name: "m", MemoryMB: 64, Disks: []Disk{{Path: l.Overlay("boot", os.Getenv("LAB_TEST_BOOT"), "raw", 0), Format: "qcow2", Boot: 1}},
			NICs: []NIC{{Switch: lan}},
		})
		m.Start()
		m.WaitSerial(bootLimit, "boot sector runs")
		if err := lan.Attach("test").Send(ethernet(all, macA, 0x88b5, nil)); err != nil {
			t.Fatal(err)
		}
		m.WaitEvent(100*time.Millisecond, "what-never-comes", nil)
		return
	}
	root, err := RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "build", "e2e", "TestKeepsArtifacts")
	defer os.RemoveAll(dir)
	boot := writeFile(t, "boot", bootSector(t))
	cmd := exec.Command(os.Args[0], "-test.run=^TestKeepsArtifacts$", "-test.v")
	cmd.Env = append(os.Environ(), "LAB_TEST_HELPER=1", "LAB_TEST_BOOT="+boot)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("a test without its event passed:\n%s", out)
	}
	for _, want := range []string{`event "what-never-comes" is missing: not within`, "boot sector runs", "qemu-system-x86_64", "run.sh", "go test -count=1 -run '^TestKeepsArtifacts$'"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the failure does not say %q:\n%s", want, out)
		}
	}
	for file, begin := range map[string]string{
		"m/serial.log": "boot sector runs", "m/screen.png": "\x89PNG", "lan.pcap": "\xd4\xc3\xb2\xa1", "m/run.sh": "#!/bin/sh", "m/firmware.log": "SeaBIOS",
		"m/events.jsonl": "",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.HasPrefix(string(b), begin) {
			t.Errorf("%s begins with %.40q: %v", file, b, err)
		}
	}
	// The script starts the same machine, on a terminal.
	run := exec.Command(filepath.Join(dir, "m", "run.sh"))
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := newSerialLog(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	run.Stdout = serialWriter{log}
	p, err := startProcess(spawner(), run)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	if _, _, err := log.wait(ctx, 0, regexp.MustCompile("boot sector runs")); err != nil {
		t.Errorf("run.sh does not boot: %v: %s", err, log.tail(20))
	}
	in.Write([]byte("\x01x")) // the way out that the script names
	if err := p.wait(ctx); err != nil {
		t.Error("Ctrl-A x does not end run.sh")
	}
}

// gone says whether a process has ended, be it that nobody has asked for its exit status yet.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}
