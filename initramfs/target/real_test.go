package target

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
	"branchpoint/provisioning/sequence/steps"
)

// loopDisk makes an empty disk of size bytes behind a loop device.
func loopDisk(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for loop devices and mounts")
	}
	return loopOver(t, filepath.Join(t.TempDir(), "disk"), size)
}

// loopOver makes an empty file of size bytes, and a loop device over it.
func loopOver(t *testing.T, name string, size int64) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", name).CombinedOutput()
	if err != nil {
		t.Skipf("this kernel gives no loop device: %v %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v %s", dev, err, out)
		}
	})
	return dev
}

// debian finds the real operating system that the lab builds.
func debian(t *testing.T, name string) string {
	t.Helper()
	p := filepath.Join("..", "..", "build", "os", name)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("needs build/os/%s, which the build of the lab's operating system makes", name)
	}
	return p
}

// fileContent serves content from files.
type fileContent struct {
	archive, image string
}

func (c fileContent) WriteDisk(_ context.Context, _ provisioning.ContentRef, disk string, progress func(done, total int64)) error {
	in, err := os.Open(c.image)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, in)
	progress(n, n)
	return errors.Join(err, out.Sync(), out.Close())
}

func (c fileContent) Archive(context.Context, provisioning.ContentRef) (io.ReadCloser, int64, error) {
	f, err := os.Open(c.archive)
	if err != nil {
		return nil, 0, err
	}
	d, err := zstd.NewReader(f)
	if err != nil {
		return nil, 0, err
	}
	return d.IOReadCloser(), 0, nil
}

