package steps_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
	. "branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/memory"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// content gives an archive and notes what is written where.
type content struct {
	written []string
	fail    error
}

func (c *content) WriteDisk(_ context.Context, ref provisioning.ContentRef, disk string, progress func(done, total int64)) error {
	c.written = append(c.written, ref.Package+" to "+disk)
	progress(1, 2)
	return c.fail
}

func (c *content) Archive(context.Context, provisioning.ContentRef) (io.ReadCloser, int64, error) {
	return io.NopCloser(strings.NewReader("archive")), 7, c.fail
}

// fake is a computer with one disk on which sfdisk works.
func fake(uefi bool) *memory.System {
	s := &memory.System{
		DiskList: []Disk{{Path: "/dev/sda", Size: 20 << 30, SectorSize: 512, Serial: "S1"}},
		Boot:     Firmware{UEFI: uefi, BootMAC: "52:54:00:12:34:56"},
		Trees:    map[string]*memory.Files{}, Devices: map[string][]byte{},
	}
	table := ""
	s.OnExec = func(c Command, _ *memory.Files) (Exit, error) {
		switch {
		case c.Args[0] != "sfdisk":
		case slices.Contains(c.Args, "--json"):
			return Exit{Stdout: table}, nil
		case slices.Contains(c.Args, "--wipe"):
			var list []string
			for line := range strings.Lines(c.Stdin) {
				var start, size int64
				if _, err := fmt.Sscanf(line, "start=%d, size=%d,", &start, &size); err == nil {
					_, kind, _ := strings.Cut(line, "type=")
					kind, _, _ = strings.Cut(strings.TrimSpace(kind), ",")
					list = append(list, fmt.Sprintf(`{"node":"/dev/sda%d","start":%d,"size":%d,"type":%q}`, len(list)+1, start, size, kind))
				}
			}
			table = `{"partitiontable":{"label":"gpt","sectorsize":512,"partitions":[` + strings.Join(list, ",") + `]}}`
		}
		return Exit{}, nil
	}
	s.OnExtract = func(_ []byte, f *memory.Files) error {
		return errors.Join(
			f.WriteFile("/usr/lib/os-release", []byte("NAME=Debian\nID=debian\n"), 0o644), f.Symlink("../usr/lib/os-release", "/etc/os-release"),
			f.WriteFile("/usr/sbin/grub-install", nil, 0o755), f.WriteFile("/usr/sbin/update-grub", nil, 0o755),
			f.WriteFile("/usr/lib/shim/shimx64.efi.signed", nil, 0o644), f.WriteFile("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", nil, 0o644),
			f.WriteFile("/boot/efi/EFI/debian/mmx64.efi", nil, 0o644), f.WriteFile("/boot/efi/EFI/BOOT/fbx64.efi", nil, 0o644),
			f.WriteFile("/etc/passwd", []byte("root:x:0:0:root:/root:/bin/bash\n"), 0o644), f.WriteFile("/etc/group", []byte("root:x:0:\nsudo:x:27:\n"), 0o644),
		)
	}
	f := memory.NewFiles()
	f.Mkdir("/etc", 0o755)
	for i := range 9 {
		s.Trees[fmt.Sprintf("/dev/sda%d", i)] = f
	}
	return s
}

var (
	diskRef    = provisioning.ContentRef{Package: "img", Version: 3, Format: provisioning.FormatDiskImage, Size: 1 << 30}
	archiveRef = provisioning.ContentRef{Package: "tar", Version: 4, Format: provisioning.FormatRootFileSystem, Size: 7}
)

func assignment(list ...provisioning.Step) *provisioning.Assignment {
	return &provisioning.Assignment{
		Sequence: provisioning.TaskSequence{Spec: provisioning.TaskSequenceSpec{Steps: list}},
		Content:  map[string]provisioning.ContentRef{"img": diskRef, "tar": archiveRef},
	}
}

