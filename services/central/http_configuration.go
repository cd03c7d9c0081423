package central

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// maxRequest bounds the body of a request without files, in bytes.
const maxRequest = 4 << 20

// handle answers a JSON request by one of central's methods.
func handle[In, Out any](c *Central, limit int64, do func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := readJSON(w, r, limit, &in); err != nil {
			c.fail(w, r, err)
			return
		}
		out, err := do(r.Context(), in)
		c.answer(w, r, out, err)
	}
}

// configurationRoutes adds what administrators ask of the configuration.
func (c *Central) configurationRoutes(admin func(pattern string, h http.HandlerFunc)) {
	admin("POST "+client.PathApply, handle(c, maxApplyBody, c.Apply))
	admin("POST "+client.PathDelete, handle(c, maxRequest, c.Delete))
	admin("POST "+client.PathImportComputers, handle(c, maxApplyBody, c.ImportComputers))
	admin("POST "+client.PathRollback, handle(c, maxRequest, c.Rollback))
	admin("POST "+client.PathClears, handle(c, maxRequest, c.Clear))
	admin("POST "+client.PathApprovals, handle(c, maxRequest, c.Approve))
	admin("GET "+client.PathDocuments, c.handleDocuments)
	admin("GET "+client.PathChanges, c.handleChanges)
	admin("GET "+client.PathRevisions, c.handleRevisions)
	admin("GET "+client.PathConflicts, func(w http.ResponseWriter, r *http.Request) {
		out, err := c.Conflicts(r.Context())
		c.answer(w, r, out, err)
	})
	admin("POST "+client.PathResolve, handle(c, maxRequest, c.ResolveConflict))
	admin("GET "+client.PathSettings, func(w http.ResponseWriter, r *http.Request) {
		out, err := c.Settings(r.Context())
		c.answer(w, r, out, err)
	})
	admin("PUT "+client.PathSettings, handle(c, maxRequest, c.PutSettings))
}

func (c *Central) handleDocuments(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	kind := provisioning.Kind(q.Get("kind"))
	if kind != "" && !slices.Contains(provisioning.Kinds, kind) {
		c.fail(w, r, provisioning.Errorf(provisioning.CodeInvalid, "", "kind %.64q is unknown", kind))
		return
	}
	docs, err := c.documents(r.Context(), kind, q.Get("name"))
	if err == nil {
		docs, err = c.visible(r.Context(), docs)
	}
	c.answer(w, r, docs, err)
}

// documents returns the documents in force of that kind and name; empty chooses all.
func (c *Central) documents(ctx context.Context, kind provisioning.Kind, name string) ([]provisioning.Document, error) {
	all, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	out := []provisioning.Document{}
	for _, d := range all {
		if (kind == "" || d.Kind == kind) && (name == "" || d.Name == name) {
			out = append(out, d)
		}
	}
	return out, nil
}

func (c *Central) handleChanges(w http.ResponseWriter, r *http.Request) {
	before, err := number(r, "before")
	if err != nil {
		c.fail(w, r, err)
		return
	}
	limit, err := number(r, "limit")
	if err != nil {
		c.fail(w, r, err)
		return
	}
	if limit == 0 || limit > client.MaxPage {
		limit = client.MaxPage
	}
	out, err := c.cfg.Store.Changes(r.Context(), before, int(limit))
	c.answer(w, r, out, err)
}

// handleRevisions answers with the revisions of a document (kind and name), or of a change (change).
func (c *Central) handleRevisions(w http.ResponseWriter, r *http.Request) {
	change, err := number(r, "change")
	if err != nil {
		c.fail(w, r, err)
		return
	}
	k := provisioning.Key{Kind: provisioning.Kind(r.URL.Query().Get("kind")), Name: r.URL.Query().Get("name")}
	out, err := c.revisions(r.Context(), change, k)
	if err == nil {
		out, err = c.visibleRevisions(r.Context(), out)
	}
	c.answer(w, r, out, err)
}

// revisions fails with CodeNotFound where there are none.
func (c *Central) revisions(ctx context.Context, change uint64, k provisioning.Key) ([]provisioning.Revision, error) {
	if change != 0 {
		out, err := c.cfg.Store.ChangeRevisions(ctx, change)
		if err == nil && len(out) == 0 {
			err = provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint history", "there is no change %d", change)
		}
		return out, err
	}
	out, err := c.cfg.Store.Revisions(ctx, k)
	if err == nil && len(out) == 0 {
		err = provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint get", "there never was a %.64s %.64q", k.Kind, k.Name)
	}
	return out, err
}

// number reads a number of a query, 0 where there is none. Numbers of the store have 63 bits.
func number(r *http.Request, name string) (uint64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, provisioning.Errorf(provisioning.CodeInvalid, "", "%s is %.64q; a number is wanted", name, s)
	}
	return n, nil
}
