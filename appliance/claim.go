package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"branchpoint/initramfs/disk"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

// DecideClaim says which disk a person means who typed a serial, and whether it may be erased and become the data disk; an
// error says why not. used is the data disk in use, empty if there is none.
func DecideClaim(disks []Candidate, serial, used string) (Candidate, error) {
	refuse := func(code provisioning.Code, next, format string, args ...any) (Candidate, error) {
		return Candidate{}, provisioning.Errorf(code, next, format, args...)
	}
	var meant, others []Candidate
	nameless := false
	for _, c := range disks {
		same := sameSerial(c.Serial, serial)
		if c.Ours && c.Refused == "" && !same { // it may have no serial
			others = append(others, c)
		}
		switch {
		case c.Serial == "":
			nameless = nameless || !c.Medium
		case same:
			meant = append(meant, c)
		}
	}
	const elsewhere = "A disk that has no serial of its own, or shares it with another, cannot be told apart here: overwrite its beginning and end with zeros on another computer."
	switch {
	case used != "":
		return refuse(provisioning.CodeConflict, "", "the data disk %s is in use; no other is claimed", used)
	case len(meant) == 0 && nameless:
		return refuse(provisioning.CodeNotFound, "The command disks lists them. "+elsewhere, "there is no disk with the serial %q", serial)
	case len(meant) == 0:
		return refuse(provisioning.CodeNotFound, "The command disks lists them.", "there is no disk with the serial %q", serial)
	case len(meant) > 1:
		return refuse(provisioning.CodeConflict, "Detach all but one of them. "+elsewhere, "%d disks have the serial %q", len(meant), serial)
	}
	c := meant[0]
	switch {
	case c.Medium:
		return refuse(provisioning.CodeForbidden, "", "%s holds this appliance's own file", c.name())
	case c.InUse:
		return refuse(provisioning.CodeConflict, "", "%s is in use", c.name())
	case c.ReadOnly:
		return refuse(provisioning.CodeConflict, "Switch off its write protection.", "%s is read-only", c.name())
	case c.Err != "":
		return refuse(provisioning.CodeUnavailable, "Look at its cables, or take another disk.", "%s cannot be looked at: %s", c.name(), c.Err)
	case c.Size < minDataDisk:
		return refuse(provisioning.CodeInvalid, "", "%s is too small: a data disk has at least %s", c.name(), sizeText(minDataDisk))
	case len(others) > 0:
		return refuse(provisioning.CodeConflict, "Detach it first: of two data disks, none is used.", "%s is a data disk already", others[0].name())
	}
	return c, nil
}

// sameSerial compares serials as people see them: devices pad theirs with blanks.
func sameSerial(a, b string) bool {
	return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
}

// contents says what a disk holds, for the person who is to decide about it.
func (c *Candidate) contents() string {
	switch {
	case c.Medium:
		return "the medium this appliance was started from"
	case c.Err != "":
		return c.Err
	case c.Refused != "":
		return "a data disk: " + c.Refused
	case c.Ours:
		return "a data disk, with which computers have been deployed"
	case c.Unfinished:
		return "what was left when claiming it was interrupted"
	case c.Blank:
		return "nothing"
	}
	return c.Holds
}

// claimPatience is how long after claim a person may confirm.
const claimPatience = 2 * time.Minute

// pendingClaim is what claim has shown, and waits to be confirmed.
type pendingClaim struct {
	disk    Candidate
	expires time.Time
}

// proposeClaim shows what the disk with the serial is, and what has to be typed to erase it.
func (a *appliance) proposeClaim(ctx context.Context, args []string, out io.Writer) error {
	a.setClaim(nil)
	if len(args) == 0 {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "say which disk with its serial; the command disks lists them")
	}
	return a.alone(ctx, func() error {
		c, err := a.decideClaim(ctx, strings.Join(args, " "))
		if err != nil {
			return err
		}
		a.setClaim(&pendingClaim{c, a.Now().Add(claimPatience)})
		fmt.Fprintf(out, "  %s\n  It holds: %s\n", c.name(), c.contents())
		if c.Ours {
			fmt.Fprintln(out, "  Without it, every advertisement in force runs again: remove those that have run first.")
		}
		fmt.Fprintf(out, "  EVERYTHING ON IT WILL BE ERASED. If that is right, type its serial once more within two minutes:\n  confirm %s\n", c.Serial)
		return nil
	})
}

