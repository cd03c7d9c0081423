package content

import (
	"encoding/binary"
	"hash/crc32"

	"branchpoint/services/content/caibx"
)

// A chunk's file is its stored form followed by a seal: a skippable frame (RFC 8878 section 3.1.2), which decompressors
// pass over, with a checksum of the stored form and the chunk's name. It makes looking at every chunk before it is served
// affordable: at 16 GB/s, where decompressing and naming it again takes 0.3 GB/s. The name is part of it, so that a whole
// chunk under another's name is noticed too. A checksum of 32 bits lets one damage in four thousand million pass; whoever
// reads the chunk holds it against its name and says so (Cache-Control: no-cache).
const (
	sealMagic  = 0x184D2A5B
	sealTag    = 0x31435042 // "BPC1"
	sealLength = 16         // magic, length of what follows, tag, CRC-32C
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(id caibx.ID, stored []byte) uint32 {
	return crc32.Update(crc32.Checksum(stored, castagnoli), castagnoli, id[:])
}

// seal returns the seal of a chunk in its stored form.
func seal(id caibx.ID, stored []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, sealLength)
	for _, v := range []uint32{sealMagic, sealLength - 8, sealTag, checksum(id, stored)} {
		b = le.AppendUint32(b, v)
	}
	return b
}

// unseal takes the seal off a chunk's file. sealed is false if it has none; whole says whether it fits.
func unseal(id caibx.ID, file []byte) (stored []byte, sealed, whole bool) {
	n := len(file) - sealLength
	if n < 0 {
		return file, false, false
	}
	le := binary.LittleEndian
	s := file[n:]
	if le.Uint32(s) != sealMagic || le.Uint32(s[4:]) != sealLength-8 || le.Uint32(s[8:]) != sealTag {
		return file, false, false
	}
	return file[:n], true, le.Uint32(s[12:]) == checksum(id, file[:n])
}
