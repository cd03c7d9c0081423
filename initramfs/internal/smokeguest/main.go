// Smokeguest is the program of the smoke test's RAM system: it panics when it is started first, and when it is started
// again it tries what the layers are for, reports by events, and powers the machine off.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/disk"
	"branchpoint/initramfs/events"
	"branchpoint/initramfs/network"
)

func main() {
	const mark = "/run/started-before"
	if _, err := os.Stat(mark); err != nil {
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			panic(err)
		}
		panic("smoke guest panics on purpose")
	}
	e := events.New(time.Now)
	if err := run(e); err != nil {
		if err := e.Emit("guest-failed", map[string]any{"error": err.Error()}); err != nil {
			panic(err)
		}
	}
	if err := e.Emit("guest-done", nil); err != nil {
		panic(err)
	}
	// The event must be out before the machine is off: the port's queue is empty when PID 1 has written it.
	time.Sleep(500 * time.Millisecond)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		panic(err)
	}
}

func run(e *events.Emitter) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var failures []error
	links, err := network.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		s, err := network.Configure(ctx, network.Config{DHCP: true, Interface: l.MAC.String(), Timeout: 30 * time.Second}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if err := e.Emit("network", map[string]any{"driver": l.Driver, "mac": l.MAC.String(), "address": s.Address.String(), "gateway": s.Gateway.String()}); err != nil {
			return err
		}
	}
	// USB disks take their second.
	var disks []disk.Disk
	for len(disks) < 4 && ctx.Err() == nil {
		if disks, err = disk.List("/sys", "/proc"); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, d := range disks {
		blank, what, err := judge(ctx, d)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if err := e.Emit("disk", map[string]any{"name": d.Name, "bus": string(d.Bus), "serial": d.Serial, "size": d.Size, "blank": blank, "what": what}); err != nil {
			return err
		}
	}
	for _, kind := range []string{"ext4", "vfat", "xfs", "btrfs", "iso9660", "ntfs3", "overlay"} {
		// Mounting what is not there asks the kernel for the module, which asks for /sbin/modprobe.
		_ = unix.Mount("/dev/null", "/mnt", kind, unix.MS_RDONLY, "")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if err := e.Emit("filesystems", map[string]any{"known": strings.Join(strings.Fields(string(known)), " ")}); err != nil {
		return err
	}
	return errors.Join(failures...)
}

func judge(ctx context.Context, d disk.Disk) (blank bool, what string, err error) {
	f, size, err := disk.Open(d.Path)
	if err != nil {
		return false, "", err
	}
	defer func() { _ = f.Close() }()
	if size != d.Size {
		return false, "", fmt.Errorf("%s is %d bytes long, sysfs says %d", d.Path, size, d.Size)
	}
	blank, found, err := disk.Blank(ctx, f, size)
	if !blank && err == nil {
		what = found.What
	}
	return blank, what, err
}
