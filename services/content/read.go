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

// Fetch brings a chunk into the store from wherever it gets its chunks.
type Fetch func(ctx context.Context, id caibx.ID) error

// NewReadHandler serves the store's chunks, indexes and manifests below /content/v1/. authorize decides on each request;
// its error is the answer. fetch, which may be nil, is asked for a chunk that the store has lost: a request with
// Cache-Control: no-cache makes the store look at its copy first, and drop it if it is damaged.
func NewReadHandler(s *Store, authorize func(*http.Request) error, fetch Fetch) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, serve func(w http.ResponseWriter, r *http.Request, name string) error) {
		mux.HandleFunc("GET "+path+"{name}", func(w http.ResponseWriter, r *http.Request) {
			err := authorize(r)
			if err == nil {
				err = serve(w, r, r.PathValue("name"))
			}
			if err != nil {
				problem(w, r, s.log, err)
			}
		})
	}
	handle(client.PathChunks, func(w http.ResponseWriter, r *http.Request, name string) error {
		return s.serveChunk(w, r, name, fetch)
	})
	handle(client.PathIndexes, func(w http.ResponseWriter, _ *http.Request, name string) error {
		b, err := s.IndexBytes(provisioning.SHA256(name))
		return answer(w, "application/octet-stream", b, err)
	})
	handle(client.PathManifests, func(w http.ResponseWriter, _ *http.Request, name string) error {
		b, err := s.ManifestBytes(provisioning.SHA256(name))
		return answer(w, "application/json", b, err)
	})
	return mux
}

func (s *Store) serveChunk(w http.ResponseWriter, r *http.Request, name string, fetch Fetch) error {
	id, err := caibx.ParseID(name)
	if err != nil {
		return err
	}
	if strings.Contains(r.Header.Get("Cache-Control"), "no-cache") {
		s.CheckChunk(id)
	}
	b, err := s.StoredChunk(id)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound && fetch != nil {
		if err = fetch(r.Context(), id); err == nil {
			b, err = s.StoredChunk(id)
		}
	}
	return answer(w, "application/zstd", b, err)
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
	if d.Status >= 500 {
		log.Error("content request failed", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
	}
	w.Header().Set("Content-Type", provisioning.ProblemContentType)
	w.WriteHeader(d.Status)
	_ = json.NewEncoder(w).Encode(d) // the other side has gone
}
