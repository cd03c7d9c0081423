package disk

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// tree writes files below a directory; a value that begins with "->" is a symbolic link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "->"); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestList(t *testing.T) {
	const (
		ata  = "sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0"
		usb  = "sys/devices/pci0000:00/0000:00:14.0/usb2/2-1"
		usbd = usb + "/2-1:1.0/host8/target8:0:0/8:0:0:0"
		cd   = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"
		virt = "sys/devices/pci0000:00/0000:00:05.0/virtio2"
		nvme = "sys/devices/pci0000:00/0000:00:06.0/nvme/nvme0"
	)
	dir := tree(t, map[string]string{
		"sys/block/sda":                             "->../devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda",
		ata + "/block/sda/device":                   "->../..",
		ata + "/vendor":                             "ATA     \n",
		ata + "/model":                              "Samsung SSD 870 \n",
		ata + "/vpd_pg80":                           "\x00\x80\x00\x10S5Y1NJ0R         ",
		ata + "/wwid":                               "naa.5002538f\n",
		ata + "/type":                               "0\n",
		ata + "/block/sda/size":                     "2000409264\n",
		ata + "/block/sda/dev":                      "8:0\n",
		ata + "/block/sda/ro":                       "0\n",
		ata + "/block/sda/removable":                "0\n",
		ata + "/block/sda/queue/logical_block_size": "512\n",
		ata + "/block/sda/sda10/partition":          "10\n",
		ata + "/block/sda/sda10/start":              "4096\n",
		ata + "/block/sda/sda10/size":               "8\n",
		ata + "/block/sda/sda10/dev":                "8:10\n",
		ata + "/block/sda/sda10/holders/dm-0/x":     "",
		ata + "/block/sda/sda2/partition":           "2\n",
		ata + "/block/sda/sda2/start":               "2048\n",
		ata + "/block/sda/sda2/size":                "2048\n",
		ata + "/block/sda/sda2/dev":                 "8:2\n",

		"sys/block/sdb":                              "->../devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host8/target8:0:0/8:0:0:0/block/sdb",
		usbd + "/block/sdb/device":                   "->../..",
		usbd + "/vendor":                             "Kingston\n",
		usbd + "/model":                              "DataTraveler 3.0\n",
		usbd + "/block/sdb/size":                     "62530624\n",
		usb + "/idVendor":                            "0951\n",
		usb + "/serial":                              "60A44C\x01\n",
		usbd + "/block/sdb/removable":                "1\n",
		usbd + "/block/sdb/queue/logical_block_size": "4096\n",

		"sys/block/sr0":            "->../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sr0",
		cd + "/block/sr0/device":   "->../..",
		cd + "/type":               "5\n",
		cd + "/block/sr0/size":     "-1\n",
		"sys/block/vda":            "->../devices/pci0000:00/0000:00:05.0/virtio2/block/vda",
		virt + "/block/vda/device": "->../..",
		virt + "/vendor":           "0x1af4\n",
		virt + "/block/vda/serial": "VIRT01",
		virt + "/block/vda/ro":     "1\n",

		"sys/block/nvme0n1":                   "->../devices/pci0000:00/0000:00:06.0/nvme/nvme0/nvme0n1",
		nvme + "/nvme0n1/device":              "->..",
		nvme + "/model":                       "QEMU NVMe Ctrl                          \n",
		nvme + "/serial":                      "NVME01              \n",
		nvme + "/nvme0n1/wwid":                "nvme.1b36-4e56\n",
		nvme + "/nvme0n1/nvme0n1p1/partition": "1\n",
		nvme + "/nvme0n1/nvme0n1p1/dev":       "259:1\n",

		// Not disks.
		"sys/block/loop0/size":            "100\n",
		"sys/block/dm-0/size":             "100\n",
		"sys/block/mmcblk0boot0/device/x": "",
		"sys/block/nvme0c0n1/device/x":    "",
		"sys/block/nvme0c0n1/hidden":      "1\n",
		"proc/self/mountinfo":             "22 1 8:2 / /mnt/with\\040space rw - ext4 /dev/sda2 rw\n23 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\nbroken\n",
		"proc/swaps":                      "Filename Type Size Used Priority\n/no/such/device partition 1 0 -2\n",
	})
	disks, err := List(filepath.Join(dir, "sys"), filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{
			Name: "nvme0n1", Path: "/dev/nvme0n1", BlockSize: 512, Model: "QEMU NVMe Ctrl", Serial: "NVME01", WWID: "nvme.1b36-4e56", Bus: BusNVMe,
			Partitions: []Partition{{Name: "nvme0n1p1", Path: "/dev/nvme0n1p1", Number: 1, Mounted: []string{"/"}}},
		},
		{
			Name: "sda", Path: "/dev/sda", Size: 2000409264 * 512, BlockSize: 512, Model: "Samsung SSD 870", Serial: "S5Y1NJ0R", WWID: "naa.5002538f", Bus: BusATA,
			Partitions: []Partition{
				{Name: "sda2", Path: "/dev/sda2", Number: 2, Start: 1 << 20, Size: 1 << 20, Mounted: []string{"/mnt/with space"}},
				{Name: "sda10", Path: "/dev/sda10", Number: 10, Start: 2 << 20, Size: 4096, Holders: []string{"dm-0"}},
			},
		},
		{Name: "sdb", Path: "/dev/sdb", Size: 62530624 * 512, BlockSize: 4096, Model: "Kingston DataTraveler 3.0", Serial: "60A44C", Bus: BusUSB, Removable: true},
		{Name: "sr0", Path: "/dev/sr0", BlockSize: 512, Bus: BusATA, CD: true},
		{Name: "vda", Path: "/dev/vda", BlockSize: 512, Serial: "VIRT01", Bus: BusVirtio, ReadOnly: true},
	}
	if len(disks) != len(want) {
		t.Fatalf("found %d disks, want %d: %+v", len(disks), len(want), disks)
	}
	for i := range want {
		if !reflect.DeepEqual(disks[i], want[i]) {
			t.Errorf("got\n%+v\nwant\n%+v", disks[i], want[i])
		}
	}
	for name, used := range map[string]bool{"nvme0n1": true, "sda": true, "sdb": false} {
		for _, d := range disks {
			if d.Name == name && d.InUse() != used {
				t.Errorf("%s in use: %v", name, d.InUse())
			}
		}
	}
}

func TestListHere(t *testing.T) {
	if _, err := List("/sys", "/proc"); err != nil {
		t.Fatal(err)
	}
	if _, err := List(t.TempDir(), "/proc"); err == nil {
		t.Fatal("a missing sysfs gave no error")
	}
}

func FuzzParseVPD80(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x04ABCD"))
	f.Add([]byte("\x00\x80\xff\xffABCD"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := parseVPD80(b); len(s) > len(b) || strings.ContainsAny(s, "\x00\n\x1b") {
			t.Fatalf("got %q", s)
		}
	})
}