// machine is a System whose only disk is dev.
func machine(t *testing.T, dev string, size int64) *System {
	t.Helper()
	dir := t.TempDir()
	s := &System{
		Dir: filepath.Join(dir, "target"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Output: t.Output(),
		Boot: steps.Firmware{BootMAC: "52:54:00:12:34:56"},
		List: func(context.Context) ([]steps.Disk, error) {
			return []steps.Disk{{Path: dev, Size: size, SectorSize: 512, Model: "loop"}}, nil
		},
	}
	t.Cleanup(func() {
		if err := s.Unmount(context.Background()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return s
}

// runSequence runs steps as the agent does, and gives the messages that the branch got.
func runSequence(t *testing.T, s *System, c steps.Content, images map[string]provisioning.ContentRef, list []provisioning.Step) (sequence.Outcome, []provisioning.StatusMessage) {
	t.Helper()
	a := &provisioning.Assignment{
		Run: provisioning.Run{ID: strings.Repeat("a", 32), Advertisement: "all"}, Site: "S01", Computer: provisioning.Computer{Name: "pc-1"},
		Sequence: provisioning.TaskSequence{Name: "debian", Spec: provisioning.TaskSequenceSpec{Steps: list}}, Content: images, NextStatus: 1,
	}
	var got []provisioning.StatusMessage
	q := sequence.NewQueue(func(_ context.Context, m []provisioning.StatusMessage) error {
		got = append(got, m...)
		return nil
	}, s.Log, sequence.Wait, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.Run(ctx)
	}()
	e := &sequence.Engine{
		Assignment: a, Variables: sequence.NewVariables(a, nil), Runner: steps.NewRunner(s, c, a, s.Log), Queue: q,
		Observe: func(sequence.Event) {}, Log: s.Log, Now: time.Now, Random: rand.Reader,
	}
	out := e.Run(ctx)
	if err := q.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-ended
	return out, got
}

// settings are the steps after the operating system is on the disk.
func settings() []provisioning.Step {
	return []provisioning.Step{
		{ApplyNetworkSettings: &provisioning.ApplyNetworkSettings{Address: "192.0.2.10/24", Gateway: "192.0.2.1", DNS: []string{"192.0.2.1"}}},
		{ApplyOperatingSystemSettings: &provisioning.ApplyOperatingSystemSettings{
			TimeZone: "Europe/Berlin",
			Administrator: &provisioning.AdministratorAccount{
				Name: "technician", PasswordHash: "$6$abcdefgh$" + strings.Repeat("x", 86), SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ technician"},
			},
		}},
		{RunCommandLine: &provisioning.RunCommandLine{Command: "cat /etc/hostname; id technician; (setsid sleep 600 &) ; exit 3", SuccessCodes: []int{3}}},
		{Restart: &provisioning.Restart{}},
	}
}

// checkSettings looks at what settings left in the tree.
func checkSettings(t *testing.T, f steps.Files) {
	t.Helper()
	for name, want := range map[string]string{
		"/etc/hostname":                         "pc-1\n",
		"/etc/hosts":                            "127.0.1.1\tpc-1\n",
		"/etc/shadow":                           "technician:$6$abcdefgh$xxx",
		"/etc/group":                            "sudo:x:27:technician\n",
		"/home/technician/.ssh/authorized_keys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ technician\n",
		"/etc/systemd/network/05-branchpoint.network": "MACAddress=52:54:00:12:34:56\n",
	} {
		b, err := f.ReadFile(name)
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v, does not contain %q:\n%s", name, err, want, b)
		}
	}
	if l, err := f.Readlink("/etc/localtime"); err != nil || l != "/usr/share/zoneinfo/Europe/Berlin" {
		t.Errorf("localtime: %q %v", l, err)
	}
	if b, err := f.ReadFile("/etc/machine-id"); err != nil || len(b) != 0 {
		t.Errorf("machine-id: %q %v", b, err)
	}
}

func checkMessages(t *testing.T, got []provisioning.StatusMessage) {
	t.Helper()
	for i, m := range got {
		if err := m.Validate(); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
		if m.Sequence != i+1 {
			t.Errorf("message %d has sequence %d", i, m.Sequence)
		}
		if m.Action == "runCommandLine" && m.Code == provisioning.StatusStepDone && (m.ExitCode != 3 || !strings.Contains(m.Output, "pc-1\n") || !strings.Contains(m.Output, "27(sudo)")) {
			t.Errorf("command's message: %+v", m)
		}
		if strings.Contains(fmt.Sprint(m), "$6$") {
			t.Errorf("a message holds the password hash: %+v", m)
		}
	}
}

func TestArchiveOntoRealPartitions(t *testing.T) {
	archive := debian(t, "debian-13-root.tar.zst")
	const size = 3 << 30
	dev := loopDisk(t, size)
	s := machine(t, dev, size)
	list := append([]provisioning.Step{
		{PartitionDisk: &provisioning.PartitionDisk{Partitions: []provisioning.Partition{
			{Type: provisioning.PartitionBIOSBoot, Size: "1MiB"},
			{Type: provisioning.PartitionSwap, Size: "64MiB", FileSystem: provisioning.FileSystemSwap},
			{Type: provisioning.PartitionData, Size: "40%", FileSystem: provisioning.FileSystemExt4, Label: "srv", Mount: "/srv"},
			{Type: provisioning.PartitionRoot, FileSystem: provisioning.FileSystemExt4, Label: "root", Mount: "/"},
		}}},
		{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Image: "debian"}},
	}, settings()...)
	images := map[string]provisioning.ContentRef{"debian": {Package: "debian", Version: 1, Format: provisioning.FormatRootFileSystem}}
	out, got := runSequence(t, s, fileContent{archive: archive}, images, list)
	if out.Err != nil || !out.Restart {
		t.Fatalf("%+v", out)
	}
	checkMessages(t, got)
	if points, err := mountsBelow(s.Dir); err != nil || len(points) != 0 {
		t.Fatalf("still mounted: %v %v", points, err)
	}
	mbr := make([]byte, 512)
	disk, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if _, err := disk.ReadAt(mbr, 0); err != nil || !bytes.Contains(mbr, []byte("GRUB")) {
		t.Errorf("no GRUB in the boot sector: %v", err)
	}
	ctx := context.Background()
	if out, err := exec.Command("e2fsck", "-f", "-n", dev+"p4").CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v %s", err, out)
	}
	if err := s.Mount(ctx, dev+"p4", "ext4", "/", true); err != nil {
		t.Fatal(err)
	}
	checkSettings(t, s.Target())
	fstab, err := s.Target().ReadFile("/etc/fstab")
	if err != nil || strings.Count(string(fstab), "UUID=") != 3 {
		t.Errorf("fstab: %v\n%s", err, fstab)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(fstab)), "\n")[1:] {
		uuid := strings.TrimPrefix(strings.Fields(line)[0], "UUID=")
		if out, err := exec.Command("blkid", "--probe", "--uuid", uuid, dev+"p2", dev+"p3", dev+"p4").CombinedOutput(); err != nil && len(out) > 0 {
			t.Errorf("%s: %v %s", uuid, err, out)
		}
	}
	cfg, err := s.Target().ReadFile("/boot/grub/grub.cfg")
	if err != nil || !strings.Contains(string(cfg), "root=UUID=") || !strings.Contains(string(cfg), "console=ttyS0,115200") {
		t.Errorf("grub.cfg: %v\n%s", err, cfg)
	}
	// What the archive holds must be what is there: compare with tar's own opinion.
	compareWithTar(t, archive, s.Dir)
}