// run runs all steps and gives the last result.
func run(t *testing.T, s System, c Content, list ...provisioning.Step) sequence.Result {
	t.Helper()
	r := NewRunner(s, c, assignment(list...), quiet)
	var res sequence.Result
	for _, st := range list {
		if res = r.Run(context.Background(), st, func(sequence.Progress) {}); res.Err != nil {
			return res
		}
	}
	return res
}

func lines(s *memory.System) []string {
	var out []string
	for _, c := range s.Commands() {
		l := strings.Join(c.Args, " ")
		if c.InTarget {
			l = "target: " + l
		}
		out = append(out, l)
	}
	return out
}

func image(name string) provisioning.Step {
	return provisioning.Step{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Image: name}}
}

func layout(list ...provisioning.Partition) provisioning.Step {
	return provisioning.Step{PartitionDisk: &provisioning.PartitionDisk{Partitions: list}}
}

var (
	esp  = provisioning.Partition{Type: provisioning.PartitionESP, Size: "512MiB", FileSystem: provisioning.FileSystemVFAT, Mount: "/boot/efi"}
	boot = provisioning.Partition{Type: provisioning.PartitionBIOSBoot, Size: "1MiB"}
	root = provisioning.Partition{Type: provisioning.PartitionRoot, FileSystem: provisioning.FileSystemExt4, Mount: "/"}
)

func TestArchiveUEFI(t *testing.T) {
	s := fake(true)
	s.Boot.SecureBoot = true
	if res := run(t, s, &content{}, layout(esp, root), image("tar")); res.Err != nil {
		t.Fatal(res.Err)
	}
	var got []string
	for _, l := range lines(s) {
		if strings.HasPrefix(l, "target: ") {
			got = append(got, strings.TrimPrefix(l, "target: "))
		}
	}
	if got[0] != "grub-install --target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian --no-nvram --recheck --uefi-secure-boot" || got[len(got)-1] != "update-grub" {
		t.Errorf("%q", got)
	}
	copies := slices.Sorted(slices.Values(got[1 : len(got)-1]))
	if want := []string{
		"cp /boot/efi/EFI/debian/grubx64.efi /boot/efi/EFI/BOOT/grubx64.efi", "cp /boot/efi/EFI/debian/mmx64.efi /boot/efi/EFI/BOOT/mmx64.efi",
		"cp /boot/efi/EFI/debian/shimx64.efi /boot/efi/EFI/BOOT/BOOTX64.EFI",
	}; !slices.Equal(copies, want) {
		t.Errorf("%q", copies)
	}
	if want := []memory.Mount{{Device: "/dev/sda2", FileSystem: "ext4", At: "/"}, {Device: "/dev/sda1", FileSystem: "vfat", At: "/boot/efi"}}; !slices.Equal(s.Mounts(), want) {
		t.Errorf("%v", s.Mounts())
	}
	if _, err := s.Target().Stat("/boot/efi/EFI/BOOT/fbx64.efi"); err == nil {
		t.Error("fbx64.efi is still there")
	}
	b, err := s.Target().ReadFile("/etc/fstab")
	if err != nil || strings.Count(string(b), "UUID=") != 2 {
		t.Errorf("%s %v", b, err)
	}
}

func TestArchiveUnsigned(t *testing.T) {
	s := fake(true)
	extract := s.OnExtract
	s.OnExtract = func(b []byte, f *memory.Files) error {
		return errors.Join(extract(b, f), f.Remove("/usr/lib/shim/shimx64.efi.signed"))
	}
	if res := run(t, s, &content{}, layout(esp, root), image("tar")); res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := lines(s); !slices.Contains(got, "target: cp /boot/efi/EFI/debian/grubx64.efi /boot/efi/EFI/BOOT/BOOTX64.EFI") || slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, "secure-boot") }) {
		t.Errorf("%q", got)
	}
	s.Boot.SecureBoot = true
	if res := run(t, s, &content{}, layout(esp, root), image("tar")); res.Err == nil || !strings.Contains(res.Err.Error(), "Secure Boot") {
		t.Errorf("with Secure Boot: %v", res.Err)
	}
}

