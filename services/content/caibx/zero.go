package caibx

import (
	"bytes"
	"sync"
)

var zeros [MaxChunk]byte

// Zeros returns n zero bytes, n up to MaxChunk. The caller must not write to them.
func Zeros(n int) []byte { return zeros[:n:n] }

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

var (
	zeroMu  sync.Mutex
	zeroIDs = map[int]ID{}
)

// ZeroID returns the name of the chunk of n zero bytes, n from 1 to MaxChunk.
func ZeroID(n int) ID {
	zeroMu.Lock()
	defer zeroMu.Unlock()
	id, ok := zeroIDs[n]
	if !ok {
		id = Sum(Zeros(n))
		zeroIDs[n] = id
	}
	return id
}

// Zero reports whether the chunk is all zeros, by its name. Runs of zeros are cut into chunks of MaxChunk bytes and one
// of the rest in steps of ZeroBlock, so only those sizes are looked at.
func (c Chunk) Zero() bool {
	return c.Size%zeroStep == 0 && c.ID == ZeroID(c.Size)
}

// zeroStep bounds the sizes that ZeroID is asked for by Zero, and with that the table's size: 512 names.
const zeroStep = 512
