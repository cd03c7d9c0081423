package client

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// TestSimilarIsAskedOnce: what only makes things faster must not hold anything up.
func TestSimilarIsAskedOnce(t *testing.T) {
	var asked atomic.Int32
	c := New("http://branch", &http.Client{Transport: transport(func(r *http.Request) *http.Response {
		if strings.HasSuffix(r.URL.Path, "/similar") {
			b, err := json.Marshal(Similar{Files: []provisioning.ManifestFile{{Index: provisioning.SumSHA256([]byte("an older one")), Size: 1}}})
			if err != nil {
				t.Error(err)
			}
			return answer(http.StatusOK, b)
		}
		asked.Add(1)
		return answer(http.StatusServiceUnavailable, nil)
	})})
	c.Patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if all := c.similar(ctx, &caibx.Index{Chunks: chunksOf([]byte("x"))}); len(all) != 0 || asked.Load() != 1 || ctx.Err() != nil {
		t.Errorf("%d indexes, asked %d times, %v", len(all), asked.Load(), ctx.Err())
	}
}
