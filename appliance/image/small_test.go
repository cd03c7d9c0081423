package image

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// small makes a small image of the same structure as branchpoint.img: ISO 9660 with site.yaml in its root directory, and a
// GPT with a FAT32 EFI system partition whose site.yaml lies in clusters that do not follow each other.
func small(iso, esp []byte) []byte {
	const (
		isoFile  = 20 * isoBlock
		espStart = 128 // sectors
		reserved = 4
		fatSize  = 2
		clusters = 100
	)
	image := make([]byte, (espStart+reserved+fatSize+clusters)*sectorSize)

	pvd := image[16*isoBlock:]
	copy(pvd, "\x01CD001\x01")
	copy(pvd[40:72], bytes.Repeat([]byte{' '}, 32))
	copy(pvd[40:], VolumeID)
	binary.LittleEndian.PutUint16(pvd[128:], isoBlock)
	putRecord(pvd[156:], 18, isoBlock, 2, "\x00")
	root := image[18*isoBlock:]
	n := putRecord(root, 18, isoBlock, 2, "\x00")
	n += putRecord(root[n:], 18, isoBlock, 2, "\x01")
	n += putRecord(root[n:], 19, 10, 2, "BOOT")
	putRecord(root[n:], isoFile/isoBlock, SiteYAMLSize, 0, "SITE.YAML;1")
	copy(image[isoFile:], iso)

	entries := image[2*sectorSize:]
	copy(entries[128:], espType)
	binary.LittleEndian.PutUint64(entries[128+32:], espStart)
	binary.LittleEndian.PutUint64(entries[128+40:], espStart+reserved+fatSize+clusters-1)
	header := image[sectorSize : 2*sectorSize]
	copy(header, "EFI PART")
	binary.LittleEndian.PutUint32(header[12:], 92)
	binary.LittleEndian.PutUint64(header[72:], 2)
	binary.LittleEndian.PutUint32(header[80:], 4)
	binary.LittleEndian.PutUint32(header[84:], 128)
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))

	b := image[espStart*sectorSize:]
	binary.LittleEndian.PutUint16(b[11:], sectorSize)
	b[13] = 1 // sectors per cluster
	binary.LittleEndian.PutUint16(b[14:], reserved)
	b[16] = 1
	binary.LittleEndian.PutUint32(b[32:], reserved+fatSize+clusters)
	binary.LittleEndian.PutUint32(b[36:], fatSize)
	binary.LittleEndian.PutUint32(b[44:], 2)
	b[510], b[511] = 0x55, 0xaa
	fat, data := b[reserved*sectorSize:], b[(reserved+fatSize)*sectorSize:]
	link := func(cluster, next uint32) { binary.LittleEndian.PutUint32(fat[cluster*4:], next) }
	// The root directory has two clusters, the second far away. The long name reaches across their border.
	link(2, 90)
	link(90, 0x0fffffff)
	dir := make([]byte, 2*sectorSize)
	copy(dir, "BP-ESP     \x08")
	for at := 32; at < sectorSize-32; at += 32 {
		dir[at] = 0xe5
	}
	putLong(dir[sectorSize-32:], "site.yaml", "SITE~1  YAM", 3, SiteYAMLSize)
	copy(data, dir[:sectorSize])
	copy(data[88*sectorSize:], dir[sectorSize:])
	// The file's clusters: 3, 5, 7, …
	for i := range uint32(SiteYAMLSize / sectorSize) {
		c := 3 + 2*i
		link(c, c+2)
		copy(data[(c-2)*sectorSize:][:sectorSize], esp[i*sectorSize:])
	}
	link(3+2*(SiteYAMLSize/sectorSize-1), 0x0ffffff8)
	return image
}

// putRecord writes an ISO 9660 directory record and gives its length.
func putRecord(b []byte, block, size uint32, flags byte, name string) int {
	n := (33 + len(name) + 1) &^ 1
	b[0] = byte(n)
	binary.LittleEndian.PutUint32(b[2:], block)
	binary.LittleEndian.PutUint32(b[10:], size)
	b[25], b[32] = flags, byte(len(name))
	copy(b[33:], name)
	return n
}

// putLong writes a FAT directory entry with a long name of at most 13 characters.
func putLong(b []byte, name, short string, cluster, size uint32) {
	var sum byte
	for i := range 11 {
		sum = sum>>1 + sum<<7 + short[i]
	}
	text := append(utf16.Encode([]rune(name)), 0)
	for len(text) < 13 {
		text = append(text, 0xffff)
	}
	b[0], b[11], b[13] = 0x41, 0x0f, sum
	for i, c := range text {
		at := 1 + 2*i
		if i >= 5 {
			at = 14 + 2*(i-5)
		}
		if i >= 11 {
			at = 28 + 2*(i-11)
		}
		binary.LittleEndian.PutUint16(b[at:], c)
	}
	e := b[32:]
	copy(e, short)
	binary.LittleEndian.PutUint16(e[20:], uint16(cluster>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	binary.LittleEndian.PutUint32(e[28:], size)
}

// fixHeader sets the checksum of the partition table's header right, where its length makes sense.
func fixHeader(image []byte) {
	header := image[sectorSize : 2*sectorSize]
	if size := binary.LittleEndian.Uint32(header[12:]); size >= 92 && size <= sectorSize {
		clear(header[16:20])
		binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:size]))
	}
}
