package content

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

const (
	// maxUploads bounds the uploads under way at one time.
	maxUploads = 16
	// uploadLife is how long an upload is kept after its last request.
	uploadLife = 24 * time.Hour
)

// upload is a version on its way into the store: its new chunks lie in a directory of their own.
type upload struct {
	s    *Store
	id   string
	name string
	dir  string

	mu      sync.Mutex
	used    time.Time
	staged  map[caibx.ID]string
	failure error         // why nothing more is accepted
	added   *client.Added // what it became
}

// Begin starts a new version of a package.
func (s *Store) Begin(_ context.Context, name string) (client.Upload, error) {
	u, err := s.begin(name)
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (s *Store) begin(name string) (*upload, error) {
	if err := provisioning.CheckName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	open := 0
	for id, u := range s.uploads {
		u.mu.Lock()
		switch {
		case time.Since(u.used) > uploadLife:
			u.drop(errGone(id))
			delete(s.uploads, id)
		case u.added == nil && u.failure == nil:
			open++
		}
		u.mu.Unlock()
	}
	if open >= maxUploads {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "wait until another one has ended", "%d uploads are under way already", open)
	}
	id := rand.Text()
	u := &upload{s: s, id: id, name: name, dir: s.path("staging", id), used: time.Now(), staged: map[caibx.ID]string{}}
	if err := os.Mkdir(u.dir, 0o700); err != nil {
		return nil, storeError(s.dir, fmt.Errorf("begin an upload: %w", err))
	}
	s.uploads[id] = u
	return u, nil
}

func errGone(id string) error {
	return provisioning.Errorf(provisioning.CodeNotFound, "add it again", "there is no upload %s (any more)", id)
}

// upload returns the upload with the given id.
func (s *Store) upload(id string) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[id]; u != nil {
		return u, nil
	}
	return nil, errGone("of that name")
}

// drop removes what was uploaded; later calls get err. u.mu is held.
func (u *upload) drop(err error) {
	if u.failure != nil {
		return
	}
	u.failure = err
	if err := os.RemoveAll(u.dir); err != nil {
		u.s.log.Error("remove an upload's leftovers", "directory", u.dir, "error", err)
	}
}

// fail ends the upload if the store cannot take it, and returns the error to give.
func (u *upload) fail(err error) error {
	err = storeError(u.s.dir, err)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failure != nil {
		return u.failure
	}
	if code := provisioning.CodeOf(err); code == provisioning.CodeNoSpace || code == provisioning.CodeForbidden {
		u.drop(err)
	}
	return err
}

// use notes that the upload is still wanted, and returns why not, if so.
func (u *upload) use() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.used = time.Now()
	return u.failure
}

// has reports whether a chunk was uploaded or is in the store.
func (u *upload) has(id caibx.ID) bool {
	u.mu.Lock()
	_, ok := u.staged[id]
	u.mu.Unlock()
	return ok || u.s.HasChunk(id)
}

func (u *upload) Missing(_ context.Context, ids []caibx.ID) ([]caibx.ID, error) {
	if err := u.use(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(ids), u.has), nil
}

