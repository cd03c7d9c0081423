package content

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// notice looks again at a chunk that was found damaged and takes it out of the store if it still is; deep says that its
// name is what to hold it against.
func (s *Store) notice(id caibx.ID, deep bool, why error) ([]byte, error) {
	return s.takeOut(kindChunk, id.String(), s.chunkPath(id), why, func() ([]byte, error) {
		b, err := s.load(id, nil)
		if err == nil && deep {
			_, err = caibx.Open(id, 0, b, nil)
		}
		return b, err
	})
}

// noticeDescription does the same with an index or a manifest.
func (s *Store) noticeDescription(kind string, sum provisioning.SHA256, why error) ([]byte, error) {
	return s.takeOut(kind, string(sum), s.path(described(kind, sum)...), why, func() ([]byte, error) { return s.read(kind, sum) })
}

// takeOut looks again at what was found damaged, with the disk asked anew, and takes it out of the store if it still is.
// What cannot be read is put aside: after another start it is looked at again.
func (s *Store) takeOut(kind, name, path string, why error, again func() ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	forget(path)
	b, err := again()
	if !damaged(err) {
		return b, err // it has been mended meanwhile, or taken out
	}
	s.foundDamaged(kind, name, why)
	if unreadable(err) {
		err = os.Rename(path, s.aside(path))
	} else {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Error("take what is damaged out of the store", "what", kind, "name", name, "error", err)
	}
	return nil, provisioning.Errorf(provisioning.CodeCorrupt, "check the disk", "%s %s is damaged on the disk: %w", kind, name, why)
}

// forget makes the kernel forget what it has cached of a file. If it does not, the damage is seen at another time.
func forget(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// aside is where a file of the store that cannot be read is put.
func (s *Store) aside(path string) string {
	return s.path("damaged", strings.TrimSuffix(filepath.Base(path), ".cacnk"))
}

// origin is the place of a file that was put aside under the given name, "" if nothing is called so.
func (s *Store) origin(name string) string {
	if id, err := caibx.ParseID(name); err == nil {
		return s.chunkPath(id)
	}
	sum, suffix, _ := strings.Cut(name, ".")
	for _, kind := range []string{kindIndex, kindManifest} {
		parts := described(kind, provisioning.SHA256(sum))
		if provisioning.SHA256(sum).Valid() && parts[1] == sum+"."+suffix {
			return s.path(parts...)
		}
	}
	return ""
}

// recall gives what could not be read at an earlier start another chance.
func (s *Store) recall() error {
	entries, err := os.ReadDir(s.path("damaged"))
	if err != nil {
		return fmt.Errorf("look for what was put aside: %w", err)
	}
	for _, e := range entries {
		from, to := s.path("damaged", e.Name()), s.origin(e.Name())
		if to == "" || present(to) {
			err = os.Remove(from)
		} else {
			err = os.Rename(from, to)
		}
		if err != nil {
			s.log.Warn("look at what was damaged again", "name", e.Name(), "error", err)
		}
	}
	return nil
}

// present reports whether there is a file. An empty one is none: that is what some file systems make of a file after a loss
// of power.
func present(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}
