package client

import (
	"context"
	"io"

	"branchpoint/services/content/caibx"
)

// Reader gives a file's bytes in order, each checked, with several chunks fetched ahead (workers; 0 is DefaultWorkers).
// Its errors end it: a reader that does not reach io.EOF has not given the whole file. It must be closed.
func (c *Client) Reader(ctx context.Context, x *caibx.Index, workers int) io.ReadCloser {
	return &reader{p: newPipeline(ctx, x.Chunks, workers, func(ctx context.Context, j *job) (err error) {
		if j.Zero() {
			j.data = caibx.Zeros(j.Size)
			return nil
		}
		j.data, err = c.Chunk(ctx, j.Chunk, j.buf)
		return err
	})}
}

type reader struct {
	p    *pipeline
	j    *job
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
			r.j, r.left = j, j.data
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
