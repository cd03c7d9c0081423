package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
)

// nodePatience is how long a partition table is waited for: until nothing holds the old one, and until the new one's
// device nodes are there.
const nodePatience = 20 * time.Second

// RereadPartitions has the kernel use the disk's partition table.
func (s *System) RereadPartitions(ctx context.Context, disk string, table steps.Table) error {
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	defer f.Close()
	deadline := time.Now().Add(nodePatience)
	again := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
			return nil
		}
	}
	for {
		_, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART)
		// EINVAL: a disk of a kind that the kernel does not look for partitions on; they are added below.
		if err == nil || errors.Is(err, unix.EINVAL) {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return provisioning.Errorf(provisioning.CodeConflict, "Start the computer from the network again.", "have the kernel read the partition table of %s: %w", disk, err)
		}
		if err := again(); err != nil {
			return err
		}
	}
	for _, p := range table.Partitions {
		if err := addPartition(f, disk, p, table.SectorSize); err != nil {
			return fmt.Errorf("tell the kernel of partition %s: %w", p.Node, err)
		}
		for {
			if fi, err := os.Stat(p.Node); err == nil && fi.Mode()&os.ModeDevice != 0 {
				break
			}
			if time.Now().After(deadline) {
				return provisioning.Errorf(provisioning.CodeUnavailable, "Start the computer from the network again.", "the device node %s does not appear", p.Node)
			}
			if err := again(); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPartition tells the kernel of a partition that it did not find by itself, or remembers otherwise.
func addPartition(f *os.File, disk string, p steps.TablePartition, sector int64) error {
	start, size := p.Start*sector, p.Size*sector
	dir := filepath.Join("/sys/class/block", filepath.Base(disk), filepath.Base(p.Node))
	gotStart, err1 := number(filepath.Join(dir, "start"))
	gotSize, err2 := number(filepath.Join(dir, "size"))
	known := err1 == nil && err2 == nil
	if known && gotStart*512 == start && gotSize*512 == size {
		return nil
	}
	if extended := p.Type == "5" || p.Type == "f" || p.Type == "85"; extended {
		return nil // the kernel shows only its first sectors
	}
	part := unix.BlkpgPartition{Start: start, Length: size, Pno: int32(steps.PartitionNumber(p.Node))}
	arg := unix.BlkpgIoctlArg{Datalen: int32(unsafe.Sizeof(part)), Data: (*byte)(unsafe.Pointer(&part))}
	call := func(op int32) error {
		arg.Op = op
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg))); e != 0 {
			return e
		}
		return nil
	}
	if known {
		if err := call(unix.BLKPG_DEL_PARTITION); err != nil {
			return err
		}
	}
	return call(unix.BLKPG_ADD_PARTITION)
}

// number reads a number from sysfs; sysfs counts sectors of 512 bytes, whatever the disk's are.
func number(name string) (int64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
