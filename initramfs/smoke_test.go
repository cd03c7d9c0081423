package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSmoke boots the built kernel and base layer in an emulated PC, with a small program of its own in place of the agent,
// and looks at what that tells over virtio-serial.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no machine is started")
	}
	boot := filepath.Join("..", "build", "boot")
	for _, f := range []string{"vmlinuz", "base.cpio.zst"} {
		if _, err := os.Stat(filepath.Join(boot, f)); err != nil {
			t.Skipf("build/boot/%s is not built: go run ./initramfs/cmd/mklayers base", f)
		}
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed on this machine")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()

	guest := filepath.Join(dir, "guest")
	if err := goBuild(ctx, "..", "./initramfs/internal/smokeguest", guest); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	l := newLayer("smoke")
	l.file("bbin/guest", 0o755, program, "")
	l.file("etc/branchpoint/main", 0o644, []byte(`{"argv":["/bbin/guest"]}`), "")
	base, err := os.ReadFile(filepath.Join(boot, "base.cpio.zst"))
	if err != nil {
		t.Fatal(err)
	}
	// As boot loaders do: one layer after the other, the next on a four-byte boundary.
	initrd := bytes.NewBuffer(base)
	for initrd.Len()%4 != 0 {
		initrd.WriteByte(0)
	}
	if err := l.writeCPIO(initrd, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "initrd"), initrd.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	const size = 32 << 20
	for _, name := range []string{"virtio", "ahci", "nvme", "usb"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "nvme" {
			if _, err := f.WriteAt([]byte("NTFS    "), 3); err != nil {
				t.Fatal(err)
			}
		}
		if name == "usb" {
			if _, err := f.WriteAt([]byte{1}, size-1); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	drive := func(name string) string { return "if=none,format=raw,id=" + name + ",file=" + filepath.Join(dir, name) }
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(boot, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"), "-append", "console=ttyS0 quiet panic=-1",
		"-serial", "file:"+filepath.Join(dir, "serial.log"),
		// Without a source of random numbers the kernel lets programs wait for minutes.
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial", "-chardev", "file,id=events,path="+filepath.Join(dir, "events"), "-device", "virtserialport,chardev=events,name=org.branchpoint.events",
		"-netdev", "user,id=n0,restrict=on", "-device", "e1000,netdev=n0,romfile=,mac=52:54:00:00:00:01",
		"-netdev", "user,id=n1,restrict=on", "-device", "virtio-net-pci,netdev=n1,romfile=,mac=52:54:00:00:00:02",
		"-drive", drive("virtio"), "-device", "virtio-blk-pci,drive=virtio,serial=VIRT-01",
		"-device", "ahci,id=sata", "-drive", drive("ahci"), "-device", "ide-hd,bus=sata.0,drive=ahci,serial=AHCI-01",
		"-drive", drive("nvme"), "-device", "nvme,drive=nvme,serial=NVME-01",
		"-device", "qemu-xhci", "-drive", drive("usb"), "-device", "usb-storage,drive=usb,serial=USB-01", "-device", "usb-kbd",
	)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := time.Now()
	out, err := cmd.CombinedOutput()
	serial, _ := os.ReadFile(filepath.Join(dir, "serial.log"))
	lines, _ := os.ReadFile(filepath.Join(dir, "events"))
	defer func() {
		if t.Failed() {
			t.Logf("reproduce: %s\nevents:\n%s\nserial:\n%s", cmd, lines, serial)
		}
	}()
	if err != nil {
		t.Fatalf("machine: %v: %s", err, out)
	}
	t.Logf("the machine ran for %s", time.Since(started).Round(100*time.Millisecond))

	type event struct {
		Event, Program, Output, How string
		Driver, Address             string
		Bus, Serial, What           string
		Blank                       bool
		Size                        int64
		Kernel, Known, Error        string
	}
	got := map[string]event{}
	for _, line := range strings.Split(strings.TrimSpace(string(lines)), "\n") {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		got[strings.TrimSuffix(e.Event+" "+e.Driver+e.Bus, " ")] = e
	}
	if e := got["program-ended"]; e.Program != "/bbin/guest" || e.How != "exit status 2" || !strings.Contains(e.Output, "goroutine") {
		t.Errorf("the panic was not told: %+v", e)
	}
	if s := string(serial); !strings.Contains(s, "smoke guest panics on purpose") || !strings.Contains(s, "Starting it again") {
		t.Error("the panic was not shown on the serial line")
	}
	for _, driver := range []string{"e1000", "virtio_net"} {
		if e := got["network "+driver]; e.Address != "10.0.2.15/24" {
			t.Errorf("no address with driver %s: %+v", driver, e)
		}
	}
	for bus, want := range map[string]event{
		"virtio": {Serial: "VIRT-01", Blank: true}, "ata": {Serial: "AHCI-01", Blank: true},
		"nvme": {Serial: "NVME-01", What: "NTFS"}, "usb": {Serial: "USB-01", What: "data"},
	} {
		if e := got["disk "+bus]; e.Serial != want.Serial || e.Blank != want.Blank || e.What != want.What || e.Size != size {
			t.Errorf("disk %s: %+v", bus, e)
		}
	}
	known := " " + got["filesystems"].Known + " "
	for _, kind := range []string{"ext4", "vfat", "xfs", "btrfs", "iso9660", "ntfs3", "overlay", "fuse"} {
		if !strings.Contains(known, " "+kind+" ") {
			t.Errorf("file system %s is not known: %s", kind, known)
		}
	}
	if e, failed := got["guest-failed"]; failed {
		t.Errorf("guest: %s", e.Error)
	}
	if _, done := got["guest-done"]; !done || got["init-ready"].Kernel == "" {
		t.Error("init-ready or guest-done is missing")
	}
}
