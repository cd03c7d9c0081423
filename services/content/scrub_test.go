package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// pair opens a store with n chunks, and another one upstream with the same chunks.
func pair(t *testing.T, n int) (s *Store, m *Mender, ids []caibx.ID) {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	var stores []*Store
	for range 2 {
		s, err := Open(filepath.Join(t.TempDir(), "store"), quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		stores = append(stores, s)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range n {
		plain := make([]byte, 1000+r.IntN(5000))
		for i := range plain {
			plain[i] = byte(r.Uint32())
		}
		id := caibx.Sum(plain)
		ids = append(ids, id)
		for _, s := range stores {
			if err := s.replace(id, caibx.Compress(plain)); err != nil {
				t.Fatal(err)
			}
		}
	}
	srv := httptest.NewServer(NewReadHandler(stores[1], func(*http.Request) error { return nil }, nil))
	t.Cleanup(srv.Close)
	return stores[0], NewMender(stores[0], client.New(srv.URL, nil)), ids
}

// TestScrub finds damage that nobody has asked for, and mends it.
func TestScrub(t *testing.T) {
	s, m, ids := pair(t, 20)
	for _, id := range []caibx.ID{ids[3], ids[17]} {
		if err := os.WriteFile(s.chunkPath(id), []byte("rotten"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.scrub(t.Context(), 0xfff0, 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if !s.CheckChunk(id) {
			t.Errorf("chunk %s is not whole", id)
		}
	}
	if d, _ := s.Damage(); d != (Damage{Found: 2}) {
		t.Errorf("%+v", d)
	}
	why := errors.New("switched off")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
	defer cancel()
	if err := m.scrub(ctx, 0, 1); !errors.Is(err, why) { // it would take days
		t.Errorf("%v", err)
	}
	if err := m.Scrub(ctx, strings.NewReader("\x12\x34")); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

// TestScrubWaits begins a quarter of an hour after the start, and again a week after the end.
func TestScrubWaits(t *testing.T) {
	s, m, _ := pair(t, 20)
	looked := func() float64 { return testutil.ToFloat64(s.metrics.bytesScrubbed) }
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = m.Scrub(ctx, strings.NewReader("\x12\x34\x56\x78")) }()
		time.Sleep(15*time.Minute - time.Second)
		synctest.Wait()
		if looked() != 0 {
			t.Error("it begins before its time")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		once := looked()
		if once == 0 {
			t.Error("it does not begin")
		}
		time.Sleep(7 * 24 * time.Hour)
		synctest.Wait()
		if looked() != 2*once {
			t.Errorf("after a week %v bytes have been looked at, not %v", looked(), 2*once)
		}
	})
}

// failing is a file that cannot be read to its end.
type failing struct {
	fs.File
	err error
}

func (f failing) Read(b []byte) (int, error) {
	n, _ := f.File.Read(b[:len(b)/2])
	return n, f.err
}

// TestUnreadable has a disk that does not give a chunk back: it comes from upstream, and is looked at again at the next
// start. What is not the disk's fault is no damage.
func TestUnreadable(t *testing.T) {
	s, m, ids := pair(t, 3)
	fail := func(err error) {
		s.open = func(path string) (fs.File, error) {
			f, oerr := os.Open(path)
			if oerr == nil && path == s.chunkPath(ids[1]) {
				return failing{f, err}, nil
			}
			return f, oerr
		}
	}
	handler := NewReadHandler(s, func(*http.Request) error { return nil }, m)
	get := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", client.PathChunks+ids[1].String(), nil))
		return w
	}
	good := get()
	fail(&fs.PathError{Op: "read", Path: "x", Err: syscall.EMFILE})
	if w := get(); w.Code != http.StatusServiceUnavailable { // which the client asks again after
		t.Errorf("too many open files: %d", w.Code)
	}
	if d, _ := s.Damage(); d != (Damage{}) {
		t.Errorf("%+v", d)
	}
	fail(&fs.PathError{Op: "read", Path: "x", Err: syscall.EIO})
	if w := get(); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), good.Body.Bytes()) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if d, _ := s.Damage(); d != (Damage{Found: 1}) {
		t.Errorf("%+v", d)
	}

	// Without upstream it is put aside, and is there again after another start: perhaps it was the cable.
	if s.CheckChunk(ids[1]) || s.HasChunk(ids[1]) {
		t.Error("the store has what it cannot read")
	}
	s.Close()
	again, err := Open(s.dir, s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !again.CheckChunk(ids[1]) {
		t.Error("it has not come back")
	}
}

// TestSeal looks at every byte of a sealed chunk: none can change unnoticed.
func TestSeal(t *testing.T) {
	stored := caibx.Compress(bytes.Repeat([]byte("branch office "), 50))
	id := caibx.Sum(bytes.Repeat([]byte("branch office "), 50))
	file := append(bytes.Clone(stored), seal(id, stored)...)
	if b, sealed, whole := unseal(id, file); !sealed || !whole || !bytes.Equal(b, stored) {
		t.Fatal("what is sealed is not whole")
	}
	if _, err := caibx.Open(id, 0, file, nil); err != nil {
		t.Errorf("a decompressor does not pass over the seal: %v", err)
	}
	for i := range file {
		for bit := range 8 {
			bad := bytes.Clone(file)
			bad[i] ^= 1 << bit
			if _, sealed, whole := unseal(id, bad); sealed && whole {
				t.Errorf("bit %d of byte %d does not matter", bit, i)
			}
		}
	}
	if _, sealed, whole := unseal(caibx.Sum(nil), file); !sealed || whole {
		t.Error("it passes for another chunk")
	}
}
