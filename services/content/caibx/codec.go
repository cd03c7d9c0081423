package caibx

import (
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"branchpoint/provisioning"
)

// decoder never decodes past the capacity of the buffer it is given, so that a chunk cannot ask for memory.
var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

// encoder writes what desync writes: zstd at its default level, with the content's size and a checksum.
var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

// Compress returns the stored form of a chunk.
func Compress(plain []byte) []byte {
	return encoder().EncodeAll(plain, make([]byte, 0, len(plain)/2+512))
}

// Open decompresses the stored form of the chunk named id, into buf if that is large enough, and checks that it is that
// chunk. size is its size in bytes, or 0 if it is not known. A chunk that is not what its name says is an error with
// CodeCorrupt.
func Open(id ID, size int, stored, buf []byte) ([]byte, error) {
	corrupt := func(format string, args ...any) ([]byte, error) {
		args = append([]any{id}, args...)
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "chunk %s: "+format, args...)
	}
	if len(stored) > MaxStored {
		return corrupt("%d bytes are more than any chunk takes", len(stored))
	}
	limit := size
	if size <= 0 {
		limit = MaxChunk
	}
	if cap(buf) < limit {
		buf = make([]byte, limit)
	}
	plain, err := decoder().DecodeAll(stored, buf[:0:limit])
	if err != nil {
		return corrupt("decompress: %w", err)
	}
	if size > 0 && len(plain) != size {
		return corrupt("it holds %d bytes, not %d", len(plain), size)
	}
	if Sum(plain) != id {
		return corrupt("its bytes do not match its name")
	}
	return plain, nil
}

// StoredSize returns how many bytes the stored form of a chunk says it holds, by the beginning of it (HeaderLength bytes
// suffice); ok is false if it does not say. It is what Open will find in a chunk whose name matches.
func StoredSize(beginning []byte) (size int, ok bool) {
	var h zstd.Header
	if err := h.Decode(beginning); err != nil || !h.HasFCS || h.FrameContentSize > MaxChunk {
		return 0, false
	}
	return int(h.FrameContentSize), true
}

// HeaderLength is how many bytes of a stored chunk StoredSize needs (RFC 8878 section 3.1.1).
const HeaderLength = zstd.HeaderMaxSize
