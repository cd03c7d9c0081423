// Package content keeps operating systems as chunks: adding them, serving them over HTTP, and bringing them from central
// to a branch. A store is a directory:
//
//	chunks/XXXX/ID.cacnk      a chunk, zstd, named by SHA-512/256 of what it holds (desync's local store), and a checksum
//	indexes/SHA256.caibx      which chunks make a file
//	manifests/SHA256.json     what a package version is (provisioning.Manifest)
//	packages/NAME/VERSION     the sum of its manifest; written last, so that what stands here is complete
//	staging/                  what is on its way in; emptied by Open
//	damaged/                  what could not be read; looked at again by Open
//	lock                      held by the program that uses the store
//
// What has a name outside of staging was on the disk, whole, before it got that name: a loss of power leaves nothing
// that looks like more than it is.
package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// Store is an opened store. It may be used by many goroutines.
type Store struct {
	dir     string
	log     *slog.Logger
	lock    *os.File
	metrics *metrics
	open    func(path string) (fs.File, error) // opens files
	syncDir func(path string) error            // syncDirectory

	mu      sync.Mutex // packages, uploads and the moving of chunks into the store
	uploads map[string]*upload

	lossMu  sync.Mutex
	lost    map[string]bool // damaged or missing, by kind and name, and not to be had upstream
	found   int             // how much was found damaged
	changed chan struct{}   // closed when lost or found changes

	namesMu sync.Mutex
	known   *names                       // nil where they have to be read
	awaited map[provisioning.SHA256]bool // manifests of versions that are not here in full yet

	lifeMu sync.Mutex // that nothing begins once it has ended
	life   context.Context
	end    context.CancelFunc
	work   sync.WaitGroup // what goes on by itself
}

// Option changes how a store is opened.
type Option func(*Store)

// Metrics makes a store count at reg; nil is nowhere.
func Metrics(reg prometheus.Registerer) Option {
	return func(s *Store) { s.metrics = newMetrics(reg) }
}

// Open opens the store in dir, which is made if need be, and drops what earlier programs left half-done in it. A store
// that another program has opened is an error with CodeConflict.
func Open(dir string, log *slog.Logger, options ...Option) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, storeError(dir, fmt.Errorf("make the content store: %w", err))
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, storeError(dir, fmt.Errorf("lock the content store: %w", err))
	}
	s := &Store{
		dir: dir, log: log, lock: lock, open: openFile, syncDir: syncDirectory, uploads: map[string]*upload{}, metrics: newMetrics(nil),
		lost: map[string]bool{}, changed: make(chan struct{}), awaited: map[provisioning.SHA256]bool{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	for _, o := range options {
		o(s)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		s.Close()
		return nil, provisioning.Errorf(provisioning.CodeConflict, "stop the other program, or give it the content by its address", "another program uses the content store %s", dir)
	}
	if err := os.RemoveAll(s.path("staging")); err != nil {
		s.Close()
		return nil, storeError(dir, fmt.Errorf("clear the content store: %w", err))
	}
	for _, d := range []string{"chunks", "indexes", "manifests", "packages", "staging", "damaged"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			s.Close()
			return nil, storeError(dir, fmt.Errorf("make the content store: %w", err))
		}
	}
	if err := s.recall(); err != nil {
		s.Close()
		return nil, storeError(dir, err)
	}
	return s, nil
}

// Close ends what goes on in the store by itself, and lets other programs open it.
func (s *Store) Close() {
	s.lifeMu.Lock()
	s.end()
	s.lifeMu.Unlock()
	s.work.Wait()
	_ = s.lock.Close()
}

// beginWork notes that something goes on by itself, until done is called; ctx ends when the store is closed.
func (s *Store) beginWork() (ctx context.Context, done func(), err error) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.life.Err() != nil {
		return nil, nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "the content store is being closed")
	}
	s.work.Add(1)
	return s.life, s.work.Done, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// storeError gives an error of the store's disk its code and next step.
