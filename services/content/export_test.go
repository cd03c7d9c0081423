package content

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// ScrubOnce looks at everything once, as fast as it goes.
func (m *Mender) ScrubOnce(ctx context.Context) error { return m.scrub(ctx, 0, 1<<40) }

// FailToRead makes the disk give one file back with an error.
func (s *Store) FailToRead(path string, err error) {
	s.open = func(p string) (fs.File, error) {
		f, oerr := os.Open(p)
		if oerr == nil && p == path {
			return failing{f, err}, nil
		}
		return f, oerr
	}
}

// FailToFlush makes the disk take nothing any more.
func (s *Store) FailToFlush() { _ = s.lock.Close() }

// FailToName makes a package's directory fail to be written out, the next n times.
func (s *Store) FailToName(n int) {
	s.syncDir = func(dir string) error {
		if n--; n >= 0 {
			return errors.New("the disk is gone")
		}
		return syncDirectory(dir)
	}
}

// Replace puts a chunk in its place.
func (s *Store) Replace(id caibx.ID, stored []byte) error { return s.replace(id, stored) }

// NoticeIndex looks again at an index that was found damaged.
func (s *Store) NoticeIndex(sum provisioning.SHA256, why error) ([]byte, error) {
	return s.noticeDescription(kindIndex, sum, why)
}

// Fetching is how much is being fetched by menders.
func (m *Mender) Fetching() int { return len(m.waiting) }
