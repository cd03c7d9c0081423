package content_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"branchpoint/services/content/client"
)

// line is a connection to a store that can be cut, in the middle of a chunk if need be, and that counts what is asked for.
type line struct {
	URL      string
	requests atomic.Int64
	chunks   atomic.Int64 // chunks asked for, by themselves or with others
	left     atomic.Int64 // how many bytes are still let through
	onCut    func()       // told, once, that the line is cut
	cut      sync.Once
}

const uncut = 1 << 50

// newLine returns a line to handler.
func newLine(t testing.TB, handler http.Handler) *line {
	t.Helper()
	l := &line{}
	l.left.Store(uncut)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.requests.Add(1)
		switch {
		case r.URL.Path == client.PathBatch:
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			l.chunks.Add(int64(len(b) / 32))
			r.Body = io.NopCloser(bytes.NewReader(b))
		case strings.HasPrefix(r.URL.Path, client.PathChunks):
			l.chunks.Add(1)
		}
		if l.left.Load() <= 0 {
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(&cutWriter{w, l}, r)
	}))
	t.Cleanup(srv.Close)
	l.URL = srv.URL
	return l
}

// client returns an impatient client at the other end.
func (l *line) client() *client.Client {
	c := client.New(l.URL, nil)
	c.Patience = 0
	return c
}

type cutWriter struct {
	http.ResponseWriter
	l *line
}

func (w *cutWriter) Write(b []byte) (int, error) {
	if n := w.l.left.Add(-int64(len(b))) + int64(len(b)); n < int64(len(b)) {
		_, _ = w.ResponseWriter.Write(b[:max(n, 0)])
		w.ResponseWriter.(http.Flusher).Flush()
		if w.l.onCut != nil {
			w.l.cut.Do(w.l.onCut)
		}
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}