// confirmClaim erases the disk that claim has shown, if it still is what it was then, and makes the data disk of it.
func (a *appliance) confirmClaim(ctx context.Context, args []string, out io.Writer) error {
	a.mu.Lock()
	p := a.claim
	a.claim = nil
	a.mu.Unlock()
	serial := strings.Join(args, " ")
	switch {
	case p == nil || a.Now().After(p.expires):
		return provisioning.Errorf(provisioning.CodeConflict, "", "there is nothing to confirm; begin with: claim SERIAL")
	case !sameSerial(serial, p.disk.Serial):
		return provisioning.Errorf(provisioning.CodeInvalid, "", "%q is not the serial that was shown; nothing was done. Begin again with: claim SERIAL", serial)
	}
	return a.alone(ctx, func() error {
		c, err := a.decideClaim(ctx, serial)
		if err != nil {
			return err
		}
		if c != p.disk {
			return provisioning.Errorf(provisioning.CodeConflict, "", "the disk is not what it was when it was shown; nothing was done. Begin again with: claim SERIAL")
		}
		a.Log.Warn("claiming a disk that a person confirmed", "disk", c.name(), "holds", c.contents())
		if err := claim(ctx, c); err != nil {
			return err
		}
		a.mu.Lock()
		delete(a.refused, c.name())
		a.lost = ""
		a.mu.Unlock()
		a.Log.Info("disk claimed", "disk", c.name())
		fmt.Fprintf(out, "  %s is this appliance's data disk now.\n", c.name())
		return nil
	})
}

func (a *appliance) setClaim(p *pendingClaim) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.claim = p
}

// decideClaim looks at the disks again and decides.
func (a *appliance) decideClaim(ctx context.Context, serial string) (Candidate, error) {
	a.mu.Lock()
	used, looked := a.data, a.looked
	a.mu.Unlock()
	if !looked {
		return Candidate{}, provisioning.Errorf(provisioning.CodeUnavailable, "", "the disks have not been looked at yet; try again in a moment")
	}
	if used != "" { // before anything is read: the disk in use has other things to do
		return DecideClaim(nil, serial, used)
	}
	disks, err := a.scanDisks(ctx)
	if err != nil {
		return Candidate{}, err
	}
	return DecideClaim(disks, serial, used)
}

