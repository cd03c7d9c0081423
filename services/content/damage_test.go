package content_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// branchStore is a store at a branch that has what central has, with a line to central.
type branchStore struct {
	*content.Store
	dir     string
	log     *bytes.Buffer
	metrics *prometheus.Registry
	up      *line
	c       *client.Client
	ref     provisioning.ContentRef
	index   *caibx.Index
	sums    provisioning.ManifestFile
}

func newBranch(t *testing.T) *branchStore {
	t.Helper()
	central, _ := newStore(t)
	b := &branchStore{dir: filepath.Join(t.TempDir(), "store"), log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	b.ref = add(t, central, "root", rootTar(t)).Ref
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(locked{&mu, b.log}, nil))
	var err error
	if b.Store, err = content.Open(b.dir, log, content.Metrics(b.metrics)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	b.up = newLine(t, content.NewReadHandler(central, everybody, nil))
	b.sync(t)
	srv := httptest.NewServer(content.NewReadHandler(b.Store, everybody, content.NewMender(b.Store, b.up.client())))
	t.Cleanup(srv.Close)
	b.c = client.New(srv.URL, nil)
	b.c.Patience = 0
	m, err := b.Manifest(b.ref.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	b.sums = m.Files[0]
	if b.index, err = b.Index(b.sums.Index); err != nil {
		t.Fatal(err)
	}
	b.up.requests.Store(0)
	b.up.chunks.Store(0)
	return b
}

func (b *branchStore) sync(t *testing.T) {
	t.Helper()
	if err := content.Sync(t.Context(), b.Store, b.up.client(), []provisioning.ContentRef{b.ref}, content.SyncOptions{Log: quiet}); err != nil {
		t.Fatal(err)
	}
}

// chunk returns a chunk in the middle of the package with its file.
func (b *branchStore) chunk() (caibx.Chunk, string) {
	k := b.index.Chunks[len(b.index.Chunks)/2]
	return k, b.file(k)
}

func (b *branchStore) file(k caibx.Chunk) string {
	return filepath.Join(b.dir, "chunks", k.ID.String()[:4], k.ID.String()+".cacnk")
}

// count returns the sum of a metric over its labels.
func (b *branchStore) count(t *testing.T, name string) float64 {
	t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "branchpoint_content_"+name {
			n := 0.0
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
			return n
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// damages are what can happen to a file on a disk.
var damages = map[string]func(b []byte) []byte{
	"a flipped bit":             func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
	"a flipped bit at the end":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	"a flipped bit at its head": func(b []byte) []byte { b[0] ^= 0x80; return b },
	"cut off":                   func(b []byte) []byte { return b[:len(b)/2] },
	"without its last byte":     func(b []byte) []byte { return b[:len(b)-1] },
	"without its checksum":      func(b []byte) []byte { b = b[:len(b)-16]; b[len(b)/2] ^= 4; return b },
	"zeros":                     func(b []byte) []byte { clear(b); return b },
	"zeros at the end":          func(b []byte) []byte { clear(b[len(b)/2:]); return b },
	"empty":                     func([]byte) []byte { return nil },
	"longer":                    func(b []byte) []byte { return append(b, 0) },
	"a megabyte longer":         func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
}

// TestBitRot damages a chunk at the branch in every way: it comes right from upstream, to whoever asks for it.
func TestBitRot(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(b.file(b.index.Chunks[0]))
	if err != nil {
		t.Fatal(err)
	}
	want, err := b.Chunk(k, nil)
	if err != nil {
		t.Fatal(err)
	}
	damages := damages
	damages["another chunk"] = func([]byte) []byte { return other }
	rounds := 0.0
	for name, damage := range damages {
		rounds++
		write(t, path, damage(bytes.Clone(good)))
		for range 2 {
			got, err := b.c.Chunk(t.Context(), k, nil)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s: the file has not been mended: %v", name, err)
		}
		if n := b.up.chunks.Load(); n != int64(rounds) {
			t.Errorf("%s: upstream was asked for %d chunks after %v were damaged", name, n, rounds)
		}
	}
	if d, m := b.count(t, "damaged_total"), b.count(t, "mended_total"); d != rounds || m != rounds {
		t.Errorf("%v damages, %v found, %v mended", rounds, d, m)
	}
	if n := strings.Count(b.log.String(), "is damaged and is taken out"); n != int(rounds) {
		t.Errorf("%d lines of the log for %v damages", n, rounds)
	}
	if d, _ := b.Damage(); d.Found != int(rounds) || d.Lost != 0 {
		t.Errorf("%+v", d)
	}
	// The client never saw any of it: it did not ask a second time.
	if n := b.count(t, "chunks_served_total"); n != 2*rounds {
		t.Errorf("%v chunks were served to %v requests", n, 2*rounds)
	}
}

// TestBitRotWithoutUpstream has nobody to get the chunk from: the client is told so, and what the chunk belongs to is not
// installed until it has come.
func TestBitRotWithoutUpstream(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	write(t, path, []byte("rotten"))
	b.up.left.Store(0)
	_, news := b.Damage()
	for range 5 {
		_, err := b.c.Chunk(t.Context(), k, nil)
		if provisioning.CodeOf(err) != provisioning.CodeUnavailable || provisioning.NextOf(err) == "" || !strings.Contains(err.Error(), "cannot be had from upstream") {
			t.Fatalf("%v", err)
		}
	}
	select {
	case <-news:
	default:
		t.Error("nobody is told of the loss")
	}
	if d, _ := b.Damage(); d != (content.Damage{Found: 1, Lost: 1}) || b.count(t, "lost") != 1 || b.count(t, "mend_failures_total") != 5 {
		t.Errorf("%+v", d)
	}
	if b.Installed(b.ref) {
		t.Error("installed without one of its chunks")
	}
	if n := strings.Count(b.log.String(), k.ID.String()); n != 2+1 { // found (its error names it again), and lost
		t.Errorf("the log names the chunk %d times:\n%s", n, b.log)
	}
	b.up.left.Store(uncut)
	b.sync(t)
	if d, _ := b.Damage(); d.Lost != 0 || !b.Installed(b.ref) || b.up.chunks.Load() != 5+1 {
		t.Errorf("after another sync: %+v, %d requests", d, b.up.chunks.Load())
	}
	if err := b.Verify(t.Context(), b.ref, nil); err != nil {
		t.Error(err)
	}
}

// TestBitRotEverywhere damages every file of a store while computers are served from it: each comes right.
func TestBitRotEverywhere(t *testing.T) {
	b := newBranch(t)
	zeros := map[string]bool{} // nobody asks for them
	for _, k := range b.index.Chunks {
		zeros[b.file(k)] = k.Zero()
	}
	n := 0
	for name := range files(t, b.dir) {
		if strings.HasPrefix(name, "packages") || zeros[filepath.Join(b.dir, name)] {
			continue
		}
		path := filepath.Join(b.dir, name)
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		old[len(old)/2] ^= 1
		write(t, path, old)
		n++
	}
	m, err := b.c.Manifest(t.Context(), b.ref.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	x, err := b.c.Index(t.Context(), m.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			path := filepath.Join(t.TempDir(), "target")
			if err := os.WriteFile(path, make([]byte, x.Size()), 0o600); err != nil {
				t.Error(err)
				return
			}
			d, err := client.OpenDisk(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if _, err := b.c.WriteDisk(t.Context(), d, x, client.DiskOptions{Verify: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if d := b.count(t, "damaged_total"); d != float64(n) {
		t.Errorf("%d files were damaged, %v found", n, d)
	}
	if asked := b.up.chunks.Load(); asked != int64(n-2) {
		t.Errorf("%d chunks were damaged, upstream was asked for %d", n-2, asked)
	}
	if err := b.Verify(t.Context(), b.ref, nil); err != nil {
		t.Error(err)
	}
	if !b.Installed(b.ref) {
		t.Error("not installed")
	}
}

// TestMissingFiles loses files altogether.
func TestMissingFiles(t *testing.T) {
	b := newBranch(t)
	k, path := b.chunk()
	for _, p := range []string{
		path, filepath.Join(b.dir, "indexes", string(b.sums.Index)+".caibx"), filepath.Join(b.dir, "manifests", string(b.ref.Manifest)+".json"),
	} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	b.up.left.Store(0)
	if _, err := b.c.Manifest(t.Context(), b.ref.Manifest); provisioning.CodeOf(err) != provisioning.CodeUnavailable {
		t.Errorf("%v", err)
	}
	b.up.left.Store(uncut)
	if _, err := b.c.Manifest(t.Context(), b.ref.Manifest); err != nil {
		t.Error(err)
	}
	if _, err := b.c.Index(t.Context(), b.sums); err != nil {
		t.Error(err)
	}
	if _, err := b.c.Chunk(t.Context(), k, nil); err != nil {
		t.Error(err)
	}
	// What never was is not to be had.
	for _, p := range []string{client.PathChunks + caibx.Sum([]byte("x")).String(), client.PathManifests + strings.Repeat("0", 64), client.PathIndexes + strings.Repeat("0", 64)} {
		w := httptest.NewRecorder()
		content.NewReadHandler(b.Store, everybody, content.NewMender(b.Store, b.up.client())).ServeHTTP(w, httptest.NewRequest("GET", p, nil))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
	if d, _ := b.Damage(); d != (content.Damage{}) {
		t.Errorf("%+v", d)
	}
}

// TestSyncNoticesDamage has a damaged chunk that another version shares: it does not become part of that.
func TestSyncNoticesDamage(t *testing.T) {
	b := newBranch(t)
	_, path := b.chunk()
	write(t, path, []byte("rotten"))
	write(t, filepath.Join(b.dir, "packages", "root", "1"), []byte("rotten\n"))
	if b.Installed(b.ref) {
		t.Error("installed without its name")
	}
	b.sync(t)
	if err := b.Verify(t.Context(), b.ref, nil); err != nil {
		t.Error(err)
	}
	if b.up.chunks.Load() != 1 || b.up.requests.Load() != 1 || !b.Installed(b.ref) {
		t.Errorf("%d chunks in %d requests", b.up.chunks.Load(), b.up.requests.Load())
	}
}
