package main

import (
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// sources is this program itself: a change to it is a change to the recipe.
//
//go:embed *.go
var sources embed.FS

const (
	imageName   = "debian-13.img"
	archiveName = "debian-13-root.tar.zst"
	recordName  = "debian-13.json"
)

// record says what was built, and from what.
type record struct {
	// Key is the checksum of everything that decides the result.
	Key string `json:"key"`
	// Index is the SHA-256 of the archive's InRelease file.
	Index string `json:"index"`
	// Files maps a built file's name to its size and checksum.
	Files map[string]fileRecord `json:"files"`
	// Packages maps a Debian package to its version.
	Packages map[string]string `json:"packages"`
	// TreeBytes is the sum of the sizes of the tree's files.
	TreeBytes int64 `json:"treeBytes"`
}

type fileRecord struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// recipeKey is the checksum of the program, the files it adds, and the package index.
func recipeKey(index packageIndex) string {
	sum := sha256.New()
	for _, tree := range []fs.FS{sources, recipe} {
		var names []string
		err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			panic("osimage: embedded files cannot be listed: " + err.Error())
		}
		sort.Strings(names)
		for _, name := range names {
			data, err := fs.ReadFile(tree, name)
			if err != nil {
				panic("osimage: embedded file cannot be read: " + err.Error())
			}
			fmt.Fprintf(sum, "%s %d\n", name, len(data))
			sum.Write(data)
		}
	}
	io.WriteString(sum, index.hash())
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// upToDate gives the reason to build, or nothing.
func upToDate(out, key string) string {
	data, err := os.ReadFile(filepath.Join(out, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing has been built yet"
	}
	var r record
	if err != nil || json.Unmarshal(data, &r) != nil {
		return "the record of the last build cannot be read"
	}
	if r.Key != key {
		return "the recipe or the package index has changed"
	}
	for _, name := range []string{imageName, archiveName} {
		info, err := os.Stat(filepath.Join(out, name))
		if err != nil || info.Size() != r.Files[name].Size {
			return name + " is not what was built"
		}
	}
	return ""
}

// write stores the record last, so that it only ever describes a complete build.
func (r record) write(out string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	name := filepath.Join(out, recordName)
	if err := os.WriteFile(name+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// describe measures a built file.
func describe(name string) (fileRecord, error) {
	f, err := os.Open(name)
	if err != nil {
		return fileRecord{}, fmt.Errorf("measure built file: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fileRecord{}, fmt.Errorf("measure built file: %w", err)
	}
	return fileRecord{Size: n, SHA256: fmt.Sprintf("%x", sum.Sum(nil))}, nil
}
