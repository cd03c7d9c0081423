package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAccelerationProbe(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinuz")
	device := filepath.Join(dir, "kvm")
	hang := make(chan struct{})
	defer close(hang)
	calls := 0
	p := prober{
		device: device, kernel: kernel, cache: filepath.Join(dir, "cache", "accel"), host: "boot 1", limit: 50 * time.Millisecond,
		boot: func(context.Context, string) error { calls++; <-hang; return nil },
	}
	check := func(what string, want Accel, wantCalls int) {
		t.Helper()
		a, why := p.probe()
		if a != want || calls != wantCalls {
			t.Errorf("%s: %s (%s) after %d boots, not %s after %d", what, a, why, calls, want, wantCalls)
		}
	}
	check("no device", TCG, 0)
	os.WriteFile(device, nil, 0o600)
	check("no kernel", TCG, 0)
	os.WriteFile(kernel, []byte("x"), 0o600)
	check("a boot that hangs, deaf to its context", TCG, 1)
	check("the same again", TCG, 1)
	p.host = "boot 2"
	p.boot = func(context.Context, string) error { calls++; return nil }
	check("after the host was booted", KVM, 2)
	check("the same again", KVM, 2)
	p.host = "boot 3"
	p.boot = func(context.Context, string) error { calls++; return errors.New("no") }
	check("a boot that fails", TCG, 3)
	os.WriteFile(p.cache, []byte("{"), 0o600)
	check("a broken cache", TCG, 4)
	p.host = ""
	check("a host that has no identity", TCG, 5)
	check("the same again", TCG, 6)
}

