package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/folbricht/desync"
	"golang.org/x/sync/errgroup"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
	"branchpoint/services/content/source"
)

// Uploads is where content can be added: *Store, or *client.Client for a store elsewhere.
type Uploads interface {
	Begin(ctx context.Context, name string) (client.Upload, error)
}

// Progress is how far something is.
type Progress = client.Progress

const (
	// batch is how many chunks are asked for and stored together: 2 MiB, at most 8.
	batch = 32
	// mode is the permission bits of an image in its manifest.
	mode = 0o644
)

// Add reads the image or root file system at path and makes it the newest version of the package name. report may be
// nil. An error, or the end of ctx, leaves nothing behind.
func Add(ctx context.Context, to Uploads, name, path string, report func(Progress)) (client.Added, error) {
	if err := provisioning.CheckName(name); err != nil {
		return client.Added{}, err
	}
	src, err := source.Open(path)
	if err != nil {
		return client.Added{}, err
	}
	defer src.Close()
	u, err := to.Begin(ctx, name)
	if err != nil {
		return client.Added{}, err
	}
	a := &adder{src: src, upload: u, report: report, known: map[caibx.ID]bool{}}
	added, err := a.add(ctx, filepath.Base(path))
	if err != nil {
		u.Abort(context.WithoutCancel(ctx))
		return client.Added{}, err
	}
	return added, nil
}

// adder takes one source into an upload: one goroutine reads and cuts, one sums, the others name, compress and store.
type adder struct {
	src    source.Source
	upload client.Upload
	report func(Progress)

	mu    sync.Mutex
	known map[caibx.ID]bool
	fresh int64
}

