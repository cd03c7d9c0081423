package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// Client reads from one server. It may be used by many goroutines.
type Client struct {
	base string
	http *http.Client
	// Patience is how long one request is repeated while the other side cannot be reached or is not ready; New sets
	// DefaultPatience. A deployment outlives a restart of its branch.
	Patience time.Duration
	// Trouble, which may be nil, is told why a request is repeated, each time, once it has taken so long that somebody who
	// watches would wonder (seconds); and nil, when the last one that it was told of has been answered. Calls do not overlap.
	Trouble func(error)

	hiccup  time.Duration // what a request may take without Trouble being told
	single  *atomic.Bool  // the server knows of single chunks alone
	waiting *waiting
}

const (
	// DefaultPatience is longer than an appliance takes to start on slow hardware.
	DefaultPatience = 5 * time.Minute
	// hiccup is how long a request is repeated silently: a server that has too much to do says so, too.
	hiccup = 2 * time.Second
	// requestTime bounds one try, answer included. The largest chunk comes in time at 4 KiB/s.
	requestTime = time.Minute
	// corruptTries is how often something damaged is asked for again.
	corruptTries = 3
	// connections is how many idle connections are kept: as many as workers are of use.
	connections = 32
	// maxProblem bounds the body of an error answer that is read, in bytes.
	maxProblem = 64 << 10
	// maxManifest bounds a manifest, in bytes: one of an operating system has a single file.
	maxManifest = 1 << 20
)

// New returns a client of the server at baseURL (scheme://host[:port]), which talks through h; nil is
// http.DefaultClient. h decides on certificates and credentials.
func New(baseURL string, h *http.Client) *Client {
	if h == nil {
		h = http.DefaultClient
	}
	keep := *h
	t, ok := h.Transport.(*http.Transport)
	if h.Transport == nil {
		t, ok = http.DefaultTransport.(*http.Transport)
	}
	if ok && t.MaxIdleConnsPerHost < connections { // by default two are kept, and every chunk more makes its own
		t = t.Clone()
		t.MaxIdleConnsPerHost = connections
		keep.Transport = t
	}
	return &Client{
		base: strings.TrimSuffix(baseURL, "/"), http: &keep, Patience: DefaultPatience,
		hiccup: hiccup, single: new(atomic.Bool), waiting: &waiting{},
	}
}

// Manifest returns the manifest with the given sum.
func (c *Client) Manifest(ctx context.Context, sum provisioning.SHA256) (*provisioning.Manifest, error) {
	m, _, err := c.ManifestBytes(ctx, sum)
	return m, err
}

// ManifestBytes returns the manifest with the given sum, and its encoding.
func (c *Client) ManifestBytes(ctx context.Context, sum provisioning.SHA256) (*provisioning.Manifest, []byte, error) {
	var m *provisioning.Manifest
	b, err := c.fetch(ctx, PathManifests+string(sum), maxManifest, func(b []byte) (err error) {
		m, err = provisioning.DecodeManifest(b, sum)
		return err
	})
	return m, b, err
}

// Index returns the chunk index of a manifest's file.
func (c *Client) Index(ctx context.Context, f provisioning.ManifestFile) (*caibx.Index, error) {
	x, _, err := c.IndexBytes(ctx, f)
	return x, err
}

// IndexBytes returns the chunk index of a manifest's file, and its encoding.
func (c *Client) IndexBytes(ctx context.Context, f provisioning.ManifestFile) (*caibx.Index, []byte, error) {
	var x *caibx.Index
	b, err := c.fetch(ctx, PathIndexes+string(f.Index), caibx.EncodedBound(f.Size), func(b []byte) error {
		if got := provisioning.SumSHA256(b); got != f.Index {
			return provisioning.Errorf(provisioning.CodeCorrupt, "", "chunk index %s has the sum %s", f.Index, got)
		}
		var err error
		if x, err = caibx.Decode(b); err != nil {
			return err
		}
		if x.Size() != f.Size {
			return provisioning.Errorf(provisioning.CodeCorrupt, "", "chunk index %s describes %d bytes, the manifest %d", f.Index, x.Size(), f.Size)
		}
		return nil
	})
	return x, b, err
}

