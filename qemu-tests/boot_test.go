package qemutests

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

func bootUSBBIOS(t *testing.T) { boots(t, lab.BIOS, lab.USB) }
func bootUSBUEFI(t *testing.T) { boots(t, lab.UEFI, lab.USB) }
func bootUSBSecureBoot(t *testing.T) {
	boots(t, lab.UEFISecureBoot, lab.USB)
	refusesUnsigned(t, lab.USB)
}
func bootCDBIOS(t *testing.T) { boots(t, lab.BIOS, lab.CD) }
func bootCDUEFI(t *testing.T) { boots(t, lab.UEFI, lab.CD) }
func bootCDSecureBoot(t *testing.T) {
	boots(t, lab.UEFISecureBoot, lab.CD)
	refusesUnsigned(t, lab.CD)
}

// boots starts the file as it comes, without a site, and expects a ready appliance that says what it lacks.
func boots(t *testing.T, fw lab.Firmware, bus lab.Bus) {
	l := lab.New(t)
	m := l.Machine(lab.Config{
		Name: "appliance", Firmware: fw, MemoryMB: 1024,
		Disks: []lab.Disk{
			{Path: lab.Artifact(t, "build/branchpoint.img"), Bus: bus, Boot: 1, Snapshot: bus != lab.CD},
			{Path: l.BlankDisk("data", 4<<30), Serial: "DATA0001"},
		},
		NICs: []lab.NIC{{WAN: &lab.WAN{}}},
	})
	m.Start()
	e := m.WaitEvent(4*time.Minute, "appliance-ready", nil)
	secure := "false"
	if fw == lab.UEFISecureBoot {
		secure = "true"
	}
	if e.String("secure_boot") != secure {
		t.Errorf("the guest says secure_boot is %q, want %s", e.String("secure_boot"), secure)
	}
	if fw == lab.UEFISecureBoot && e.String("lockdown") != "integrity" {
		t.Errorf("the kernel's lockdown is %q under Secure Boot", e.String("lockdown"))
	}
	if e.String("data_disk") != "/dev/vda" {
		t.Errorf("the data disk is %q", e.String("data_disk"))
	}
	m.WaitSerial(10*time.Second, `site.yaml names no site`)
	// The console answers.
	mark := m.SerialMark()
	m.SendSerial("disks\n")
	m.WaitSerialAfter(mark, 20*time.Second, `DATA0001`)
}

// refusesUnsigned puts an unsigned loader in the place of the signed one, which Secure Boot must refuse.
func refusesUnsigned(t *testing.T, bus lab.Bus) {
	l := lab.New(t)
	const text = "UNSIGNED LOADER RUNS"
	image := l.CopyFile("unsigned.img", lab.Artifact(t, "build/branchpoint.img"))
	at := elToritoEFI(t, image)
	if bus != lab.CD {
		at = lab.ESP(t, image).Offset
	}
	lab.WriteFAT(t, image, at, "/EFI/BOOT/BOOTX64.EFI", lab.UnsignedEFI(text))
	disks := []lab.Disk{{Path: image, Bus: bus, Boot: 1, Snapshot: bus != lab.CD}}

	// Without Secure Boot it runs: the loader itself is sound, and in the right place.
	open := l.Machine(lab.Config{Name: "open", Firmware: lab.UEFI, Disks: disks})
	open.Start()
	open.WaitSerial(time.Minute, text)
	open.PowerCut()

	locked := l.Machine(lab.Config{Name: "locked", Firmware: lab.UEFISecureBoot, Disks: disks})
	locked.Start()
	locked.WaitSerial(time.Minute, `Access Denied|Security Violation`)
	if strings.Contains(locked.SerialText(0), text) {
		t.Error("Secure Boot let an unsigned loader run")
	}
}

// elToritoEFI returns where in the file the FAT image lies that UEFI firmware boots from a CD (El Torito specification
// 1.0: the boot record in sector 17 has the catalog's sector at octet 71, and in the catalog the first entry of the section
// for platform EF has the image's sector at octet 8).
func elToritoEFI(t *testing.T, image string) int64 {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sector := func(n int64) []byte {
		b := make([]byte, 2048)
		if _, err := f.ReadAt(b, n*2048); err != nil {
			t.Fatal(err)
		}
		return b
	}
	catalog := sector(int64(binary.LittleEndian.Uint32(sector(17)[71:])))
	for at := 64; at+64 <= len(catalog); at += 32 {
		if header := catalog[at]; (header == 0x90 || header == 0x91) && catalog[at+1] == 0xef {
			return int64(binary.LittleEndian.Uint32(catalog[at+32+8:])) * 2048
		}
	}
	t.Fatalf("%s has no boot entry for UEFI from CD", image)
	return 0
}

// brokenSiteYAML expects a broken site.yaml on the screen, with its place and what to do, and a console that answers.
func brokenSiteYAML(t *testing.T) {
	l := lab.New(t)
	image := l.CopyFile("broken.img", lab.Artifact(t, "build/branchpoint.img"))
	esp := lab.ESP(t, image)
	old := lab.ReadFAT(t, image, esp.Offset, "/site.yaml")
	text := strings.Replace(string(old), `  site: ""`, `  sight: "LON"`, 1)
	if text == string(old) {
		t.Fatal("site.yaml has no line for the site")
	}
	lab.WriteFAT(t, image, esp.Offset, "/site.yaml", []byte(text))
	m := l.Machine(lab.Config{
		Name: "appliance", Firmware: lab.UEFI,
		Disks: []lab.Disk{{Path: image, Bus: lab.USB, Boot: 1}},
		NICs:  []lab.NIC{{WAN: &lab.WAN{}}},
	})
	m.Start()
	m.WaitEvent(4*time.Minute, "appliance-ready", nil)
	m.WaitSerial(10*time.Second, `site\.yaml:\d+:3: unknown field "sight"`)
	m.WaitSerial(10*time.Second, `→ .*edit`)
	mark := m.SerialMark()
	m.SendSerial("help\n")
	m.WaitSerialAfter(mark, 20*time.Second, `shutdown`)
	m.SendSerial("shutdown\n")
	m.WaitOff(time.Minute)
}

// foreignDisk gives the appliance a disk with somebody's file system beside a blank one.
func foreignDisk(t *testing.T) {
	l := lab.New(t)
	foreign := filepath.Join(l.Dir(), "foreign.img")
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "letter.txt"), []byte("the only copy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "PAPERS", "-d", tree, foreign, "3G").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	check := lab.RequireUnchanged(t, foreign)
	m := l.Machine(lab.Config{
		Name: "appliance", Firmware: lab.UEFI,
		Disks: []lab.Disk{
			{Path: lab.Artifact(t, "build/branchpoint.img"), Bus: lab.USB, Boot: 1, Snapshot: true},
			{Path: foreign, Serial: "FOREIGN1"},
			{Path: l.BlankDisk("data", 4<<30), Serial: "DATA0001"},
		},
		NICs: []lab.NIC{{WAN: &lab.WAN{}}},
	})
	m.Start()
	e := m.WaitEvent(4*time.Minute, "appliance-ready", nil)
	if e.String("data_disk") != "/dev/vdb" {
		t.Errorf("the data disk is %q, want the blank one", e.String("data_disk"))
	}
	m.WaitSerial(20*time.Second, `FOREIGN1\) is not used: it is not blank, it holds .*ext4`)
	m.SendSerial("shutdown\n")
	m.WaitOff(time.Minute)
	check()
}
