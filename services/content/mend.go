package content

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/singleflight"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

const (
	// maxMends bounds what is fetched from upstream at one time for those who asked for it.
	maxMends = 8
	// maxWaiting bounds what waits for that. Whoever asks for more is told to come again.
	maxWaiting = 256
	// mendTime bounds how long one such fetch takes, waiting for its turn included: less than a client waits for an answer.
	mendTime = 30 * time.Second
	// maxLost bounds how many lost chunks are remembered.
	maxLost = 1 << 16
)

// Mender gets from upstream what a store has lost: chunks, indexes and manifests that are damaged or missing. Everything
// it gets is verified before it is given out or kept.
type Mender struct {
	s        *Store
	upstream *client.Client
	slots    chan struct{}
	waiting  chan struct{}
	flights  singleflight.Group
}

// NewMender returns a Mender that fetches with a copy of upstream, each thing once however many ask for it, and a few at
// one time. It does not repeat what fails: whoever asked does. It ends with the store.
func NewMender(s *Store, upstream *client.Client) *Mender {
	c := *upstream
	c.Patience = 0
	return &Mender{s: s, upstream: &c, slots: make(chan struct{}, maxMends), waiting: make(chan struct{}, maxWaiting)}
}

// loss is something that a store has not, or not whole.
type loss struct {
	kind, name string
	standing   standing
	why        error // what is wrong with what is here
	// here looks for it here once more, fetch gets it from upstream and keeps it.
	here  func() ([]byte, error)
	fetch func(context.Context) ([]byte, error)
}

// chunk fetches a chunk and puts it into the store; why is what is wrong with the one there.
func (m *Mender) chunk(ctx context.Context, id caibx.ID, why error) ([]byte, error) {
	return m.mend(ctx, m.chunkLoss(id, why))
}

// regain begins to fetch a chunk that was found damaged, for whoever asks next.
func (m *Mender) regain(id caibx.ID, why error) {
	if l := m.chunkLoss(id, why); l.standing != notNamed {
		m.begin(l)
	}
}

func (m *Mender) chunkLoss(id caibx.ID, why error) loss {
	return loss{kindChunk, id.String(), m.s.chunkNamed(id), why, func() ([]byte, error) { return m.s.load(id, nil) }, func(ctx context.Context) ([]byte, error) {
		b, err := m.upstream.StoredChunk(ctx, caibx.Chunk{ID: id})
		if err != nil {
			return nil, err
		}
		m.s.metrics.chunksFetched.Inc()
		m.s.metrics.bytesFetched.Add(float64(len(b)))
		return b, m.s.replace(id, b)
	}}
}

// manifest fetches a manifest and puts it into the store.
func (m *Mender) manifest(ctx context.Context, sum provisioning.SHA256, why error) ([]byte, error) {
	return m.description(ctx, kindManifest, sum, m.s.manifestNamed(sum), why, func(ctx context.Context) ([]byte, error) {
		_, b, err := m.upstream.ManifestBytes(ctx, sum)
		return b, err
	})
}

// index fetches the chunk index of a file that a manifest in the store names, and puts it into the store.
func (m *Mender) index(ctx context.Context, sum provisioning.SHA256, why error) ([]byte, error) {
	f, _, ok := m.s.indexed(sum)
	if !ok {
		return nil, why
	}
	return m.description(ctx, kindIndex, sum, named, why, func(ctx context.Context) ([]byte, error) {
		_, b, err := m.upstream.IndexBytes(ctx, f)
		return b, err
	})
}

func (m *Mender) description(ctx context.Context, kind string, sum provisioning.SHA256, st standing, why error, fetch func(context.Context) ([]byte, error)) ([]byte, error) {
	return m.mend(ctx, loss{kind, string(sum), st, why, func() ([]byte, error) { return m.s.read(kind, sum) }, func(ctx context.Context) ([]byte, error) {
		b, err := fetch(ctx)
		if err != nil {
			return nil, err
		}
		return b, m.s.rewrite(kind, sum, b)
	}})
}

// keepError is a failure to keep what has been fetched, which can be given out nevertheless.
type keepError struct{ error }

func (e keepError) Unwrap() error { return e.error }

