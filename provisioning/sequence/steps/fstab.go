package steps

import (
	"fmt"
	"strings"

	"branchpoint/provisioning"
)

// Fstab is the installed system's /etc/fstab: the volumes that are mounted, and swap, by UUID.
func Fstab(volumes []Volume) string {
	var b strings.Builder
	b.WriteString("# <file system> <mount point> <type> <options> <dump> <pass>\n")
	for _, v := range mountOrder(volumes) {
		options, pass := "defaults", 2
		switch {
		case v.Mount == "/":
			options, pass = "errors=remount-ro", 1
		case v.FileSystem == provisioning.FileSystemVFAT:
			options = "umask=0077"
		}
		fmt.Fprintf(&b, "UUID=%s %s %s %s 0 %d\n", v.UUID, v.Mount, v.FileSystem, options, pass)
	}
	for _, v := range volumes {
		if v.FileSystem == provisioning.FileSystemSwap {
			fmt.Fprintf(&b, "UUID=%s none swap sw 0 0\n", v.UUID)
		}
	}
	return b.String()
}

// fstabEntry is a line of an fstab.
type fstabEntry struct {
	source, at string
	optional   bool // the system starts without it
}

// parseFstab gives the entries that mount something below the root, in an order in which they can be mounted.
func parseFstab(b []byte) []fstabEntry {
	var out []fstabEntry
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") || f[1] == "/" || strings.Contains(f[1], "..") {
			continue
		}
		// A sub-volume of the root's own file system, or a directory: nothing of a partition's own.
		if len(f) > 3 && (strings.Contains(f[3], "subvol") || strings.Contains(f[3], "bind") || strings.Contains(f[3], "noauto")) {
			continue
		}
		out = append(out, fstabEntry{f[0], f[1], len(f) > 3 && strings.Contains(f[3], "nofail")})
	}
	// Mount points above others first; the order of others does not matter.
	for i := range out {
		for j := i + 1; j < len(out); j++ {
			if out[j].at < out[i].at {
				out[i], out[j] = out[j], out[i]
			}
		}
	}
	return out
}

// names reports whether the entry's source is this file system on this partition. Device names of the image's own
// computer are not followed: they mean another disk here.
func (e fstabEntry) names(f FileSystemInfo, p TablePartition) bool {
	tag, value, ok := strings.Cut(e.source, "=")
	value = strings.Trim(value, `"`)
	if !ok || value == "" {
		return false
	}
	switch tag {
	case "UUID":
		return strings.EqualFold(value, f.UUID)
	case "LABEL":
		return value == f.Label
	case "PARTUUID":
		return strings.EqualFold(value, p.UUID)
	case "PARTLABEL":
		return value == p.Name
	}
	return false
}
