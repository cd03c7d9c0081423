package qemutests

import (
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// pc is a computer of the office that boots from the network first, then from its disk.
func (s *site) pc(name string, fw lab.Firmware, disk lab.Disk) *lab.Machine {
	disk.Serial, disk.Boot = "PC0001", 2
	return s.lab.Machine(lab.Config{
		Name: name, Firmware: fw, MemoryMB: 1024,
		Disks: []lab.Disk{disk},
		NICs:  []lab.NIC{{Switch: s.office, Boot: 1}},
	})
}

// deployed checks a deployed Debian by what it says of itself.
func deployed(t testing.TB, pc *lab.Machine, host, firmware, secure string, rootAtLeast int64) {
	t.Helper()
	e := pc.WaitEvent(8*time.Minute, "os-ready", nil)
	for field, want := range map[string]string{
		"hostname": host, "firmware": firmware, "secureboot": secure, "timezone": "Etc/GMT-3",
	} {
		if got := e.String(field); got != want {
			t.Errorf("the deployed system says %s is %q, want %q", field, got, want)
		}
	}
	if n, _ := e.Int("root_size"); n < rootAtLeast {
		t.Errorf("its root file system has %d bytes, want at least %d: it was not grown", n, rootAtLeast)
	}
	if n, _ := e.Int("ssh_keys"); n != 1 {
		t.Errorf("it has %d SSH keys, want 1", n)
	}
	if e.String("ip") == "" {
		t.Error("it has no address")
	}
	pc.WaitSerial(3*time.Minute, host+` login:`)
}

// steps requires that every step of the agent has ended with exit code 0.
func steps(t testing.TB, pc *lab.Machine, want ...string) {
	t.Helper()
	var got []string
	for _, e := range pc.Events() {
		if e.Name == "step-end" {
			if code, ok := e.Int("exit_code"); !ok || code != 0 {
				t.Errorf("step %s ended with %v", e.String("action"), e.Fields)
			}
			got = append(got, e.String("action"))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("steps %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("steps %v, want %v", got, want)
		}
	}
}

// deployUEFISecureBootProxy deploys a whole-disk image beside a foreign DHCP server, Secure Boot on all the way.
func deployUEFISecureBootProxy(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.pc("pc", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("pc", 6<<30)})
	s.apply("site.yaml", siteProxy+"---\n"+computer("desk-secure", pc)+"---\n"+osImage+"---\n"+wholeDisk+"---\n"+advertisement("desk-secure"))
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()
	pc.Start()
	e := pc.WaitEvent(5*time.Minute, "agent-ready", nil)
	if e.String("secureboot") != "true" {
		t.Errorf("the boot image says secureboot is %q", e.String("secureboot"))
	}
	pc.WaitEvent(15*time.Minute, "sequence-done", nil)
	deployed(t, pc, "desk-secure", "uefi", "true", 5<<30)
	steps(t, pc, "applyOperatingSystemImage", "applyNetworkSettings", "applyOperatingSystemSettings", "runCommandLine", "restart")
	s.waitRun("desk-secure")
}

// deployBIOSDHCP deploys a root file system onto partitions, with the appliance as the site's DHCP server.
func deployBIOSDHCP(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13-root.tar.zst"))
	pc := s.pc("pc", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("pc", 6<<30)})
	s.apply("site.yaml", siteDHCP+"---\n"+computer("desk-bios", pc)+"---\n"+osImage+"---\n"+partitionsBIOS+"---\n"+advertisement("desk-bios"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	pc.Start()
	pc.WaitEvent(20*time.Minute, "sequence-done", nil)
	deployed(t, pc, "desk-bios", "bios", "", 5<<30)
	steps(t, pc, "partitionDisk", "applyOperatingSystemImage", "applyNetworkSettings", "applyOperatingSystemSettings", "runCommandLine", "restart")
	s.waitRun("desk-bios")
}

// deployUEFIRootFileSystem deploys a root file system under Secure Boot: partitions, boot loader and all.
func deployUEFIRootFileSystem(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13-root.tar.zst"))
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := s.pc("pc", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("pc", 6<<30)})
	s.apply("site.yaml", siteProxy+"---\n"+computer("desk-uefi", pc)+"---\n"+osImage+"---\n"+partitionsUEFI+"---\n"+advertisement("desk-uefi"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	pc.Start()
	pc.WaitEvent(20*time.Minute, "sequence-done", nil)
	deployed(t, pc, "desk-uefi", "uefi", "true", 5<<30)
	s.waitRun("desk-uefi")
}

// noOffer starts a machine that the site does not know, and one that it knows but has nothing for.
func noOffer(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	// The known one has an operating system, of which it must not lose a byte on the way there.
	disk := s.lab.Overlay("known.qcow2", lab.Artifact(t, "build/os/debian-13.img"), "raw", 0)
	known := s.pc("known", lab.BIOS, lab.Disk{Path: disk, Format: "qcow2"})
	blank := s.lab.BlankDisk("stranger", 4<<30)
	stranger := s.pc("stranger", lab.UEFI, lab.Disk{Path: blank})
	s.apply("site.yaml", siteProxy+"---\n"+computer("desk-idle", known)+"---\n"+osImage+"---\n"+wholeDisk)
	s.startAppliance(lab.BIOS)
	s.waitServing()

	stranger.Start()
	known.Start()
	s.office.WaitDHCP(t, time.Minute, "the known machine's request", 1, lab.DHCPRequests(known.MAC(0)))
	s.office.WaitDHCP(t, time.Minute, "the stranger's request", 1, lab.DHCPRequests(stranger.MAC(0)))
	stranger.WaitSerial(3*time.Minute, `PXE-E16: No valid offer received`)
	known.WaitEvent(5*time.Minute, "os-ready", nil)
	// The foreign DHCP server may answer; the appliance must not have said a word to either.
	s.office.RequireNoDHCPAnswer(t, stranger.MAC(0), "foreign-dhcp")
	s.office.RequireNoDHCPAnswer(t, known.MAC(0), "foreign-dhcp")
	lab.RequireBlank(t, blank)
	if runs := s.runs(); len(runs) != 0 {
		t.Errorf("central knows of runs: %+v", runs)
	}
}
