package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// extent is a run of bytes in the image.
type extent struct{ offset, size int64 }

const (
	isoBlock = 2048
	// isoRootLimit bounds the root directory: ours has a handful of entries.
	isoRootLimit = 1 << 20
)

// findISO looks for a file in the root directory of the ISO 9660 file system (ECMA-119 sections 8.4 and 9.1), by its name
// without version, in any case.
func findISO(r io.ReaderAt, name string) (extent, error) {
	// Volume descriptors begin at block 16; the primary one is the first in everything xorriso writes.
	pvd := make([]byte, isoBlock)
	if _, err := r.ReadAt(pvd, 16*isoBlock); err != nil {
		if errors.Is(err, io.EOF) {
			return extent{}, fmt.Errorf("%w: too short for an ISO 9660 file system", ErrNotImage)
		}
		return extent{}, fmt.Errorf("read volume descriptor: %w", err)
	}
	if pvd[0] != 1 || string(pvd[1:6]) != "CD001" {
		return extent{}, fmt.Errorf("%w: it has no ISO 9660 file system", ErrNotImage)
	}
	if id := strings.TrimRight(string(pvd[40:72]), " "); id != VolumeID {
		return extent{}, fmt.Errorf("%w: its volume id is %q, not %s", ErrNotImage, id, VolumeID)
	}
	if n := binary.LittleEndian.Uint16(pvd[128:]); n != isoBlock {
		return extent{}, fmt.Errorf("%w: its ISO 9660 file system has blocks of %d bytes", ErrNotImage, n)
	}
	root := pvd[156 : 156+34]
	dir := extent{int64(binary.LittleEndian.Uint32(root[2:])) * isoBlock, int64(binary.LittleEndian.Uint32(root[10:]))}
	if dir.size <= 0 || dir.size > isoRootLimit {
		return extent{}, fmt.Errorf("%w: its root directory has %d bytes", ErrNotImage, dir.size)
	}
	data := make([]byte, dir.size)
	if _, err := r.ReadAt(data, dir.offset); err != nil {
		return extent{}, fmt.Errorf("%w: its root directory cannot be read: %w", ErrNotImage, err)
	}
	for at := 0; at < len(data); {
		length := int(data[at])
		if length == 0 { // no record crosses a block
			at = (at/isoBlock + 1) * isoBlock
			continue
		}
		if length < 34 || at+length > len(data) {
			return extent{}, fmt.Errorf("%w: its root directory is damaged", ErrNotImage)
		}
		record := data[at : at+length]
		at += length
		nameLen := int(record[32])
		if 33+nameLen > length {
			return extent{}, fmt.Errorf("%w: its root directory is damaged", ErrNotImage)
		}
		const directory, multiExtent = 0x02, 0x80
		base, _, _ := strings.Cut(string(record[33:33+nameLen]), ";")
		if !strings.EqualFold(base, name) || record[25]&(directory|multiExtent) != 0 {
			continue
		}
		return extent{int64(binary.LittleEndian.Uint32(record[2:])) * isoBlock, int64(binary.LittleEndian.Uint32(record[10:]))}, nil
	}
	return extent{}, fmt.Errorf("%w: its ISO 9660 file system has no %s", ErrNotImage, name)
}
