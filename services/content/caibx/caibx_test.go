package caibx_test

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/folbricht/desync"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

func sample(n int) *caibx.Index {
	x := &caibx.Index{}
	var at int64
	for i := range n {
		b := bytes.Repeat([]byte{byte(i)}, 1000+i*17)
		x.Chunks = append(x.Chunks, caibx.Chunk{ID: caibx.Sum(b), Start: at, Size: len(b)})
		at += int64(len(b))
	}
	return x
}

// TestIndexIsDesyncs lets desync read our index and us read desync's.
func TestIndexIsDesyncs(t *testing.T) {
	want := sample(50)
	theirs, err := desync.IndexFromReader(bytes.NewReader(want.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if len(theirs.Chunks) != 50 || theirs.Length() != want.Size() {
		t.Fatalf("desync reads %d chunks, %d bytes", len(theirs.Chunks), theirs.Length())
	}
	for i, c := range theirs.Chunks {
		if caibx.ID(c.ID) != want.Chunks[i].ID || int64(c.Start) != want.Chunks[i].Start || int(c.Size) != want.Chunks[i].Size {
			t.Fatalf("chunk %d: desync reads %v", i, c)
		}
	}
	var b bytes.Buffer
	if _, err := theirs.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want.Encode()) {
		t.Error("desync writes the same index with other bytes")
	}
	got, err := caibx.Decode(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("the index read back differs")
	}
}

// TestChunkIsDesyncs lets desync read our chunk and us read desync's.
func TestChunkIsDesyncs(t *testing.T) {
	plain := make([]byte, 100_000)
	for i := range plain {
		plain[i] = byte(rand.IntN(7))
	}
	id := caibx.Sum(plain)
	c, err := desync.NewChunkFromStorage(desync.ChunkID(id), caibx.Compress(plain), desync.Converters{desync.Compressor{}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Data(); err != nil || !bytes.Equal(b, plain) {
		t.Fatalf("desync reads something else (%v)", err)
	}
	theirs, err := desync.Compress(plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := caibx.Open(id, len(plain), theirs, nil)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("read desync's chunk: %v", err)
	}
	if n, ok := caibx.StoredSize(caibx.Compress(plain)[:caibx.HeaderLength]); !ok || n != len(plain) {
		t.Errorf("StoredSize says %d, %v", n, ok)
	}
}

func TestOpenRefuses(t *testing.T) {
	plain := bytes.Repeat([]byte("branch"), 10_000)
	stored, id := caibx.Compress(plain), caibx.Sum(plain)
	bomb := caibx.Compress(make([]byte, 64<<20))
	flipped := bytes.Clone(stored)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		id     caibx.ID
		size   int
		stored []byte
	}{
		"other name":  {caibx.Sum([]byte("x")), len(plain), stored},
		"flipped bit": {id, len(plain), flipped},
		"cut off":     {id, len(plain), stored[:len(stored)-5]},
		"empty":       {id, len(plain), nil},
		"not zstd":    {id, len(plain), plain[:1000]},
		"smaller":     {id, len(plain) + 1, stored},
		"larger":      {id, len(plain) - 1, stored},
		"bomb":        {caibx.Sum(make([]byte, 64<<20)), 0, bomb},
		"huge":        {id, 0, make([]byte, caibx.MaxStored+1)},
	} {
		if _, err := caibx.Open(c.id, c.size, c.stored, nil); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := sample(3).Encode()
	at := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for name, b := range map[string][]byte{
		"empty":             nil,
		"cut off":           good[:len(good)-1],
		"cut at an item":    good[:len(good)-40],
		"longer":            append(bytes.Clone(good), make([]byte, 40)...),
		"other header":      at(8, 0),
		"SHA-256":           at(23, 0x80),
		"giant chunks":      at(44, 1),
		"no table":          at(56, 0),
		"descending offset": at(64+40+1, 0),
		"giant offset":      at(64+7, 0xff),
		"no marker":         at(len(good)-1, 0),
	} {
		if _, err := caibx.Decode(b); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestZero(t *testing.T) {
	for _, n := range []int{512, 4096, caibx.MaxChunk} {
		if c := (caibx.Chunk{ID: caibx.Sum(make([]byte, n)), Size: n}); !c.Zero() {
			t.Errorf("%d zeros are not seen as zeros", n)
		}
	}
	if c := (caibx.Chunk{ID: caibx.Sum([]byte{1}), Size: 512}); c.Zero() {
		t.Error("a chunk that holds something is seen as zeros")
	}
	b := make([]byte, 3*caibx.MaxChunk)
	if !caibx.IsZero(b) {
		t.Error("zeros are not seen")
	}
	b[len(b)-1] = 1
	if caibx.IsZero(b) {
		t.Error("the last byte is not looked at")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample(0).Encode())
	f.Add(sample(3).Encode())
	f.Add(sample(3).Encode()[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := caibx.Decode(b)
		if err != nil {
			return
		}
		again, err := caibx.Decode(x.Encode())
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Errorf("%v does not survive: %v", x, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	plain := bytes.Repeat([]byte("branch"), 1000)
	f.Add(caibx.Compress(plain), 0)
	f.Add(caibx.Compress(plain), len(plain))
	f.Add([]byte("(\xb5/\xfd"), 5)
	f.Fuzz(func(t *testing.T, stored []byte, size int) {
		if size > caibx.MaxChunk {
			return
		}
		if b, err := caibx.Open(caibx.Sum(plain), size, stored, nil); err == nil && !bytes.Equal(b, plain) {
			t.Error("accepted other bytes")
		}
		caibx.StoredSize(stored)
	})
}
