package content

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

const (
	// maxQuestion bounds a request for an upload or for missing chunks, in bytes: client.MaxMissing names and JSON.
	maxQuestion = 512 << 10
	// maxCommit bounds a request to commit, in bytes: the index of 300 GB of data in chunks of caibx.AvgChunk, in base64.
	maxCommit = 256 << 20
)

// NewAdminHandler serves the list of what the store has, and uploads, at and below /v1/content. Whoever mounts it has to
// see to it that only administrators come here. onNewVersion, which may be nil, is told of every version added.
func NewAdminHandler(s *Store, onNewVersion func(provisioning.ContentRef)) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, serve func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := serve(w, r)
			if err != nil {
				problem(w, r, s.log, err)
				return
			}
			if out == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(out) // the other side has gone
		})
	}
	one := client.PathUploads + "/{upload}"
	handle("GET "+client.PathContent, func(http.ResponseWriter, *http.Request) (any, error) {
		return s.List()
	})
	handle("POST "+client.PathUploads, func(w http.ResponseWriter, r *http.Request) (any, error) {
		var q client.BeginRequest
		if err := readJSON(w, r, maxQuestion, &q); err != nil {
			return nil, err
		}
		u, err := s.begin(q.Package)
		if err != nil {
			return nil, err
		}
		return client.BeginAnswer{ID: u.id}, nil
	})
	handle("POST "+one+"/missing", func(w http.ResponseWriter, r *http.Request) (any, error) {
		u, err := s.upload(r.PathValue("upload"))
		if err != nil {
			return nil, err
		}
		var q client.ChunkList
		if err := readJSON(w, r, maxQuestion, &q); err != nil {
			return nil, err
		}
		if len(q.Chunks) > client.MaxMissing {
			return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "%d chunks are more than one question may name", len(q.Chunks))
		}
		missing, err := u.Missing(r.Context(), q.Chunks)
		return client.ChunkList{Chunks: missing}, err
	})
	handle("PUT "+one+"/chunks/{chunk}", func(w http.ResponseWriter, r *http.Request) (any, error) {
		u, err := s.upload(r.PathValue("upload"))
		if err != nil {
			return nil, err
		}
		id, err := caibx.ParseID(r.PathValue("chunk"))
		if err != nil {
			return nil, err
		}
		b, err := readBody(w, r, caibx.MaxStored)
		if err != nil {
			return nil, err
		}
		if _, err := caibx.Open(id, 0, b, nil); err != nil {
			return nil, err
		}
		return nil, u.Put(r.Context(), id, b)
	})
	handle("POST "+one+"/commit", func(w http.ResponseWriter, r *http.Request) (any, error) {
		u, err := s.upload(r.PathValue("upload"))
		if err != nil {
			return nil, err
		}
		var q client.CommitRequest
		if err := readJSON(w, r, maxCommit, &q); err != nil {
			return nil, err
		}
		added, err := u.Commit(r.Context(), q)
		if err == nil && !added.Unchanged && onNewVersion != nil {
			onNewVersion(added.Ref)
		}
		return added, err
	})
	handle("DELETE "+one, func(_ http.ResponseWriter, r *http.Request) (any, error) {
		u, err := s.upload(r.PathValue("upload"))
		if err != nil {
			return nil, err
		}
		u.Abort(r.Context())
		return nil, nil
	})
	return mux
}

// readBody reads a request's body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "the request is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "read the request: %w", err)
	}
	return b, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	b, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "read the request: %w", err)
	}
	return nil
}
