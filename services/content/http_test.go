package content_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

func everybody(*http.Request) error { return nil }

// serve serves a store whole: reading and uploading.
func serve(t *testing.T, s *content.Store, onNew func(provisioning.ContentRef)) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/content/", content.NewReadHandler(s, everybody, nil))
	mux.Handle("/v1/content", content.NewAdminHandler(s, onNew))
	mux.Handle("/v1/content/", content.NewAdminHandler(s, onNew))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func newClient(url string) *client.Client {
	c := client.New(url, nil)
	c.Patience = 5 * time.Second
	return c
}

// TestUploadOverHTTP adds from another machine and reads everything back there.
func TestUploadOverHTTP(t *testing.T) {
	root := rootTar(t)
	s, dir := newStore(t)
	var told []provisioning.ContentRef
	srv := serve(t, s, func(ref provisioning.ContentRef) { told = append(told, ref) })
	c := newClient(srv.URL)
	a := add(t, c, "root", root)
	if a.Unchanged || a.Ref.Version != 1 || len(told) != 1 || told[0] != a.Ref {
		t.Fatalf("%+v, told %v", a, told)
	}
	if again := add(t, c, "root", root); !again.Unchanged || again.Ref != a.Ref || len(told) != 1 {
		t.Errorf("again: %+v, told %v", again, told)
	}
	refs, err := c.List(t.Context())
	if err != nil || len(refs) != 1 || refs[0] != a.Ref {
		t.Errorf("list: %v, %v", refs, err)
	}
	for name := range files(t, dir) {
		if strings.HasPrefix(name, "staging") {
			t.Errorf("left over: %s", name)
		}
	}
	m, err := c.Manifest(t.Context(), a.Ref.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	x, err := c.Index(t.Context(), m.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	r := c.Reader(t.Context(), x, 4)
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || provisioning.SumSHA256(got) != m.Files[0].SHA256 {
		t.Error("what is read is not what was added")
	}
	// A reader that is given up ends its workers.
	r = c.Reader(t.Context(), x, 4)
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("a closed reader gives more")
	}
}

// TestHead asks for a chunk's presence.
func TestHead(t *testing.T) {
	s, _ := newStore(t)
	srv := serve(t, s, nil)
	id := single(t, s, random(1, 1000))
	res, err := http.Head(srv.URL + client.PathChunks + id.String())
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || res.ContentLength != int64(len(caibx.Compress(random(1, 1000)))) {
		t.Errorf("%s, %d bytes", res.Status, res.ContentLength)
	}
}

// single brings one chunk into a store, as a package of its own.
func single(t *testing.T, s *content.Store, plain []byte) caibx.ID {
	t.Helper()
	u, err := s.Begin(t.Context(), "single")
	if err != nil {
		t.Fatal(err)
	}
	id := put(t, u, plain)
	if _, err := u.Commit(t.Context(), describe(plain, id)); err != nil {
		t.Fatal(err)
	}
	return id
}

// describe describes a file of one chunk.
func describe(plain []byte, id caibx.ID) client.CommitRequest {
	x := caibx.Index{Chunks: []caibx.Chunk{{ID: id, Size: len(plain)}}}
	return client.CommitRequest{
		Format: provisioning.FormatDiskImage,
		Files: []provisioning.ManifestFile{{
			Path: "disk.img", Mode: 0o644, Size: int64(len(plain)), SHA256: provisioning.SumSHA256(plain), Index: provisioning.SumSHA256(x.Encode()),
		}},
		Index: x.Encode(),
	}
}

func TestReadRefuses(t *testing.T) {
	s, dir := newStore(t)
	id := single(t, s, random(1, 1000))
	denied := provisioning.Errorf(provisioning.CodeForbidden, "", "not you")
	var deny atomic.Bool
	srv := httptest.NewServer(content.NewReadHandler(s, func(*http.Request) error {
		if deny.Load() {
			return denied
		}
		return nil
	}, nil))
	defer srv.Close()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", client.PathChunks + id.String(), 200},
		{"GET", client.PathChunks + caibx.Sum(nil).String(), 404},
		{"GET", client.PathChunks + "../../../../etc/passwd", 404},
		{"GET", client.PathChunks + "..%2f..%2flock", 400},
		{"GET", client.PathIndexes + "..%2fpackages%2fsingle%2f1", 400},
		{"GET", client.PathManifests + "x", 400},
		{"GET", client.PathManifests + strings.Repeat("0", 64), 404},
		{"PUT", client.PathChunks + id.String(), 405},
		{"DELETE", client.PathChunks + id.String(), 405},
	} {
		req, err := http.NewRequest(c.method, srv.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s %s: %s", c.method, c.path, res.Status)
		}
		var p provisioning.ProblemDocument
		if (c.status == 400 || c.status == 404) && res.Header.Get("Content-Type") == provisioning.ProblemContentType {
			if err := json.Unmarshal(b, &p); err != nil || p.Status != c.status || p.Detail == "" {
				t.Errorf("%s %s: no problem document: %s", c.method, c.path, b)
			}
		}
	}
	deny.Store(true)
	if _, err := newClient(srv.URL).StoredChunk(t.Context(), caibx.Chunk{ID: id}); provisioning.CodeOf(err) != provisioning.CodeForbidden {
		t.Errorf("denied: %v", err)
	}
	deny.Store(false)
	// A damaged chunk is dropped when it is asked for, and is fetched anew where there is somewhere to fetch it from.
	path := filepath.Join(dir, "chunks", id.String()[:4], id.String()+".cacnk")
	write(t, path, caibx.Compress([]byte("something else")))
	c := newClient(srv.URL)
	if _, err := c.Chunk(t.Context(), caibx.Chunk{ID: id, Size: 1000}, nil); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Errorf("a damaged chunk: %v", err)
	}
	if s.HasChunk(id) {
		t.Error("the damaged chunk is still there")
	}
	up, _ := newStore(t)
	single(t, up, random(1, 1000))
	upstream := serve(t, up, nil)
	healing := httptest.NewServer(content.NewReadHandler(s, everybody, content.NewMender(s, newClient(upstream.URL))))
	defer healing.Close()
	if b, err := newClient(healing.URL).Chunk(t.Context(), caibx.Chunk{ID: id, Size: 1000}, nil); err != nil || !bytes.Equal(b, random(1, 1000)) {
		t.Errorf("fetched anew: %v", err)
	}
	if !s.CheckChunk(id) {
		t.Error("the chunk has not come back")
	}
}

