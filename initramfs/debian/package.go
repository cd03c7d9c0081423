package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// Package is one binary package that lies verified in the cache.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"` // amd64 or all
	SHA256  string `json:"sha256"`
	// Source and SourceVersion name the source package it was built from, as licences ask for.
	Source        string `json:"source"`
	SourceVersion string `json:"sourceVersion"`
	// Licence is where the copyright file lies inside the package, "" until Root.Tree has unpacked it.
	Licence string `json:"licence,omitempty"`
	// Path is the .deb on the build host.
	Path string `json:"-"`
	// Depends is the Depends field as written.
	Depends string `json:"-"`
}

// candidate is the index's entry of the version that would be installed.
type candidate struct {
	Package
	size string
}

// Fetch returns the named packages in the order asked, downloading those that are not in the cache yet. A package may be
// named NAME or NAME=VERSION. Dependencies are not followed: see Closure.
func (r *Root) Fetch(ctx context.Context, names ...string) ([]Package, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	packages, err := r.fetch(ctx, names)
	if err == nil || ctx.Err() != nil {
		return packages, err
	}
	// The usual reason is a mirror that moved on since the index was read.
	r.log.Warn("packages not fetched, trying again with a new index", "err", err)
	if err2 := r.refresh(ctx, true); err2 != nil {
		return nil, errors.Join(err, err2)
	}
	return r.fetch(ctx, names)
}

func (r *Root) fetch(ctx context.Context, names []string) ([]Package, error) {
	found, err := r.candidates(ctx, names)
	if err != nil {
		return nil, err
	}
	packages := make([]Package, len(found))
	var missing []Package
	for i, c := range found {
		packages[i] = c.Package
		if err := verify(c.Path, c.SHA256); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				r.log.Warn("cached package is fetched anew", "err", err)
			}
			missing = append(missing, c.Package)
		}
	}
	if len(missing) == 0 {
		return packages, nil
	}
	if err := r.download(ctx, missing); err != nil {
		return nil, err
	}
	return packages, nil
}

// candidates asks the index for each name, in order.
func (r *Root) candidates(ctx context.Context, names []string) ([]candidate, error) {
	if len(names) == 0 {
		return nil, nil
	}
	for _, n := range names {
		if n == "" || strings.HasPrefix(n, "-") {
			return nil, fmt.Errorf("%q is not a package name", n)
		}
	}
	out, err := r.run(ctx, "", "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("look up packages: %w", err)
	}
	byName := map[string]candidate{}
	for _, s := range parseStanzas(string(out)) {
		c, err := r.candidate(s)
		if err != nil {
			return nil, err
		}
		if _, ok := byName[c.Name]; !ok {
			byName[c.Name] = c
		}
		byName[c.Name+"="+c.Version] = c
	}
	var found []candidate
	var unknown []string
	for _, n := range names {
		c, ok := byName[n]
		if !ok {
			unknown = append(unknown, n)
			continue
		}
		found = append(found, c)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no such packages in Debian %s: %s", Release, strings.Join(unknown, ", "))
	}
	return found, nil
}

func (r *Root) candidate(s map[string]string) (candidate, error) {
	p := Package{
		Name: s["package"], Version: s["version"], Arch: s["architecture"], SHA256: s["sha256"],
		Source: s["package"], SourceVersion: s["version"],
		Depends: s["depends"],
	}
	if pre := s["pre-depends"]; pre != "" {
		p.Depends = strings.TrimPrefix(p.Depends+", "+pre, ", ")
	}
	if p.Name == "" || p.Version == "" || len(p.SHA256) != sha256.Size*2 {
		return candidate{}, fmt.Errorf("index entry of package %q lacks version or SHA256", p.Name)
	}
	// Source: NAME, or NAME (VERSION) where that differs.
	if source := s["source"]; source != "" {
		name, version, differs := strings.Cut(source, " (")
		p.Source = name
		if differs {
			p.SourceVersion = strings.TrimSuffix(version, ")")
		}
	}
	p.Path = filepath.Join(r.dir, "debs", p.Name+"_"+p.SHA256[:16]+".deb")
	return candidate{Package: p, size: s["size"]}, nil
}