// Chunk returns a chunk's uncompressed bytes, in buf if that is large enough.
func (c *Client) Chunk(ctx context.Context, k caibx.Chunk, buf []byte) (plain []byte, err error) {
	_, err = c.fetch(ctx, PathChunks+k.ID.String(), caibx.MaxStored, func(b []byte) (err error) {
		plain, err = caibx.Open(k.ID, k.Size, b, buf)
		return err
	})
	return plain, err
}

// StoredChunk returns a chunk in its stored form, checked.
func (c *Client) StoredChunk(ctx context.Context, k caibx.Chunk) ([]byte, error) {
	return c.fetch(ctx, PathChunks+k.ID.String(), caibx.MaxStored, func(b []byte) error {
		_, err := caibx.Open(k.ID, k.Size, b, nil)
		return err
	})
}

// fetch gets what is at path, at most limit bytes, and has it checked. What is damaged is asked for again with the
// request that the server look at its copy (Cache-Control: no-cache).
func (c *Client) fetch(ctx context.Context, path string, limit int64, check func([]byte) error) ([]byte, error) {
	for try := 1; ; try++ {
		header := http.Header{}
		if try > 1 {
			header.Set("Cache-Control", "no-cache")
		}
		b, err := c.do(ctx, http.MethodGet, path, header, nil, limit)
		if err != nil {
			return nil, err
		}
		err = check(b)
		if err == nil {
			return b, nil
		}
		if try == corruptTries {
			return nil, fmt.Errorf("from %s, %d times: %w", c.base, try, err)
		}
	}
}

// do makes a request until it is answered, the answer is final, or patience or ctx end.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, body []byte, limit int64) (_ []byte, err error) {
	begin := time.Now()
	pause := 100 * time.Millisecond
	told := false
	defer func() {
		if told {
			c.waiting.end(c.Trouble, err == nil)
		}
	}()
	for {
		b, err := c.once(ctx, method, path, header, body, limit)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if provisioning.CodeOf(err) != provisioning.CodeUnavailable || time.Since(begin)+pause > c.Patience {
			return nil, err
		}
		if c.Trouble != nil && time.Since(begin) >= c.hiccup {
			c.waiting.tell(c.Trouble, err, !told)
			told = true
		}
		// Half of the pause is random, so that a wave of machines does not come back in step.
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		case <-t.C:
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// once makes a request a single time. Its error has CodeUnavailable if another try may help.
func (c *Client) once(ctx context.Context, method, path string, header http.Header, body []byte, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, r)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "content server's address: %w", err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	unavailable := func(err error) error {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the URL, which is in the message already
		}
		return provisioning.Errorf(provisioning.CodeUnavailable, "check that it runs and that the network reaches it", "%s %s%s: %w", method, c.base, path, err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unavailable(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, _ := io.ReadAll(io.LimitReader(res.Body, maxProblem))
		err := provisioning.DecodeProblem(res.StatusCode, b)
		if res.StatusCode == http.StatusTooManyRequests {
			return nil, unavailable(err)
		}
		return nil, &provisioning.Error{Code: provisioning.CodeOf(err), Next: provisioning.NextOf(err), Err: err, Message: fmt.Sprintf("%s %s%s: %v", method, c.base, path, err)}
	}
	if res.ContentLength > limit {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "%s%s: the answer of %d bytes is larger than anything that belongs there", c.base, path, res.ContentLength)
	}
	b, err := readAll(res.Body, res.ContentLength, limit)
	if err != nil {
		return nil, unavailable(err)
	}
	if int64(len(b)) > limit {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "%s%s: the answer is larger than anything that belongs there", c.base, path)
	}
	return b, nil
}

// readAll reads length bytes if that is known, and otherwise up to one more than limit.
func readAll(r io.Reader, length, limit int64) ([]byte, error) {
	if length < 0 {
		return io.ReadAll(io.LimitReader(r, limit+1))
	}
	b := make([]byte, length)
	_, err := io.ReadFull(r, b)
	return b, err
}
