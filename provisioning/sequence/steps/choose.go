package steps

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// ChooseDisk chooses the target disk. Without a selector there must be exactly one that can be meant: nothing is ever
// guessed. A disk behind USB may be somebody's backup, so it is taken only if it is named by its serial number.
func ChooseDisk(disks []Disk, sel provisioning.DiskSelector) (Disk, error) {
	disks = slices.Clone(disks)
	slices.SortFunc(disks, func(a, b Disk) int { return comparePaths(a.Path, b.Path) })
	var fixed []Disk
	for _, d := range disks {
		if !d.Removable && !d.ReadOnly && !d.CD && !d.InUse && d.Size > 0 {
			fixed = append(fixed, d)
		}
	}
	if sel.Serial != "" {
		var match []Disk
		for _, d := range fixed {
			if d.Serial == sel.Serial {
				match = append(match, d)
			}
		}
		switch len(match) {
		case 1:
			return match[0], nil
		case 0:
			return Disk{}, refuse(disks, "no usable fixed disk of this computer has the serial number %q", sel.Serial)
		}
		return Disk{}, refuse(disks, "%d disks have the serial number %q", len(match), sel.Serial)
	}
	fixed = slices.DeleteFunc(fixed, func(d Disk) bool { return d.Bus == "usb" })
	if sel.Number != nil {
		if n := *sel.Number; n >= 0 && n < len(fixed) {
			return fixed[n], nil
		}
		return Disk{}, refuse(disks, "there is no fixed disk number %d; they count from 0", *sel.Number)
	}
	switch len(fixed) {
	case 1:
		return fixed[0], nil
	case 0:
		return Disk{}, refuse(disks, "this computer has no fixed disk that can be used")
	}
	return Disk{}, refuse(disks, "this computer has %d fixed disks and the step does not say which one to erase", len(fixed))
}

// comparePaths orders device paths as people count: sdb before sdaa, nvme2n1 before nvme10n1.
func comparePaths(a, b string) int {
	const stem = len("/dev/sd") // what disks of one kind have in common
	if c := cmp.Compare(a[:min(stem, len(a))], b[:min(stem, len(b))]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// refuse is an error that lists the disks there are.
func refuse(disks []Disk, format string, args ...any) error {
	list := "it has no disks at all"
	next := "Check that the disk is connected and that its controller is on in the firmware's settings."
	if len(disks) > 0 {
		var parts []string
		for _, d := range disks {
			parts = append(parts, describe(d))
		}
		list = strings.Join(parts, "; ")
		next = "Choose the disk in the step by disk.serial or disk.number."
	}
	return provisioning.Errorf(provisioning.CodeConflict, next, "%s (%s)", fmt.Sprintf(format, args...), list)
}

// describe names a disk for people.
func describe(d Disk) string {
	s := fmt.Sprintf("%s, %s", d.Path, Bytes(d.Size))
	if d.Model != "" {
		s += ", " + d.Model
	}
	if d.Serial != "" {
		s += ", serial " + d.Serial
	}
	for _, f := range []struct {
		set  bool
		text string
	}{{d.Bus == "usb", "USB"}, {d.Removable, "removable"}, {d.ReadOnly, "read only"}, {d.CD, "CD"}, {d.InUse, "in use"}} {
		if f.set {
			s += ", " + f.text
		}
	}
	return s
}

// Bytes writes a size for people, in the units that disks are sold in.
func Bytes(n int64) string {
	v, unit := float64(n), 0
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	for v >= 1000 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}
