package image

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sectorSize = 512
	// espType is the partition type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as GPT stores it.
	espType = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b"
)

// findESP gives the place of the EFI system partition (UEFI specification 2.10, section 5.3).
func findESP(r io.ReaderAt) (extent, error) {
	header := make([]byte, sectorSize)
	if _, err := r.ReadAt(header, sectorSize); err != nil {
		return extent{}, fmt.Errorf("%w: its partition table cannot be read: %w", ErrNotImage, err)
	}
	if string(header[:8]) != "EFI PART" {
		return extent{}, fmt.Errorf("%w: it has no GUID partition table", ErrNotImage)
	}
	size := binary.LittleEndian.Uint32(header[12:])
	if size < 92 || size > sectorSize {
		return extent{}, fmt.Errorf("%w: the header of its partition table has %d bytes", ErrNotImage, size)
	}
	sum := binary.LittleEndian.Uint32(header[16:])
	clear(header[16:20])
	if crc32.ChecksumIEEE(header[:size]) != sum {
		return extent{}, fmt.Errorf("%w: the checksum of its partition table is wrong", ErrNotImage)
	}
	count, each := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if count > 1024 || each < 128 || each > 4096 {
		return extent{}, fmt.Errorf("%w: its partition table has %d entries of %d bytes", ErrNotImage, count, each)
	}
	start := binary.LittleEndian.Uint64(header[72:])
	entry := make([]byte, 128)
	for i := range count {
		if _, err := r.ReadAt(entry, int64(start)*sectorSize+int64(i)*int64(each)); err != nil {
			return extent{}, fmt.Errorf("%w: its partition table cannot be read: %w", ErrNotImage, err)
		}
		if string(entry[:16]) != espType {
			continue
		}
		first, last := binary.LittleEndian.Uint64(entry[32:]), binary.LittleEndian.Uint64(entry[40:])
		const limit = 1 << 50 // sectors: keeps the arithmetic below far from overflow
		if first == 0 || last < first || last > limit {
			return extent{}, fmt.Errorf("%w: its EFI system partition reaches from sector %d to %d", ErrNotImage, first, last)
		}
		return extent{int64(first) * sectorSize, int64(last-first+1) * sectorSize}, nil
	}
	return extent{}, fmt.Errorf("%w: it has no EFI system partition", ErrNotImage)
}
