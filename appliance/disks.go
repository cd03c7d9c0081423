package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/disk"
	"branchpoint/provisioning"
)

// rescan is how often the disks are looked at again while there is no data disk.
const rescan = 3 * time.Second

// waitDataDisk finds, or claims, and mounts the data disk. It calls looked once every disk has been looked at for the
// first time, and goes on looking until there is a data disk or ctx ends.
func (a *appliance) waitDataDisk(ctx context.Context, medium string, looked func()) error {
	for {
		candidates, err := scanDisks(ctx, medium)
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.disks = candidates
		a.mu.Unlock()
		d := DecideDataDisk(candidates)
		if d.Claim != "" {
			a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "the blank disk " + d.Claim + " is claimed if no other disk appears"})
			same, err := settled(ctx, candidates, func() ([]disk.Disk, error) { return disk.List("/sys", "/proc") }, pause)
			if err != nil {
				return err
			}
			if !same {
				continue
			}
		}
		err = a.takeDataDisk(ctx, d)
		if err == nil && d.Use+d.Claim != "" {
			return nil
		}
		item := screen.Item{State: screen.Problem, Text: strings.Join(append([]string{"there is no data disk: PXE stays silent"}, d.Notes...), "\n"), Next: d.Next}
		if err != nil {
			a.Log.Error("data disk not usable", "error", err)
			item.Text = strings.Join(append([]string{err.Error()}, d.Notes...), "\n")
			item.Next = provisioning.NextOf(err)
		}
		a.screen.Set(topicDisk, item)
		looked()
		if err := pause(ctx, rescan); err != nil {
			return err
		}
	}
}

// How long the disks must have been the same before a blank one is claimed: controllers and spinning disks take seconds to
// show theirs.
const (
	settlePoll  = 500 * time.Millisecond
	settlePolls = 8
)

// settled reports whether the disks are and stay those that were looked at. A data disk that comes late must not find a
// blank one in its place.
func settled(ctx context.Context, looked []Candidate, list func() ([]disk.Disk, error), sleep func(context.Context, time.Duration) error) (bool, error) {
	for range settlePolls {
		if err := sleep(ctx, settlePoll); err != nil {
			return false, err
		}
		now, err := list()
		if err != nil {
			return false, fmt.Errorf("list the disks: %w", err)
		}
		now = slices.DeleteFunc(now, noMedium)
		if !slices.EqualFunc(now, looked, func(d disk.Disk, c Candidate) bool {
			return d.Path == c.Path && d.Size == c.Size && d.Serial == c.Serial
		}) {
			return false, nil
		}
	}
	return true, nil
}

// noMedium reports whether there is nothing to look at: CDs, and drives and card readers without a medium.
func noMedium(d disk.Disk) bool { return d.CD || d.Size == 0 }

// releaseDataDisk unmounts what this program, before it was started again, had mounted: else the data disk would count as
// in use by somebody else.
func (a *appliance) releaseDataDisk() {
	err := unix.Unmount(dataDir, 0)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted
		a.Log.Error("the data disk stays mounted", "error", err)
	}
}

// takeDataDisk does what was decided and shows it.
func (a *appliance) takeDataDisk(ctx context.Context, d DataDiskDecision) error {
	device := d.Use
	if d.Claim != "" {
		a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "claiming the blank disk " + d.Claim})
		if err := claim(ctx, d.Claim); err != nil {
			return err
		}
		a.Log.Info("blank disk claimed", "disk", d.Claim)
		device = d.Claim
	}
	if device == "" {
		return nil
	}
	if err := mountData(ctx, device); err != nil {
		return err
	}
	a.mu.Lock()
	a.data = device
	a.mu.Unlock()
	a.screen.Set(topicDisk, screen.Item{State: screen.OK, Text: strings.Join(append([]string{device + " is in use"}, d.Notes...), "\n")})
	return nil
}

// scanDisks lists the disks with what they hold.
func scanDisks(ctx context.Context, medium string) ([]Candidate, error) {
	disks, err := disk.List("/sys", "/proc")
	if err != nil {
		return nil, fmt.Errorf("list the disks: %w", err)
	}
	var out []Candidate
	for _, d := range disks {
		if noMedium(d) {
			continue
		}
		c := Candidate{
			Path: d.Path, Model: d.Model, Serial: d.Serial, Size: d.Size,
			ReadOnly: d.ReadOnly, Removable: d.Removable || d.Bus == disk.BusUSB || d.Bus == disk.BusMMC, Medium: d.Path == medium,
		}
		switch {
		case c.Medium:
		case d.InUse():
			c.Err = "it is in use"
		default:
			look(ctx, &c)
		}
		out = append(out, c)
	}
	return out, ctx.Err()
}

// look says what a disk holds.
func look(ctx context.Context, c *Candidate) {
	f, size, err := disk.Open(c.Path)
	if err != nil {
		c.Err = err.Error()
		return
	}
	defer f.Close()
	known, err := disk.Identify(ctx, f, size)
	if err != nil {
		c.Err = err.Error()
		return
	}
	// Only what mkfs makes of a whole disk: other file systems may carry the same label, and e2fsck would repair them.
	if len(known) == 1 && known[0].What == "ext4" && known[0].Label == DataLabel {
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
	}
}

// claim makes the data disk of a blank one. The disk is opened exclusively and looked at once more right before.
func claim(ctx context.Context, device string) error {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("claim %s: %w", device, err)
	}
	size, err := f.Seek(0, 2)
	if err == nil {
		var blank bool
		var found disk.Content
		blank, found, err = disk.Blank(ctx, f, size)
		if err == nil && !blank {
			err = provisioning.Errorf(provisioning.CodeConflict, "", "it is no longer blank, it holds %s", found)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", device, err)
	}
	return tool(ctx, "mkfs.ext4", "-q", "-L", DataLabel, "-m", "1", "-E", "lazy_itable_init=1,lazy_journal_init=1", device)
}

// mountData checks and mounts the data disk.
func mountData(ctx context.Context, device string) error {
	if err := tool(ctx, "e2fsck", "-p", device); err != nil && !mended(err) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return provisioning.Errorf(provisioning.CodeCorrupt,
			"Save the disk if you can: it alone knows which computers have been deployed. On a blank one this site enrols anew, and every advertisement in force runs again: remove those that have run first.",
			"the data disk %s is damaged: %w", device, err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, dataDir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount the data disk %s: %w", device, err)
	}
	return os.Chmod(dataDir, 0o700)
}

// mended reports whether e2fsck has repaired all that it found: exit codes 1 and 2, and their sum (e2fsck(8)). One that was
// killed has not, and has none.
func mended(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() >= 1 && exit.ExitCode() <= 3
}

// tool runs a program of the layer; what it prints becomes part of the error.
func tool(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
