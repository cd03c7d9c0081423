package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
)

// System is the computer that the program runs on.
type System struct {
	// Dir is the mount point of the installed system's file tree, a directory of its own.
	Dir string
	// List lists the computer's disks.
	List func(ctx context.Context) ([]steps.Disk, error)
	// Boot says how the computer was started.
	Boot steps.Firmware
	// Output takes the whole output of every program that is run; nil is nowhere.
	Output io.Writer
	Log    *slog.Logger

	links []string // in byUUID, made by Mount
}

var _ steps.System = (*System)(nil)

// Disks lists the computer's disks.
func (s *System) Disks(ctx context.Context) ([]steps.Disk, error) { return s.List(ctx) }

// Firmware says how the computer was started.
func (s *System) Firmware() steps.Firmware { return s.Boot }

// Target is the installed system's file tree.
func (s *System) Target() steps.Files { return NewTree(s.Dir) }

// Extract unpacks a tar into the installed system's file tree.
func (s *System) Extract(ctx context.Context, archive io.Reader, read func(int64)) error {
	return NewTree(s.Dir).Extract(ctx, archive, read)
}

// ReadDevice opens a disk or partition for reading.
func (s *System) ReadDevice(path string) (io.ReaderAt, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open device: %w", err)
	}
	return f, f, nil
}

// Mount mounts a file system in the installed system's file tree.
func (s *System) Mount(_ context.Context, device, fileSystem, at string, readOnly bool) error {
	flags, data := uintptr(unix.MS_NODEV), ""
	if at == "/" {
		flags = 0 // it holds /dev
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
	}
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if fileSystem == "vfat" {
		// Owners, which FAT does not have, are ignored rather than refused: an archive may set them.
		data = "umask=0077,quiet"
	}
	point, release, err := s.mountPoint(at)
	if err != nil {
		return err
	}
	defer release()
	if err := unix.Mount(device, point, fileSystem, flags, data); err != nil {
		next := ""
		if errors.Is(err, unix.ENODEV) {
			next = "The boot image's kernel has no driver for " + fileSystem + "."
		}
		return provisioning.Errorf(provisioning.CodeInternal, next, "mount %s (%s) at %s: %w", device, fileSystem, at, err)
	}
	if at == "/" {
		// Nothing mounted below may show up elsewhere, nor its unmounting.
		if err := unix.Mount("", s.Dir, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", s.Dir, err)
		}
	}
	return s.link(device)
}

// byUUID is where udev, which the boot image does not have, puts links to devices by their file systems' UUIDs.
const byUUID = "/dev/disk/by-uuid"

// link makes the link for a mounted device. Without it grub-mkconfig writes the device's name of today into the
// installed system's kernel command line (10_linux tests for the link).
func (s *System) link(device string) error {
	r, c, err := s.ReadDevice(device)
	if err != nil {
		return err
	}
	fsi, ok := steps.ProbeFileSystem(r)
	c.Close()
	if !ok || fsi.UUID == "" {
		return nil
	}
	name := filepath.Join(byUUID, fsi.UUID)
	if _, err := os.Lstat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(byUUID, 0o755); err != nil {
		return fmt.Errorf("make link to %s: %w", device, err)
	}
	if err := os.Symlink("../../"+strings.TrimPrefix(device, "/dev/"), name); err != nil {
		return fmt.Errorf("make link to %s: %w", device, err)
	}
	s.links = append(s.links, name)
	return nil
}

// mountPoint gives a path for mount(2) to a directory of the installed system, made where it is missing. It goes
// through an open file: links in the tree cannot lead it elsewhere.
func (s *System) mountPoint(at string) (string, func(), error) {
	if at == "/" {
		return s.Dir, func() {}, nil
	}
	t := NewTree(s.Dir)
	if err := t.Mkdir(at, 0o755); err != nil {
		return "", nil, fmt.Errorf("make mount point %s: %w", at, err)
	}
	f, err := t.open(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open mount point %s: %w", at, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), func() { f.Close() }, nil
}

// unmountPatience is how long Unmount waits for what still uses the file tree.
const unmountPatience = 15 * time.Second

// Unmount brings onto the disks and unmounts whatever is mounted at or below the installed system's file tree, by whomever,
// the last first. What was written and did not reach its disk is an error, after everything is unmounted.
func (s *System) Unmount(ctx context.Context) error {
	// What was written past file systems. It comes last: it tells nothing, and an error that it came upon before writeBack
	// could be gone.
	defer unix.Sync()
	for _, l := range s.links {
		if err := os.Remove(l); err != nil {
			s.Log.Warn("remove link", "link", l, "error", err)
		}
	}
	s.links = nil
	var lost error
	deadline := time.Now().Add(unmountPatience)
	for {
		points, err := mountsBelow(s.Dir)
		if err != nil {
			return errors.Join(lost, err)
		}
		if len(points) == 0 {
			return lost
		}
		last := points[len(points)-1]
		if err := writeBack(last); err != nil && lost == nil {
			lost = provisioning.Errorf(provisioning.CodeInternal, "Check the disk and its cabling, or replace it, then run the task sequence again.",
				"what was written did not reach the disk: %w", err)
		}
		err = unix.Unmount(last, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL): // EINVAL: gone meanwhile
			continue
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			err = provisioning.Errorf(provisioning.CodeConflict, "End what still uses the installed system's files, then run the task sequence again.", "unmount %s: %w", last, err)
			return errors.Join(lost, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(lost, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// writeBack brings a mounted file system onto its disk. unix.Sync does that too, but keeps to itself what goes wrong, and so
// does unmounting. A file that is opened now reports errors since the file system was mounted that nobody has been told of
// (Linux 5.8, syncfs(2)); one opened with O_PATH would not.
func writeBack(point string) error {
	f, err := os.OpenFile(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
		return nil // a file that was bound here belongs to a file system that is mounted elsewhere; or it is gone meanwhile
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write back %s: %w", point, err)
	}
	return nil
}

// mountsBelow lists the mount points at and below dir in the order in which they were mounted.
func mountsBelow(dir string) ([]string, error) {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if p := unescape(f[4]); p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

// unescape undoes the octal escapes of mountinfo (proc(5)).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
