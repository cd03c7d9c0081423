package content_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// commit makes a version of the package "made" of the given pieces and returns its index.
func commit(t *testing.T, s *content.Store, pieces [][]byte) *caibx.Index {
	t.Helper()
	u, err := s.Begin(t.Context(), "made")
	if err != nil {
		t.Fatal(err)
	}
	x := &caibx.Index{}
	for _, p := range pieces {
		x.Chunks = append(x.Chunks, caibx.Chunk{ID: put(t, u, p), Start: x.Size(), Size: len(p)})
	}
	_, err = u.Commit(t.Context(), client.CommitRequest{
		Format: provisioning.FormatDiskImage,
		Files: []provisioning.ManifestFile{{
			Path: "disk.img", Mode: 0o644, Size: x.Size(), SHA256: provisioning.SumSHA256(bytes.Join(pieces, nil)), Index: provisioning.SumSHA256(x.Encode()),
		}},
		Index: x.Encode(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pieces returns n pieces of different sizes and content, the same for the same seed.
func pieces(seed uint64, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 3))
	var all [][]byte
	for i := range n {
		all = append(all, random(seed*1_000_000+uint64(i), 2000+r.IntN(30_000)))
	}
	return all
}

// shuffle makes an image out of the pieces of another: some stay, some go elsewhere, some are new, some are zeros, some
// are there several times.
func shuffle(seed uint64, old [][]byte) [][]byte {
	r := rand.New(rand.NewPCG(seed, 4))
	var all [][]byte
	for i := 0; len(all) < len(old); i++ {
		switch r.IntN(6) {
		case 0:
			all = append(all, random(seed*1_000_000_000+uint64(i), 1000+r.IntN(20_000)))
		case 1:
			all = append(all, make([]byte, 512*(1+r.IntN(512))))
		case 2:
			all = append(all, old[r.IntN(len(old))])
		default: // a run of the old ones
			from := r.IntN(len(old))
			all = append(all, old[from:min(from+1+r.IntN(20), len(old))]...)
		}
	}
	return all
}

// holding makes a target that holds pieces, and is of at least n bytes.
func holding(t *testing.T, pieces [][]byte, n int64) string {
	t.Helper()
	b := bytes.Join(pieces, nil)
	path := write(t, filepath.Join(t.TempDir(), "target"), b)
	if err := os.Truncate(path, max(n, int64(len(b)))); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWriteDiskReuses writes images over others that have much in common with them, in every disorder. What is on the disk
// in its place is not fetched, nor is what there is twice, and whatever was moved, the disk is right at the end.
func TestWriteDiskReuses(t *testing.T) {
	s, _ := newStore(t)
	l := newLine(t, content.NewReadHandler(s, everybody, nil))
	old := pieces(1, 120)
	commit(t, s, old)
	var reused, inPlace int64
	for seed := range uint64(12) {
		wanted := shuffle(seed, old)
		x := commit(t, s, wanted)
		whole := bytes.Join(wanted, nil)
		path := holding(t, old, int64(len(whole)))
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l.chunks.Store(0)
		stats, err := l.client().WriteDisk(t.Context(), openDisk(t, path), x, client.DiskOptions{Verify: true})
		if err != nil {
			t.Fatalf("image %d: %v", seed, err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:len(whole)], whole) {
			t.Fatalf("image %d: the disk is not the image", seed)
		}
		if len(before) > len(whole) && !bytes.Equal(got[len(whole):], before[len(whole):]) {
			t.Errorf("image %d: what lies behind it was changed", seed)
		}
		if stats.Written+stats.Zeroed+stats.Reused != stats.Size {
			t.Errorf("image %d: %+v", seed, stats)
		}
		need := map[caibx.ID]bool{}
		for _, k := range x.Chunks {
			if bytes.Equal(before[k.Start:][:k.Size], whole[k.Start:][:k.Size]) {
				inPlace += int64(k.Size)
			} else if !k.Zero() {
				need[k.ID] = true
			}
		}
		if n := l.chunks.Load(); n > int64(len(need)) {
			t.Errorf("image %d: %d chunks were asked for, %d are not in place", seed, n, len(need))
		}
		reused += stats.Reused
	}
	if reused < inPlace+1<<20 {
		t.Errorf("%d bytes were reused, of which %d were in place: hardly any was moved", reused, inPlace)
	}
}

// TestWriteDiskShifts writes an image whose content has moved altogether, towards the end of the disk and towards its
// beginning: next to nothing is fetched, and nothing of what is still to be moved is overwritten first.
func TestWriteDiskShifts(t *testing.T) {
	s, _ := newStore(t)
	l := newLine(t, content.NewReadHandler(s, everybody, nil))
	body := pieces(2, 400)
	fresh := pieces(3, 10)
	shifted := append(append([][]byte{body[0]}, fresh...), body[1:]...) // the first stays: so the old version is recognised
	a, b := commit(t, s, body), commit(t, s, shifted)
	if _, err := s.Ref("made", 2); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from, to [][]byte
		x        *caibx.Index
		fetch    int64
	}{
		"towards the end":       {body, shifted, b, 10},
		"towards the beginning": {shifted, body, a, 0},
	} {
		path := holding(t, c.from, c.x.Size())
		l.chunks.Store(0)
		stats, err := l.client().WriteDisk(t.Context(), openDisk(t, path), c.x, client.DiskOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[:c.x.Size()], bytes.Join(c.to, nil)) {
			t.Errorf("%s: the disk is not the image: %v", name, err)
		}
		if n := l.chunks.Load(); n != c.fetch {
			t.Errorf("%s: %d chunks were fetched, %d are new: %+v", name, n, c.fetch, stats)
		}
	}
}

// TestWriteDiskReusesAfterCut cuts the line while an older version is changed into a newer one; the rest goes on from
// whatever the disk has become.
func TestWriteDiskReusesAfterCut(t *testing.T) {
	s, _ := newStore(t)
	l := newLine(t, content.NewReadHandler(s, everybody, nil))
	old := pieces(4, 200)
	wanted := shuffle(99, old)
	commit(t, s, old)
	x := commit(t, s, wanted)
	path := holding(t, old, x.Size())
	d := openDisk(t, path)
	tries := 0
	for ; ; tries++ {
		if tries == 50 {
			t.Fatal("it does not come to an end")
		}
		l.left.Store(60_000)
		_, err := l.client().WriteDisk(t.Context(), d, x, client.DiskOptions{Workers: 1})
		if err == nil {
			break
		}
		if provisioning.CodeOf(err) != provisioning.CodeUnavailable {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[:x.Size()], bytes.Join(wanted, nil)) {
		t.Errorf("the disk is not the image: %v", err)
	}
	if tries < 2 {
		t.Errorf("the line was cut %d times", tries)
	}
}