func (a *adder) add(ctx context.Context, name string) (client.Added, error) {
	g, ctx := errgroup.WithContext(ctx)
	batches := make(chan []piece)
	sums := make(chan summand, 64)
	sum := sha256.New()
	c := &cutter{ctx: ctx, src: a.src, sums: sums}
	var pieces [][]piece
	g.Go(func() error {
		defer close(batches)
		defer close(sums)
		for {
			b, err := c.batch()
			if len(b) > 0 {
				pieces = append(pieces, b)
				select {
				case batches <- b:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				a.progress()
			}
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	g.Go(func() error {
		for s := range sums {
			s.add(sum)
		}
		return nil
	})
	for range 2 * runtime.GOMAXPROCS(0) { // half of them wait for disk or network
		g.Go(func() error {
			for b := range batches {
				if err := a.store(ctx, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return client.Added{}, err
	}
	x := &caibx.Index{}
	for _, b := range pieces {
		for _, p := range b {
			x.Chunks = append(x.Chunks, p.Chunk)
		}
	}
	index := x.Encode()
	return a.upload.Commit(context.WithoutCancel(ctx), client.CommitRequest{
		Format: a.src.Format(),
		Files: []provisioning.ManifestFile{{
			Path: fileName(a.src.Format()), Mode: mode, Size: x.Size(),
			SHA256: provisioning.SHA256(hex.EncodeToString(sum.Sum(nil))), Index: provisioning.SumSHA256(index),
		}},
		Index: index,
	})
}

// fileName is what an operating system's file is called in its manifest. What it was called where it came from does not
// matter: the same content under another name is the same version.
func fileName(f provisioning.Format) string {
	if f == provisioning.FormatRootFileSystem {
		return "root.tar"
	}
	return "disk.img"
}

// store names a batch's chunks and stores those that are missing.
func (a *adder) store(ctx context.Context, b []piece) error {
	var ask []caibx.ID
	data := make(map[caibx.ID][]byte, len(b))
	for i := range b {
		p := &b[i]
		if p.data == nil {
			p.ID = caibx.ZeroID(p.Size)
			p.data = caibx.Zeros(p.Size)
		} else {
			p.ID = caibx.Sum(p.data)
		}
		a.mu.Lock()
		if !a.known[p.ID] {
			a.known[p.ID] = true
			ask = append(ask, p.ID)
			data[p.ID] = p.data
		}
		a.mu.Unlock()
		p.data = nil
	}
	if len(ask) == 0 {
		return nil
	}
	missing, err := a.upload.Missing(ctx, ask)
	if err != nil {
		return err
	}
	for _, id := range missing {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		plain, ok := data[id]
		if !ok {
			return provisioning.Errorf(provisioning.CodeInternal, "", "asked for chunk %s, which is not among those offered", id)
		}
		stored := caibx.Compress(plain)
		if err := a.upload.Put(ctx, id, stored); err != nil {
			return err
		}
		a.mu.Lock()
		a.fresh += int64(len(stored))
		a.mu.Unlock()
	}
	return nil
}

func (a *adder) progress() {
	if a.report == nil {
		return
	}
	a.mu.Lock()
	fresh := a.fresh
	a.mu.Unlock()
	done, total := a.src.Position()
	a.report(Progress{Done: done, Total: total, New: fresh})
}

// piece is a chunk with its bytes; none for zeros, and none any more once it is stored.
type piece struct {
	caibx.Chunk
	data []byte
}

// summand is a part of the file on its way to the sum of the whole: bytes, or that many zeros.
type summand struct {
	data  []byte
	zeros int64
}

func (s summand) add(h hash.Hash) {
	h.Write(s.data)
	for n := s.zeros; n > 0; n -= caibx.MaxChunk {
		h.Write(caibx.Zeros(int(min(n, caibx.MaxChunk))))
	}
}

// cutter cuts a source into chunks. A run of at least caibx.MaxChunk zeros, counted in whole blocks of source.Block, is
// cut into chunks of zeros; what is between runs is cut by content, anew for each. So the cuts depend on nothing but the
// content: the same disk gives the same chunks, whichever way it is stored, and whatever is changed elsewhere on it.
type cutter struct {
	ctx  context.Context
	src  source.Source
	sums chan<- summand

	off     int64 // of the next chunk
	chunker *desync.Chunker
	part    *part
	zeros   int64  // a run of zeros that has been read and not been cut
	block   []byte // the block that ended it
	err     error  // what the source ended with
}

// batch returns the next chunks; with io.EOF the last.
func (c *cutter) batch() ([]piece, error) {
	var b []piece
	for len(b) < batch {
		p, err := c.next()
		if err != nil {
			return b, err
		}
		p.Start = c.off
		c.off += int64(p.Size)
		b = append(b, p)
	}
	return b, nil
}

func (c *cutter) next() (piece, error) {
	for {
		if c.chunker == nil {
			if c.zeros >= caibx.MaxChunk {
				if err := c.run(); err != nil {
					return piece{}, err
				}
			}
			if c.zeros > 0 && c.part == nil {
				n := int(min(c.zeros, caibx.MaxChunk))
				c.zeros -= int64(n)
				return piece{Chunk: caibx.Chunk{Size: n}}, nil
			}
			if c.err != nil && c.block == nil {
				return piece{}, c.err
			}
			c.part = &part{c: c}
			chunker, err := desync.NewChunker(c.part, caibx.MinChunk, caibx.AvgChunk, caibx.MaxChunk)
			if err != nil {
				return piece{}, fmt.Errorf("cut into chunks: %w", err)
			}
			c.chunker = &chunker
		}
		_, data, err := c.chunker.Next()
		if err != nil {
			return piece{}, err
		}
		if len(data) > 0 {
			return piece{Chunk: caibx.Chunk{Size: len(data)}, data: data}, nil
		}
		c.chunker, c.part = nil, nil
	}
}

// run reads on to the end of a run of zeros.
func (c *cutter) run() error {
	for c.block == nil && c.err == nil {
		c.read()
	}
	if c.err == io.EOF {
		return nil
	}
	return c.err
}

// read reads a block, or passes over zeros: afterwards c.zeros has grown, or c.block or c.err is set.
func (c *cutter) read() {
	if c.err = c.ctx.Err(); c.err != nil {
		c.err = context.Cause(c.ctx)
		return
	}
	n, err := c.src.SkipZeros()
	if err != nil {
		c.err = err
		return
	}
	if n > 0 {
		c.zeros += n
		c.sum(summand{zeros: n})
		return
	}
	b := make([]byte, source.Block)
	read, err := io.ReadFull(c.src, b)
	if err == io.ErrUnexpectedEOF { // ReadFull's own; a source wraps its errors
		err = io.EOF
	}
	c.err = err
	if b = b[:read]; read == 0 {
		return
	}
	if caibx.IsZero(b) {
		c.zeros += int64(read)
		c.sum(summand{zeros: int64(read)})
		return
	}
	c.sum(summand{data: b})
	c.block = b
}

func (c *cutter) sum(s summand) {
	select {
	case c.sums <- s:
	case <-c.ctx.Done():
	}
}

// part reads what is between two runs of zeros. A shorter run belongs to it.
type part struct {
	c    *cutter
	left []byte
	gap  int64 // zeros to give before left
	end  bool
}

func (p *part) Read(b []byte) (int, error) {
	c := p.c
	for p.gap == 0 && len(p.left) == 0 {
		if p.end {
			return 0, io.EOF
		}
		for c.block == nil && c.err == nil && c.zeros < caibx.MaxChunk {
			c.read()
		}
		switch {
		case c.zeros >= caibx.MaxChunk:
			p.end = true
		case c.block != nil:
			p.gap, p.left = c.zeros, c.block
			c.zeros, c.block = 0, nil
		case c.err == io.EOF:
			p.gap, p.end = c.zeros, true
			c.zeros = 0
		default:
			return 0, c.err
		}
	}
	if p.gap > 0 {
		n := int(min(p.gap, int64(len(b))))
		clear(b[:n])
		p.gap -= int64(n)
		return n, nil
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}