// download fetches packages into the cache, each verified before it appears under its name.
func (r *Root) download(ctx context.Context, packages []Package) error {
	dir, err := os.MkdirTemp(filepath.Join(r.dir, "debs"), ".download-")
	if err != nil {
		return fmt.Errorf("make download directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// apt's download user writes here.
	if err := os.Chmod(dir, 0o777); err != nil {
		return fmt.Errorf("open download directory: %w", err)
	}
	args := []string{"-q", "download"}
	for _, p := range packages {
		r.log.Info("fetching package", "name", p.Name, "version", p.Version)
		args = append(args, p.Name+"="+p.Version)
	}
	if _, err := r.run(ctx, dir, "apt-get", args...); err != nil {
		return fmt.Errorf("fetch packages: %w", err)
	}
	for _, p := range packages {
		got, err := filepath.Glob(filepath.Join(dir, p.Name+"_*.deb"))
		if err != nil || len(got) != 1 {
			return fmt.Errorf("fetch package %s: apt left %d files of it", p.Name, len(got))
		}
		if err := verify(got[0], p.SHA256); err != nil {
			return fmt.Errorf("fetch package %s: %w", p.Name, err)
		}
		if err := os.Rename(got[0], p.Path); err != nil {
			return fmt.Errorf("keep package %s: %w", p.Name, err)
		}
	}
	return nil
}

// verify reads the file and compares its SHA-256, in hexadecimal.
func verify(path, sum string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("%s has SHA-256 %s, the signed index says %s", path, got, sum)
	}
	return nil
}

// Closure returns the names of all packages that an empty system would need for the named ones, these included, sorted.
// Recommended packages are left out. Nothing is downloaded: give the result to Fetch.
func (r *Root) Closure(ctx context.Context, names ...string) ([]string, error) {
	out, err := r.run(ctx, "", "apt-get", append([]string{"-q", "--simulate", "install"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("resolve dependencies: %w", err)
	}
	var closure []string
	for _, line := range strings.Split(string(out), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "Inst" {
			name, _, _ := strings.Cut(fields[1], ":")
			closure = append(closure, name)
		}
	}
	sort.Strings(closure)
	return closure, nil
}

// Kernel fetches the image package that Debian's meta package (such as linux-image-amd64) points at, and returns it with
// the kernel's release, as uname -r prints it.
func (r *Root) Kernel(ctx context.Context, meta string) (Package, string, error) {
	packages, err := r.Fetch(ctx, meta)
	if err != nil {
		return Package{}, "", err
	}
	for _, dep := range strings.Split(packages[0].Depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if release, ok := strings.CutPrefix(name, "linux-image-"); ok {
			images, err := r.Fetch(ctx, name)
			if err != nil {
				return Package{}, "", err
			}
			return images[0], release, nil
		}
	}
	return Package{}, "", fmt.Errorf("package %s depends on no kernel image: %q", meta, packages[0].Depends)
}

// Extract unpacks the package's files below dir, which is made if missing.
func (p Package) Extract(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", p.Path, dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unpack %s: %w: %s", p.Path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Tree returns the directory of the package's unpacked files, kept in the cache by content, with p.Licence filled in.
// Callers must not change it.
func (r *Root) Tree(ctx context.Context, p *Package) (string, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(r.dir, "trees", p.Name+"_"+p.SHA256[:16])
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		tmp, err := os.MkdirTemp(filepath.Join(r.dir, "trees"), ".unpack-")
		if err != nil {
			return "", fmt.Errorf("make unpack directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(tmp) }()
		if err := p.Extract(ctx, tmp); err != nil {
			return "", err
		}
		if err := os.Chmod(tmp, 0o755); err != nil {
			return "", fmt.Errorf("open unpacked package: %w", err)
		}
		if err := os.Rename(tmp, dir); err != nil {
			return "", fmt.Errorf("keep unpacked package: %w", err)
		}
	}
	p.Licence = ""
	doc := filepath.Join("usr/share/doc", p.Name)
	// Packages of one source may share a documentation directory by a symbolic link.
	if target, err := os.Readlink(filepath.Join(dir, doc)); err == nil {
		doc = filepath.Join("usr/share/doc", filepath.Base(target))
	}
	if _, err := os.Stat(filepath.Join(dir, doc, "copyright")); err == nil {
		p.Licence = "/" + doc + "/copyright"
	}
	return dir, nil
}
