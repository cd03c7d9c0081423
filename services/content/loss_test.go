package content_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// ask makes a request to the branch.
func (b *branchStore) ask(m *content.Mender, method, path string, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	content.NewReadHandler(b.Store, everybody, m).ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
	return w
}

// with is a mender that asks somebody else.
func (b *branchStore) with(t *testing.T, upstream http.Handler) *content.Mender {
	t.Helper()
	srv := httptest.NewServer(upstream)
	t.Cleanup(srv.Close)
	return content.NewMender(b.Store, client.New(srv.URL, nil))
}

// within fails the test unless ok comes true.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it never comes true", what)
		}
	}
}

// TestStrangersLoseNothing asks for what no version here names, while upstream is away: it is nobody's loss, and upstream
// is not asked.
func TestStrangersLoseNothing(t *testing.T) {
	b := newBranch(t)
	b.up.left.Store(0)
	_, news := b.Damage()
	m := content.NewMender(b.Store, b.up.client())
	for range 3 {
		for _, path := range []string{
			client.PathChunks + caibx.Sum(random(1, 10)).String(), client.PathManifests + strings.Repeat("0", 64), client.PathIndexes + strings.Repeat("0", 64),
		} {
			if w := b.ask(m, "GET", path, nil); w.Code != http.StatusNotFound {
				t.Errorf("%s: %d", path, w.Code)
			}
		}
	}
	if n := b.up.requests.Load(); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	select {
	case <-news:
		t.Error("it makes news")
	default:
	}
	if d, _ := b.Damage(); d != (content.Damage{}) || b.count(t, "lost") != 0 || strings.Contains(b.log.String(), "is lost here") {
		t.Errorf("%+v\n%s", d, b.log)
	}
}

// TestNothingIsStrangeYet: while not all is here that belongs here, upstream is asked for what is not.
func TestNothingIsStrangeYet(t *testing.T) {
	central, _ := newStore(t)
	ref := add(t, central, "root", rootTar(t)).Ref
	up := newLine(t, content.NewReadHandler(central, everybody, nil))
	here, _ := newStore(t)
	srv := httptest.NewServer(content.NewReadHandler(here, everybody, content.NewMender(here, up.client())))
	t.Cleanup(srv.Close)
	c := client.New(srv.URL, nil)
	c.Patience = 0
	m, err := c.Manifest(t.Context(), ref.Manifest)
	if err != nil {
		t.Fatal("of an empty store:", err)
	}
	x, err := c.Index(t.Context(), m.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Chunk(t.Context(), x.Chunks[0], nil); err != nil {
		t.Error(err)
	}
	other := add(t, central, "other", diskImage(t)).Ref
	b := &branchStore{Store: here, log: &bytes.Buffer{}, up: up, ref: ref}
	b.sync(t)
	up.left.Store(0)
	if err := content.Sync(t.Context(), here, up.client(), []provisioning.ContentRef{other}, content.SyncOptions{Log: quiet}); err == nil {
		t.Fatal("fetched over a line that is cut")
	}
	up.left.Store(uncut)
	if _, err := c.Manifest(t.Context(), other.Manifest); err != nil {
		t.Error("of a version that is on its way:", err)
	}
	if d, _ := here.Damage(); d.Lost != 0 {
		t.Errorf("%+v", d)
	}
}

// TestLossIsNoticed: what belongs to a version and cannot be had is lost, whatever upstream says and however it was asked
// for, and the client is told to come again.
func TestLossIsNoticed(t *testing.T) {
	empty, _ := newStore(t)
	away := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for name, upstream := range map[string]http.Handler{"upstream has it not": content.NewReadHandler(empty, everybody, nil), "upstream is away": away} {
		for _, damaged := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				b := newBranch(t)
				m := b.with(t, upstream)
				k, path := b.chunk()
				if damaged {
					write(t, path, []byte("rotten"))
				} else if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				w := b.ask(m, "POST", client.PathBatch, client.EncodeBatch([]caibx.Chunk{k}))
				if w.Code != http.StatusOK || w.Body.Len() != client.BatchHeader {
					t.Errorf("a batch: %d, %d bytes", w.Code, w.Body.Len())
				}
				if damaged {
					within(t, "what a batch finds damaged is lost", func() bool { d, _ := b.Damage(); return d == content.Damage{Found: 1, Lost: 1} })
				}
				w = b.ask(m, "GET", client.PathChunks+k.ID.String(), nil)
				if w.Code != http.StatusServiceUnavailable {
					t.Errorf("the client is told %d: %s", w.Code, w.Body)
				}
				if d, _ := b.Damage(); d.Lost != 1 || b.Installed(b.ref) {
					t.Errorf("%+v, installed: %v", d, b.Installed(b.ref))
				}
				b.sync(t)
				if d, _ := b.Damage(); d.Lost != 0 || !b.Installed(b.ref) {
					t.Errorf("after another sync: %+v", d)
				}
			})
		}
	}
}

// TestABatchMends: what is found damaged when it is asked for with others comes from upstream, though nobody asks again.
func TestABatchMends(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	write(t, path, []byte("rotten"))
	b.ask(content.NewMender(b.Store, b.up.client()), "POST", client.PathBatch, client.EncodeBatch([]caibx.Chunk{k}))
	within(t, "the chunk is here again", func() bool { return b.HasChunk(k.ID) && b.count(t, "mended_total") == 1 })
	if !b.CheckChunk(k.ID) {
		t.Error("it is not whole")
	}
}

