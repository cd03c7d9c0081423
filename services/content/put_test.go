package content_test

import (
	"testing"

	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// put puts a chunk that holds plain.
func put(t *testing.T, u client.Upload, plain []byte) caibx.ID {
	t.Helper()
	id := caibx.Sum(plain)
	if err := u.Put(t.Context(), id, caibx.Compress(plain)); err != nil {
		t.Fatal(err)
	}
	return id
}