func (u *upload) Put(_ context.Context, id caibx.ID, stored []byte) error {
	if err := u.use(); err != nil {
		return err
	}
	if u.has(id) {
		return nil
	}
	path, err := stage(u.dir, id, stored)
	if err != nil {
		return u.fail(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.staged[id]; !ok {
		u.staged[id] = path
	} else if err := os.Remove(path); err != nil { // it came twice at the same time
		u.s.log.Error("remove a chunk that came twice", "error", err)
	}
	return u.failure
}

func (u *upload) Abort(context.Context) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.added == nil {
		u.drop(errGone(u.id))
	}
}

// Commit checks that every chunk is there and has the size that the index says, and makes the upload the newest version.
func (u *upload) Commit(_ context.Context, c client.CommitRequest) (client.Added, error) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	failure := u.use()
	u.mu.Lock()
	done := u.added
	u.mu.Unlock()
	if done != nil {
		return *done, nil // asked again, because the answer was lost
	}
	if failure != nil {
		return client.Added{}, failure
	}
	added, err := u.commit(c)
	if err != nil {
		return client.Added{}, u.fail(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.added = &added
	u.drop(errGone(u.id))
	return added, nil
}

func (u *upload) commit(c client.CommitRequest) (client.Added, error) {
	s := u.s
	versions, err := s.versions(u.name)
	if err != nil {
		return client.Added{}, err
	}
	m := &provisioning.Manifest{Package: u.name, Version: 1, Format: c.Format, CreatedAt: time.Now().UTC().Truncate(time.Second), Files: c.Files}
	if len(versions) > 0 {
		same, err := s.newest(u.name, m)
		if err != nil && !damaged(err) {
			return client.Added{}, err
		}
		if err == nil && same.Manifest != "" {
			return client.Added{Ref: same, Unchanged: true}, nil
		}
		m.Version = versions[len(versions)-1] + 1 // also after one that is damaged
	}
	if err := m.Validate(); err != nil {
		return client.Added{}, err
	}
	if err := u.check(m.Files[0], c.Index); err != nil {
		return client.Added{}, err
	}
	u.mu.Lock()
	placed, err := s.place(u.staged)
	u.mu.Unlock()
	if err == nil {
		err = s.publish(m, map[provisioning.SHA256][]byte{m.Files[0].Index: c.Index})
	}
	if err != nil {
		if nerr := s.unname(m); nerr != nil {
			s.log.Error("take a version out of the store again; its chunks stay", "package", m.Package, "version", m.Version, "error", nerr)
			return client.Added{}, err
		}
		for _, id := range placed {
			if err := os.Remove(s.chunkPath(id)); err != nil {
				s.log.Error("take a chunk out of the store again", "chunk", id, "error", err)
			}
		}
		return client.Added{}, err
	}
	s.log.Info("content added", "package", m.Package, "version", m.Version, "bytes", m.Files[0].Size, "newChunks", len(placed))
	return client.Added{Ref: refOf(m)}, nil
}

// unname takes the name of a version, if it has got one, back for good, before what it stands for is removed. s.mu is held.
func (s *Store) unname(m *provisioning.Manifest) error {
	err := os.Remove(s.path("packages", m.Package, strconv.Itoa(m.Version)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	s.forgetNames()
	return cmp.Or(err, s.syncDir(s.path("packages", m.Package)))
}

// newest returns the newest version of a package if it holds what m describes, complete; otherwise no version.
func (s *Store) newest(name string, m *provisioning.Manifest) (provisioning.ContentRef, error) {
	ref, err := s.Ref(name, 0)
	if err != nil {
		return provisioning.ContentRef{}, err
	}
	old, err := s.Manifest(ref.Manifest)
	if err != nil {
		return provisioning.ContentRef{}, err
	}
	if old.Format != m.Format || !slices.Equal(old.Files, m.Files) || !s.Installed(ref) {
		return provisioning.ContentRef{}, nil
	}
	return ref, nil
}

// check compares an index with the file it is to describe, and with the chunks there are.
func (u *upload) check(f provisioning.ManifestFile, index []byte) error {
	invalid := func(format string, args ...any) error {
		return provisioning.Errorf(provisioning.CodeInvalid, "add it again", format, args...)
	}
	if provisioning.SumSHA256(index) != f.Index {
		return invalid("the chunk index does not match its sum")
	}
	x, err := caibx.Decode(index)
	if err != nil {
		return invalid("%w", err)
	}
	if x.Size() != f.Size {
		return invalid("the chunk index describes %d bytes, the file has %d", x.Size(), f.Size)
	}
	seen := make(map[caibx.ID]int, len(x.Chunks))
	for _, k := range x.Chunks {
		size, ok := seen[k.ID]
		if !ok {
			if size, err = u.size(k.ID); err != nil {
				return err
			}
			seen[k.ID] = size
		}
		if size != k.Size {
			return invalid("chunk %s holds %d bytes, the index says %d", k.ID, size, k.Size)
		}
	}
	return nil
}

// size returns how many bytes an uploaded or stored chunk holds.
func (u *upload) size(id caibx.ID) (int, error) {
	u.mu.Lock()
	path, ok := u.staged[id]
	u.mu.Unlock()
	if !ok {
		path = u.s.chunkPath(id)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, provisioning.Errorf(provisioning.CodeConflict, "add it again", "chunk %s is missing from the upload", id)
	}
	if err != nil {
		return 0, fmt.Errorf("read a chunk: %w", err)
	}
	defer f.Close()
	var head [caibx.HeaderLength]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return 0, fmt.Errorf("read a chunk: %w", err)
	}
	if size, ok := caibx.StoredSize(head[:n]); ok {
		return size, nil
	}
	b, err := readChunk(openFile, path, nil)
	if err != nil {
		return 0, fmt.Errorf("read a chunk: %w", err)
	}
	b, _, _ = unseal(id, b)
	plain, err := caibx.Open(id, 0, b, nil)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return len(plain), nil
}
