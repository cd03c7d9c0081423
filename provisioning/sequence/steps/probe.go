package steps

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// FileSystemInfo is what a file system says of itself.
type FileSystemInfo struct {
	// Type is "ext4" (also for ext2 and ext3), "vfat", "swap", "xfs" or "btrfs".
	Type string
	// UUID and Label are as /etc/fstab writes them; may be empty.
	UUID, Label string
}

// probeSize is how much of a file system's beginning ProbeFileSystem reads, in bytes: btrfs's superblock is the
// farthest, at 64 KiB.
const probeSize = 68 << 10

// ProbeFileSystem recognises the file systems that an operating system image may consist of. Offsets are those of the
// kernel's headers (ext4.h, msdos_fs.h, swap.h, xfs_format.h, btrfs_tree.h).
func ProbeFileSystem(r io.ReaderAt) (FileSystemInfo, bool) {
	b := make([]byte, probeSize)
	n, err := r.ReadAt(b, 0)
	if n < 4096 && err != nil {
		return FileSystemInfo{}, false
	}
	switch {
	case binary.LittleEndian.Uint16(b[0x438:]) == 0xef53:
		return FileSystemInfo{"ext4", dashed(b[0x468:]), text(b[0x478 : 0x478+16])}, true
	case string(b[:4]) == "XFSB":
		return FileSystemInfo{"xfs", dashed(b[32:]), text(b[108 : 108+12])}, true
	case string(b[0x10040:0x10048]) == "_BHRfS_M":
		return FileSystemInfo{"btrfs", dashed(b[0x10020:]), text(b[0x1012b : 0x1012b+256])}, true
	case string(b[4086:4096]) == "SWAPSPACE2":
		return FileSystemInfo{"swap", dashed(b[1036:]), text(b[1052 : 1052+16])}, true
	case b[510] == 0x55 && b[511] == 0xaa && string(b[82:87]) == "FAT32":
		return FileSystemInfo{"vfat", volumeID(b[67:]), text(b[71 : 71+11])}, true
	case b[510] == 0x55 && b[511] == 0xaa && string(b[54:57]) == "FAT":
		return FileSystemInfo{"vfat", volumeID(b[39:]), text(b[43 : 43+11])}, true
	}
	return FileSystemInfo{}, false
}

func dashed(b []byte) string {
	h := hex.EncodeToString(b[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func volumeID(b []byte) string {
	n := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", n>>16, n&0xffff)
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimRight(s, " ")
}