func TestCommandLine(t *testing.T) {
	c := Config{
		Name: "m", Firmware: UEFISecureBoot, TPM: true, MemoryMB: 512,
		SMBIOS: SMBIOS{Manufacturer: "Acme, Inc.", Serial: "S1", AssetTag: "A1"},
		Disks: []Disk{
			{Path: "/a,b.img", Boot: 1},
			{Path: "/n.img", Bus: NVMe},
			{Path: "/h.img", Bus: AHCI},
			{Path: "/cd.iso", Bus: CD},
			{Path: "/u.img", Bus: USB, Snapshot: true, Serial: "STICK"},
		},
		NICs: []NIC{
			{Switch: &Switch{}, Boot: 2},
			{Model: "e1000"},
			{WAN: &WAN{Forwards: []Forward{{"10.0.2.100:8443", "127.0.0.1:1"}}, GuestPorts: []int{22}}},
		},
		FWCfg: map[string]string{"opt/b": "1", "opt/a": "x,y"},
	}
	if err := c.setDefaults("test"); err != nil {
		t.Fatal(err)
	}
	line := strings.Join(c.commandLine("/dir", TCG, sockets{nics: []string{"/s0", "", ""}}, false), " ")
	for _, want := range []string{
		"-machine q35,smm=on ", "driver=cfi.pflash01,property=secure,value=on", "OVMF_CODE_4M.ms.fd", "file=/dir/vars.fd",
		"manufacturer=Acme,, Inc.,serial=S1", "type=3,manufacturer=Acme,, Inc.,serial=S1,asset=A1", "-uuid " + c.UUID,
		"file=/a,,b.img", "ide-hd,bus=ide.0,", "ide-cd,bus=ide.1,", "nvme,drive=disk1,serial=LAB", "usb-storage,bus=xhci.0,removable=on,drive=disk4,serial=STICK",
		"snapshot=on", "stream,id=net0,server=off,addr.type=unix,addr.path=/s0", "mac=" + c.NICs[0].MAC.String() + ",bootindex=2,romfile= ",
		"guestfwd=tcp:10.0.2.100:8443-cmd:socat", "restrict=on", "hostfwd=tcp:127.0.0.1:0-:22", "strict=on", "tpm-tis",
		"-fw_cfg name=opt/a,string=x,,y -fw_cfg name=opt/b,string=1", "virtserialport,chardev=events,name=org.branchpoint.events",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if strings.Contains(line, "e1000,id=nic1,netdev=net1,mac="+c.NICs[1].MAC.String()+",romfile=") {
		t.Error("a NIC that OVMF has no driver for lost its ROM")
	}
	again := Config{Name: "m"}
	again.setDefaults("test")
	other := Config{Name: "m"}
	other.setDefaults("other test")
	if again.UUID != c.UUID || other.UUID == c.UUID {
		t.Errorf("UUIDs are %s, %s, %s", c.UUID, again.UUID, other.UUID)
	}
	for _, bad := range []Config{
		{},
		{Name: "x", Chipset: "isapc"},
		{Name: "x", Firmware: UEFISecureBoot, Chipset: "pc"},
		{Name: "x", Disks: []Disk{{Path: "relative"}}},
		{Name: "x", Initrd: []string{"/i"}},
		{Name: "x", Disks: []Disk{{Path: "/x", Bus: NVMe, ReadOnly: true}}},
		{Name: "x", NICs: []NIC{{Switch: &Switch{}, WAN: &WAN{}}}},
	} {
		if bad.setDefaults("test") == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestFindHostForward(t *testing.T) {
	table := "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[ESTABLISHED]  15  127.0.0.1 38475  10.0.2.15 22 0 0\r\n  TCP[HOST_FORWARD]  12  127.0.0.1 38476  10.0.2.15 22 0 0\r\n"
	if a, ok := findHostForward(table, 22); !ok || a != "127.0.0.1:38476" {
		t.Errorf("%q %v", a, ok)
	}
	if _, ok := findHostForward(table, 23); ok {
		t.Error("port 23 is forwarded")
	}
}

func TestQMPClient(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		dec := json.NewDecoder(b)
		fmt.Fprint(b, `{"QMP":{"version":{}}}`+"\n")
		for {
			var m struct {
				Execute string
				ID      uint64
			}
			if dec.Decode(&m) != nil {
				return
			}
			switch m.Execute {
			case "hang up":
				b.Close()
				return
			case "say nothing":
				continue
			case "fail":
				fmt.Fprintf(b, `{"error":{"class":"GenericError","desc":"no"},"id":%d}`+"\n", m.ID)
			default:
				fmt.Fprintf(b, `{"event":"RESET","data":{"guest":true}} {"return":{"x":7},"id":%d}`+"\n", m.ID)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	events := make(chan QMPEvent, 10)
	q, err := newQMP(ctx, a, func(e QMPEvent) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ X int }
	if err := q.execute(ctx, "query", nil, &out); err != nil || out.X != 7 {
		t.Errorf("%+v %v", out, err)
	}
	if e := <-events; e.Name != "RESET" {
		t.Errorf("%+v", e)
	}
	if err := q.execute(ctx, "fail", nil, nil); err == nil || !strings.Contains(err.Error(), "GenericError: no") {
		t.Error(err)
	}
	short, stop := context.WithTimeout(ctx, 20*time.Millisecond)
	defer stop()
	if err := q.execute(short, "say nothing", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := q.execute(ctx, "hang up", nil, nil); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestLinkCut(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 100)
				for {
					n, err := c.Read(b)
					if err != nil {
						got <- err.Error()
						return
					}
					got <- string(b[:n])
					c.Write(b[:n])
				}
			}()
		}
	}()
	l := NewLink(t, ln.Addr().String())
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(s string) {
		t.Helper()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, len(s))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
			t.Fatalf("echo of %q is %q: %v", s, b, err)
		}
		if g := <-got; g != s {
			t.Fatalf("the service got %q", g)
		}
	}
	io.WriteString(c, "one")
	echo("one")
	l.Cut()
	l.Cut()
	io.WriteString(c, "two")
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("through a cut line came %d bytes: %v", n, err)
	}
	if len(got) != 0 {
		t.Errorf("the service got %q through a cut line", <-got)
	}
	l.Restore()
	l.Restore()
	echo("two")
	if up, down := l.Bytes(); up != 6 || down != 6 || l.Connections() != 1 {
		t.Errorf("counted %d, %d bytes", up, down)
	}
	l.Break()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a broken line: %v", err)
	}
}

