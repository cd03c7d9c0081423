package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const isoSite, espSite = "site: iso\n", "site: esp\n"

func smallImage(t testing.TB) []byte {
	t.Helper()
	iso, err := pad([]byte(isoSite))
	if err != nil {
		t.Fatal(err)
	}
	esp, err := pad([]byte(espSite))
	if err != nil {
		t.Fatal(err)
	}
	return small(iso, esp)
}

func store(t *testing.T, image []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "branchpoint.img")
	if err := os.WriteFile(name, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestSiteYAML(t *testing.T) {
	sites, err := SiteYAML(bytes.NewReader(smallImage(t)))
	if err != nil {
		t.Fatal(err)
	}
	if string(sites.ISO) != isoSite || string(sites.ESP) != espSite {
		t.Errorf("read %q and %q", sites.ISO, sites.ESP)
	}
}

func TestPersonalise(t *testing.T) {
	before := smallImage(t)
	name := store(t, before)
	// Longest first: what a shorter one leaves behind would show.
	for _, site := range []string{strings.Repeat("x", MaxSiteYAML), "site: oslo\n", ""} {
		if err := Personalise(context.Background(), name, []byte(site)); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sites, err := SiteYAML(bytes.NewReader(after))
		if err != nil {
			t.Fatal(err)
		}
		if string(sites.ISO) != site || string(sites.ESP) != site {
			t.Fatalf("wrote %d bytes, read %d and %d", len(site), len(sites.ISO), len(sites.ESP))
		}
		// Nothing but the two copies has changed.
		p, err := locate(bytes.NewReader(before))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range append(p.iso, p.esp...) {
			copy(after[e.offset:e.offset+e.size], before[e.offset:])
		}
		if !bytes.Equal(after, before) {
			t.Fatal("something besides site.yaml was changed")
		}
	}
}

func TestPersonaliseTakesPaddedContent(t *testing.T) {
	name := store(t, smallImage(t))
	padded, err := pad([]byte("site: a\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Personalise(context.Background(), name, padded); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if sites, err := SiteYAML(f); err != nil || string(sites.ESP) != "site: a\n" {
		t.Errorf("%q, %v", sites.ESP, err)
	}
}

func TestPersonaliseRefuses(t *testing.T) {
	good := smallImage(t)
	change := func(at int64, b ...byte) func([]byte) { return func(image []byte) { copy(image[at:], b) } }
	const esp = 128 * sectorSize
	for name, c := range map[string]struct {
		damage func([]byte)
		site   []byte
		want   error
	}{
		"too large":          {nil, bytes.Repeat([]byte{'x'}, MaxSiteYAML+1), ErrTooLarge},
		"other volume":       {change(16*isoBlock+40, 'D'), []byte("x"), ErrNotImage},
		"no ISO 9660":        {change(16*isoBlock+1, 'X'), []byte("x"), ErrNotImage},
		"no partition table": {change(sectorSize, 'X'), []byte("x"), ErrNotImage},
		"table checksum":     {change(sectorSize+72, 9), []byte("x"), ErrNotImage},
		"no ESP":             {change(2*sectorSize+128, 0), []byte("x"), ErrNotImage},
		"no FAT":             {change(esp+510, 0), []byte("x"), ErrNotImage},
		"other label":        {change(esp+6*sectorSize, 'X'), []byte("x"), ErrNotImage},
		"ISO copy cut":       {change(18*isoBlock+34*2+38+10, 0, 1), []byte("x"), ErrNotImage},
		"chain leaves disk":  {change(esp+4*sectorSize+5*4, 0xff, 0xff, 0), []byte("x"), ErrNotImage},
		"chain ends early":   {change(esp+4*sectorSize+5*4, 0xff, 0xff, 0xff, 0x0f), []byte("x"), ErrNotImage},
		"zero byte":          {nil, []byte{'a', 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			image := bytes.Clone(good)
			if c.damage != nil {
				c.damage(image)
			}
			file := store(t, image)
			err := Personalise(context.Background(), file, c.site)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(after, image) {
				t.Error("the file was changed")
			}
		})
	}
}

// TestLoopingChain gives a root directory that leads back to itself.
func TestLoopingChain(t *testing.T) {
	image := smallImage(t)
	fat := image[(128+4)*sectorSize:]
	binary.LittleEndian.PutUint32(fat[90*4:], 2)
	copy(image[(128+6+88)*sectorSize:], bytes.Repeat([]byte{0xe5}, sectorSize))
	if _, err := SiteYAML(bytes.NewReader(image)); !errors.Is(err, ErrNotImage) {
		t.Errorf("error %v", err)
	}
}

func TestTruncatedImages(t *testing.T) {
	image := smallImage(t)
	for n := 0; n < len(image)-sectorSize*2; n += 509 {
		if _, err := SiteYAML(bytes.NewReader(image[:n])); n < 130*sectorSize && err == nil {
			t.Fatalf("%d bytes: no error", n)
		}
	}
}

func FuzzSiteYAML(f *testing.F) {
	image := smallImage(f)
	f.Add(uint32(0), []byte{})
	for _, at := range []uint32{16*isoBlock + 156, 18 * isoBlock, sectorSize + 72, 2*sectorSize + 128, 128*sectorSize + 11, 132*sectorSize + 8, 134 * sectorSize, 134*sectorSize + 480} {
		f.Add(at, []byte{0xff, 0xff, 0xff, 0xff})
		f.Add(at, bytes.Repeat([]byte{0x01}, 64))
	}
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		damaged := bytes.Clone(image)
		copy(damaged[at%uint32(len(damaged)):], change)
		// The checksum guards the partition table's header: set it right, or nothing behind it is ever reached.
		fixHeader(damaged)
		sites, err := SiteYAML(counted{bytes.NewReader(damaged), new(int), t})
		if err != nil && !errors.Is(err, ErrNotImage) {
			t.Errorf("an error that does not say what the file is: %v", err)
		}
		if len(sites.ISO) > SiteYAMLSize || len(sites.ESP) > SiteYAMLSize {
			t.Error("more than fits was read")
		}
	})
}

// counted fails the test when a damaged image makes the parser read without end.
type counted struct {
	r     io.ReaderAt
	reads *int
	t     *testing.T
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	if *c.reads++; *c.reads > 20000 {
		c.t.Fatal("the parser reads without end")
	}
	return c.r.ReadAt(p, off)
}
