package lab

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// Firmware is what a machine starts with.
type Firmware int

const (
	// BIOS is SeaBIOS; iPXE in the NIC's option ROM is its network boot.
	BIOS Firmware = iota
	// UEFI is OVMF without Secure Boot. Its own PXE drives virtio NICs.
	UEFI
	// UEFISecureBoot is OVMF with Microsoft's keys enrolled and Secure Boot enforced, its variables protected by SMM.
	UEFISecureBoot
)

func (f Firmware) String() string {
	switch f {
	case BIOS:
		return "BIOS"
	case UEFI:
		return "UEFI"
	case UEFISecureBoot:
		return "UEFI with Secure Boot"
	}
	return fmt.Sprintf("Firmware(%d)", int(f))
}

// Bus is what a disk hangs on.
type Bus string

// The buses of disks, CDs and sticks.
const (
	Virtio Bus = "virtio"
	AHCI   Bus = "ahci"
	NVMe   Bus = "nvme"
	USB    Bus = "usb-storage" // a stick
	CD     Bus = "cd"          // a CD drive on AHCI, read only
)

// Disk is a disk, USB stick or CD of a machine.
type Disk struct {
	Path string
	// Format is "raw" (the default) or "qcow2".
	Format string
	Bus    Bus // Virtio by default
	Serial string
	// ReadOnly gives the guest a write-protected disk. Disks on AHCI and NVMe cannot be: use Snapshot.
	ReadOnly bool
	// Snapshot lets the guest write, and forgets what it wrote when QEMU ends.
	Snapshot bool
	// Boot is the place in the boot order, from 1; 0 is not booted.
	Boot int
}

// NIC is a network card of a machine: on a switch, on a WAN, or on nothing.
type NIC struct {
	// Model is a QEMU device: virtio-net-pci (the default), e1000, e1000e, rtl8139, vmxnet3, igb (QEMU 8).
	Model string
	// MAC is derived from the names of test and machine if it is nil.
	MAC    net.HardwareAddr
	Switch *Switch
	WAN    *WAN
	// Boot is the place in the boot order, from 1; 0 is not booted.
	Boot int
	// OptionROM keeps QEMU's iPXE ROM on a virtio NIC under UEFI, where OVMF's own PXE is used otherwise.
	OptionROM bool
}

// WAN is a link to the outside: the guest gets 10.0.2.15 by DHCP, and reaches nothing but what is forwarded.
type WAN struct {
	Forwards []Forward
	// GuestPorts are TCP ports of the guest that the host reaches: see [Machine.HostAddr].
	GuestPorts []int
	// BootFile is what the link's DHCP server tells network boot to load, mostly empty.
	BootFile string
}

// Forward makes a TCP service of the host visible to the guest.
type Forward struct {
	// Guest is the address in 10.0.2.0/24 and the port that the guest connects to, "10.0.2.100:8443".
	Guest string
	// Host is where the connection goes, "127.0.0.1:port": mostly a [Link]'s address, so that it can be cut.
	Host string
}

// SMBIOS is what the machine says about itself (SMBIOS specification, types 1 and 3). Empty fields are QEMU's.
type SMBIOS struct {
	Manufacturer, Product, Version, Serial, SKU, Family, AssetTag string
}

// Config describes a machine. The zero value of each field is a sensible machine.
type Config struct {
	// Name is unique in the lab, and names the directory of artifacts.
	Name     string
	Firmware Firmware
	// Chipset is "q35" (the default) or "pc" (not with Secure Boot).
	Chipset  string
	MemoryMB int // 1024 by default
	CPUs     int // 1 by default
	// CPU replaces the lab's choice of a CPU model.
	CPU    string
	Disks  []Disk
	NICs   []NIC
	SMBIOS SMBIOS
	// UUID is derived from the names of test and machine if it is empty. PXE clients send it as option 97.
	UUID string
	// TPM gives the machine a TPM 2.0 (swtpm) that keeps its state.
	TPM bool
	// Kernel, Initrd (any number, concatenated by the lab) and CommandLine start a kernel directly.
	Kernel      string
	Initrd      []string
	CommandLine string
	// FWCfg adds entries for the firmware, "opt/org.tianocore/IPv4PXESupport": "no".
	FWCfg map[string]string
	// NoReboot makes a reset of the guest end QEMU.
	NoReboot bool
	// MayPanic keeps waits going when the kernel panics. Otherwise a panic fails them at once.
	MayPanic bool
	// Args are added to QEMU's command line.
	Args []string
}

func (c *Config) setDefaults(test string) error {
	if c.Name == "" {
		return fmt.Errorf("a machine needs a name")
	}
	if c.Chipset == "" {
		c.Chipset = "q35"
	}
	if c.Chipset != "q35" && c.Chipset != "pc" {
		return fmt.Errorf("chipset %q is neither q35 nor pc", c.Chipset)
	}
	if c.Firmware == UEFISecureBoot && c.Chipset != "q35" {
		return fmt.Errorf("secure boot needs the chipset q35, for its SMM")
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 1024
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	id := derive("uuid", test, c.Name)
	if c.UUID == "" {
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // RFC 9562, version 4
		c.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	}
	c.Disks = append([]Disk(nil), c.Disks...)
	for i := range c.Disks {
		d := &c.Disks[i]
		if d.Bus == "" {
			d.Bus = Virtio
		}
		if d.Format == "" {
			d.Format = "raw"
		}
		if d.Bus == CD {
			d.ReadOnly = true
		}
		if d.Serial == "" && d.Bus != CD {
			d.Serial = fmt.Sprintf("LAB%X%02d", id[12:15], i) // NVMe refuses to be without
		}
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("disk %d: path %q is not absolute", i, d.Path)
		}
		if d.ReadOnly && d.Bus != CD && d.Bus != USB && d.Bus != Virtio {
			return fmt.Errorf("disk %d: a read-only disk on %s is not emulated, use Snapshot", i, d.Bus)
		}
	}
	c.NICs = append([]NIC(nil), c.NICs...)
	for i := range c.NICs {
		n := &c.NICs[i]
		if n.Model == "" {
			n.Model = "virtio-net-pci"
		}
		if n.MAC == nil {
			h := derive("mac", test, c.Name, fmt.Sprint(i))
			n.MAC = net.HardwareAddr{0x52, 0x54, 0x00, h[0], h[1], h[2]}
		}
		if n.Switch != nil && n.WAN != nil {
			return fmt.Errorf("NIC %d: it is either on a switch or on a WAN", i)
		}
		if n.WAN != nil {
			for _, f := range n.WAN.Forwards {
				if strings.ContainsAny(f.Guest+f.Host, " ,-") {
					return fmt.Errorf("NIC %d: forward %s to %s: not an address", i, f.Guest, f.Host)
				}
			}
		}
	}
	if len(c.Initrd) > 0 && c.Kernel == "" {
		return fmt.Errorf("an initrd needs a kernel")
	}
	return nil
}
