package client

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

func chunksOf(plain ...[]byte) []caibx.Chunk {
	var all []caibx.Chunk
	var at int64
	for _, p := range plain {
		all = append(all, caibx.Chunk{ID: caibx.Sum(p), Start: at, Size: len(p)})
		at += int64(len(p))
	}
	return all
}

func TestBatches(t *testing.T) {
	var chunks []caibx.Chunk
	for i := range 500 {
		chunks = append(chunks, caibx.Chunk{Size: 1 + (i*7919)%caibx.MaxChunk})
	}
	for range 100 {
		chunks = append(chunks, caibx.Chunk{Size: 1})
	}
	n := 0
	for _, b := range Batches(chunks) {
		size := 0
		for _, k := range b {
			if k != chunks[n] {
				t.Fatalf("chunk %d is not in its place", n)
			}
			size, n = size+k.Size, n+1
		}
		if len(b) == 0 || len(b) > MaxBatch || size > batchBytes {
			t.Errorf("a batch of %d chunks, %d bytes", len(b), size)
		}
	}
	if n != len(chunks) || len(Batches(nil)) != 0 {
		t.Errorf("%d chunks of %d", n, len(chunks))
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add(EncodeBatch(chunksOf([]byte("a"), []byte("b"))))
	f.Add([]byte{})
	f.Add(make([]byte, 33))
	f.Add(make([]byte, 32*(MaxBatch+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := DecodeBatch(b)
		if err != nil {
			if provisioning.CodeOf(err) != provisioning.CodeInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		var chunks []caibx.Chunk
		for _, id := range ids {
			chunks = append(chunks, caibx.Chunk{ID: id})
		}
		if len(ids) > MaxBatch || !bytes.Equal(EncodeBatch(chunks), b) {
			t.Errorf("%d chunks do not survive", len(ids))
		}
	})
}

// FuzzBatchAnswer answers a request for several chunks with anything: what comes out is right, or an error.
func FuzzBatchAnswer(f *testing.F) {
	plain := [][]byte{bytes.Repeat([]byte("branch"), 100), bytes.Repeat([]byte("central"), 100), []byte("x")}
	chunks := chunksOf(plain...)
	var good []byte
	for _, p := range plain {
		stored := caibx.Compress(p)
		good = append(binary.LittleEndian.AppendUint32(good, uint32(len(stored))), stored...)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(good[:30])
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Add(bytes.Repeat(good, 3))
	f.Fuzz(func(t *testing.T, answer []byte) {
		single := 0
		c := New("http://branch", &http.Client{Transport: transport(func(r *http.Request) *http.Response {
			w := httptest.NewRecorder()
			if r.URL.Path == PathBatch {
				_, _ = w.Write(answer)
				return w.Result()
			}
			single++
			for i, k := range chunks {
				if r.URL.Path == PathChunks+k.ID.String() {
					_, _ = w.Write(caibx.Compress(plain[i]))
				}
			}
			return w.Result()
		})})
		c.Patience = 0
		got := make([][]byte, len(chunks))
		for i := range got {
			got[i] = make([]byte, chunks[i].Size)
		}
		n, _, err := c.plain(t.Context(), chunks, func(i int) []byte { return got[i] })
		if err != nil || n != len(chunks) || single > len(chunks) {
			t.Fatalf("%d chunks, %d by themselves: %v", n, single, err)
		}
		for i := range plain {
			if !bytes.Equal(got[i], plain[i]) {
				t.Errorf("chunk %d is not what its name says", i)
			}
		}
	})
}

type transport func(*http.Request) *http.Response

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// TestPlanMoves has what goes up in one order and what goes down in the other.
func TestPlanMoves(t *testing.T) {
	chunks := chunksOf([]byte("aa"), []byte("bb"), []byte("cc"), []byte("dd"), []byte("ee"))
	at := func(offsets map[int]int64) map[caibx.ID]int64 {
		m := map[caibx.ID]int64{}
		for i, off := range offsets {
			m[chunks[i].ID] = off
		}
		return m
	}
	for _, c := range []struct {
		name    string
		sources map[caibx.ID]int64
		have    []bool
		want    [][]int
	}{
		{"nothing", nil, make([]bool, 5), nil},
		{"in place", at(map[int]int64{0: 0, 1: 100}), []bool{false, true, false, false, false}, nil},
		{"a run down", at(map[int]int64{0: 10, 1: 12, 2: 14}), make([]bool, 5), [][]int{{0, 1, 2}}},
		{"a gap in the source", at(map[int]int64{0: 10, 1: 12, 2: 15}), make([]bool, 5), [][]int{{0, 1}, {2}}},
		{"a gap in the target", at(map[int]int64{0: 10, 1: 12, 2: 14}), []bool{false, true, false, false, false}, [][]int{{0}, {2}}},
		{"up, the last first", at(map[int]int64{2: 1, 4: 3}), make([]bool, 5), [][]int{{4}, {2}}},
		{"both", at(map[int]int64{0: 100, 2: 1, 3: 200, 4: 3}), make([]bool, 5), [][]int{{0}, {3}, {4}, {2}}},
	} {
		var got [][]int
		for _, m := range planMoves(chunks, c.have, c.sources) {
			got = append(got, m.at)
			if m.from != c.sources[m.chunks[0].ID] {
				t.Errorf("%s: from %d", c.name, m.from)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
			continue
		}
		for i := range got {
			if len(got[i]) != len(c.want[i]) || got[i][0] != c.want[i][0] {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	}
}
