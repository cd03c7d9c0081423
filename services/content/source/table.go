package source

import (
	"encoding/binary"
	"hash/crc32"
)

// sector is the logical sector size, in bytes, that partition tables of images count in.
const sector = 512

// table is what a disk's partition table says of the disk.
type table struct {
	// end is how many bytes the disk must have to hold all of its partitions, and the backup of the table.
	end int64
	// backup is where the backup GPT header stands, in bytes; 0 without a GPT.
	backup int64
}

// hasTable reports whether a disk begins with an MBR with at least one partition.
func hasTable(head []byte) bool {
	if len(head) < 2*sector || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	used := false
	for i := range 4 {
		e := head[446+16*i:][:16]
		if e[0]&0x7f != 0 { // boot indicator: 00 or 80; anything else is a boot sector's code
			return false
		}
		used = used || e[4] != 0
	}
	return used
}

// readTable reads the partition table at a disk's beginning (UEFI specification 2.10, section 5).
func readTable(name string, head []byte) (table, error) {
	le := binary.LittleEndian
	var t table
	protective := false
	for i := range 4 {
		e := head[446+16*i:][:16]
		if e[4] == 0xee {
			protective = true
		} else if e[4] != 0 {
			t.end = max(t.end, (int64(le.Uint32(e[8:]))+int64(le.Uint32(e[12:])))*sector)
		}
	}
	if !protective {
		return t, nil
	}
	if len(head) >= 2*4096 && string(head[4096:4104]) == "EFI PART" {
		return t, refuse(name, "make the image for disks with sectors of 512 bytes", "its partition table is for disks with sectors of 4096 bytes")
	}
	h := head[sector:][:sector]
	damaged := func(what string) (table, error) {
		return t, refuse(name, nextAgain, "its partition table is damaged: %s", what)
	}
	if string(h[:8]) != "EFI PART" {
		return damaged("the GPT header is missing")
	}
	length := le.Uint32(h[12:])
	if length < 92 || length > sector {
		return damaged("the GPT header's length makes no sense")
	}
	sum := append([]byte(nil), h[:length]...)
	copy(sum[16:20], []byte{0, 0, 0, 0})
	if crc32.ChecksumIEEE(sum) != le.Uint32(h[16:]) {
		return damaged("the GPT header does not match its checksum")
	}
	const most = 1 << 53 // sectors; beyond it bytes do not fit 63 bits
	backup, entries := le.Uint64(h[32:]), le.Uint64(h[72:])
	count, size := uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:]))
	if backup <= 1 || backup > most || size < 128 || size > 4096 || count == 0 || count > 1024 || entries > most {
		return damaged("the GPT header's values make no sense")
	}
	t.backup = int64(backup) * sector
	t.end = t.backup + sector
	if entries*sector+count*size > uint64(len(head)) {
		return damaged("the partitions' entries are not where they belong")
	}
	list := head[entries*sector:][:count*size]
	if crc32.ChecksumIEEE(list) != le.Uint32(h[88:]) {
		return damaged("the partitions' entries do not match their checksum")
	}
	used := false
	for i := range count {
		e := list[i*size:][:size]
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		used = true
		last := le.Uint64(e[40:])
		if last > most {
			return damaged("a partition ends beyond any disk")
		}
		t.end = max(t.end, int64(last+1)*sector)
	}
	if !used {
		return t, refuse(name, nextKinds, "its partition table has no partitions")
	}
	return t, nil
}

// check compares the table with the disk's size and with what stands where the backup GPT header belongs.
func (t table) check(name string, size int64, backup []byte) error {
	if size < t.end {
		return refuse(name, nextAgain, "it is cut off: its partition table describes a disk of %d bytes, and there are %d", t.end, size)
	}
	if t.backup != 0 && string(backup[:8]) != "EFI PART" {
		return refuse(name, nextAgain, "it is cut off or damaged: the backup of its partition table is missing at byte %d", t.backup)
	}
	return nil
}
