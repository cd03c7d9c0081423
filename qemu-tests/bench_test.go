package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"branchpoint/benchmark"
	"branchpoint/qemu-tests/lab"
)

// bootRuns is how often everybody boots, each time a machine that never ran before.
const bootRuns = 3

// bootLimit is how long one boot may take, on a host that does much else.
const bootLimit = 10 * time.Minute

// BenchmarkPeers_BootToAgent measures from power-on until a blank UEFI machine with Secure Boot has drivers and an address and
// is about to ask what to do: ours until the event agent-ready, Debian's installer until it asks for its preseed file.
func BenchmarkPeers_BootToAgent(b *testing.B) {
	s := newBareSite(b)
	var ours []*lab.Machine
	var names []string
	documents := siteDHCP + "---\n" + bootOnly
	for i := range bootRuns {
		name := fmt.Sprintf("desk-%d", i+1)
		pc := benchPC(s.lab, name, s.office)
		ours, names = append(ours, pc), append(names, name)
		documents += "---\n" + computer(name, pc)
	}
	s.apply("site.yaml", documents+"---\n"+advertisement(strings.Join(names, ", ")))
	s.startAppliance(lab.UEFI)
	s.waitServing()
	peer := newInstaller(b, s.lab)
	benchmark.Report(b, benchmark.Contest{
		Name: "boot-to-agent", Unit: "s", Runs: bootRuns,
		Ours: benchmark.Contender{Name: "branchpoint", Run: func(context.Context) (float64, error) {
			pc := ours[0]
			ours = ours[1:]
			started := time.Now()
			pc.Start()
			e, err := pc.AwaitEvent(bootLimit, "agent-ready", nil)
			if err != nil {
				return 0, err
			}
			pc.PowerCut()
			if e.String("secureboot") != "true" {
				return 0, fmt.Errorf("the boot image says secureboot is %q", e.String("secureboot"))
			}
			return e.Received.Sub(started).Seconds(), nil
		}},
		Peers: []benchmark.Contender{{Name: "dnsmasq, nginx and Debian's installer", Run: peer.boot}},
	})
}

// bootOnly is a task sequence that needs no content: nobody gets as far as to run it.
const bootOnly = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - restart: {}
`

// benchPC is the computer that boots, the same one for everybody.
func benchPC(l *lab.Lab, name string, s *lab.Switch) *lab.Machine {
	return l.Machine(lab.Config{
		Name: name, Firmware: lab.UEFISecureBoot, MemoryMB: 1024,
		Disks: []lab.Disk{{Path: l.BlankDisk(name, 6<<30), Serial: "PC0001", Boot: 2}},
		NICs:  []lab.NIC{{Switch: s, Boot: 1}},
	})
}

// installer is an office with a server that runs dnsmasq and nginx, and has Debian's netboot installer for its computers.
type installer struct {
	office *lab.Switch
	// pcs are the computers that did not run yet.
	pcs   []*lab.Machine
	asked chan request
}

// request is that a computer asked for its preseed file.
type request struct {
	mac string
	at  time.Time
}

// peerAddr is the server's address, peerDir where its files are.
const (
	peerAddr = "10.78.0.1"
	peerDir  = "/peer"
)

// newInstaller starts the server: a virtual machine like the appliance, so that both serve from the same (emulated) hardware.
func newInstaller(tb testing.TB, l *lab.Lab) *installer {
	tb.Helper()
	p := &installer{office: l.Switch("installer"), asked: make(chan request, 16)}
	for i := range bootRuns {
		p.pcs = append(p.pcs, benchPC(l, fmt.Sprintf("installer-%d", i+1), p.office))
	}
	// The installer's own entry "Automated install", with the address of the preseed file, and without IPv6: here is no
	// router that would advertise a prefix, for which the installer waits. HTTP is what serves it best: with TFTP, of which
	// GRUB has one block of 1 KiB under way at a time, the same boot takes longer.
	files := map[string]lab.CPIOFile{
		"files/grub/grub.cfg": {Mode: 0o644, Contents: []byte(`set timeout=0