// alone runs f while nobody else takes or claims a disk.
func (a *appliance) alone(ctx context.Context, f func() error) error {
	patience := time.NewTimer(30 * time.Second)
	defer patience.Stop()
	select {
	case a.disksFree <- struct{}{}:
		defer func() { <-a.disksFree }()
		return f()
	case <-patience.C:
		return provisioning.Errorf(provisioning.CodeUnavailable, "", "the disks are being looked at; try again in a moment")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A disk that is being claimed has claimMark in the block at claimMarkAt, where Blank looks and mke2fs has nothing to write, as
// long as it does not discard everything first. Its file system gets DataLabel last; until then it has unfinishedLabel. So, whenever
// the power goes, a disk that was claimed in part neither counts as blank nor as the data disk.
const (
	claimMark       = "branchpoint: this disk is being claimed\n"
	claimMarkAt     = 64 << 20
	unfinishedLabel = "branchpoint-new"
)

// wipedEdge is how much is overwritten at the beginning and the end of a disk: signatures of what was there before.
const wipedEdge = 8 << 20

// claim makes the data disk of a disk, if it still holds what it did when it was looked at.
func claim(ctx context.Context, c Candidate) error {
	if err := wipe(ctx, c); err != nil {
		return fmt.Errorf("claim %s: %w", c.Path, err)
	}
	err := format(ctx, c.Path)
	if err == nil {
		err = finishClaim(c.Path)
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.Path, err)
	}
	return nil
}

// format makes the file system, which is not the data disk yet.
func format(ctx context.Context, device string) error {
	return tool(ctx, "mkfs.ext4", "-q", "-F", "-L", unfinishedLabel, "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", device)
}

// wipe marks the disk as being claimed and overwrites what it was known by. Nobody else has it open meanwhile.
func wipe(ctx context.Context, c Candidate) (err error) {
	f, err := os.OpenFile(c.Path, os.O_RDWR|unix.O_EXCL, 0) // exclusive: no part of it is mounted (block/bdev.c, bd_prepare_to_claim)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	now := c
	now.Ours, now.Blank, now.Unfinished, now.Holds = false, false, false, ""
	examine(ctx, f, size, &now)
	if now != c || size != c.Size {
		return provisioning.Errorf(provisioning.CodeConflict, "", "it no longer holds what it did when it was looked at: %s", now.contents())
	}
	mark := make([]byte, 4096)
	copy(mark, claimMark)
	if _, err := f.WriteAt(mark, claimMarkAt); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for _, from := range []int64{0, size - wipedEdge} {
		for at := from; at < from+wipedEdge; at += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros, at); err != nil {
				return err
			}
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	// The kernel forgets the partitions that were there. It does so by itself at the next start at the latest.
	_, _ = unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
	return nil
}

// finishClaim gives the finished file system the label of a data disk. The kernel does it, through the journal: there is no
// moment at which half of it is on the disk.
func finishClaim(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil { // what mke2fs wrote, before anything says that it is whole
		return err
	}
	dir, err := os.MkdirTemp("/run", "branchpoint-claim-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount(device, dir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount it: %w", err)
	}
	err = setLabel(dir, DataLabel)
	if uerr := unix.Unmount(dir, 0); err == nil {
		err = uerr
	}
	return err
}

// setLabel sets the label of the file system mounted at dir.
func setLabel(dir, label string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var name [256]byte // FSLABEL_MAX of linux/fs.h, zero-ended
	copy(name[:], label)
	const setFSLabel = 0x41009432 // FS_IOC_SETFSLABEL of linux/fs.h: _IOW(0x94, 50, char[256])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), setFSLabel, uintptr(unsafe.Pointer(&name[0]))); errno != 0 {
		return fmt.Errorf("set its label: %w", errno)
	}
	return unix.Syncfs(int(d.Fd()))
}

// examine says what an open disk holds.
func examine(ctx context.Context, f io.ReaderAt, size int64, c *Candidate) {
	known, err := disk.Identify(ctx, f, size)
	if err != nil {
		c.Err = err.Error()
		return
	}
	for _, k := range known {
		// Another stick of ours, or this one in another socket.
		if k.What == "ISO 9660" && k.Label == VolumeID {
			c.Medium = true
		}
	}
	// Only what mkfs makes of a whole disk: other file systems may carry the same label, and e2fsck would repair them.
	ext4 := func(label string) bool { return len(known) == 1 && known[0].What == "ext4" && known[0].Label == label }
	if ext4(DataLabel) {
		c.Ours = true
		return
	}
	blank, found, err := disk.Blank(ctx, f, size)
	switch {
	case err != nil:
		c.Err = err.Error()
	case blank:
		c.Blank = true
	default:
		c.Holds = found.String()
		c.Unfinished = ext4(unfinishedLabel) || len(known) == 0 && found.Offset == claimMarkAt && marked(f)
	}
}

// marked reports whether a disk has the mark of one that is being claimed.
func marked(f io.ReaderAt) bool {
	b := make([]byte, len(claimMark))
	_, err := f.ReadAt(b, claimMarkAt)
	return err == nil && string(b) == claimMark
}
