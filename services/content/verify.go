package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// Verify reads a version back, whole, and compares it with every sum there is for it. report, which may be nil, is told
// how far it is.
func (s *Store) Verify(ctx context.Context, ref provisioning.ContentRef, report func(done, total int64)) error {
	m, err := s.Manifest(ref.Manifest)
	if err != nil {
		return err
	}
	return s.verifyFiles(ctx, m, report)
}

func (s *Store) verifyFiles(ctx context.Context, m *provisioning.Manifest, report func(done, total int64)) error {
	var done int64
	total := refOf(m).Size
	buf := make([]byte, caibx.MaxChunk)
	for _, f := range m.Files {
		x, err := s.Index(f.Index)
		if err != nil {
			return err
		}
		if x.Size() != f.Size {
			return provisioning.Errorf(provisioning.CodeCorrupt, "add it again", "the chunk index of %s describes %d bytes, its manifest %d", m.Package, x.Size(), f.Size)
		}
		sum := sha256.New()
		for _, k := range x.Chunks {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b, err := s.Chunk(k, buf)
			if err != nil {
				return fmt.Errorf("%s version %d at byte %d: %w", m.Package, m.Version, k.Start, err)
			}
			sum.Write(b)
			done += int64(k.Size)
			if report != nil {
				report(done, total)
			}
		}
		if got := provisioning.SHA256(hex.EncodeToString(sum.Sum(nil))); got != f.SHA256 {
			return provisioning.Errorf(provisioning.CodeCorrupt, "add it again", "%s version %d has the sum %s, its manifest says %s", m.Package, m.Version, got, f.SHA256)
		}
	}
	return nil
}
