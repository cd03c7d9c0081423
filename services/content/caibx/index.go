package caibx

import (
	"encoding/binary"
	"math"

	"branchpoint/provisioning"
)

// Identifiers and sizes of the format (casync's caformat.h; all numbers are 64 bits, little endian).
const (
	typeIndex  = 0x96824d9c7b129ff9
	typeTable  = 0xe75b9e112f17417d
	tailMarker = 0x4b4f050e5549ecd1

	flagExcludeNoDump = 0x8000000000000000
	flagSHA512256     = 0x2000000000000000

	indexHeader = 48 // size, type, flags, min, avg, max
	tableHeader = 16 // size, type
	itemSize    = 40 // end offset, chunk ID
	tailSize    = 40 // 0, 0, index header's size, table's size, marker
)

// Chunk is one piece of a file.
type Chunk struct {
	ID    ID
	Start int64
	Size  int // 1 to MaxChunk bytes
}

// Index lists the chunks of one file, in order and without gaps.
type Index struct {
	Chunks []Chunk
}

// Size returns the file's size in bytes.
func (x *Index) Size() int64 {
	if len(x.Chunks) == 0 {
		return 0
	}
	last := x.Chunks[len(x.Chunks)-1]
	return last.Start + int64(last.Size)
}

// Encode returns the index as a .caibx file.
func (x *Index) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, indexHeader+tableHeader+itemSize*len(x.Chunks)+tailSize)
	for _, v := range []uint64{indexHeader, typeIndex, flagExcludeNoDump | flagSHA512256, MinChunk, AvgChunk, MaxChunk, math.MaxUint64, typeTable} {
		b = le.AppendUint64(b, v)
	}
	for _, c := range x.Chunks {
		b = le.AppendUint64(b, uint64(c.Start)+uint64(c.Size))
		b = append(b, c.ID[:]...)
	}
	for _, v := range []uint64{0, 0, indexHeader, uint64(tableHeader + itemSize*len(x.Chunks) + tailSize), tailMarker} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// EncodedBound returns the largest size, in bytes, of an index of a file of the given size: how much of an answer to
// read. A run of zeros may end in a small chunk, but not more often than every MinChunk bytes.
func EncodedBound(size int64) int64 {
	return indexHeader + tableHeader + tailSize + itemSize*(2*(size/MinChunk)+2)
}

// Decode reads a .caibx file. Anything but one complete index with chunks of 1 to MaxChunk bytes is an error with
// CodeCorrupt; memory stays within a small multiple of len(b).
func Decode(b []byte) (*Index, error) {
	corrupt := func(format string, args ...any) (*Index, error) {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "chunk index: "+format, args...)
	}
	le := binary.LittleEndian
	body := len(b) - indexHeader - tableHeader - tailSize
	if body < 0 || body%itemSize != 0 {
		return corrupt("%d bytes are not the length of one", len(b))
	}
	if le.Uint64(b) != indexHeader || le.Uint64(b[8:]) != typeIndex {
		return corrupt("it does not begin like one")
	}
	if le.Uint64(b[16:])&flagSHA512256 == 0 {
		return corrupt("its chunks are not named by SHA-512/256")
	}
	if largest := le.Uint64(b[40:]); largest > MaxChunk {
		return corrupt("it allows chunks of %d bytes; the largest known here is %d", largest, MaxChunk)
	}
	if le.Uint64(b[48:]) != math.MaxUint64 || le.Uint64(b[56:]) != typeTable {
		return corrupt("its table of chunks is missing")
	}
	tail := b[len(b)-tailSize:]
	if le.Uint64(tail) != 0 || le.Uint64(tail[8:]) != 0 || le.Uint64(tail[16:]) != indexHeader ||
		le.Uint64(tail[24:]) != uint64(tableHeader+body+tailSize) || le.Uint64(tail[32:]) != tailMarker {
		return corrupt("its end is missing")
	}
	x := &Index{Chunks: make([]Chunk, body/itemSize)}
	var start uint64
	for i := range x.Chunks {
		item := b[indexHeader+tableHeader+i*itemSize:]
		end := le.Uint64(item)
		if end <= start || end-start > MaxChunk || end > math.MaxInt64 {
			return corrupt("chunk %d reaches from %d to %d", i, start, end)
		}
		x.Chunks[i] = Chunk{ID: ID(item[8:itemSize]), Start: int64(start), Size: int(end - start)}
		start = end
	}
	return x, nil
}