// TestUploadRefuses uploads what contradicts itself.
func TestUploadRefuses(t *testing.T) {
	s, dir := newStore(t)
	srv := serve(t, s, func(ref provisioning.ContentRef) { t.Errorf("told of %v", ref) })
	c := newClient(srv.URL)
	if _, err := c.Begin(t.Context(), "../x"); provisioning.CodeOf(err) != provisioning.CodeInvalid {
		t.Errorf("a package that leads out: %v", err)
	}
	post := func(method, path, body string, status int) {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != status {
			b, _ := io.ReadAll(res.Body)
			t.Errorf("%s %.100s: %s %s, want %d", method, path, res.Status, b, status)
		}
	}
	post("POST", client.PathUploads, `{"package":"../../etc"}`, 400)
	post("POST", client.PathUploads, `{"package":`, 400)
	post("POST", client.PathUploads, strings.Repeat(" ", 1<<20)+`{}`, 400)
	post("POST", client.PathUploads+"/nonesuch/commit", `{}`, 404)
	post("PUT", client.PathUploads+"/../../x", ``, 404)

	res, err := http.Post(srv.URL+client.PathUploads, "application/json", strings.NewReader(`{"package":"bad"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var begun client.BeginAnswer
	if err := json.NewDecoder(res.Body).Decode(&begun); err != nil {
		t.Fatal(err)
	}
	up := client.PathUploads + "/" + begun.ID
	plain := random(1, 5000)
	id := caibx.Sum(plain)
	stored := string(caibx.Compress(plain))
	post("PUT", up+"/chunks/xyz", stored, 400)
	post("PUT", up+"/chunks/"+caibx.Sum(nil).String(), stored, 422)
	post("PUT", up+"/chunks/"+id.String(), stored[:100], 422)
	post("PUT", up+"/chunks/"+id.String(), strings.Repeat("x", caibx.MaxStored+1), 400)
	bomb := make([]byte, 300<<10)
	post("PUT", up+"/chunks/"+caibx.Sum(bomb).String(), string(caibx.Compress(bomb)), 422)
	var many client.ChunkList
	for range client.MaxMissing + 1 {
		many.Chunks = append(many.Chunks, id)
	}
	b, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	post("POST", up+"/missing", string(b), 400)
	commit := func(change func(*client.CommitRequest), status int) {
		t.Helper()
		q := describe(plain, id)
		change(&q)
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		post("POST", up+"/commit", string(b), status)
	}
	commit(func(*client.CommitRequest) {}, 409) // the chunk has not been uploaded
	post("PUT", up+"/chunks/"+id.String(), stored, 204)
	commit(func(q *client.CommitRequest) { q.Format = "floppy" }, 400)
	commit(func(q *client.CommitRequest) { q.Files = nil }, 400)
	commit(func(q *client.CommitRequest) { q.Files[0].Size++ }, 400)
	commit(func(q *client.CommitRequest) { q.Files[0].SHA256 = "x" }, 400)
	commit(func(q *client.CommitRequest) { q.Index[70]++ }, 400)
	commit(func(q *client.CommitRequest) {
		q.Index = q.Index[:50]
		q.Files[0].Index = provisioning.SumSHA256(q.Index)
	}, 400)
	commit(func(q *client.CommitRequest) { // a chunk of another size than it is said to have
		x := caibx.Index{Chunks: []caibx.Chunk{{ID: id, Size: 5001}}}
		q.Index, q.Files[0].Size = x.Encode(), 5001
		q.Files[0].Index = provisioning.SumSHA256(q.Index)
	}, 400)
	if refs, err := s.List(); err != nil || len(refs) != 0 {
		t.Errorf("stored: %v, %v", refs, err)
	}
	post("DELETE", up, "", 204)
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	commit(func(*client.CommitRequest) {}, 404)
}

// TestCommitTwice loses the answer to a commit: asking again gives the same.
func TestCommitTwice(t *testing.T) {
	s, _ := newStore(t)
	plain := random(1, 5000)
	u, err := s.Begin(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	id := put(t, u, plain)
	first, err := u.Commit(t.Context(), describe(plain, id))
	if err != nil {
		t.Fatal(err)
	}
	u.Abort(t.Context())
	second, err := u.Commit(t.Context(), describe(plain, id))
	if err != nil || first != second || first.Unchanged {
		t.Errorf("%+v, then %+v, %v", first, second, err)
	}
}

// TestHostileServer reads from a server that answers wrongly in many ways.
func TestHostileServer(t *testing.T) {
	plain := random(1, 5000)
	k := caibx.Chunk{ID: caibx.Sum(plain), Size: len(plain)}
	x := caibx.Index{Chunks: []caibx.Chunk{k}}
	file := provisioning.ManifestFile{Size: 5000, Index: provisioning.SumSHA256(x.Encode())}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   provisioning.Code
	}{
		"other bytes": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(caibx.Compress(random(2, 5000))) }, provisioning.CodeCorrupt},
		"garbage":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(random(3, 5000)) }, provisioning.CodeCorrupt},
		"nothing":     {func(http.ResponseWriter, *http.Request) {}, provisioning.CodeCorrupt},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, provisioning.CodeCorrupt},
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999999")
		}, provisioning.CodeCorrupt},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "150")
			_, _ = w.Write(make([]byte, 10))
		}, provisioning.CodeUnavailable},
		"HTML": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>proxy</html>", http.StatusForbidden)
		}, provisioning.CodeForbidden},
		"long problem": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		}, provisioning.CodeNotFound},
	} {
		srv := httptest.NewServer(c.answer)
		cl := newClient(srv.URL)
		cl.Patience = 0
		if _, err := cl.Chunk(t.Context(), k, nil); provisioning.CodeOf(err) != c.code {
			t.Errorf("%s: chunk: %v", name, err)
		}
		if _, err := cl.StoredChunk(t.Context(), k); provisioning.CodeOf(err) != c.code {
			t.Errorf("%s: stored chunk: %v", name, err)
		}
		if _, err := cl.Index(t.Context(), file); provisioning.CodeOf(err) != c.code {
			t.Errorf("%s: index: %v", name, err)
		}
		if _, err := cl.Manifest(t.Context(), provisioning.SumSHA256([]byte("m"))); provisioning.CodeOf(err) != c.code {
			t.Errorf("%s: manifest: %v", name, err)
		}
		srv.Close()
	}
}

// TestPatience lets the server be away for a while; and then for too long.
func TestPatience(t *testing.T) {
	s, _ := newStore(t)
	plain := random(1, 1000)
	k := caibx.Chunk{ID: single(t, s, plain), Size: 1000}
	handler := content.NewReadHandler(s, everybody, nil)
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(503)
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks
		default:
			handler.ServeHTTP(w, r)
		}
	}))
	c := newClient(srv.URL)
	if b, err := c.Chunk(t.Context(), k, nil); err != nil || !bytes.Equal(b, plain) {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
	srv.Close()
	c.Patience = 200 * time.Millisecond
	if _, err := c.Chunk(t.Context(), k, nil); provisioning.CodeOf(err) != provisioning.CodeUnavailable || provisioning.NextOf(err) == "" {
		t.Errorf("for good: %v", err)
	}
	c.Patience = time.Hour
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("enough"))
	defer cancel()
	if _, err := c.Chunk(ctx, k, nil); err == nil || err.Error() != "enough" {
		t.Errorf("given up: %v", err)
	}
}

// TestUploadsAtOnce adds several packages at the same time, two of them of the same content and name.
func TestUploadsAtOnce(t *testing.T) {
	root := rootTar(t)
	s, _ := newStore(t)
	srv := serve(t, s, nil)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "a", "b", "c"} {
		wg.Go(func() {
			if _, err := content.Add(t.Context(), newClient(srv.URL), name, root, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	refs, err := s.List()
	if err != nil || len(refs) != 3 {
		t.Fatalf("%v, %v", refs, err)
	}
	for _, ref := range refs {
		if err := s.Verify(t.Context(), ref, nil); err != nil {
			t.Error(err)
		}
	}
}
