package content

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// NewReadHandler serves the store's chunks, indexes and manifests below /content/v1/. authorize decides on each request;
// its error is the answer. Everything is looked at before it is given out. What is damaged or missing comes from m, which
// may be nil: then damage is an error with CodeCorrupt. A request with Cache-Control: no-cache, by a client that was given
// something wrong, makes the store hold its chunk against its name first.
func NewReadHandler(s *Store, authorize func(*http.Request) error, m *Mender) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, serve func(w http.ResponseWriter, r *http.Request, name string) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s.metrics.inFlight.Inc()
			defer s.metrics.inFlight.Dec()
			err := authorize(r)
			if err == nil {
				err = serve(w, r, r.PathValue("name"))
			}
			if err != nil {
				problem(w, r, s.log, err)
			}
		})
	}
	handle("GET "+client.PathChunks+"{name}", func(w http.ResponseWriter, r *http.Request, name string) error {
		return s.serveChunk(w, r, name, m)
	})
	handle("GET "+client.PathIndexes+"{name}", func(w http.ResponseWriter, r *http.Request, name string) error {
		b, err := s.describe(r.Context(), kindIndex, provisioning.SHA256(name), m)
		return answer(w, "application/octet-stream", b, err)
	})
	handle("GET "+client.PathManifests+"{name}", func(w http.ResponseWriter, r *http.Request, name string) error {
		b, err := s.describe(r.Context(), kindManifest, provisioning.SHA256(name), m)
		return answer(w, "application/json", b, err)
	})
	handle("GET "+client.PathIndexes+"{name}/similar", func(w http.ResponseWriter, _ *http.Request, name string) error {
		files, err := s.similar(provisioning.SHA256(name))
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(client.Similar{Files: files}) // the other side has gone
		return nil
	})
	handle("POST "+client.PathBatch, func(w http.ResponseWriter, r *http.Request, _ string) error {
		return s.serveBatch(w, r, m)
	})
	return mux
}

// describe returns an index or a manifest, from m if the store's is damaged or missing.
func (s *Store) describe(ctx context.Context, kind string, sum provisioning.SHA256, m *Mender) ([]byte, error) {
	b, err := s.read(kind, sum)
	if m == nil {
		return b, err
	}
	if damaged(err) {
		b, err = s.noticeDescription(kind, sum, err)
	}
	if !damaged(err) && provisioning.CodeOf(err) != provisioning.CodeNotFound {
		return b, err
	}
	if kind == kindIndex {
		return m.index(ctx, sum, err)
	}
	return m.manifest(ctx, sum, err)
}

func (s *Store) serveChunk(w http.ResponseWriter, r *http.Request, name string, m *Mender) error {
	id, err := caibx.ParseID(name)
	if err != nil {
		return err
	}
	if strings.Contains(r.Header.Get("Cache-Control"), "no-cache") {
		s.CheckChunk(id)
	}
	room := chunkFiles.Get().(*chunkFile)
	defer chunkFiles.Put(room)
	b, err := s.StoredChunk(id, room.chunk())
	if m != nil && (damaged(err) || provisioning.CodeOf(err) == provisioning.CodeNotFound) {
		b, err = m.chunk(r.Context(), id, err)
	}
	if err == nil {
		s.metrics.chunksServed.Inc()
		s.metrics.bytesServed.Add(float64(len(b)))
	}
	return answer(w, "application/zstd", b, err)
}

// serveBatch gives out several chunks in the order in which they were asked for. One that is damaged or missing is left
// out: it is asked for by itself. What is damaged begins to come from m, which may be nil, whether it is asked for or not.
func (s *Store) serveBatch(w http.ResponseWriter, r *http.Request, m *Mender) error {
	body, err := readBody(w, r, client.MaxBatch*int64(len(caibx.ID{})))
	if err != nil {
		return err
	}
	ids, err := client.DecodeBatch(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	room := chunkFiles.Get().(*chunkFile)
	defer chunkFiles.Put(room)
	for _, id := range ids {
		b, err := s.StoredChunk(id, room.chunk())
		if err != nil {
			b = nil
			if m != nil && damaged(err) {
				m.regain(id, err)
			}
		} else {
			s.metrics.chunksServed.Inc()
			s.metrics.bytesServed.Add(float64(len(b)))
		}
		if _, err := w.Write(room.framed(b)); err != nil {
			return nil // the other side has gone
		}
	}
	return nil
}

// answer sends what never changes under its name. A HEAD request's body is left out by the server.
func answer(w http.ResponseWriter, kind string, b []byte, err error) error {
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	_, _ = w.Write(b) // the other side has gone
	return nil
}

// problem answers with an error (RFC 9457).
func problem(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		err = provisioning.Errorf(provisioning.CodeUnavailable, "", "the request was given up")
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = provisioning.Errorf(provisioning.CodeUnavailable, "", "the request took too long to arrive")
	}
	d := provisioning.NewProblemDocument(err)
	if _, known := errors.AsType[knownError](err); d.Status >= 500 && !known {
		log.Error("content request failed", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
	}
	w.Header().Set("Content-Type", provisioning.ProblemContentType)
	w.WriteHeader(d.Status)
	_ = json.NewEncoder(w).Encode(d) // the other side has gone
}
