// Package steps carries out the steps of a task sequence, one file for each, against a small System interface: what is
// done is decided here and tested without a disk; how a program is run or a file written is the System's business.
package steps

import (
	"context"
	"io"
	"io/fs"
	"time"

	"branchpoint/provisioning"
)

// Disk is a disk of the computer as far as choosing one needs it.
type Disk struct {
	// Path is its device node, /dev/sda.
	Path string
	// Size is in bytes; SectorSize is its logical sector's, 512 or 4096.
	Size       int64
	SectorSize int64
	// Model and Serial are what the disk says of itself; may be empty.
	Model, Serial string
	// Bus is how it is attached, as in "ata", "nvme", "usb"; may be empty.
	Bus string
	// Removable, ReadOnly and CD say what it is; InUse that something on it is mounted or otherwise held.
	Removable, ReadOnly, CD, InUse bool
}

// Command is a program to run.
type Command struct {
	// Args are the program and its arguments.
	Args []string
	// Stdin is what it reads; secrets go here, never into Args.
	Stdin string
	// InTarget runs it in the installed system's file tree, with /dev, /proc, /sys and /run there.
	InTarget bool
	// Timeout ends the program and everything it started; 0 means no limit.
	Timeout time.Duration
}

// Exit is how a program ended.
type Exit struct {
	// Code is its exit code; 128 + the signal's number if a signal ended it.
	Code int
	// Output is the last of its standard output and error, together; Stdout is the beginning of standard output alone.
	// Both are bounded.
	Output string
	Stdout string
	// TimedOut says that it was ended because Command.Timeout had passed.
	TimedOut bool
}

// Files is a file tree. Paths are absolute within it; symbolic links are followed as if the tree were the root, and
// never lead out of it. Errors match fs.ErrNotExist where that is what happened.
type Files interface {
	// ReadFile reads a regular file of at most 1 MiB.
	ReadFile(name string) ([]byte, error)
	// WriteFile replaces the file, all or nothing, making missing directories (0755). It belongs to root.
	WriteFile(name string, data []byte, mode fs.FileMode) error
	// Mkdir makes the directory and missing ones above it; one that exists keeps its mode.
	Mkdir(name string, mode fs.FileMode) error
	// Symlink makes name a symbolic link to target, replacing a file or link.
	Symlink(target, name string) error
	// Readlink gives a symbolic link's target.
	Readlink(name string) (string, error)
	// Remove removes a file, link or empty directory.
	Remove(name string) error
	// Rename renames a file within its directory tree.
	Rename(from, to string) error
	// Stat follows links, Lstat does not.
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	// ReadDir gives the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// Chmod and Chown change a file or directory, following links.
	Chmod(name string, mode fs.FileMode) error
	Chown(name string, uid, gid int) error
}

// System is the computer that the steps change.
type System interface {
	// Disks lists the computer's disks.
	Disks(ctx context.Context) ([]Disk, error)
	// Exec runs a program and waits. An error means that it could not be started; a program that ran and failed is in Exit.
	Exec(ctx context.Context, c Command) (Exit, error)
	// RereadPartitions has the kernel use the partition table just written to the disk, and waits for the device nodes.
	RereadPartitions(ctx context.Context, disk string, table Table) error
	// ReadDevice opens a disk or partition for reading.
	ReadDevice(path string) (io.ReaderAt, io.Closer, error)
	// Mount mounts a file system of the type ("ext4", "vfat") below the target's root; "/" is the root itself.
	Mount(ctx context.Context, device, fileSystem, at string, readOnly bool) error
	// Unmount unmounts everything that Mount mounted, and whatever stands below, and writes it to the disks. It succeeds
	// if nothing is mounted.
	Unmount(ctx context.Context) error
	// Target is the file tree made of what is mounted.
	Target() Files
	// Extract unpacks an uncompressed tar into the target with owners, modes, times, links, devices and extended
	// attributes; read is told the number of bytes read so far.
	Extract(ctx context.Context, archive io.Reader, read func(int64)) error
	// Firmware says how the computer was started.
	Firmware() Firmware
}

// Firmware is how the computer was started, and from where.
type Firmware struct {
	// UEFI is whether its firmware is UEFI; SecureBoot whether it enforces signatures.
	UEFI, SecureBoot bool
	// BootMAC is the address of the network card it was started from; may be empty.
	BootMAC provisioning.MAC
}

// Content is what the steps read from the distribution point.
type Content interface {
	// WriteDisk writes the disk image to the device, verified; progress is in bytes of the image.
	WriteDisk(ctx context.Context, ref provisioning.ContentRef, disk string, progress func(done, total int64)) error
	// Archive reads the root file system archive, verified, with its size in bytes.
	Archive(ctx context.Context, ref provisioning.ContentRef) (io.ReadCloser, int64, error)
}
