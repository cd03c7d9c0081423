package content

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

const (
	// scrubRate is how many bytes a second are looked at while nobody asks for them: a tenth of what a slow disk gives.
	scrubRate = 8 << 20
	// scrubAfter is how long after a start the first look begins: computers that were switched on with the appliance, and what
	// it has to fetch, come first. What they ask for is looked at when it is read, as ever.
	scrubAfter = 15 * time.Minute
	// scrubEvery is how long after one look at everything the next begins.
	scrubEvery = 7 * 24 * time.Hour
	// scrubPrefixes is how many directories chunks are kept in, by the first 16 bits of their names.
	scrubPrefixes = 1 << 16
)

// Scrub looks at every manifest, index and chunk in the store, slowly, so that damage is found while upstream can still be
// reached and not when a computer needs the chunk, and gets anew what is damaged. It begins 15 minutes after it is called,
// and again a week after it has seen everything. Where it begins random decides, so that stores that are opened often are
// looked at everywhere. It ends with ctx, whose cause is its error.
func (m *Mender) Scrub(ctx context.Context, random io.Reader) error {
	for pause := scrubAfter; ; pause = scrubEvery {
		if err := wait(ctx, pause); err != nil {
			return err
		}
		var from [2]byte
		if _, err := io.ReadFull(random, from[:]); err != nil {
			return fmt.Errorf("choose where to begin: %w", err)
		}
		if err := m.scrub(ctx, int(from[0])<<8|int(from[1]), scrubRate); err != nil {
			return err
		}
	}
}

// scrub looks at everything once, at most at rate bytes a second on the average. Directories that cannot be read hold up
// none of the others.
func (m *Mender) scrub(ctx context.Context, from int, rate int64) error {
	unread, why := 0, error(nil)
	look := func(look func(ctx context.Context, file string) int64, dir ...string) error {
		entries, err := os.ReadDir(m.s.path(dir...))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			unread, why = unread+1, cmp.Or(why, err)
		}
		var bytes int64
		for _, e := range entries {
			bytes += look(ctx, e.Name())
		}
		return wait(ctx, time.Duration(float64(bytes)/float64(rate)*float64(time.Second)))
	}
	// Manifests first: an index comes anew only where a manifest names it.
	err := look(m.scrubDescription, "manifests")
	if err == nil {
		err = look(m.scrubDescription, "indexes")
	}
	for i := 0; i < scrubPrefixes && err == nil; i++ {
		err = look(m.scrubChunk, "chunks", hex16((from+i)%scrubPrefixes))
	}
	if unread > 0 {
		m.s.log.Error("some of the content store cannot be looked through for damage; check the disk", "directories", unread, "error", why)
	}
	return err
}

// scrubDescription looks at the file of an index or a manifest and returns how many bytes it read.
func (m *Mender) scrubDescription(ctx context.Context, file string) int64 {
	sum, suffix, _ := strings.Cut(file, ".")
	kind := kindManifest
	if suffix == "caibx" {
		kind = kindIndex
	}
	b, _ := m.s.describe(ctx, kind, provisioning.SHA256(sum), m) // which notes what comes of it
	return int64(len(b))
}

// scrubChunk looks at one chunk's file and returns how many bytes it read.
func (m *Mender) scrubChunk(ctx context.Context, file string) int64 {
	const length = 2 * len(caibx.ID{})
	if len(file) < length {
		return 0
	}
	id, err := caibx.ParseID(file[:length])
	if err != nil {
		return 0
	}
	room := chunkFiles.Get().(*chunkFile)
	defer chunkFiles.Put(room)
	b, err := m.s.StoredChunk(id, room.chunk())
	if damaged(err) {
		_, _ = m.chunk(ctx, id, err) // which notes what comes of it
	}
	forget(m.s.chunkPath(id)) // others need the memory more
	m.s.metrics.bytesScrubbed.Add(float64(len(b)))
	return int64(len(b))
}

// hex16 writes a number below scrubPrefixes as the directory of chunks is called.
func hex16(n int) string {
	id := caibx.ID{byte(n >> 8), byte(n)}
	return id.String()[:4]
}

// wait waits, unless ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
