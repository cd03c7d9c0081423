package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// answer makes a response.
func answer(status int, body []byte) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return w.Result()
}

// TestTroubleIsTold: who waits for a chunk is told why, however many others come meanwhile, and when it goes on.
func TestTroubleIsTold(t *testing.T) {
	plain := [][]byte{[]byte("here"), []byte("damaged at the branch")}
	chunks := chunksOf(plain...)
	var mended, asked atomic.Bool
	c := New("http://branch", &http.Client{Transport: transport(func(r *http.Request) *http.Response {
		switch {
		case r.URL.Path == PathChunks+chunks[0].ID.String() && asked.Swap(true):
			return answer(http.StatusOK, caibx.Compress(plain[0]))
		case mended.Load():
			return answer(http.StatusOK, caibx.Compress(plain[1]))
		}
		return answer(http.StatusServiceUnavailable, []byte("central cannot be reached"))
	})})
	c.Patience, c.hiccup = time.Hour, 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var told []error
	again := make(chan struct{}, 1)
	c.Trouble = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
		if len(told) >= 2 {
			select {
			case again <- struct{}{}:
			default:
			}
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Chunk(ctx, chunks[1], nil)
		done <- err
	}()
	<-again
	if _, err := c.Chunk(ctx, chunks[0], nil); err != nil {
		t.Error(err)
	}
	mu.Lock()
	if slices.Contains(told, nil) {
		t.Error("another chunk came, and that was taken for the end of the trouble")
	}
	mu.Unlock()
	mended.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n := len(told)
	if n < 3 || told[n-1] != nil || slices.Contains(told[:n-1], nil) {
		t.Fatalf("told %v", told)
	}
	for _, err := range told[:n-1] {
		if provisioning.CodeOf(err) != provisioning.CodeUnavailable || !strings.Contains(err.Error(), "branch") {
			t.Errorf("told %v", err)
		}
	}
}

// TestTroubleWithoutAnEnd: a request that is given up does not say that it goes on, and a hiccup says nothing.
func TestTroubleWithoutAnEnd(t *testing.T) {
	down := transport(func(*http.Request) *http.Response { return answer(http.StatusServiceUnavailable, nil) })
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	c := New("http://branch", &http.Client{Transport: down})
	c.Patience, c.hiccup = time.Hour, 0
	c.Trouble = func(err error) {
		if err == nil {
			t.Error("it does not go on")
		}
		cancel(enough)
	}
	if _, err := c.Chunk(ctx, chunksOf([]byte("x"))[0], nil); !errors.Is(err, enough) {
		t.Error(err)
	}
	tries := 0
	c = New("http://branch", &http.Client{Transport: transport(func(*http.Request) *http.Response {
		if tries++; tries == 1 {
			return answer(http.StatusServiceUnavailable, nil)
		}
		return answer(http.StatusOK, caibx.Compress([]byte("x")))
	})})
	c.hiccup = time.Hour
	c.Trouble = func(err error) { t.Errorf("told of a hiccup: %v", err) }
	if _, err := c.Chunk(t.Context(), chunksOf([]byte("x"))[0], nil); err != nil {
		t.Error(err)
	}
}