func storeError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return provisioning.Errorf(provisioning.CodeNoSpace, "make room on the disk that holds "+dir+", then try again; nothing was kept of this try", "the content store is full: %w", err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, os.ErrPermission):
		return provisioning.Errorf(provisioning.CodeForbidden, "let this user write to "+dir, "the content store cannot be written: %w", err)
	}
	return err
}

// described returns the path, in the store, of an index or a manifest with the given sum.
func described(kind string, sum provisioning.SHA256) []string {
	if kind == kindIndex {
		return []string{"indexes", string(sum) + ".caibx"}
	}
	return []string{"manifests", string(sum) + ".json"}
}

// read reads an index or a manifest, checked.
func (s *Store) read(kind string, sum provisioning.SHA256) ([]byte, error) {
	if !sum.Valid() {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "a sum is 64 lower-case hexadecimal digits")
	}
	b, err := s.readFile(s.path(described(kind, sum)...))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no %s %s", kind, sum)
	case unreadable(err):
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "check the disk", "read %s %s: %w", kind, sum, err)
	case err != nil:
		return nil, notNow(fmt.Errorf("read %s %s: %w", kind, sum, err))
	}
	if got := provisioning.SumSHA256(b); got != sum {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "check the disk", "%s %s has the sum %s", kind, sum, got)
	}
	return b, nil
}

