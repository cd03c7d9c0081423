package client

import (
	"context"
	"io"

	"branchpoint/services/content/caibx"
)

// Reader gives a file's bytes in order, each checked, with several chunks fetched ahead (workers; 0 is DefaultWorkers).
// Its errors end it: a reader that does not reach io.EOF has not given the whole file. It must be closed.
func (c *Client) Reader(ctx context.Context, x *caibx.Index, workers int) io.ReadCloser {
	return &reader{p: newPipeline(ctx, Batches(x.Chunks), workers, func(ctx context.Context, chunks []caibx.Chunk, room []byte) error {
		var want []caibx.Chunk
		for _, k := range chunks {
			if k.Zero() {
				clear(part(room, chunks, k))
			} else {
				want = append(want, k)
			}
		}
		_, _, err := c.plain(ctx, want, func(i int) []byte { return part(room, chunks, want[i]) })
		return err
	})}
}

// part returns the room of chunk k of a batch of chunks that follow each other.
func part(room []byte, batch []caibx.Chunk, k caibx.Chunk) []byte {
	return room[k.Start-batch[0].Start:][:k.Size]
}

// plain gets chunks' uncompressed bytes, checked, each into the room that is given for it. It returns how many of the
// first it got, and how many bytes came over the network.
func (c *Client) plain(ctx context.Context, chunks []caibx.Chunk, room func(i int) []byte) (got int, fetched int64, err error) {
	return c.chunks(ctx, chunks, func(i int, stored []byte) error {
		b, err := caibx.Open(chunks[i].ID, chunks[i].Size, stored, room(i))
		if err == nil {
			copy(room(i), b) // nothing to do, unless the decompressor wanted more room
		}
		return err
	})
}

type reader struct {
	p    *pipeline[[]caibx.Chunk]
	j    *job[[]caibx.Chunk]
	left []byte
	err  error
}

func (r *reader) Read(b []byte) (int, error) {
	for len(r.left) == 0 && r.err == nil {
		if r.j != nil {
			r.p.release(r.j)
			r.j = nil
		}
		j, err := r.p.next()
		switch {
		case err != nil:
			r.err = err
		case j == nil:
			r.err = io.EOF
		default:
			last := j.item[len(j.item)-1]
			r.j, r.left = j, j.room[:last.Start+int64(last.Size)-j.item[0].Start]
		}
	}
	if len(r.left) == 0 {
		return 0, r.err
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *reader) Close() error {
	r.p.stop()
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
	r.left = nil
	return nil
}
