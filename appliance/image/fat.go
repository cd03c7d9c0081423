package image

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// fat32 is a FAT32 file system in the image, as far as reading its root directory needs (Microsoft's FAT specification
// 1.03).
type fat32 struct {
	r        io.ReaderAt
	fat      int64  // first FAT, byte offset in the image
	data     int64  // cluster 2, byte offset in the image
	cluster  int64  // bytes per cluster
	clusters uint32 // highest cluster number
	root     uint32 // first cluster of the root directory
}

// openFAT reads the boot sector of the file system in part.
func openFAT(r io.ReaderAt, part extent) (*fat32, error) {
	b := make([]byte, sectorSize)
	if _, err := r.ReadAt(b, part.offset); err != nil {
		return nil, fmt.Errorf("%w: its EFI system partition cannot be read: %w", ErrNotImage, err)
	}
	sector := int64(binary.LittleEndian.Uint16(b[11:]))
	perCluster := int64(b[13])
	reserved := int64(binary.LittleEndian.Uint16(b[14:]))
	fats := int64(b[16])
	total := int64(binary.LittleEndian.Uint32(b[32:]))
	fatSectors := int64(binary.LittleEndian.Uint32(b[36:]))
	root := binary.LittleEndian.Uint32(b[44:])
	if b[510] != 0x55 || b[511] != 0xaa || sector != sectorSize || perCluster == 0 || perCluster&(perCluster-1) != 0 || fats < 1 || fats > 2 ||
		reserved == 0 || fatSectors == 0 || binary.LittleEndian.Uint16(b[22:]) != 0 {
		return nil, fmt.Errorf("%w: its EFI system partition is not FAT32", ErrNotImage)
	}
	if total*sector > part.size {
		return nil, fmt.Errorf("%w: the file system on its EFI system partition is larger than the partition", ErrNotImage)
	}
	head := reserved + fats*fatSectors
	count := (total - head) / perCluster
	// Each entry of the FAT has 4 bytes; the first two stand for no cluster.
	if total <= head || count < 1 || (count+2)*4 > fatSectors*sector || root < 2 || int64(root) > count+1 {
		return nil, fmt.Errorf("%w: the file system on its EFI system partition is damaged", ErrNotImage)
	}
	return &fat32{
		r: r, fat: part.offset + reserved*sector, data: part.offset + head*sector, cluster: perCluster * sector,
		clusters: uint32(count + 1), root: root,
	}, nil
}

// chain gives the extents of the clusters from first on, at most limit bytes of them.
func (f *fat32) chain(first uint32, limit int64) ([]extent, error) {
	var extents []extent
	var size int64
	entry := make([]byte, 4)
	for c := first; ; {
		if c < 2 || c > f.clusters {
			return nil, fmt.Errorf("%w: a file on its EFI system partition leads to cluster %d of %d", ErrNotImage, c, f.clusters)
		}
		extents = append(extents, extent{f.data + int64(c-2)*f.cluster, f.cluster})
		if size += f.cluster; size >= limit {
			return extents, nil
		}
		if _, err := f.r.ReadAt(entry, f.fat+int64(c)*4); err != nil {
			return nil, fmt.Errorf("%w: its file allocation table cannot be read: %w", ErrNotImage, err)
		}
		// The upper four bits are reserved; from 0x0ffffff8 on a chain is at its end.
		if c = binary.LittleEndian.Uint32(entry) & 0x0fffffff; c >= 0x0ffffff8 {
			return extents, nil
		}
	}
}

// findRoot looks for a file with a long name in the root directory, and gives where its bytes are. It wants the
// volume label to be label.
func (f *fat32) findRoot(label, name string) ([]extent, error) {
	const dirLimit = 1 << 20 // ours has a handful of entries; this also ends a chain that bites its own tail
	dir, err := f.chain(f.root, dirLimit)
	if err != nil {
		return nil, err
	}
	var found []byte
	var labelled bool
	var long longName
	buf := make([]byte, f.cluster)
scan:
	for _, e := range dir {
		if _, err := f.r.ReadAt(buf, e.offset); err != nil {
			return nil, fmt.Errorf("%w: its EFI system partition cannot be read: %w", ErrNotImage, err)
		}
		for at := 0; at+32 <= len(buf); at += 32 {
			entry := buf[at : at+32]
			const longEntry, volume, directory, deleted = 0x0f, 0x08, 0x10, 0xe5
			attributes := entry[11]
			if entry[0] == 0 {
				break scan
			}
			if entry[0] != deleted && attributes&0x3f == longEntry {
				long.add(entry)
				continue
			}
			switch {
			case entry[0] == deleted:
			case attributes&volume != 0:
				labelled = labelled || strings.TrimRight(string(entry[:11]), " ") == label
			case attributes&directory == 0 && strings.EqualFold(long.of(entry), name):
				found = append([]byte(nil), entry...)
			}
			long = longName{}
		}
	}
	if !labelled {
		return nil, fmt.Errorf("%w: its EFI system partition is not labelled %s", ErrNotImage, label)
	}
	if found == nil {
		return nil, fmt.Errorf("%w: its EFI system partition has no %s", ErrNotImage, name)
	}
	size := int64(binary.LittleEndian.Uint32(found[28:]))
	if size != SiteYAMLSize {
		return nil, fmt.Errorf("%w: %s on its EFI system partition has %d bytes, not %d", ErrNotImage, name, size, SiteYAMLSize)
	}
	first := uint32(binary.LittleEndian.Uint16(found[20:]))<<16 | uint32(binary.LittleEndian.Uint16(found[26:]))
	extents, err := f.chain(first, size)
	if err != nil {
		return nil, err
	}
	return cut(extents, size)
}

// longName gathers the entries of a long name, which stand before the entry they belong to, last part first.
type longName struct {
	text     []uint16
	next     int // the number that the next entry must have; 0 when the name is complete
	checksum byte
	ok       bool
}

// add takes one entry of a long name. What does not belong together gives no name at all.
func (l *longName) add(entry []byte) {
	number := int(entry[0] & 0x1f)
	if entry[0]&0x40 != 0 {
		*l = longName{next: number, checksum: entry[13], ok: number > 0}
	}
	if !l.ok || number != l.next || entry[13] != l.checksum {
		*l = longName{}
		return
	}
	part := make([]uint16, 0, 13)
	for _, span := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for at := span[0]; at < span[1]; at += 2 {
			part = append(part, binary.LittleEndian.Uint16(entry[at:]))
		}
	}
	l.text = append(part, l.text...)
	l.next--
}

// of gives the long name of a short entry, or nothing where none was complete or it belongs to another.
func (l *longName) of(short []byte) string {
	var sum byte
	for _, c := range short[:11] {
		sum = sum>>1 + sum<<7 + c
	}
	if !l.ok || l.next != 0 || l.checksum != sum {
		return ""
	}
	for i, c := range l.text {
		if c == 0 {
			return string(utf16.Decode(l.text[:i]))
		}
	}
	return string(utf16.Decode(l.text))
}

// cut shortens extents to size bytes.
func cut(extents []extent, size int64) ([]extent, error) {
	for i := range extents {
		if extents[i].size >= size {
			extents[i].size = size
			return extents[:i+1], nil
		}
		size -= extents[i].size
	}
	return nil, fmt.Errorf("%w: a file on its EFI system partition ends too early", ErrNotImage)
}
