package client

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// Target is what an image is written to.
type Target interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Size is in bytes.
	Size() int64
	// Zero makes n bytes from off read as zeros, whatever they were.
	Zero(off, n int64) error
	// ZeroIsFast reports whether Zero takes less than reading the same range.
	ZeroIsFast() bool
	// Flush brings everything onto the medium and forgets what is cached of it, so that reading reads the medium.
	Flush() error
}

// Disk is a block device or a regular file, as Target.
type Disk struct {
	f      *os.File
	size   int64
	device bool
	fast   bool

	mu     sync.Mutex
	behind extent // written, and left to the kernel
}

// ioctls of block devices (linux/fs.h).
const (
	blkGetSize64  = 0x80081272
	blkZeroOut    = 0x127f
	blkFlushCache = 0x1261
)

// OpenDisk opens a block device for itself alone, or a regular file. A device that is mounted or otherwise in use is an
// error with CodeConflict.
func OpenDisk(path string) (*Disk, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "check the disk and its cabling", "open the disk: %w", err)
	}
	d := &Disk{device: info.Mode().Type() == os.ModeDevice}
	flags := os.O_RDWR
	switch {
	case d.device:
		flags |= unix.O_EXCL // without O_CREAT, on a device: nobody else, no mount
	case !info.Mode().IsRegular():
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "%s is neither a disk nor a file", path)
	}
	d.f, err = os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, provisioning.Errorf(provisioning.CodeConflict, "unmount it, or choose another disk", "disk %s is in use", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the disk: %w", err)
	}
	if !d.device {
		d.size, d.fast = info.Size(), true
		return d, nil
	}
	var size uint64
	if err := d.ioctl(blkGetSize64, unsafe.Pointer(&size)); err != nil {
		d.Close()
		return nil, fmt.Errorf("size of disk %s: %w", path, err)
	}
	d.size = int64(size)
	d.fast = zeroesFast(d.f)
	return d, nil
}

// zeroesFast reports whether a device makes zeros by itself (Linux' Documentation/ABI/stable/sysfs-block). A partition
// takes it from its disk.
func zeroesFast(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	for _, p := range []string{"queue/write_zeroes_max_bytes", "../queue/write_zeroes_max_bytes"} {
		if b, err := os.ReadFile(dir + p); err == nil {
			n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
			return err == nil && n > 0
		}
	}
	return false
}

func (d *Disk) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// ReadAt reads from the disk.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// WriteAt writes to the disk. Nothing is written past its size, a file does not grow.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, unix.ENOSPC
	}
	n, err := d.f.WriteAt(p, off)
	d.begun(off, int64(n))
	return n, err
}

// writeBehind is how many bytes that follow each other are written before the kernel is told to bring them onto the medium
// already. By itself it waits until much of the memory is full of them, while the disk has nothing to do.
const writeBehind = 16 << 20

// begun notes what has been written.
func (d *Disk) begun(off, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off != d.behind.to {
		d.behind = extent{off, off}
	}
	if d.behind.to += n; d.behind.to-d.behind.from < writeBehind {
		return
	}
	// It waits for nothing, and only makes things faster: Flush is what counts, and returns what goes wrong.
	_ = unix.SyncFileRange(int(d.f.Fd()), d.behind.from, d.behind.to-d.behind.from, unix.SYNC_FILE_RANGE_WRITE)
	d.behind.from = d.behind.to
}

// Size returns the disk's size in bytes.
func (d *Disk) Size() int64 { return d.size }

// ZeroIsFast reports whether Zero takes less than reading.
func (d *Disk) ZeroIsFast() bool { return d.fast }

// zeroAlign is what the kernel is asked to make zero in units of, in bytes: a page, so that nothing cached is concerned
// that is partly something else.
const zeroAlign = 4096

// Zero makes n bytes from off read as zeros.
func (d *Disk) Zero(off, n int64) error {
	if off < 0 || n < 0 || off > d.size || n > d.size-off {
		return unix.EINVAL
	}
	end := off + n
	from, to := (off+zeroAlign-1)/zeroAlign*zeroAlign, end/zeroAlign*zeroAlign
	if from >= to {
		return d.writeZeros(off, end)
	}
	if err := d.writeZeros(off, from); err != nil {
		return err
	}
	var err error
	if d.device {
		r := [2]uint64{uint64(from), uint64(to - from)}
		err = d.ioctl(blkZeroOut, unsafe.Pointer(&r))
	} else {
		err = unix.Fallocate(int(d.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		d.fast = false
		if err := d.writeZeros(from, to); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return d.writeZeros(to, end)
}

func (d *Disk) writeZeros(from, to int64) error {
	for from < to {
		n, err := d.f.WriteAt(caibx.Zeros(int(min(to-from, caibx.MaxChunk))), from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// Flush brings everything onto the medium and forgets what is cached.
func (d *Disk) Flush() error {
	if err := d.f.Sync(); err != nil {
		return err
	}
	if d.device {
		return d.ioctl(blkFlushCache, nil)
	}
	return unix.Fadvise(int(d.f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// Close closes the disk.
func (d *Disk) Close() error { return d.f.Close() }
