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
	flights  singleflight.Group
}

// NewMender returns a Mender that fetches with a copy of upstream, each thing once however many ask for it, and a few at
// one time. It does not repeat what fails: whoever asked does.
func NewMender(s *Store, upstream *client.Client) *Mender {
	c := *upstream
	c.Patience = 0
	return &Mender{s: s, upstream: &c, slots: make(chan struct{}, maxMends)}
}

// chunk fetches a chunk and puts it into the store; why is what is wrong with the one there.
func (m *Mender) chunk(ctx context.Context, id caibx.ID, why error) ([]byte, error) {
	return m.mend(ctx, kindChunk, id.String(), why, func(ctx context.Context) ([]byte, error) {
		b, err := m.upstream.StoredChunk(ctx, caibx.Chunk{ID: id})
		if err != nil {
			if provisioning.CodeOf(err) != provisioning.CodeNotFound || damaged(why) {
				m.s.lose(kindChunk, id.String())
			}
			return nil, err
		}
		m.s.metrics.chunksFetched.Inc()
		m.s.metrics.bytesFetched.Add(float64(len(b)))
		return b, m.s.replace(id, b)
	})
}

// manifest fetches a manifest and puts it into the store.
func (m *Mender) manifest(ctx context.Context, sum provisioning.SHA256, why error) ([]byte, error) {
	return m.mend(ctx, kindManifest, string(sum), why, func(ctx context.Context) ([]byte, error) {
		_, b, err := m.upstream.ManifestBytes(ctx, sum)
		if err != nil {
			if damaged(why) {
				m.s.lose(kindManifest, string(sum))
			}
			return nil, err
		}
		return b, m.s.rewrite(kindManifest, sum, b)
	})
}

// index fetches the chunk index of a file that a manifest in the store names, and puts it into the store.
func (m *Mender) index(ctx context.Context, sum provisioning.SHA256, why error) ([]byte, error) {
	f, _, ok := m.s.indexed(sum)
	if !ok {
		return nil, why
	}
	return m.mend(ctx, kindIndex, string(sum), why, func(ctx context.Context) ([]byte, error) {
		_, b, err := m.upstream.IndexBytes(ctx, f)
		if err != nil {
			m.s.lose(kindIndex, string(sum))
			return nil, err
		}
		return b, m.s.rewrite(kindIndex, sum, b)
	})
}

// keepError is a failure to keep what has been fetched, which can be given out nevertheless.
type keepError struct{ error }

func (e keepError) Unwrap() error { return e.error }

// mend runs fetch once for all who ask for the same at one time. It goes on for the others when one of them gives up.
func (m *Mender) mend(ctx context.Context, kind, name string, why error, fetch func(context.Context) ([]byte, error)) ([]byte, error) {
	result := m.flights.DoChan(kind+" "+name, func() (any, error) {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), mendTime, errors.New("it took too long"))
		defer cancel()
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		b, err := fetch(ctx)
		if keep, ok := errors.AsType[keepError](err); ok {
			m.s.log.Error("keep what was fetched from upstream", "what", kind, "name", name, "error", keep.error)
			err = nil
		}
		if err != nil {
			m.s.metrics.unmended.WithLabelValues(kind).Inc()
			return nil, err
		}
		m.s.metrics.mended.WithLabelValues(kind).Inc()
		m.s.log.Info("content that was lost has come from upstream", "what", kind, "name", name)
		return b, nil
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, unmended(kind, name, why, r.Err)
		}
		return r.Val.([]byte), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// unmended is the answer to whoever asked for what cannot be had: to come again, unless there never was such a thing.
func unmended(kind, name string, why, err error) error {
	if provisioning.CodeOf(why) == provisioning.CodeNotFound && provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return why
	}
	what := "damaged"
	if provisioning.CodeOf(why) == provisioning.CodeNotFound {
		what = "missing"
	}
	return knownError{provisioning.Errorf(provisioning.CodeUnavailable, "see to it that the branch reaches central, where it gets it anew; check the branch's data disk",
		"%s %s is %s here and cannot be had from upstream at the moment: %w", kind, name, what, err)}
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
		if err = os.Remove(s.chunkPath(id)); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		_, err = s.place(map[caibx.ID]string{id: from})
	}
	if err != nil {
		return keepError{storeError(s.dir, fmt.Errorf("keep chunk %s: %w", id, err))}
	}
	_ = os.Remove(s.path("damaged", id.String())) // it may not be there; Open sees to it otherwise
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
	return nil
}