// mend gets what was lost, once for all who ask for it at one time. It goes on for the others when one of them gives up.
// What no version here names is nobody's loss: upstream is not asked for it.
func (m *Mender) mend(ctx context.Context, l loss) ([]byte, error) {
	if l.standing == notNamed {
		return nil, l.why
	}
	select {
	case r := <-m.begin(l):
		if r.Err != nil {
			return nil, unmended(l, r.Err)
		}
		return r.Val.([]byte), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// begin begins to get what was lost, unless that is under way. Nobody has to wait for what comes of it.
func (m *Mender) begin(l loss) <-chan singleflight.Result {
	return m.flights.DoChan(l.kind+" "+l.name, func() (any, error) {
		ctx, done, err := m.s.beginWork()
		if err != nil {
			return nil, err
		}
		defer done()
		if b, err := l.here(); err == nil {
			return b, nil // another flight has ended a moment ago
		}
		b, err := m.fly(ctx, l)
		if err == nil {
			m.s.metrics.mended.WithLabelValues(l.kind).Inc()
			m.s.log.Info("content that was lost has come from upstream", "what", l.kind, "name", l.name)
			return b, nil
		}
		m.s.metrics.unmended.WithLabelValues(l.kind).Inc()
		if b, err := l.here(); err == nil {
			return b, nil // it has come by another way
		}
		if ctx.Err() == nil && (l.standing == named || damaged(l.why)) {
			m.s.lose(l.kind, l.name)
		}
		return nil, err
	})
}

// fly waits for a turn and fetches.
func (m *Mender) fly(ctx context.Context, l loss) ([]byte, error) {
	select {
	case m.waiting <- struct{}{}:
		defer func() { <-m.waiting }()
	default:
		return nil, errors.New("too much else is being fetched")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mendTime, errors.New("it took too long"))
	defer cancel()
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	b, err := l.fetch(ctx)
	if keep, ok := errors.AsType[keepError](err); ok {
		m.s.log.Error("keep what was fetched from upstream", "what", l.kind, "name", l.name, "error", keep.error)
		err = nil
	}
	return b, err
}

// unmended is the answer to whoever asked for what cannot be had: to come again.
func unmended(l loss, err error) error {
	what := "damaged"
	if provisioning.CodeOf(l.why) == provisioning.CodeNotFound {
		what = "missing"
	}
	return knownError{provisioning.Errorf(provisioning.CodeUnavailable, "see to it that the branch reaches central, where it gets it anew; check the branch's data disk",
		"%s %s is %s here and cannot be had from upstream at the moment: %w", l.kind, l.name, what, err)}
}

// knownError has been logged, once, where it was found, and is not logged for everybody who asks.
type knownError struct{ error }

func (e knownError) Unwrap() error { return e.error }

// lose notes that something is not here and cannot be had.
func (s *Store) lose(kind, name string) {
	s.lossMu.Lock()
	defer s.lossMu.Unlock()
	if s.lost[kind+name] || len(s.lost) >= maxLost {
		return
	}
	s.lost[kind+name] = true
	s.log.Error("content is lost here and cannot be had from upstream; what needs it is not offered until it can", "what", kind, "name", name)
	s.lossChanged()
}

// regained notes that things are here again.
func (s *Store) regained(kind string, names ...string) {
	s.lossMu.Lock()
	defer s.lossMu.Unlock()
	before := len(s.lost)
	for _, name := range names {
		delete(s.lost, kind+name)
	}
	if len(s.lost) < before {
		s.lossChanged()
	}
}

// lossChanged tells those who wait. s.lossMu is held.
func (s *Store) lossChanged() {
	s.metrics.lost.Set(float64(len(s.lost)))
	close(s.changed)
	s.changed = make(chan struct{})
}

// Damage is what has befallen a store since it was opened.
type Damage struct {
	// Found is how many chunks, indexes and manifests were found damaged.
	Found int
	// Lost is how many are damaged or missing and could not be had from upstream so far. What they belong to is not
	// Installed, and comes back by Sync.
	Lost int
}

// Damage returns what has befallen the store, and a channel that is closed when that changes.
func (s *Store) Damage() (Damage, <-chan struct{}) {
	s.lossMu.Lock()
	defer s.lossMu.Unlock()
	return Damage{Found: s.found, Lost: len(s.lost)}, s.changed
}

// foundDamaged counts damage and logs it.
func (s *Store) foundDamaged(kind, name string, err error) {
	s.metrics.damaged.WithLabelValues(kind).Inc()
	s.log.Error("content on the disk is damaged and is taken out of the store; check the disk", "what", kind, "name", name, "error", err)
	s.lossMu.Lock()
	defer s.lossMu.Unlock()
	s.found++
	s.lossChanged()
}

// replace puts a chunk, which was verified, in its place, whatever is there.
func (s *Store) replace(id caibx.ID, stored []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, err := stage(s.path("staging"), id, stored)
	if err == nil {
		if err = s.flush(); err == nil { // what is there stays until this is on the disk
			err = move(from, s.chunkPath(id))
		}
		if err != nil {
			_ = os.Remove(from) // emptied by Open at the latest
		}
	}
	if err != nil {
		return keepError{storeError(s.dir, fmt.Errorf("keep chunk %s: %w", id, err))}
	}
	s.regained(kindChunk, id.String())
	_ = os.Remove(s.aside(s.chunkPath(id))) // it may not be there; Open sees to it otherwise
	return nil
}

// rewrite writes an index or a manifest, which was verified, anew.
func (s *Store) rewrite(kind string, sum provisioning.SHA256, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.write(b, described(kind, sum)...); err != nil {
		return keepError{storeError(s.dir, err)}
	}
	s.regained(kind, string(sum))
	s.forgetNames()
	_ = os.Remove(s.aside(s.path(described(kind, sum)...))) // as above
	return nil
}
