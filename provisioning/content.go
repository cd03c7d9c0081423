package provisioning

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"
)

// SHA256 is a SHA-256 sum in lower-case hexadecimal, 64 characters.
type SHA256 string

// SumSHA256 returns the sum of b.
func SumSHA256(b []byte) SHA256 {
	sum := sha256.Sum256(b)
	return SHA256(hex.EncodeToString(sum[:]))
}

var sha256Form = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Valid reports whether s has the form of a SHA-256 sum.
func (s SHA256) Valid() bool { return sha256Form.MatchString(string(s)) }

// Format is what a content package's main file is.
type Format string

// The formats of operating system content.
const (
	// FormatDiskImage is a raw whole-disk image, with partition table and boot loader.
	FormatDiskImage Format = "disk-image"
	// FormatRootFileSystem is an uncompressed tar of a root file system.
	FormatRootFileSystem Format = "root-file-system"
)

// Manifest describes one immutable version of a content package. Its identity is the SHA-256 of its encoding (Encode);
// a signed snapshot names it by that sum, so whoever trusts the snapshot trusts the manifest, its indexes and every chunk.
type Manifest struct {
	// Package is the package's name, Version counts from 1.
	Package string `json:"package"`
	Version int    `json:"version"`
	// Format is what it is.
	Format Format `json:"format"`
	// CreatedAt is when it was added, UTC.
	CreatedAt time.Time `json:"createdAt"`
	// Files are its files; an operating system image has one.
	Files []ManifestFile `json:"files"`
}

// ManifestFile is one file of a content package.
type ManifestFile struct {
	// Path is relative, with slashes, without "..".
	Path string `json:"path"`
	// Mode is the file's permission bits.
	Mode uint32 `json:"mode"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// SHA256 is the sum of the whole file, after decompression.
	SHA256 SHA256 `json:"sha256"`
	// Index is the sum of the file's chunk index (desync's caibx), which is kept beside the chunks under that name.
	Index SHA256 `json:"index"`
}

// Encode returns the manifest's one encoding.
func (m *Manifest) Encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // a Manifest has no field that JSON cannot express
	}
	return b
}

// maxManifest bounds what DecodeManifest reads, in bytes: a package of 100,000 files stays below.
const maxManifest = 64 << 20

// DecodeManifest reads a manifest and checks it against the sum it was asked for by.
func DecodeManifest(b []byte, sum SHA256) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, Errorf(CodeInvalid, "", "a manifest of %d bytes is larger than any real one", len(b))
	}
	if got := SumSHA256(b); got != sum {
		return nil, Errorf(CodeCorrupt, "", "manifest %s has the sum %s", sum, got)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, Errorf(CodeCorrupt, "", "read manifest %s: %w", sum, err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", sum, err)
	}
	return &m, nil
}

// Validate checks the manifest's fields.
func (m *Manifest) Validate() error {
	if err := checkName(m.Package); err != nil {
		return Errorf(CodeInvalid, "", "package %w", err)
	}
	if m.Version < 1 {
		return Errorf(CodeInvalid, "", "package %s: version %d is below 1", m.Package, m.Version)
	}
	if m.Format != FormatDiskImage && m.Format != FormatRootFileSystem {
		return Errorf(CodeInvalid, "", "package %s: unknown format %q", m.Package, m.Format)
	}
	if len(m.Files) != 1 {
		return Errorf(CodeInvalid, "", "package %s: an operating system image has one file, not %d", m.Package, len(m.Files))
	}
	for _, f := range m.Files {
		if f.Size <= 0 || !f.SHA256.Valid() || !f.Index.Valid() || f.Path == "" {
			return Errorf(CodeInvalid, "", "package %s: file %q is described incompletely", m.Package, clip(f.Path))
		}
	}
	return nil
}

// ContentRef names one version of a content package and the manifest that describes it.
type ContentRef struct {
	Package  string `json:"package"`
	Version  int    `json:"version"`
	Format   Format `json:"format"`
	Manifest SHA256 `json:"manifest"`
	// Size is the sum of its files' sizes in bytes.
	Size int64 `json:"size"`
}