// compareWithTar has tar compare the archive with the tree. What the steps changed is left out.
func compareWithTar(t *testing.T, archive, dir string) {
	t.Helper()
	out, _ := exec.Command("tar", "--compare", "--file", archive, "--zstd", "--directory", dir, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner").CombinedOutput()
	own := []string{
		"./etc/", "./etc:", "./boot/", "./boot:", "./home", "./root", "./var/lib/dbus", "./run", "./dev", "./proc", "./sys", "./srv", "./tmp", "./var/log", "./var/mail",
		"./var/spool", "./.:", "./:", "./var/lib/pam", "./var/lib/grub", "./var/lib/os-prober", "./usr/share/zoneinfo",
	}
	for line := range strings.Lines(string(out)) {
		mine := false
		for _, o := range own {
			mine = mine || strings.HasPrefix(line, o)
		}
		if !mine {
			t.Errorf("tar --compare: %s", line)
		}
	}
}

func TestDiskImageOntoRealDisk(t *testing.T) {
	image := debian(t, "debian-13.img")
	const size = 2 << 30
	dev := loopDisk(t, size)
	fi, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	s := machine(t, dev, size)
	list := append([]provisioning.Step{{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Image: "debian"}}}, settings()...)
	images := map[string]provisioning.ContentRef{"debian": {Package: "debian", Version: 1, Format: provisioning.FormatDiskImage, Size: fi.Size()}}
	out, got := runSequence(t, s, fileContent{image: image}, images, list)
	if out.Err != nil || !out.Restart {
		t.Fatalf("%+v", out)
	}
	checkMessages(t, got)
	if out, err := exec.Command("sfdisk", "--verify", dev).CombinedOutput(); err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk --verify: %v %s", err, out)
	}
	table, err := exec.Command("sfdisk", "--json", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	tab, err := steps.ParseTable(table)
	if err != nil {
		t.Fatal(err)
	}
	last := tab.Partitions[len(tab.Partitions)-1]
	if end := (last.Start + last.Size) * tab.SectorSize; end < size-2<<20 {
		t.Errorf("the last partition ends at %d of %d", end, int64(size))
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", last.Node).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v %s", err, out)
	}
	if err := s.Mount(context.Background(), last.Node, "ext4", "/", true); err != nil {
		t.Fatal(err)
	}
	checkSettings(t, s.Target())
	df, err := exec.Command("df", "-B1", "--output=size", s.Dir).Output()
	var total int64
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(strings.Fields(string(df))[1], &total)
	if total < 17*size/20 {
		t.Errorf("the file system has %d of the disk's %d bytes", total, int64(size))
	}
	// Doing it all again onto what is there now works as well: that is how an interrupted run goes on.
	if err := s.Unmount(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out, _ := runSequence(t, s, fileContent{image: image}, images, list); out.Err != nil {
		t.Fatalf("second time: %+v", out)
	}
}

func TestPartitionErasesWhatWasThere(t *testing.T) {
	const size = 256 << 20
	dev := loopDisk(t, size)
	s := machine(t, dev, size)
	mbr := []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{Table: provisioning.TableMBR, Partitions: []provisioning.Partition{
		{Type: provisioning.PartitionESP, Size: "64MiB", FileSystem: provisioning.FileSystemVFAT, Label: "esp"},
		{Type: provisioning.PartitionData, FileSystem: provisioning.FileSystemExt4, Label: "old"},
	}}}}
	if out, _ := runSequence(t, s, nil, nil, mbr); out.Err != nil {
		t.Fatalf("%+v", out)
	}
	for dev, want := range map[string]string{dev + "p1": `TYPE="vfat"`, dev + "p2": `LABEL="old"`} {
		out, err := exec.Command("blkid", "--probe", dev).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v %s", dev, err, out)
		}
		r, c, err := s.ReadDevice(dev)
		if err != nil {
			t.Fatal(err)
		}
		fsi, ok := steps.ProbeFileSystem(r)
		c.Close()
		if !ok || !strings.Contains(string(out), `UUID="`+fsi.UUID+`"`) || !strings.Contains(string(out), `LABEL="`+fsi.Label+`"`) {
			t.Errorf("probed %+v, blkid says %s", fsi, out)
		}
	}
	raw := []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{Partitions: []provisioning.Partition{
		{Size: "64MiB"}, {Size: "50%", FileSystem: provisioning.FileSystemSwap}, {},
	}}}}
	if out, _ := runSequence(t, s, nil, nil, raw); out.Err != nil {
		t.Fatalf("%+v", out)
	}
	for _, p := range []string{dev + "p1", dev + "p3"} {
		if out, err := exec.Command("blkid", "--probe", p).CombinedOutput(); err == nil && bytes.Contains(out, []byte(" TYPE=")) {
			t.Errorf("%s still looks like a file system: %s", p, out)
		}
	}
}
