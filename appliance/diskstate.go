package appliance

import (
	"errors"
	"fmt"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

// diskState is how the data disk stands, as the event data-disk tells it.
type diskState string

// The states of the data disk. Only with one that is in use are machines started; with one that is full, those under way
// go on as long as the database takes what they report.
const (
	diskMissing  diskState = "missing"
	diskInUse    diskState = "in-use"
	diskFull     diskState = "full"
	diskReadOnly diskState = "read-only"
	diskFailing  diskState = "failing"
)

// diskStates are all of them.
var diskStates = []diskState{diskMissing, diskInUse, diskFull, diskReadOnly, diskFailing}

// lost reports whether nothing can stand on the disk any more until it was taken off, checked and mounted again.
func (s diskState) lost() bool { return s == diskMissing || s == diskReadOnly || s == diskFailing }

// Room that is kept free, in bytes.
const (
	// minReserve and reservePercent of the disk's size, whichever is more, are what copied content leaves to the database.
	minReserve     = 256 << 20
	reservePercent = 2
	// fullBelow is where the disk counts as full for the database too; it does until there is fullUntil again, so that a
	// disk at the brink does not change its state with every message.
	fullBelow = 64 << 20
	fullUntil = 96 << 20
)

// roomNext is how a person makes room. What is no longer configured stays on the disk: nothing deletes it yet.
const roomNext = "Take packages out of this site's configuration, and then, while nothing is being deployed, delete the data disk's folder content on any Linux computer: what is still needed is copied again."

// reserve is what content leaves free on a disk of the given size in bytes.
func reserve(total int64) int64 { return max(minReserve, total/100*reservePercent) }

// roomFor says why content of the given size in bytes may not be put on a disk with so much free: nil if it may.
func roomFor(bytes, free, total int64) error {
	if room := free - reserve(total); bytes > room {
		return provisioning.Errorf(provisioning.CodeNoSpace,
			roomNext+" Or give the appliance a larger data disk.",
			"the data disk has no room for it: needed up to %s, free %s, as %s are kept for the database", sizeText(bytes), sizeText(max(room, 0)), sizeText(reserve(total)))
	}
	return nil
}

// diskSight is what is seen of the mounted data disk at one time.
type diskSight struct {
	// Present is whether its block device is there.
	Present bool
	// ReadOnly is whether the device or the file system refuses to be written.
	ReadOnly bool
	// Free and Total are the file system's bytes; Total is 0 if they are not known.
	Free, Total int64
	// Err is what went wrong when it was looked at or written to; nil if nothing did.
	Err error
}

// isFull reports whether an error says that a disk is full.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || provisioning.CodeOf(err) == provisioning.CodeNoSpace
}

// judgeDisk says how the disk stands, given how it stood, and why, in words for the screen.
func judgeDisk(before diskState, s diskSight) (diskState, string) {
	floor := int64(fullBelow)
	if before == diskFull {
		floor = fullUntil
	}
	switch {
	case !s.Present:
		return diskMissing, "it is gone"
	case s.ReadOnly || errors.Is(s.Err, unix.EROFS):
		return diskReadOnly, "it can only be read: it is write-protected, or had errors"
	case isFull(s.Err):
		return diskFull, fmt.Sprintf("it is full: %s free", sizeText(s.Free))
	case s.Err != nil:
		return diskFailing, "it fails: " + s.Err.Error()
	case s.Total > 0 && s.Free < floor:
		return diskFull, fmt.Sprintf("it is full: %s free, and the database needs %s", sizeText(s.Free), sizeText(floor))
	}
	return diskInUse, ""
}

// diskItem is what the screen says of the data disk: its name, how it stands and why, and what else was noticed.
func diskItem(name string, state diskState, why string, notes []string) screen.Item {
	it := screen.Item{State: screen.Problem, Text: fmt.Sprintf("the data disk %s cannot be used: %s. PXE is silent", name, why)}
	switch state {
	case diskInUse:
		it.State, it.Text = screen.OK, name+" is in use"
	case diskFull:
		it.Next = roomNext + " It goes on by itself when there is room."
	case diskMissing:
		it.Next = "Attach it again; it is found without a restart. It alone knows which computers have been deployed."
	case diskReadOnly:
		it.Next = "It is checked and tried again by itself. If it stays so, switch its write protection off, or replace it."
	case diskFailing:
		it.Next = "It is checked and tried again by itself. If it stays so, look at its cables, and save it if you can: it alone knows which computers have been deployed."
	}
	for _, n := range notes {
		it.Text += "\n" + n
	}
	return it
}