linux (http,` + peerAddr + `)/linux auto=true priority=critical url=http://` + peerAddr + `/preseed.cfg ipv6.disable=1 vga=788 --- quiet
initrd (http,` + peerAddr + `)/initrd.gz
boot
`)},
		"files/preseed.cfg": {Mode: 0o644, Contents: []byte("d-i debian-installer/locale string en_GB.UTF-8\n")},
		"nginx.conf":        {Mode: 0o644, Contents: []byte(peerNginx)},
		"start":             {Mode: 0o755, Contents: []byte(peerStart)},
	}
	for name, from := range map[string]string{
		"shimx64.efi": "build/boot/shimx64.efi", "grubx64.efi": "build/boot/grubx64.efi",
		"linux": "build/netboot/linux", "initrd.gz": "build/netboot/initrd.gz",
	} {
		files["files/"+name] = lab.CPIOFile{Mode: 0o644, Contents: read(tb, lab.Artifact(tb, from))}
	}
	layer := map[string]lab.CPIOFile{
		"/etc/branchpoint/main": {Mode: 0o644, Contents: []byte(`{"argv":["/usr/bin/busybox","sh","` + peerDir + `/start"]}`)},
	}
	for name, f := range files {
		layer[peerDir+"/"+name] = f
	}
	for _, program := range []string{"dnsmasq", "nginx", "busybox"} {
		addProgram(tb, layer, program)
	}
	cpio := l.Path("installer-server.cpio")
	if err := os.WriteFile(cpio, lab.CPIO(layer), 0o644); err != nil {
		tb.Fatal(err)
	}
	server := l.Machine(lab.Config{
		Name: "installer-server", MemoryMB: 1536, // as the appliance
		Kernel: lab.Artifact(tb, "build/boot/vmlinuz"), Initrd: []string{lab.Artifact(tb, "build/boot/base.cpio.zst"), cpio},
		CommandLine: "console=ttyS0,115200 quiet", NICs: []lab.NIC{{Switch: p.office}},
	})
	server.Start()
	server.WaitSerial(2*time.Minute, `TFTP root is `)
	get := []byte("GET /preseed.cfg ")
	p.office.SetFilter(func(_ *lab.Port, k lab.Packet) bool {
		if k.Protocol == lab.ProtocolTCP && k.DstPort == 80 && bytes.HasPrefix(k.Payload, get) {
			select {
			case p.asked <- request{k.Src.String(), time.Now()}:
			default: // the same segments again and again
			}
		}
		return true
	})
	return p
}

// peerStart starts the servers. They have DNS as well, without which the installer waits for it.
const peerStart = `set -e
busybox mkdir -p /var/lib/nginx /var/log/nginx
busybox ip link set eth0 up
busybox ip address add ` + peerAddr + `/24 dev eth0
nginx -c ` + peerDir + `/nginx.conf
exec dnsmasq --keep-in-foreground --pid-file= --user=root --conf-file=/dev/null --log-facility=- --no-resolv --no-hosts --no-ping \
	--interface=eth0 --bind-interfaces --dhcp-authoritative --dhcp-range=10.78.0.100,10.78.0.199,1h --dhcp-leasefile=/tmp/leases \
	--dhcp-match=set:uefi,option:client-arch,7 --dhcp-boot=tag:uefi,shimx64.efi --enable-tftp --tftp-root=` + peerDir + `/files
`

const peerNginx = `user root;
worker_processes 1;
pid /tmp/nginx.pid;
error_log /var/log/nginx/error.log;
events {}
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  server { listen ` + peerAddr + `:80; root ` + peerDir + `/files; }
}
`

// addProgram adds a program of this host and the shared libraries it needs.
func addProgram(tb testing.TB, layer map[string]lab.CPIOFile, name string) {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%v: run make setup", err)
	}
	out, err := exec.Command("ldd", path).CombinedOutput()
	if err != nil {
		tb.Fatalf("ldd %s: %v\n%s", path, err, out)
	}
	for _, f := range append(libraries.FindAllString(string(out), -1), path) {
		// The directory may be a link, the name is what is looked for.
		dir, err := filepath.EvalSymlinks(filepath.Dir(f))
		if err != nil {
			tb.Fatal(err)
		}
		layer[filepath.Join(dir, filepath.Base(f))] = lab.CPIOFile{Mode: 0o755, Contents: read(tb, f)}
	}
}

// libraries are the paths in what ldd prints: "libc.so.6 => /lib/…/libc.so.6 (0x…)".
var libraries = regexp.MustCompile(`/[^ ]+\.so[^ ]*`)

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// boot switches the next computer on, and takes the time until it asks what to do.
func (p *installer) boot(ctx context.Context) (float64, error) {
	pc := p.pcs[0]
	p.pcs = p.pcs[1:]
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	started := time.Now()
	pc.Start()
	for {
		select {
		case r := <-p.asked:
			if r.mac == pc.MAC(0).String() { // and not one that the computer before sent twice
				pc.PowerCut()
				return r.at.Sub(started).Seconds(), nil
			}
		case <-ctx.Done():
			pc.Screenshot("screen")
			return 0, fmt.Errorf("%s did not ask for its preseed file within %v", pc.Name(), bootLimit)
		}
	}
}