// TestMendKeepsWhatIsThere: what cannot be brought onto the disk is given out, and replaces nothing.
func TestMendKeepsWhatIsThere(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b.FailToFlush()
	if err := b.Replace(k.ID, whole[:len(whole)-16]); err == nil {
		t.Error("it was kept by a disk that takes nothing")
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole) {
		t.Errorf("what was there is gone: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "staging")); err != nil || len(left) > 0 {
		t.Errorf("left in staging: %v, %v", left, err)
	}
}

// TestCloseEndsMends: nothing is fetched or kept any more once the store has been closed.
func TestCloseEndsMends(t *testing.T) {
	b := newBranch(t)
	reached := make(chan struct{})
	m := b.with(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
	}))
	k, path := b.chunk()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	answer := make(chan int)
	go func() { answer <- b.ask(m, "GET", client.PathChunks+k.ID.String(), nil).Code }()
	<-reached
	b.Close()
	if n := m.Fetching(); n != 0 {
		t.Errorf("%d are being fetched", n)
	}
	if code := <-answer; code != http.StatusServiceUnavailable {
		t.Errorf("the client is told %d", code)
	}
	if d, _ := b.Damage(); d.Lost != 0 {
		t.Errorf("what was given up counts as lost: %+v", d)
	}
	if code := b.ask(m, "GET", client.PathChunks+k.ID.String(), nil).Code; code != http.StatusServiceUnavailable {
		t.Errorf("a client that asks later is told %d", code)
	}
}

// TestDescriptionsMendedMeanwhile: of two that find an index damaged, the second leaves what the first has mended.
func TestDescriptionsMendedMeanwhile(t *testing.T) {
	b := newBranch(t)
	path := filepath.Join(b.dir, "indexes", string(b.sums.Index)+".caibx")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, []byte("rotten"))
	_, damage := b.IndexBytes(b.sums.Index)
	if provisioning.CodeOf(damage) != provisioning.CodeCorrupt {
		t.Fatal(damage)
	}
	if _, err := b.c.Index(t.Context(), b.sums); err != nil { // the first
		t.Fatal(err)
	}
	got, err := b.NoticeIndex(b.sums.Index, damage)
	if err != nil || !bytes.Equal(got, whole) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, whole) {
		t.Errorf("it is gone again: %v", err)
	}
	if d, _ := b.Damage(); d.Found != 1 {
		t.Errorf("%+v", d)
	}
}

// TestUnreadableDescriptions: what the disk does not give back is put aside, and looked at again at the next start.
func TestUnreadableDescriptions(t *testing.T) {
	b := newBranch(t)
	index := filepath.Join(b.dir, "indexes", string(b.sums.Index)+".caibx")
	manifest := filepath.Join(b.dir, "manifests", string(b.ref.Manifest)+".json")
	b.up.left.Store(0)
	m := content.NewMender(b.Store, b.up.client())
	b.FailToRead(index, syscall.ENFILE)
	if w := b.ask(m, "GET", client.PathIndexes+string(b.sums.Index), nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("too many open files: %d", w.Code)
	}
	for path, request := range map[string]string{index: client.PathIndexes + string(b.sums.Index), manifest: client.PathManifests + string(b.ref.Manifest)} {
		b.FailToRead(path, syscall.EIO)
		if w := b.ask(m, "GET", request, nil); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%d", w.Code)
		}
	}
	if d, _ := b.Damage(); d != (content.Damage{Found: 2, Lost: 2}) || b.Installed(b.ref) {
		t.Errorf("%+v", d)
	}
	b.Close()
	again, err := content.Open(b.dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !again.Installed(b.ref) {
		t.Error("it has not come back")
	}
}

// TestScrubLooksAtAll: a directory that cannot be read holds up no other, and descriptions are looked at too.
func TestScrubLooksAtAll(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	first := filepath.Join(b.dir, "chunks", "0000") // where it begins
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	write(t, first, []byte("no directory"))
	index, manifest := filepath.Join(b.dir, "indexes", string(b.sums.Index)+".caibx"), filepath.Join(b.dir, "manifests", string(b.ref.Manifest)+".json")
	for _, p := range []string{path, index, manifest} {
		write(t, p, []byte("rotten"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := content.NewMender(b.Store, b.up.client()).ScrubOnce(ctx); err != nil {
		t.Fatal(err)
	}
	if d, _ := b.Damage(); d != (content.Damage{Found: 3}) || b.count(t, "mended_total") != 3 {
		t.Errorf("%+v", d)
	}
	if !b.CheckChunk(k.ID) || !b.Installed(b.ref) {
		t.Error("not all has been mended")
	}
	if n := strings.Count(b.log.String(), "cannot be looked through"); n != 1 {
		t.Errorf("the log says %d times that something could not be looked at:\n%s", n, b.log)
	}
}

// TestNameThatIsNotKept: a version whose name may be gone after a loss of power is none, and leaves nothing. Where it cannot
// be made sure that the name does not come back, it keeps its chunks.
func TestNameThatIsNotKept(t *testing.T) {
	s, dir := newStore(t)
	path := rootTar(t)
	chunks := filepath.Join(dir, "chunks")
	for _, c := range []struct {
		fails int
		kept  bool
	}{{1, false}, {2, true}} {
		s.FailToName(c.fails)
		if _, err := content.Add(t.Context(), s, "root", path, nil); err == nil {
			t.Fatalf("%d failures: added without its name being kept", c.fails)
		}
		if n := len(files(t, chunks)); n > 0 != c.kept {
			t.Errorf("%d failures: %d chunks are left", c.fails, n)
		}
		if refs, err := s.List(); err != nil || len(refs) != 0 {
			t.Errorf("%d failures: %v, %v", c.fails, refs, err)
		}
	}
	if a := add(t, s, "root", path); a.Ref.Version != 1 || !s.Installed(a.Ref) {
		t.Errorf("%+v", a)
	}
}