func TestDisks(t *testing.T) {
	l := New(t)
	p := l.BlankDisk("d", 1<<30)
	RequireBlank(t, p)
	check := RequireUnchanged(t, l.CopyFile("copy", writeFile(t, "base", []byte("base"))))
	check()
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 8192), 1<<20); err != nil { // data, but zeros
		t.Fatal(err)
	}
	RequireBlank(t, p)
	const at = 700<<20 + 5
	if _, err := f.WriteAt([]byte{1}, at); err != nil {
		t.Fatal(err)
	}
	if n, err := firstNonZero(p); n != at || err != nil {
		t.Errorf("the first byte is found at %d: %v", n, err)
	}
	RequireNotBlank(t, p)
	ft := &fakeT{TB: t}
	RequireBlank(ft, p)
	if !ft.failed {
		t.Error("a written disk is blank")
	}
	small := writeFile(t, "small", []byte("old"))
	ft = &fakeT{TB: t}
	check = RequireUnchanged(ft, small)
	os.WriteFile(small, []byte("new"), 0o600)
	if check(); !ft.failed {
		t.Error("a changed file is unchanged")
	}
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFAT(t *testing.T) {
	l := New(t)
	fat := l.FATImage("esp", 4<<20, map[string][]byte{"EFI/BOOT/BOOTX64.EFI": []byte("one"), "/site.yaml": []byte("site")})
	WriteFAT(t, fat, 0, "/EFI/BOOT/BOOTX64.EFI", []byte("two"))
	if got := ReadFAT(t, fat, 0, "EFI/BOOT/BOOTX64.EFI"); string(got) != "two" {
		t.Errorf("read %q", got)
	}
	// In an image, behind something else.
	b, err := os.ReadFile(fat)
	if err != nil {
		t.Fatal(err)
	}
	image := writeFile(t, "image", append(make([]byte, 1<<20), b...))
	WriteFAT(t, image, 1<<20, "new/file", []byte("three"))
	if got := ReadFAT(t, image, 1<<20, "new/file"); string(got) != "three" {
		t.Errorf("read %q", got)
	}
	if got := ReadFAT(t, image, 1<<20, "site.yaml"); string(got) != "site" {
		t.Errorf("read %q", got)
	}
}

func gptImage() []byte {
	b := make([]byte, 8192)
	h := b[512:]
	copy(h, "EFI PART")
	h[72], h[80], h[84] = 2, 4, 128
	e := b[2*512+128:]
	copy(e, []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b})
	e[33], e[41] = 8, 9 // sectors 2048 to 2304
	copy(e[56:], "E\x00S\x00P\x00")
	return b
}

func TestGPT(t *testing.T) {
	p := ESP(t, writeFile(t, "disk", gptImage()))
	if want := (Partition{Name: "ESP", Type: ESPType, Offset: 2048 * 512, Size: 257 * 512}); p != want {
		t.Errorf("%+v", p)
	}
	if _, err := readGPT(bytes.NewReader(make([]byte, 4096))); err == nil {
		t.Error("zeros are a table")
	}
	if _, err := readGPT(bytes.NewReader(gptImage()[:1200])); err == nil {
		t.Error("a cut off table was taken")
	}
}

func FuzzGPT(f *testing.F) {
	f.Add(gptImage())
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = readGPT(bytes.NewReader(b)) })
}

func TestArtifactMissing(t *testing.T) {
	if _, err := artifact("build/no-such-file"); err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("a missing artifact: %v", err)
	}
	if p, err := artifact("go.mod"); err != nil || !filepath.IsAbs(p) {
		t.Errorf("%s %v", p, err)
	}
}
