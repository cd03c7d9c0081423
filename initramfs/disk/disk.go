// Package disk tells what block devices a machine has, what is on them, and whether there is anything on them at all. It
// reads and never writes.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Disk is a whole block device with hardware (or a virtual machine's idea of it) behind it.
type Disk struct {
	Name      string // sda, nvme0n1
	Path      string // /dev/sda
	Size      int64  // bytes; 0 for a drive without medium
	BlockSize int    // logical, bytes
	Model     string // as the device says, may be empty
	Serial    string // may be empty: not every device has one
	WWID      string // world-wide identifier, may be empty
	Bus       Bus
	Removable bool // the medium can be taken out; USB disks usually say no
	ReadOnly  bool
	CD        bool // CD, DVD or Blu-ray drive
	// Mounted are the mount points of the disk itself, "[swap]" for swap space.
	Mounted []string
	// Holders are block devices built on the disk itself (dm-0, md0).
	Holders    []string
	Partitions []Partition
}

// Partition is a part of a disk that the kernel knows.
type Partition struct {
	Name    string // sda1
	Path    string // /dev/sda1
	Number  int
	Start   int64 // bytes from the disk's beginning
	Size    int64 // bytes
	Mounted []string
	Holders []string
}

// Bus says how a disk is attached.
type Bus string

// Buses.
const (
	BusATA    Bus = "ata"
	BusNVMe   Bus = "nvme"
	BusUSB    Bus = "usb"
	BusVirtio Bus = "virtio"
	BusMMC    Bus = "mmc"
	BusHyperV Bus = "hyperv"
	BusXen    Bus = "xen"
	BusSCSI   Bus = "scsi" // SAS, RAID adapters, and whatever is none of the others
)

// InUse reports whether the disk or a part of it is mounted, swap, or the base of another block device.
func (d Disk) InUse() bool {
	used := len(d.Mounted)+len(d.Holders) > 0
	for _, p := range d.Partitions {
		used = used || len(p.Mounted)+len(p.Holders) > 0
	}
	return used
}

