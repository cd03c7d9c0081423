package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// MaxBatch is how many chunks one request for several may name.
const MaxBatch = 64

// batchBytes is what the chunks of a batch come to at most, in uncompressed bytes, if they are more than one.
const batchBytes = 1 << 20

// EncodeBatch returns the body of a request for several chunks: their names, 32 bytes each.
func EncodeBatch(chunks []caibx.Chunk) []byte {
	b := make([]byte, 0, len(chunks)*len(caibx.ID{}))
	for _, k := range chunks {
		b = append(b, k.ID[:]...)
	}
	return b
}

// DecodeBatch reads what EncodeBatch returns, of 1 to MaxBatch chunks; anything else is an error with CodeInvalid.
func DecodeBatch(b []byte) ([]caibx.ID, error) {
	const n = len(caibx.ID{})
	if len(b) == 0 || len(b)%n != 0 || len(b) > MaxBatch*n {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "%d bytes are no list of 1 to %d chunks' names", len(b), MaxBatch)
	}
	ids := make([]caibx.ID, 0, len(b)/n)
	for ; len(b) > 0; b = b[n:] {
		ids = append(ids, caibx.ID(b[:n]))
	}
	return ids, nil
}

// BatchHeader is how many bytes precede each chunk in the answer to a request for several: the length of its stored form,
// little endian. A length of 0 stands for a chunk that is to be asked for by itself: it is damaged or missing.
const BatchHeader = 4

var storedBuffers = sync.Pool{New: func() any { return new([caibx.MaxStored]byte) }}

// chunks gets chunks, several with one request. check is given the stored form of chunk i and may be given it again if it
// has failed; what it is given is only its own until it returns. A batch is but a faster way: what does not come with it,
// comes to nothing, or does not pass check is asked for by itself, with the patience and the repetition of that. It returns
// how many of the first chunks it got, all unless there is an error, and how many bytes came over the network.
func (c *Client) chunks(ctx context.Context, chunks []caibx.Chunk, check func(i int, stored []byte) error) (i int, fetched int64, err error) {
	for i < len(chunks) {
		if len(chunks)-i > 1 && !c.single.Load() {
			n, size := c.batch(ctx, chunks[i:], func(j int, stored []byte) error { return check(i+j, stored) })
			i, fetched = i+n, fetched+size
		}
		if ctx.Err() != nil {
			return i, fetched, context.Cause(ctx)
		}
		if i < len(chunks) {
			b, err := c.fetch(ctx, PathChunks+chunks[i].ID.String(), caibx.MaxStored, func(b []byte) error { return check(i, b) })
			if err != nil {
				return i, fetched, err
			}
			i, fetched = i+1, fetched+int64(len(b))
		}
	}
	return i, fetched, nil
}

// batch makes one request for several chunks and returns how many of the first came and passed, and their bytes.
func (c *Client) batch(ctx context.Context, chunks []caibx.Chunk, check func(i int, stored []byte) error) (n int, size int64) {
	chunks = chunks[:min(len(chunks), MaxBatch)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(requestTime, cancel)
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+PathBatch, bytes.NewReader(EncodeBatch(chunks)))
	if err != nil {
		return 0, 0
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := c.http.Do(req)
	if err != nil {
		return 0, 0
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed {
			c.single.Store(true) // a server that does not know of batches
		}
		_, _ = io.CopyN(io.Discard, res.Body, maxProblem) // so that the connection can be used again
		return 0, 0
	}
	room := storedBuffers.Get().(*[caibx.MaxStored]byte)
	defer storedBuffers.Put(room)
	for n < len(chunks) {
		if _, err := io.ReadFull(res.Body, room[:BatchHeader]); err != nil {
			return n, size
		}
		length := binary.LittleEndian.Uint32(room[:])
		if length == 0 || length > caibx.MaxStored {
			return n, size
		}
		stored := room[:length]
		if _, err := io.ReadFull(res.Body, stored); err != nil || check(n, stored) != nil {
			return n, size
		}
		stalled.Reset(requestTime)
		n, size = n+1, size+int64(length)
	}
	_, _ = io.CopyN(io.Discard, res.Body, 1) // its end, so that the connection can be used again
	return n, size
}

// StoredChunks gets chunks in their stored form, checked, and gives each to keep, which may be called again with the same
// one only if it failed before; its error ends it. What keep is given is its own until it returns. It returns how many
// bytes came over the network.
func (c *Client) StoredChunks(ctx context.Context, chunks []caibx.Chunk, keep func(k caibx.Chunk, stored []byte) error) (int64, error) {
	var failed error
	buf := make([]byte, caibx.MaxChunk)
	_, fetched, err := c.chunks(ctx, chunks, func(i int, stored []byte) error {
		if failed != nil {
			return failed
		}
		if _, err := caibx.Open(chunks[i].ID, chunks[i].Size, stored, buf); err != nil {
			return err
		}
		failed = keep(chunks[i], stored)
		return failed
	})
	if failed != nil {
		return fetched, failed
	}
	return fetched, err
}

// Batches divides chunks into what is asked for with one request each.
func Batches(chunks []caibx.Chunk) [][]caibx.Chunk {
	var all [][]caibx.Chunk
	from, size := 0, 0
	for i, k := range chunks {
		if i > from && (size+k.Size > batchBytes || i-from == MaxBatch) {
			all = append(all, chunks[from:i:i])
			from, size = i, 0
		}
		size += k.Size
	}
	if from < len(chunks) {
		all = append(all, chunks[from:])
	}
	return all
}
