package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Content is something found on a disk.
type Content struct {
	Offset int64  // in bytes, of the first byte that says so
	What   string // "GPT", "ext4", "NTFS", … or "data" if it looks like nothing known
	Label  string // volume name of file systems that keep one where it is easily read
}

func (c Content) String() string {
	if c.Label != "" {
		return fmt.Sprintf("%s %q at byte %d", c.What, c.Label, c.Offset)
	}
	return fmt.Sprintf("%s at byte %d", c.What, c.Offset)
}

// signature is bytes at a place by which a format is known.
type signature struct {
	at    int64
	magic string
	what  string
}

// signatures are taken from libblkid's tables, formats a PC or its disks' former life may have brought.
var signatures = []signature{
	{512, "EFI PART", "GPT"},
	{4096, "EFI PART", "GPT"}, // disks of 4 KiB blocks
	{0, "LUKS\xba\xbe", "LUKS"},
	{3, "-FVE-FS-", "BitLocker"},
	{3, "NTFS    ", "NTFS"},
	{3, "EXFAT   ", "exFAT"},
	{3, "ReFS\x00", "ReFS"},
	{82, "FAT32   ", "FAT32"},
	{54, "FAT16   ", "FAT16"},
	{54, "FAT12   ", "FAT12"},
	{0x438, "\x53\xef", "ext2"},
	{0, "XFSB", "XFS"},
	{0x10040, "_BHRfS_M", "btrfs"},
	{0x8001, "CD001", "ISO 9660"},
	{0x8001, "NSR0", "UDF"},
	{0, "hsqs", "squashfs"},
	{4086, "SWAPSPACE2", "swap"},
	{4086, "SWAP-SPACE", "swap"},
	{512, "LABELONE", "LVM"},
	{0, "LABELONE", "LVM"},
	{1024, "LABELONE", "LVM"},
	{1536, "LABELONE", "LVM"},
	{0, "\xfc\x4e\x2b\xa9", "Linux RAID"},
	{4096, "\xfc\x4e\x2b\xa9", "Linux RAID"},
	{0x400, "\x10\x20\xf5\xf2", "F2FS"},
	{0x10034, "ReIsEr", "ReiserFS"},
	{0x8000, "JFS1", "JFS"},
	{32, "NXSB", "APFS"},
	{1024, "H+", "HFS+"},
	{1024, "HX", "HFS+"},
	{0x1018, "\xc6\x85\x73\xf6", "bcache"},
	{0x100000, "\x0d\xd0\x01\xc0", "VMFS"},
	{0x20000, "\x0c\xb1\xba\x00", "ZFS"},
}

// Identify returns what the beginning and the end of a disk or partition of size bytes look like, in the order of their
// places; nothing for an unknown format. It is quick and proves nothing when it finds nothing: see Blank.
func Identify(ctx context.Context, r io.ReaderAt, size int64) ([]Content, error) {
	var found []Content
	for _, s := range signatures {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.at+int64(len(s.magic)) > size {
			continue
		}
		b := make([]byte, len(s.magic))
		if err := readFull(r, b, s.at); err != nil {
			return nil, err
		}
		if string(b) == s.magic {
			c := Content{Offset: s.at, What: s.what}
			if err := describe(r, size, &c); err != nil {
				return nil, err
			}
			found = append(found, c)
		}
	}
	// A boot sector's mark alone is an MBR only where no file system claims the sector.
	if size >= 512 && len(found) == 0 {
		b := make([]byte, 2)
		if err := readFull(r, b, 510); err != nil {
			return nil, err
		}
		if b[0] == 0x55 && b[1] == 0xaa {
			found = append(found, Content{Offset: 510, What: "MBR"})
		}
	}
	for _, block := range []int64{512, 4096} {
		if size < 4*block || size%block != 0 {
			continue
		}
		b := make([]byte, 8)
		if err := readFull(r, b, size-block); err != nil {
			return nil, err
		}
		if string(b) == "EFI PART" {
			found = append(found, Content{Offset: size - block, What: "GPT (its second copy)"})
		}
	}
	// Linux RAID 1.0 and 0.90 keep their block at the end (linux/raid/md_p.h).
	for _, at := range []int64{(size/512 - 16) / 8 * 8 * 512, size/65536*65536 - 65536} {
		if at < 8192 || at+4 > size {
			continue
		}
		b := make([]byte, 4)
		if err := readFull(r, b, at); err != nil {
			return nil, err
		}
		if binary.LittleEndian.Uint32(b) == 0xa92b4efc {
			found = append(found, Content{Offset: at, What: "Linux RAID"})
		}
	}
	return found, nil
}

// describe fills in labels and tells ext2 from its successors.
func describe(r io.ReaderAt, size int64, c *Content) error {
	label := func(at int64, length int) error {
		if at+int64(length) > size {
			return nil
		}
		b := make([]byte, length)
		if err := readFull(r, b, at); err != nil {
			return err
		}
		b, _, _ = bytes.Cut(b, []byte{0})
		c.Label = clean(string(b))
		return nil
	}
	switch c.What {
	case "ext2":
		if size < 2048 {
			return nil
		}
		b := make([]byte, 1024)
		if err := readFull(r, b, 1024); err != nil {
			return err
		}
		// Compatible feature 4 is a journal, incompatible 0x40 extents (the kernel's Documentation/filesystems/ext4).
		if binary.LittleEndian.Uint32(b[0x60:])&0x40 != 0 {
			c.What = "ext4"
		} else if binary.LittleEndian.Uint32(b[0x5c:])&4 != 0 {
			c.What = "ext3"
		}
		return label(1024+0x78, 16)
	case "FAT32":
		return fatLabel(label(71, 11), c)
	case "FAT16", "FAT12":
		return fatLabel(label(43, 11), c)
	case "ISO 9660":
		return label(0x8028, 32)
	case "XFS":
		return label(108, 12)
	case "btrfs":
		return label(0x1012b, 256)
	case "swap":
		return label(1052, 16)
	}
	return nil
}

// fatLabel drops what mkfs writes where there is no label.
func fatLabel(err error, c *Content) error {
	if c.Label == "NO NAME" {
		c.Label = ""
	}
	return err
}

// readFull reads all of b; a device that ends early is an error, too.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read disk at byte %d: %w", at, err)
}

// join writes contents for a person.
func join(list []Content) string {
	var parts []string
	for _, c := range list {
		parts = append(parts, c.String())
	}
	return strings.Join(parts, ", ")
}