func TestArchiveBIOS(t *testing.T) {
	s := fake(false)
	if res := run(t, s, &content{}, layout(boot, root), image("tar")); res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := lines(s); !slices.Contains(got, "target: grub-install --target=i386-pc --recheck /dev/sda") {
		t.Errorf("%q", got)
	}
}

// TestRefusedBeforeErasing has layouts and disks on which the sequence could not end well: nothing may be run.
func TestRefusedBeforeErasing(t *testing.T) {
	for name, c := range map[string]struct {
		uefi  bool
		parts []provisioning.Partition
		disks []Disk
	}{
		"uefi without esp":       {true, []provisioning.Partition{boot, root}, nil},
		"bios without bios-boot": {false, []provisioning.Partition{esp, root}, nil},
		"no root":                {false, []provisioning.Partition{boot}, nil},
		"does not fit":           {false, []provisioning.Partition{boot, {Size: "30GiB"}, root}, nil},
		"two disks":              {false, []provisioning.Partition{boot, root}, []Disk{{Path: "/dev/sda", Size: 20 << 30}, {Path: "/dev/sdb", Size: 20 << 30}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(c.uefi)
			if c.disks != nil {
				s.DiskList = c.disks
			}
			res := run(t, s, &content{}, layout(c.parts...), image("tar"))
			if res.Err == nil || provisioning.NextOf(res.Err) == "" {
				t.Errorf("%v", res.Err)
			}
			if got := lines(s); len(got) != 0 {
				t.Errorf("ran %q", got)
			}
		})
	}
}

// ext4Device is the beginning of an ext4 file system whose UUID is all zeros.
func ext4Device() []byte {
	b := make([]byte, 1<<20)
	binary.LittleEndian.PutUint16(b[0x438:], 0xef53)
	return b
}

// diskImage prepares a fake whose disk holds an image with an ESP, a root and whatever comes last.
func diskImage(lastType string, last []byte) *memory.System {
	s := fake(true)
	s.Devices = map[string][]byte{"/dev/sda1": make([]byte, 1<<20), "/dev/sda2": ext4Device(), "/dev/sda3": last}
	tree := memory.NewFiles()
	tree.WriteFile("/etc/os-release", []byte("ID=debian\n"), 0o644)
	tree.WriteFile("/etc/fstab", []byte("UUID=00000000-0000-0000-0000-000000000000 / ext4 defaults 0 1\n"), 0o644)
	s.Trees = map[string]*memory.Files{"/dev/sda2": tree}
	table := `{"partitiontable":{"label":"gpt","sectorsize":512,"partitions":[` +
		`{"node":"/dev/sda1","start":2048,"size":2048,"type":"C12A7328-F81F-11D2-BA4B-00A0C93EC93B"},` +
		`{"node":"/dev/sda2","start":4096,"size":2048,"type":"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},` +
		`{"node":"/dev/sda3","start":8192,"size":2048,"type":"` + lastType + `"}]}}`
	s.OnExec = func(c Command, _ *memory.Files) (Exit, error) {
		if slices.Contains(c.Args, "--json") {
			return Exit{Stdout: table}, nil
		}
		return Exit{}, nil
	}
	return s
}

func TestDiskImageGrows(t *testing.T) {
	s := diskImage("0FC63DAF-8483-4772-8E79-3D69D8477DE4", ext4Device())
	c := &content{}
	res := run(t, s, c, image("img"))
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	want := []string{
		"sfdisk --json /dev/sda", "sfdisk --quiet --no-reread --no-tell-kernel --relocate gpt-bak-std /dev/sda",
		"sfdisk --quiet --no-reread --no-tell-kernel --partno 3 /dev/sda", "sfdisk --json /dev/sda", "e2fsck -f -p /dev/sda3", "resize2fs /dev/sda3",
	}
	if got := lines(s); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if !slices.Equal(c.written, []string{"img to /dev/sda"}) {
		t.Errorf("%v", c.written)
	}
	if m := s.Mounts(); len(m) != 1 || m[0].Device != "/dev/sda2" {
		t.Errorf("the system's root is not mounted: %v", m)
	}
}

