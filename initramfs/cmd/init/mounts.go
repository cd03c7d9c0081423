package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint is a file system of the kernel's that programs expect.
type mountPoint struct {
	kind, path, options string
	flags               uintptr
	optional            bool
}

var mounts = []mountPoint{
	{kind: "proc", path: "/proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{kind: "sysfs", path: "/sys", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{kind: "devtmpfs", path: "/dev", options: "mode=0755", flags: unix.MS_NOSUID},
	{kind: "devpts", path: "/dev/pts", options: "mode=0620,ptmxmode=0666", flags: unix.MS_NOSUID | unix.MS_NOEXEC},
	{kind: "tmpfs", path: "/dev/shm", options: "mode=1777", flags: unix.MS_NOSUID | unix.MS_NODEV},
	{kind: "tmpfs", path: "/run", options: "mode=0755", flags: unix.MS_NOSUID | unix.MS_NODEV},
	{kind: "tmpfs", path: "/tmp", options: "mode=1777", flags: unix.MS_NOSUID | unix.MS_NODEV},
	{kind: "securityfs", path: "/sys/kernel/security", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, optional: true},
	{kind: "cgroup2", path: "/sys/fs/cgroup", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, optional: true},
}

// efivars is mounted once its module is there. It is written only by efibootmgr and the like, which expect it writable.
var efivars = mountPoint{kind: "efivarfs", path: "/sys/firmware/efi/efivars", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}

// mount mounts the file system unless it is mounted already.
func (m mountPoint) mount() error {
	if mounted, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for _, line := range strings.Split(string(mounted), "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[1] == m.path && f[2] == m.kind {
				return nil
			}
		}
	}
	if err := os.MkdirAll(m.path, 0o755); err != nil && !m.optional {
		return fmt.Errorf("mount %s: %w", m.path, err)
	}
	err := unix.Mount(m.kind, m.path, m.kind, m.flags, m.options)
	if err != nil && !m.optional && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
	}
	return nil
}

func isEFI() bool {
	_, err := os.Stat("/sys/firmware/efi")
	return err == nil
}

// platform tells what the firmware and the kernel enforce, as the guest sees it.
func platform() map[string]any {
	facts := map[string]any{"efi": isEFI()}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		facts["kernel"] = unix.ByteSliceToString(u.Release[:])
	}
	// The variable of the UEFI specification, 3.3 "Globally Defined Variables": four bytes of attributes, then 0 or 1.
	if b, err := os.ReadFile(efivars.path + "/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"); err == nil && len(b) == 5 {
		facts["secureBoot"] = b[4] == 1
	}
	// "none [integrity] confidentiality", the one in force in brackets.
	if b, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil {
		_, rest, _ := strings.Cut(string(b), "[")
		facts["lockdown"], _, _ = strings.Cut(rest, "]")
	}
	return facts
}