func (s *Store) readFile(path string) ([]byte, error) {
	f, err := s.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// ManifestBytes returns a manifest's encoding, checked.
func (s *Store) ManifestBytes(sum provisioning.SHA256) ([]byte, error) {
	return s.read(kindManifest, sum)
}

// Manifest returns a manifest.
func (s *Store) Manifest(sum provisioning.SHA256) (*provisioning.Manifest, error) {
	b, err := s.ManifestBytes(sum)
	if err != nil {
		return nil, err
	}
	return provisioning.DecodeManifest(b, sum)
}

// IndexBytes returns a chunk index's encoding, checked.
func (s *Store) IndexBytes(sum provisioning.SHA256) ([]byte, error) { return s.read(kindIndex, sum) }

// Index returns a chunk index.
func (s *Store) Index(sum provisioning.SHA256) (*caibx.Index, error) {
	b, err := s.IndexBytes(sum)
	if err != nil {
		return nil, err
	}
	return caibx.Decode(b)
}

// List returns all versions of all packages, by name and version, but for those whose description is damaged, which the
// log names.
func (s *Store) List() ([]provisioning.ContentRef, error) {
	names, err := os.ReadDir(s.path("packages"))
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", err)
	}
	refs := []provisioning.ContentRef{}
	for _, n := range names {
		versions, err := s.versions(n.Name())
		if err != nil {
			return nil, err
		}
		for _, v := range versions {
			ref, err := s.Ref(n.Name(), v)
			if damaged(err) {
				s.log.Error("a content package is damaged and is left out; add it again", "package", n.Name(), "version", v, "error", err)
				continue
			}
			if err != nil {
				return nil, err
			}
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

// versions returns a package's versions, ascending.
func (s *Store) versions(name string) ([]int, error) {
	entries, err := os.ReadDir(s.path("packages", name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the versions of %s: %w", name, err)
	}
	var versions []int
	for _, e := range entries {
		if v, err := strconv.Atoi(e.Name()); err == nil && v > 0 && strconv.Itoa(v) == e.Name() {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// Ref returns one version of a package, the newest for 0. One that the store does not have is an error with
// CodeNotFound.
func (s *Store) Ref(name string, version int) (provisioning.ContentRef, error) {
	var ref provisioning.ContentRef
	if err := provisioning.CheckName(name); err != nil {
		return ref, err
	}
	versions, err := s.versions(name)
	if err != nil {
		return ref, err
	}
	const next = "see what there is with: branchpoint content list; add it with: branchpoint content add"
	if len(versions) == 0 {
		return ref, provisioning.Errorf(provisioning.CodeNotFound, next, "there is no content package %s", name)
	}
	if version == 0 {
		version = versions[len(versions)-1]
	}
	if !slices.Contains(versions, version) {
		return ref, provisioning.Errorf(provisioning.CodeNotFound, next, "content package %s has no version %d; its newest is %d", name, version, versions[len(versions)-1])
	}
	b, err := os.ReadFile(s.path("packages", name, strconv.Itoa(version)))
	if err != nil && !unreadable(err) {
		return ref, fmt.Errorf("read content package %s version %d: %w", name, version, err)
	}
	var m *provisioning.Manifest
	if err == nil {
		m, err = s.Manifest(provisioning.SHA256(strings.TrimSpace(string(b))))
	}
	if err == nil && (m.Package != name || m.Version != version) {
		err = fmt.Errorf("its manifest is that of %s version %d", m.Package, m.Version)
	}
	if err != nil {
		return ref, provisioning.Errorf(provisioning.CodeCorrupt, "check the disk, and add it again", "content package %s version %d: %w", name, version, err)
	}
	return refOf(m), nil
}

// refOf names the version that a manifest describes.
func refOf(m *provisioning.Manifest) provisioning.ContentRef {
	ref := provisioning.ContentRef{Package: m.Package, Version: m.Version, Format: m.Format, Manifest: provisioning.SumSHA256(m.Encode())}
	for _, f := range m.Files {
		ref.Size += f.Size
	}
	return ref
}

// Installed reports whether the store has the given version complete: by its name, manifest, indexes and the presence
// of every chunk. The chunks are not read.
func (s *Store) Installed(ref provisioning.ContentRef) bool {
	have, err := s.Ref(ref.Package, max(ref.Version, 1))
	if err != nil || have.Manifest != ref.Manifest {
		return false
	}
	chunks, err := s.chunksOf(ref.Manifest)
	if err != nil {
		return false
	}
	for _, k := range chunks {
		if !s.HasChunk(k.ID) {
			return false
		}
	}
	return true
}

// chunksOf returns the chunks of all of a manifest's files, in order.
func (s *Store) chunksOf(manifest provisioning.SHA256) ([]caibx.Chunk, error) {
	m, err := s.Manifest(manifest)
	if err != nil {
		return nil, err
	}
	var chunks []caibx.Chunk
	for _, f := range m.Files {
		x, err := s.Index(f.Index)
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, x.Chunks...)
	}
	return chunks, nil
}

// publish writes manifest and indexes and then names the version, all durably. Chunks must be in place. s.mu is held.
func (s *Store) publish(m *provisioning.Manifest, indexes map[provisioning.SHA256][]byte) error {
	for sum, b := range indexes {
		if err := s.write(b, described(kindIndex, sum)...); err != nil {
			return err
		}
		s.regained(kindIndex, string(sum))
	}
	b := m.Encode()
	sum := provisioning.SumSHA256(b)
	if err := s.write(b, described(kindManifest, sum)...); err != nil {
		return err
	}
	s.regained(kindManifest, string(sum))
	if err := os.MkdirAll(s.path("packages", m.Package), 0o700); err != nil {
		return fmt.Errorf("make the package's directory: %w", err)
	}
	if err := s.flush(); err != nil { // everything the version's name stands for is on the disk before it
		return err
	}
	if err := s.write([]byte(sum+"\n"), "packages", m.Package, strconv.Itoa(m.Version)); err != nil {
		return err
	}
	s.forgetNames()
	return s.syncDir(s.path("packages", m.Package))
}

// syncDirectory brings the names in a directory onto the disk.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write %s out: %w", path, err)
	}
	return nil
}

// write puts a file in its place in one step.
func (s *Store) write(b []byte, parts ...string) error {
	if err := renameio.WriteFile(s.path(parts...), b, 0o600, renameio.WithTempDir(s.path("staging"))); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(parts...), err)
	}
	return nil
}

// flush brings everything written to the store's file system so far onto the disk. One call for many chunks costs far
// less than one for each.
func (s *Store) flush() error {
	if err := unix.Syncfs(int(s.lock.Fd())); err != nil {
		return fmt.Errorf("write the content store out: %w", err)
	}
	return nil
}
