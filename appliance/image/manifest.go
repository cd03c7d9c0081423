package image

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"branchpoint/initramfs/debian"
)

// Manifest is /manifest.json in the image: what it was made of.
type Manifest struct {
	// Version is the product's.
	Version string `json:"version"`
	// Time is the date that every file in the image has.
	Time time.Time `json:"time"`
	// Files maps a path in the image to its size in bytes and SHA-256.
	Files map[string]ManifestFile `json:"files"`
	// Debian lists the packages that each part holds files of.
	Debian debian.Manifest `json:"debian"`
}

// ManifestFile identifies one file's content.
type ManifestFile struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func newManifest(version string, t time.Time) *Manifest {
	return &Manifest{Version: version, Time: t.UTC(), Files: map[string]ManifestFile{}}
}

// place copies a file into the stage and records it.
func (m *Manifest) place(stage, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(from), err)
	}
	defer f.Close()
	target := filepath.Join(stage, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), f)
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	m.Files[name] = ManifestFile{Size: n, SHA256: fmt.Sprintf("%x", sum.Sum(nil))}
	return nil
}

// encode adds the packages that the builders recorded, and gives the text.
func (m *Manifest) encode(packages string) ([]byte, error) {
	data, err := os.ReadFile(packages)
	if err != nil {
		return nil, fmt.Errorf("read package manifest: %w", err)
	}
	if err := json.Unmarshal(data, &m.Debian); err != nil {
		return nil, fmt.Errorf("read package manifest %s: %w", packages, err)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(text, '\n'), nil
}
