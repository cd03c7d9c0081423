package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// buildDir is where `make image` puts things, seen from this package.
const buildDir = "../../build"

// TestPersonaliseRealImage changes site.yaml in a copy of the image that `make image` made, and reads it with other
// people's programs: xorriso for ISO 9660, mtools for FAT.
func TestPersonaliseRealImage(t *testing.T) {
	made := filepath.Join(buildDir, "branchpoint.img")
	if _, err := os.Stat(made); err != nil {
		t.Skip("there is no build/branchpoint.img yet: make image")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "oslo.img")
	if out, err := exec.Command("cp", "--sparse=always", made, name).CombinedOutput(); err != nil {
		t.Fatalf("copy image: %v\n%s", err, out)
	}
	site := []byte("apiVersion: branchpoint/v1\nkind: Appliance\nspec:\n  site: oslo\n")
	started := time.Now()
	if err := Personalise(context.Background(), name, site); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("personalisation took %s", took)
	}
	want, err := pad(site)
	if err != nil {
		t.Fatal(err)
	}

	iso := filepath.Join(dir, "iso.yaml")
	if out, err := exec.Command("xorriso", "-osirrox", "on", "-indev", name, "-extract", "/site.yaml", iso).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	if got, err := os.ReadFile(iso); err != nil || !bytes.Equal(got, want) {
		t.Errorf("xorriso reads another site.yaml (%v):\n%.200s", err, got)
	}

	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part, err := findESP(f)
	if err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(dir, "esp")
	e, err := os.Create(esp)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(e, io.NewSectionReader(f, part.offset, part.size)); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("mtype", "-i", esp, "::/site.yaml").Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("mtools reads another site.yaml (%v):\n%.200s", err, got)
	}
}

// TestSameInputsSameBytes makes an image twice, from Debian's real loaders and small files in place of the layers.
func TestSameInputsSameBytes(t *testing.T) {
	cache, err := filepath.Abs(filepath.Join(buildDir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, "debian", "trees")); err != nil {
		t.Skip("Debian's packages have not been fetched yet: make image")
	}
	var sums [2][32]byte
	for i := range sums {
		build := t.TempDir()
		if err := os.Symlink(cache, filepath.Join(build, "cache")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(build, "boot"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range bootFiles {
			if err := os.WriteFile(filepath.Join(build, "boot", name), []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		b := Builder{
			Build: build, Version: "1.2.3", SiteYAML: []byte("site: a\n"), Time: time.Unix(1790000000, 0).UTC(),
			Licences: map[string][]byte{"m": []byte("text"), "n": []byte("text")}, Log: slog.New(slog.DiscardHandler),
		}
		name, err := b.Image(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if closeErr := f.Close(); err != nil || closeErr != nil {
			t.Fatal(err, closeErr)
		}
		sum.Sum(sums[i][:0])
	}
	if sums[0] != sums[1] {
		t.Error("two builds of the same inputs differ")
	}
}

func TestImageNeedsItsLayers(t *testing.T) {
	b := Builder{Build: t.TempDir(), Time: time.Unix(1790000000, 0), Log: slog.New(slog.DiscardHandler)}
	_, err := b.Image(context.Background())
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("appliance.cpio.zst is missing")) {
		t.Errorf("error %v", err)
	}
}
