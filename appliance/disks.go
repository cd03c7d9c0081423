package appliance

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// maxDiskPause bounds the pause before a data disk that failed is tried again.
const maxDiskPause = time.Minute

// waitDataDisk finds, or claims, and mounts the data disk. It calls looked once every disk has been looked at for the
// first time, and goes on looking until there is a data disk or ctx ends.
func (a *appliance) waitDataDisk(ctx context.Context, looked func()) (*mountedDisk, error) {
	for failures := 0; ; {
		var m *mountedDisk
		var candidates []Candidate
		err := a.alone(ctx, func() (err error) {
			m, candidates, err = a.lookForDataDisk(ctx)
			return err
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		looked()
		if m != nil {
			return m, nil
		}
		wait := rescan
		if err != nil {
			a.Log.Error("data disk not usable", "error", err)
			// A failing disk is not worn out by being checked over and over.
			wait = min(rescan<<failures, maxDiskPause)
			failures = min(failures+1, 8)
		}
		if err := a.pauseWhileSame(ctx, candidates, wait); err != nil {
			return nil, err
		}
	}
}

// pauseWhileSame waits for d, and no longer than until the disks are others.
func (a *appliance) pauseWhileSame(ctx context.Context, looked []Candidate, d time.Duration) error {
	for ; d > 0; d -= rescan {
		if err := pause(ctx, rescan); err != nil {
			return err
		}
		if now, err := listDisks(); err == nil && !sameDisks(looked, now) {
			return nil
		}
	}
	return nil
}

// lookForDataDisk looks at the disks once, and uses the data disk if there is one, or claims one. It returns neither a disk
// nor an error where there is none to use.
func (a *appliance) lookForDataDisk(ctx context.Context) (*mountedDisk, []Candidate, error) {
	candidates, err := a.scanDisks(ctx)
	if err != nil {
		a.screen.Set(topicDisk, problem(err))
		return nil, nil, err
	}
	a.mu.Lock()
	a.disks, a.looked = candidates, true
	lost := a.lost
	a.mu.Unlock()
	d := DecideDataDisk(candidates, lost)
	if d.Claim != "" {
		a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "the blank disk " + d.Claim + " is claimed if no other disk appears"})
		same, err := settled(ctx, candidates, listDisks, pause)
		if err != nil || !same {
			return nil, nil, err
		}
	}
	if d.Use+d.Claim == "" {
		a.setDisk(d.State, "there is none", nil)
		a.screen.Set(topicDisk, screen.Item{State: screen.Problem, Text: strings.Join(append([]string{"there is no data disk: PXE stays silent"}, d.Notes...), "\n"), Next: d.Next})
		return nil, candidates, nil
	}
	c := candidates[slices.IndexFunc(candidates, func(c Candidate) bool { return c.Path == d.Use || c.Path == d.Claim })]
	m, err := a.takeDataDisk(ctx, c, d)
	if err != nil {
		a.setDisk(diskFailing, err.Error(), &mountedDisk{device: c.Path, name: c.name()})
		a.screen.Set(topicDisk, screen.Item{State: screen.Problem, Text: strings.Join(append([]string{err.Error()}, d.Notes...), "\n"), Next: provisioning.NextOf(err)})
	}
	return m, candidates, err
}

// listDisks lists the disks that there is something to look at on.
func listDisks() ([]disk.Disk, error) {
	list, err := disk.List("/sys", "/proc")
	if err != nil {
		return nil, fmt.Errorf("list the disks: %w", err)
	}
	return slices.DeleteFunc(list, noMedium), nil
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
			return false, err
		}
		if !sameDisks(looked, now) {
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

// takeDataDisk does what was decided about a disk, and shows it.
func (a *appliance) takeDataDisk(ctx context.Context, c Candidate, d DataDiskDecision) (*mountedDisk, error) {
	if d.Claim != "" {
		a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "claiming the blank disk " + d.Claim})
		if err := claim(ctx, c); err != nil {
			return nil, err
		}
		a.Log.Info("blank disk claimed", "disk", c.name())
	}
	a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "checking " + c.name()})
	if err := mountData(ctx, c.Path); err != nil {
		return nil, err
	}
	m, err := newMountedDisk(c, dataDir, d.Notes)
	if err != nil {
		a.unmountData(ctx)
		return nil, err
	}
	a.mu.Lock()
	a.data = c.Path
	a.mu.Unlock()
	a.setDisk(diskInUse, "", m)
	return m, nil
}

// scanDisks lists the disks with what they hold.
func (a *appliance) scanDisks(ctx context.Context) ([]Candidate, error) {
	disks, err := listDisks()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	medium, refused := a.medium, maps.Clone(a.refused)
	a.mu.Unlock()
	var out []Candidate
	for _, d := range disks {
		c := Candidate{
			Path: d.Path, Model: d.Model, Serial: d.Serial, Size: d.Size, InUse: d.InUse(),
			ReadOnly: d.ReadOnly, Removable: d.Removable || d.Bus == disk.BusUSB || d.Bus == disk.BusMMC,
		}
		c.Refused = refused[c.name()]
		if c.InUse {
			c.Err = "it is in use"
		} else {
			look(ctx, &c)
		}
		// By what it holds, not by its name: it may have been pulled out, and another disk be in its place.
		c.Medium = c.Medium || c.Err != "" && d.Path == medium
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
	examine(ctx, f, size, c)
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
