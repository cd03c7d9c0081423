package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"branchpoint/initramfs/debian"
)

// licenceDir is where licence texts are in the image.
const licenceDir = "LICENSES"

// licences puts the copyright file of every Debian package used, the licences these refer to, and those of linked
// libraries into the stage. The copyright files that initramfs collected are in build/licences.
func (b *Builder) licences(p *parts, stage string) error {
	texts := map[string][]byte{}
	for _, pkg := range p.packages {
		owner, ok := p.licenceOwner(pkg)
		if !ok {
			return fmt.Errorf("package %s has no copyright file", pkg.Name)
		}
		data, err := os.ReadFile(p.file(owner.Name, owner.Licence))
		if err != nil {
			return fmt.Errorf("read licence of %s: %w", pkg.Name, err)
		}
		texts["debian/"+pkg.Name] = data
	}
	if err := readTexts(texts, "debian/", filepath.Join(b.Build, "licences")); err != nil {
		return err
	}
	if err := readTexts(texts, "common-licenses/", p.file("base-files", "usr/share/common-licenses")); err != nil {
		return err
	}
	for name, data := range b.Licences {
		texts["go/"+name] = data
	}
	return b.writeTexts(texts, filepath.Join(stage, licenceDir))
}

// licenceOwner is the package that holds pkg's copyright file: itself, or another of the same source, which pkg's
// documentation directory is a link to.
func (p *parts) licenceOwner(pkg debian.Package) (debian.Package, bool) {
	if pkg.Licence != "" {
		return pkg, true
	}
	for _, other := range p.packages {
		if other.Source == pkg.Source && other.SourceVersion == pkg.SourceVersion && other.Licence != "" {
			return other, true
		}
	}
	return debian.Package{}, false
}

// readTexts adds the files of a flat directory; a missing one has none.
func readTexts(texts map[string][]byte, prefix, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list licences: %w", err)
	}
	for _, e := range entries {
		// Links are second names of texts that are there already, such as GPL for GPL-3.
		if !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("read licence: %w", err)
		}
		texts[prefix+e.Name()] = data
	}
	return nil
}

// writeTexts stores each distinct text once: names with the same text are links, which xorriso keeps as one extent.
func (b *Builder) writeTexts(texts map[string][]byte, dir string) error {
	names := make([]string, 0, len(texts))
	for name := range texts {
		names = append(names, name)
	}
	sort.Strings(names)
	stored := map[[32]byte]string{}
	for _, name := range names {
		target := filepath.Join(dir, name)
		sum := sha256.Sum256(texts[name])
		first, ok := stored[sum]
		if !ok {
			if err := b.write(target, texts[name]); err != nil {
				return err
			}
			stored[sum] = target
			continue
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := os.Link(first, target); err != nil {
			return fmt.Errorf("store licence %s: %w", name, err)
		}
	}
	return nil
}