func TestDiskImageLeavesOthersAlone(t *testing.T) {
	for name, s := range map[string]*memory.System{
		"type":        diskImage("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", ext4Device()),
		"file system": diskImage("0FC63DAF-8483-4772-8E79-3D69D8477DE4", make([]byte, 1<<20)),
	} {
		if res := run(t, s, &content{}, image("img")); res.Err != nil {
			t.Fatal(res.Err)
		}
		for _, l := range lines(s) {
			if strings.Contains(l, "partno") || strings.HasPrefix(l, "resize2fs") || strings.HasPrefix(l, "e2fsck") {
				t.Errorf("%s: %s", name, l)
			}
		}
	}
}

func TestImageErrors(t *testing.T) {
	small := fake(true)
	small.DiskList[0].Size = 1 << 20
	c := &content{}
	if res := run(t, small, c, image("img")); provisioning.CodeOf(res.Err) != provisioning.CodeNoSpace || len(c.written) != 0 {
		t.Errorf("too small a disk: %v %v", res.Err, c.written)
	}
	if res := run(t, fake(true), c, image("tar")); provisioning.CodeOf(res.Err) != provisioning.CodeConflict {
		t.Errorf("archive without partitions: %v", res.Err)
	}
	if res := run(t, fake(true), c, image("none")); provisioning.CodeOf(res.Err) != provisioning.CodeNotFound {
		t.Errorf("unknown image: %v", res.Err)
	}
	broken := provisioning.Errorf(provisioning.CodeCorrupt, "", "chunk is bad")
	if res := run(t, fake(true), &content{fail: broken}, image("img")); !errors.Is(res.Err, broken) {
		t.Errorf("broken content: %v", res.Err)
	}
	noOS := diskImage("X", nil)
	noOS.Trees = nil
	if res := run(t, noOS, c, image("img")); provisioning.CodeOf(res.Err) != provisioning.CodeInvalid || len(noOS.Mounts()) != 0 {
		t.Errorf("an image without operating system: %v %v", res.Err, noOS.Mounts())
	}
	for _, st := range []provisioning.Step{
		{ApplyNetworkSettings: &provisioning.ApplyNetworkSettings{DHCP: true}},
		{ApplyOperatingSystemSettings: &provisioning.ApplyOperatingSystemSettings{ComputerName: "x"}},
		{RunCommandLine: &provisioning.RunCommandLine{Command: "x"}},
	} {
		if res := run(t, fake(true), c, st); provisioning.CodeOf(res.Err) != provisioning.CodeConflict {
			t.Errorf("%s before an operating system: %v", st.Action(), res.Err)
		}
	}
}

func TestFailedProgramIsReported(t *testing.T) {
	s := fake(false)
	exec := s.OnExec
	s.OnExec = func(c Command, f *memory.Files) (Exit, error) {
		if c.Args[0] == "grub-install" {
			return Exit{Code: 7, Output: "grub-install: error: no such disk\n"}, nil
		}
		return exec(c, f)
	}
	res := run(t, s, &content{}, layout(boot, root), image("tar"))
	if res.Err == nil || res.ExitCode != 7 || !strings.Contains(res.Err.Error(), "no such disk") || res.Output == "" {
		t.Errorf("%+v", res)
	}
}