// List returns the machine's disks and CD drives, sorted by name. sysfs and proc are usually /sys and /proc. Loop devices,
// RAM disks, device mapper and md are left out; they show as holders.
func List(sysfs, proc string) ([]Disk, error) {
	entries, err := os.ReadDir(filepath.Join(sysfs, "block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	mounts, err := readMounts(proc)
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, e := range entries {
		dir := filepath.Join(sysfs, "block", e.Name())
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil || text(dir, "hidden") == "1" {
			continue
		}
		// eMMC's boot areas are no place for an operating system.
		if strings.HasPrefix(e.Name(), "mmcblk") && strings.Contains(e.Name()[len("mmcblk"):], "boot") {
			continue
		}
		disks = append(disks, readDisk(dir, e.Name(), mounts))
	}
	sort.Slice(disks, func(i, j int) bool { return disks[i].Name < disks[j].Name })
	return disks, nil
}

func readDisk(dir, name string, mounts map[string][]string) Disk {
	real := dir
	if r, err := filepath.EvalSymlinks(dir); err == nil {
		real = r
	}
	d := Disk{
		Name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/"),
		Size: sectors(dir, "size"), BlockSize: int(number(dir, "queue/logical_block_size")),
		Bus:       busOf(name, real),
		Removable: text(dir, "removable") == "1", ReadOnly: text(dir, "ro") == "1",
		CD:      strings.HasPrefix(name, "sr") || text(dir, "device/type") == "5", // SCSI peripheral type 5
		Mounted: mounts[text(dir, "dev")], Holders: names(dir, "holders"),
	}
	if d.BlockSize == 0 {
		d.BlockSize = 512
	}
	d.Model, d.Serial, d.WWID = model(dir), serial(dir, real, d.Bus), wwid(dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return d // it is being unplugged
	}
	for _, e := range entries {
		part := filepath.Join(dir, e.Name())
		n := number(part, "partition")
		if n <= 0 {
			continue
		}
		d.Partitions = append(d.Partitions, Partition{
			Name: e.Name(), Path: "/dev/" + e.Name(), Number: int(n), Start: sectors(part, "start"), Size: sectors(part, "size"),
			Mounted: mounts[text(part, "dev")], Holders: names(part, "holders"),
		})
	}
	sort.Slice(d.Partitions, func(i, j int) bool { return d.Partitions[i].Number < d.Partitions[j].Number })
	return d
}

// busOf decides by the device's path in sysfs, which names every bus on the way: a disk in a USB case is an ATA disk to
// itself, but what counts is that it can be pulled out.
func busOf(name, real string) Bus {
	switch {
	case strings.Contains(real, "/usb"):
		return BusUSB
	case strings.HasPrefix(name, "nvme"):
		return BusNVMe
	case strings.HasPrefix(name, "mmcblk"):
		return BusMMC
	case strings.Contains(real, "/virtio"):
		return BusVirtio
	case strings.Contains(strings.ToLower(real), "/vmbus"):
		return BusHyperV
	case strings.HasPrefix(name, "xvd"):
		return BusXen
	case strings.Contains(real, "/ata"):
		return BusATA
	}
	return BusSCSI
}

func model(dir string) string {
	m := text(dir, "device/model")
	if m == "" {
		return text(dir, "device/name") // mmc
	}
	// SCSI splits the name over two fields; virtio's vendor is a number, ATA's is no name.
	if v := text(dir, "device/vendor"); v != "" && v != "ATA" && !strings.HasPrefix(v, "0x") {
		m = v + " " + m
	}
	return m
}

func serial(dir, real string, bus Bus) string {
	// virtio has it beside the queue, NVMe and MMC with the device.
	for _, f := range []string{"serial", "device/serial"} {
		if s := text(dir, f); s != "" {
			return s
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil {
		if s := parseVPD80(b); s != "" {
			return s
		}
	}
	if bus == BusUSB {
		// The USB device is somewhere above the SCSI host; it is the first with a vendor number.
		for up := real; len(up) > 1 && filepath.Base(up) != "devices"; up = filepath.Dir(up) {
			if _, err := os.Stat(filepath.Join(up, "idVendor")); err == nil {
				return text(up, "serial")
			}
		}
	}
	return ""
}

// parseVPD80 reads the SCSI page "unit serial number" (SPC-4, 7.8.15): four bytes, the last two of which are the length.
func parseVPD80(b []byte) string {
	if len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := min(int(b[2])<<8|int(b[3]), len(b)-4)
	return clean(string(b[4 : 4+n]))
}

func wwid(dir string) string {
	for _, f := range []string{"wwid", "device/wwid"} {
		if s := text(dir, f); s != "" {
			return strings.Join(strings.Fields(s), " ")
		}
	}
	return ""
}

// readMounts returns mount points and swap by device number, "8:1".
func readMounts(proc string) (map[string][]string, error) {
	mounts := map[string][]string{}
	b, err := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		// proc_pid_mountinfo(5): id, parent, major:minor, root, mount point, …
		if f := strings.Fields(line); len(f) > 4 {
			mounts[f[2]] = append(mounts[f[2]], unescape(f[4]))
		}
	}
	swaps, err := os.ReadFile(filepath.Join(proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read swap spaces: %w", err)
	}
	for _, line := range strings.Split(string(swaps), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != "partition" {
			continue
		}
		if dev, err := deviceNumber(unescape(f[0])); err == nil {
			mounts[dev] = append(mounts[dev], "[swap]")
		}
	}
	return mounts, nil
}

// unescape undoes the octal notation of blanks in proc's tables.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func text(parts ...string) string {
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return "" // attributes differ by driver, and vanish with their device
	}
	return clean(string(b))
}

// clean makes one line of printable text of what a device says of itself.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

func number(parts ...string) int64 {
	n, err := strconv.ParseInt(text(parts...), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// sectors reads a count of 512-byte units, which sysfs uses whatever the block size is.
func sectors(parts ...string) int64 {
	n := number(parts...)
	if n < 0 || n > 1<<54 {
		return 0
	}
	return n * 512
}

func names(parts ...string) []string {
	entries, err := os.ReadDir(filepath.Join(parts...))
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}
