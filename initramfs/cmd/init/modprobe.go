package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/kmod"
)

// modprobe is what /sbin/modprobe does: it loads the named modules, or those that claim the given aliases, with all they
// need. The kernel starts it as "modprobe -q -- NAME" when something asks for a file system, a protocol or a cipher that is
// a module. quiet tells whether the error is to be kept to itself.
func modprobe(ctx context.Context, args []string) (quiet bool, err error) {
	var names []string
	for i, a := range args {
		if a == "--" {
			names = append(names, args[i+1:]...)
			break
		}
		switch {
		case a == "-q" || a == "--quiet":
			quiet = true
		case strings.HasPrefix(a, "-"):
			return quiet, fmt.Errorf("option %s is not known; usage: modprobe [-q] [--] NAME…", a)
		default:
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		return quiet, fmt.Errorf("usage: modprobe [-q] [--] NAME…")
	}
	loader, err := newLoader(1)
	if err != nil {
		return quiet, err
	}
	for _, n := range names {
		known, err := loader.LoadAlias(ctx, n)
		if err != nil {
			return quiet, err
		}
		if !known {
			return quiet, fmt.Errorf("no module %s for this kernel", n)
		}
	}
	return quiet, nil
}

// newLoader returns a loader of the running kernel's modules.
func newLoader(parallel int) (*kmod.Loader, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	return kmod.NewLoader(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:])), string(cmdline), parallel)
}
