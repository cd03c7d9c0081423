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
//
// Which one is meant never depends on what can be used: a disk that fails goes read-only or reports no size, and if it
// were passed over, the one behind it, with somebody's data, would take its number or be the only one. So what is meant is
// decided first, among all fixed disks, and refused if it cannot be used.
func ChooseDisk(disks []Disk, sel provisioning.DiskSelector) (Disk, error) {
	disks = slices.Clone(disks)
	slices.SortFunc(disks, func(a, b Disk) int { return comparePaths(a.Path, b.Path) })
	fixed := slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool { return d.Removable || d.CD })
	if sel.Serial != "" {
		match := slices.DeleteFunc(fixed, func(d Disk) bool { return d.Serial != sel.Serial })
		switch len(match) {
		case 1:
			return usable(disks, match[0], fmt.Sprintf("the disk with the serial number %q", sel.Serial))
		case 0:
			return Disk{}, refuse(disks, "no fixed disk of this computer has the serial number %q", sel.Serial)
		}
		return Disk{}, refuse(disks, "%d disks have the serial number %q", len(match), sel.Serial)
	}
	fixed = slices.DeleteFunc(fixed, func(d Disk) bool { return d.Bus == "usb" })
	if sel.Number != nil {
		if n := *sel.Number; n >= 0 && n < len(fixed) {
			return usable(disks, fixed[n], fmt.Sprintf("fixed disk number %d", n))
		}
		return Disk{}, refuse(disks, "there is no fixed disk number %d; they count from 0", *sel.Number)
	}
	switch len(fixed) {
	case 1:
		return usable(disks, fixed[0], "the only fixed disk of this computer")
	case 0:
		return Disk{}, refuse(disks, "this computer has no fixed disk that can be used")
	}
	return Disk{}, refuse(disks, "this computer has %d fixed disks and the step does not say which one to erase", len(fixed))
}

// usable gives the disk that is meant, or says why it cannot be written to.
func usable(disks []Disk, d Disk, meant string) (Disk, error) {
	why := ""
	switch {
	case d.Size <= 0:
		why = "it reports no size: it may be broken, or a drive without a medium"
	case d.ReadOnly:
		why = "it is read only: it may be worn out, or write-protected"
	case d.InUse:
		why = "it is in use"
	default:
		return d, nil
	}
	err := refuse(disks, "%s, %s, cannot be written to: %s", meant, d.Path, why)
	err.Next = "Replace the disk or disconnect it, or name another one in the step by disk.serial."
	return Disk{}, err
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
func refuse(disks []Disk, format string, args ...any) *provisioning.Error {
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