func TestNetworkSetsOthersAside(t *testing.T) {
	s := fake(false)
	extract := s.OnExtract
	s.OnExtract = func(b []byte, f *memory.Files) error {
		return errors.Join(extract(b, f), f.WriteFile("/usr/sbin/netplan", nil, 0o755), f.WriteFile("/etc/netplan/50-cloud-init.yaml", nil, 0o600), f.Mkdir("/etc/cloud/cloud.cfg.d", 0o755))
	}
	dhcp := provisioning.Step{ApplyNetworkSettings: &provisioning.ApplyNetworkSettings{DHCP: true}}
	for range 2 {
		if res := run(t, s, &content{}, layout(boot, root), image("tar"), dhcp, dhcp); res.Err != nil {
			t.Fatal(res.Err)
		}
		names, err := s.Target().ReadDir("/etc/netplan")
		if err != nil || !slices.Equal(names, []string{"50-cloud-init.yaml.before-branchpoint", "90-branchpoint.yaml"}) {
			t.Errorf("%v %v", names, err)
		}
		if _, err := s.Target().Stat("/etc/cloud/cloud.cfg.d/99-branchpoint-network.cfg"); err != nil {
			t.Error(err)
		}
	}
}

func TestSettings(t *testing.T) {
	s := fake(false)
	extract, exec := s.OnExtract, s.OnExec
	s.OnExtract = func(b []byte, f *memory.Files) error {
		return errors.Join(extract(b, f), f.WriteFile("/usr/share/zoneinfo/Europe/Berlin", nil, 0o644), f.WriteFile("/etc/timezone", nil, 0o644),
			f.WriteFile("/etc/machine-id", []byte("old\n"), 0o444), f.WriteFile("/var/lib/dbus/machine-id", []byte("old\n"), 0o444))
	}
	s.OnExec = func(c Command, f *memory.Files) (Exit, error) {
		if c.Args[0] == "useradd" {
			b, _ := f.ReadFile("/etc/passwd")
			return Exit{}, f.WriteFile("/etc/passwd", []byte(string(b)+"tech:x:1000:1001::/home/tech:/bin/sh\n"), 0o644)
		}
		return exec(c, f)
	}
	const hash = "$6$salt$hashhashhash"
	set := func(name, zone, account string) provisioning.Step {
		return provisioning.Step{ApplyOperatingSystemSettings: &provisioning.ApplyOperatingSystemSettings{
			ComputerName: name, TimeZone: zone,
			Administrator: &provisioning.AdministratorAccount{Name: account, PasswordHash: hash, SSHKeys: []string{"ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"}},
		}}
	}
	if res := run(t, s, &content{}, layout(boot, root), image("tar"), set("pc-7", "Europe/Berlin", "tech")); res.Err != nil {
		t.Fatal(res.Err)
	}
	f := s.Target()
	for name, want := range map[string]string{
		"/etc/hostname": "pc-7\n", "/etc/timezone": "Europe/Berlin\n", "/etc/machine-id": "", "/home/tech/.ssh/authorized_keys": "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n",
	} {
		if b, err := f.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if l, err := f.Readlink("/var/lib/dbus/machine-id"); err != nil || l != "/etc/machine-id" {
		t.Errorf("%q %v", l, err)
	}
	for name, mode := range map[string]string{"/home/tech/.ssh": "drwx------", "/home/tech/.ssh/authorized_keys": "-rw-------"} {
		fi, err := f.Stat(name)
		if uid, gid := f.(*memory.Files).Owner(name); err != nil || fi.Mode().String() != mode || uid != 1000 || gid != 1001 {
			t.Errorf("%s: %v %d:%d %v", name, fi.Mode(), uid, gid, err)
		}
	}
	got := strings.Join(lines(s), "\n")
	if strings.Contains(got, hash) {
		t.Errorf("the hash is on a command line:\n%s", got)
	}
	if !strings.Contains(got, "target: usermod --append --groups sudo tech") || !strings.Contains(got, "target: useradd --create-home") {
		t.Errorf("ran\n%s", got)
	}
	if !slices.ContainsFunc(s.Commands(), func(c Command) bool { return c.Args[0] == "chpasswd" && c.Stdin == "tech:"+hash+"\n" }) {
		t.Error("no password was set")
	}
	for name, st := range map[string]provisioning.Step{
		"host name": set("pc 7", "Europe/Berlin", ""), "zone": set("pc-7", "Europe/Atlantis", ""), "directory as zone": set("pc-7", "Europe", ""), "zone outside": set("pc-7", "../../../etc/hostname", ""),
	} {
		if res := run(t, s, &content{}, layout(boot, root), image("tar"), st); provisioning.CodeOf(res.Err) != provisioning.CodeInvalid {
			t.Errorf("%s: %v", name, res.Err)
		}
	}
}

func TestRunCommand(t *testing.T) {
	for name, c := range map[string]struct {
		cmd    provisioning.RunCommandLine
		exit   Exit
		err    error
		fails  bool
		target bool
	}{
		"success":           {cmd: provisioning.RunCommandLine{}, target: true},
		"in boot image":     {cmd: provisioning.RunCommandLine{In: provisioning.InBootImage}},
		"failure":           {exit: Exit{Code: 3}, fails: true, target: true},
		"success code":      {cmd: provisioning.RunCommandLine{SuccessCodes: []int{3}}, exit: Exit{Code: 3}, target: true},
		"zero not in codes": {cmd: provisioning.RunCommandLine{SuccessCodes: []int{3}}, fails: true, target: true},
		"timeout":           {exit: Exit{Code: 137, TimedOut: true}, cmd: provisioning.RunCommandLine{SuccessCodes: []int{137}}, fails: true, target: true},
		"cannot start":      {err: errors.New("no sh"), fails: true, target: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(false)
			exec := s.OnExec
			var seen Command
			s.OnExec = func(x Command, f *memory.Files) (Exit, error) {
				if x.Args[0] != "sh" {
					return exec(x, f)
				}
				seen = x
				c.exit.Output = strings.Repeat("long ", 2000) + "end"
				return c.exit, c.err
			}
			c.cmd.Command = "do it"
			res := run(t, s, &content{}, layout(boot, root), image("tar"), provisioning.Step{RunCommandLine: &c.cmd})
			if (res.Err != nil) != c.fails || seen.InTarget != c.target || seen.Timeout == 0 || !slices.Equal(seen.Args, []string{"sh", "-c", "do it"}) {
				t.Errorf("%+v %+v", res, seen)
			}
			if c.err == nil && (len(res.Output) > provisioning.MaxStatusOutput || !strings.HasSuffix(res.Output, "end") || res.ExitCode != c.exit.Code) {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestRestartUnmounts(t *testing.T) {
	s := fake(false)
	res := run(t, s, &content{}, layout(boot, root), image("tar"), provisioning.Step{Restart: &provisioning.Restart{}})
	if res.Err != nil || !res.Restart || len(s.Mounts()) != 0 {
		t.Errorf("%+v %v", res, s.Mounts())
	}
}

// TestRestartSaysWhatToDo: what helps depends on what is wrong, which only the system knows.
func TestRestartSaysWhatToDo(t *testing.T) {
	s := fake(false)
	s.OnUnmount = func() error {
		return provisioning.Errorf(provisioning.CodeInternal, "Replace the disk.", "write back /: input/output error")
	}
	res := run(t, s, &content{}, layout(boot, root), image("tar"), provisioning.Step{Restart: &provisioning.Restart{}})
	if res.Err == nil || res.Restart || provisioning.NextOf(res.Err) != "Replace the disk." || !strings.Contains(res.Err.Error(), "input/output error") {
		t.Errorf("%+v, next: %s", res, provisioning.NextOf(res.Err))
	}
}

// TestRestartChoosesTheInstalledSystem plays efibootmgr with an entry of an earlier deployment.
func TestRestartChoosesTheInstalledSystem(t *testing.T) {
	const before = "BootCurrent: 0001\nBootOrder: 0001,0000\nBoot0000* UiApp\tFvVol\nBoot0001* UEFI PXEv4\tPciRoot\n"
	for _, c := range []struct {
		name, entry string
		fail        string // the efibootmgr option that fails
		next        string
		text        string
	}{
		{name: "first", next: "0004", text: "starts it next, by boot entry 0004"},
		{name: "again", entry: "Boot0003* Branchpoint: installed system\tHD(1)\n", next: "0004", text: "boot entry 0004"},
		{name: "no room for variables", fail: "--create-only", text: "goes its own order"},
		{name: "read-only variables", fail: "--bootnext", text: "goes its own order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fake(true)
			s.Boot.SecureBoot = false
			exec := s.OnExec
			var deleted, next []string
			s.OnExec = func(x Command, f *memory.Files) (Exit, error) {
				if x.Args[0] != "efibootmgr" {
					return exec(x, f)
				}
				if c.fail != "" && slices.Contains(x.Args, c.fail) {
					return Exit{Code: 5, Output: "Could not prepare Boot variable"}, nil
				}
				switch {
				case slices.Contains(x.Args, "--delete-bootnum"):
					deleted = append(deleted, x.Args[3])
				case slices.Contains(x.Args, "--create-only"):
					if !slices.Contains(x.Args, "/dev/sda") || !slices.Contains(x.Args, "1") {
						t.Errorf("%q", x.Args)
					}
					return Exit{Stdout: before + "Boot0004* Branchpoint: installed system\tHD(1)\n"}, nil
				case slices.Contains(x.Args, "--bootnext"):
					next = append(next, x.Args[3])
				}
				return Exit{Stdout: before + c.entry}, nil
			}
			res := run(t, s, &content{}, layout(esp, root), image("tar"), provisioning.Step{Restart: &provisioning.Restart{}})
			if res.Err != nil || !res.Restart || !strings.Contains(res.Text, c.text) {
				t.Fatalf("%+v", res)
			}
			if strings.Join(next, " ") != c.next {
				t.Errorf("next start %q, want %q", next, c.next)
			}
			if c.entry != "" && strings.Join(deleted, " ") != "0003" {
				t.Errorf("deleted %q", deleted)
			}
			for _, x := range s.Commands() {
				if slices.Contains(x.Args, "--create") || slices.Contains(x.Args, "--bootorder") {
					t.Errorf("the firmware's boot order was changed: %q", x.Args)
				}
			}
		})
	}
}

// TestSecretsInOutput: what a command prints of a secret is hidden before it is cut, in results and in errors.
func TestSecretsInOutput(t *testing.T) {
	const secret = "hunter2-and-more"
	s := fake(true)
	a := assignment()
	a.Secrets = map[string]string{"JOIN": secret}
	r := NewRunner(s, nil, a, quiet)
	st := provisioning.Step{RunCommandLine: &provisioning.RunCommandLine{Command: "join " + secret, In: provisioning.InBootImage}}
	s.OnExec = func(c Command, _ *memory.Files) (Exit, error) {
		return Exit{Code: 1, Output: strings.Repeat(secret+" ", provisioning.MaxStatusOutput/8)}, nil
	}
	if res := r.Run(t.Context(), st, func(sequence.Progress) {}); strings.Contains(res.Output, "hunter2") || strings.Contains(res.Output, "-more") || res.Output == "" || res.Err == nil {
		t.Errorf("output %.200q, %v", res.Output, res.Err)
	}
	s.OnExec = func(Command, *memory.Files) (Exit, error) { return Exit{}, errors.New("no program " + secret) }
	if res := r.Run(t.Context(), st, func(sequence.Progress) {}); res.Err == nil || strings.Contains(res.Err.Error(), secret) {
		t.Errorf("error %v", res.Err)
	}
	if got := s.Commands(); got[len(got)-1].Args[2] != "join "+secret {
		t.Errorf("the command is %v", got)
	}
}
