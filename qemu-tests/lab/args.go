package lab

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
)

// OVMF's files as Debian's package ovmf installs them.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ovmfCodeSecure = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
	ovmfVarsSecure = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// tcgCPU is the fastest for Go's cryptography of what TCG emulates. Go picks routines by CPUID, and TCG is slow at wide
// vectors. Measured in a guest with QEMU 7.2 and Go 1.26, MB/s of SHA-256, SHA-512/256, AES-GCM:
//
//	max                  27.1  13.1  20.4
//	max,avx2=off         32.4  56.8  20.5
//	qemu64               33.6  57.6  22.1
//	this                 33.4  58.7  21.4
//
// qemu64 alone would do as well, but operating systems of today ask for SSE 4.2 and POPCNT, and kernels for RDRAND.
//
// CMPXCHG16B is off: QEMU 7.2 leaves wrong flags behind when it emulates it, and Linux 6.12, which uses it in its
// allocator, then panics in about every second boot (measured: 6 of 8 boots with it, none of 6 without).
const tcgCPU = "qemu64,-cx16,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"

// sockets are the paths at which a machine's QEMU meets the lab.
type sockets struct {
	qmp, serial, events, tpm string
	nics                     []string
}

// commandLine makes QEMU's arguments: a pure function of what it is given. With alone set it makes a machine that runs
// without the lab, on a terminal, with its NICs on isolated user networks.
func (c *Config) commandLine(dir string, accel Accel, s sockets, alone bool) []string {
	args := []string{"qemu-system-x86_64", "-no-user-config", "-nodefaults", "-name", c.Name}
	machine := c.Chipset
	if c.Firmware == UEFISecureBoot {
		machine += ",smm=on"
	}
	args = append(args, "-machine", machine)
	cpu := c.CPU
	switch {
	case accel == KVM:
		args = append(args, "-accel", "kvm")
		if cpu == "" {
			cpu = "host"
		}
	default:
		args = append(args, "-accel", "tcg,thread=multi")
		if cpu == "" {
			cpu = tcgCPU
		}
	}
	args = append(args, "-cpu", cpu, "-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprint(c.MemoryMB))
	args = append(args, c.firmwareArgs(dir)...)
	args = append(args, "-uuid", c.UUID)
	args = append(args, c.smbiosArgs()...)
	args = append(args, "-device", "virtio-rng-pci", "-vga", "std", "-display", "none")

	if alone {
		args = append(args, "-serial", "mon:stdio", "-chardev", "file,id=events,path="+esc(filepath.Join(dir, "events.alone.jsonl")))
	} else {
		args = append(args,
			"-chardev", "socket,id=serial,server=off,path="+esc(s.serial), "-serial", "chardev:serial",
			"-chardev", "socket,id=events,server=off,path="+esc(s.events),
			"-chardev", "socket,id=qmp,server=off,path="+esc(s.qmp), "-mon", "chardev=qmp,mode=control")
	}
	args = append(args, "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=events,name="+EventsPort)
	// SeaBIOS and debug builds of OVMF tell on this port what they do.
	args = append(args, "-chardev", "file,id=firmware,path="+esc(filepath.Join(dir, "firmware.log")), "-device", "isa-debugcon,iobase=0x402,chardev=firmware")

	args = append(args, c.diskArgs()...)
	for i, n := range c.NICs {
		args = append(args, n.args(i, c.Firmware, s, alone)...)
	}
	if c.TPM && !alone {
		args = append(args, "-chardev", "socket,id=tpm,path="+esc(s.tpm), "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm")
	}
	args = append(args, "-boot", "menu=off,strict="+onOff(c.hasBootOrder()))
	if c.Kernel != "" {
		args = append(args, "-kernel", c.Kernel)
		if len(c.Initrd) > 0 {
			args = append(args, "-initrd", filepath.Join(dir, "initrd"))
		}
		args = append(args, "-append", c.CommandLine)
	}
	names := make([]string, 0, len(c.FWCfg))
	for n := range c.FWCfg {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		args = append(args, "-fw_cfg", "name="+esc(n)+",string="+esc(c.FWCfg[n]))
	}
	if c.NoReboot {
		args = append(args, "-no-reboot")
	}
	return append(args, c.Args...)
}

func (c *Config) firmwareArgs(dir string) []string {
	if c.Firmware == BIOS {
		return nil
	}
	code := ovmfCode
	var args []string
	if c.Firmware == UEFISecureBoot {
		code = ovmfCodeSecure
		// Only code in system management mode may write the variables: without it a guest could enrol its own keys.
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return append(args,
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+esc(code),
		"-drive", "if=pflash,unit=1,format=raw,file="+esc(filepath.Join(dir, "vars.fd")))
}

func (c *Config) smbiosArgs() []string {
	var one, three []string
	add := func(to *[]string, key, value string) {
		if value != "" {
			*to = append(*to, key+"="+esc(value))
		}
	}
	s := c.SMBIOS
	add(&one, "manufacturer", s.Manufacturer)
	add(&one, "product", s.Product)
	add(&one, "version", s.Version)
	add(&one, "serial", s.Serial)
	add(&one, "sku", s.SKU)
	add(&one, "family", s.Family)
	add(&three, "manufacturer", s.Manufacturer)
	add(&three, "serial", s.Serial)
	add(&three, "asset", s.AssetTag)
	var args []string
	if len(one) > 0 {
		args = append(args, "-smbios", "type=1,"+strings.Join(one, ","))
	}
	if len(three) > 0 {
		args = append(args, "-smbios", "type=3,"+strings.Join(three, ","))
	}
	return args
}

func (c *Config) diskArgs() []string {
	var args []string
	xhci, ahci, onAHCI := false, c.Chipset == "q35", 0
	for i, d := range c.Disks {
		id := fmt.Sprintf("disk%d", i)
		drive := fmt.Sprintf("if=none,id=%s,format=%s,file=%s", id, d.Format, esc(d.Path))
		switch {
		case d.ReadOnly:
			drive += ",readonly=on"
		case d.Snapshot:
			drive += ",snapshot=on"
		case d.Format == "raw":
			// What the guest has written to a raw file is in the host's page cache, and survives that QEMU is killed
			// without the cost of syncing. The tables of qcow2 do not.
			drive += ",cache=unsafe,discard=unmap"
		default:
			drive += ",cache=writeback,discard=unmap"
		}
		args = append(args, "-drive", drive)
		var dev string
		switch d.Bus {
		case Virtio:
			dev = "virtio-blk-pci,drive=" + id
		case NVMe:
			dev = "nvme,drive=" + id
		case USB:
			if !xhci {
				args = append(args, "-device", "qemu-xhci,id=xhci")
				xhci = true
			}
			dev = "usb-storage,bus=xhci.0,removable=on,drive=" + id
		case AHCI, CD:
			bus := "ide"
			if !ahci && c.Chipset == "pc" {
				args = append(args, "-device", "ich9-ahci,id=ahci")
				ahci = true
			}
			if c.Chipset == "pc" {
				bus = "ahci"
			}
			kind := "ide-hd"
			if d.Bus == CD {
				kind = "ide-cd"
			}
			dev = fmt.Sprintf("%s,bus=%s.%d,drive=%s", kind, bus, onAHCI, id)
			onAHCI++
		}
		if d.Serial != "" {
			dev += ",serial=" + esc(d.Serial)
		}
		if d.Boot > 0 {
			dev += fmt.Sprintf(",bootindex=%d", d.Boot)
		}
		args = append(args, "-device", dev)
	}
	return args
}

func (n *NIC) args(i int, fw Firmware, s sockets, alone bool) []string {
	id := fmt.Sprintf("net%d", i)
	var backend string
	switch {
	case n.WAN != nil:
		// restrict=on: the guest reaches neither the host nor what is behind it, but for what is forwarded. A forward to a
		// character device takes one connection in its life; to a command, one process per connection.
		backend = "user,id=" + id + ",restrict=on"
		for _, f := range n.WAN.Forwards {
			backend += ",guestfwd=tcp:" + f.Guest + "-cmd:socat -t 600 STDIO TCP:" + f.Host
		}
		for _, p := range n.WAN.GuestPorts {
			backend += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:0-:%d", p)
		}
		if n.WAN.BootFile != "" {
			backend += ",bootfile=" + esc(n.WAN.BootFile)
		}
	case n.Switch != nil && !alone:
		backend = "stream,id=" + id + ",server=off,addr.type=unix,addr.path=" + esc(s.nics[i])
	default:
		backend = "user,id=" + id + ",restrict=on"
	}
	dev := fmt.Sprintf("%s,id=nic%d,netdev=%s,mac=%s", n.Model, i, id, n.MAC)
	if n.Boot > 0 {
		dev += fmt.Sprintf(",bootindex=%d", n.Boot)
	}
	if fw != BIOS && strings.HasPrefix(n.Model, "virtio") && !n.OptionROM {
		dev += ",romfile=" // otherwise QEMU's unsigned iPXE takes the place of OVMF's PXE, even under Secure Boot
	}
	return []string{"-netdev", backend, "-device", dev}
}

func (c *Config) hasBootOrder() bool {
	for _, d := range c.Disks {
		if d.Boot > 0 {
			return true
		}
	}
	for _, n := range c.NICs {
		if n.Boot > 0 {
			return true
		}
	}
	return false
}

// esc doubles commas, which separate the parts of QEMU's options.
func esc(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
