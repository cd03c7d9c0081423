package central

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Bounds of request bodies in bytes.
const (
	maxEnrol = 64 << 10
	// maxApplyBody is MaxApply in base 64, with room for names.
	maxApplyBody = client.MaxApply/3*4 + 4<<20
	maxToken     = 4 << 10
	// maxStatus holds MaxStatusBatch messages of the greatest size in the most wasteful JSON.
	maxStatus = 64 << 20
	// bodyTimeout is how long a client may take to send a JSON body.
	bodyTimeout = 2 * time.Minute
)

// Handler is central's whole HTTP interface.
func (c *Central) Handler() http.Handler {
	mux := http.NewServeMux()
	c.newAPI(mux).serveOpenAPI()
	c.branchRoutes(mux)
	below := func(path string, h http.Handler) {
		mux.Handle(path, h)
		mux.Handle(path+"/", h)
	}
	if h := c.cfg.ContentAdmin; h != nil {
		below(client.PathContentAdmin, c.contentOnly(h))
	}
	if h := c.cfg.ContentRead; h != nil {
		below(client.PathContentRead, c.siteOnly(func(w http.ResponseWriter, r *http.Request, _ string) { h.ServeHTTP(w, r) }))
	}
	mux.HandleFunc("/", c.elsewhere(mux))
	mux.HandleFunc("GET /healthz", c.handleHealth)
	if h := c.cfg.MetricsHandler; h != nil {
		mux.Handle("GET /metrics", c.everywhere(provisioning.ActionRead, "metrics", h.ServeHTTP))
	}
	return c.metrics.count(mux)
}

// branchRoutes adds what branches ask of central, with their sites' certificates.
func (c *Central) branchRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+client.PathEnrol, c.handleEnrol)
	mux.Handle("GET "+client.PathBranchSnapshot, c.siteOnly(c.handleSnapshot))
	mux.Handle("POST "+client.PathBranchStatus, c.siteOnly(c.handleReport))
	mux.Handle("POST "+client.PathBranchReports, c.siteOnly(c.handleSiteReports))
	mux.Handle("POST "+client.PathBranchHost, c.siteOnly(c.handleHost))
	mux.Handle("GET "+client.PathBranchEpochs, c.siteOnly(func(w http.ResponseWriter, r *http.Request, _ string) {
		out, err := c.epochs(r.Context())
		c.answer(w, r, out, err)
	}))
	mux.Handle("GET "+client.PathBranchRuns, c.siteOnly(func(w http.ResponseWriter, r *http.Request, site string) {
		out, err := c.siteRuns(r.Context(), site)
		c.answer(w, r, out, err)
	}))
	mux.Handle("POST "+client.PathBranchRenew, c.siteOnly(func(w http.ResponseWriter, r *http.Request, _ string) {
		var in client.EnrolRequest
		if err := readJSON(w, r, maxEnrol, &in); err != nil {
			c.fail(w, r, err)
			return
		}
		out, err := c.Renew(r.Context(), r.TLS.VerifiedChains[0][0], in)
		c.answer(w, r, out, err)
	}))
}

// contentOnly lets those who may read look at content, and those who may administer add and change it: it is every site's.
func (c *Central) contentOnly(h http.Handler) http.Handler {
	read, administer := c.adminOnly(h.ServeHTTP), c.everywhere(provisioning.ActionAdminister, "content", c.auditContent(h.ServeHTTP))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			read.ServeHTTP(w, r)
			return
		}
		administer.ServeHTTP(w, r)
	})
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func (c *Central) handleEnrol(w http.ResponseWriter, r *http.Request) {
	var in client.EnrolRequest
	if err := readJSON(w, r, maxEnrol, &in); err != nil {
		c.fail(w, r, err)
		return
	}
	ctx := provisioning.WithActor(r.Context(), provisioning.Actor{From: remoteHost(r)})
	out, err := c.Enrol(ctx, in)
	if err != nil {
		c.metrics.enrolments.WithLabelValues(resultRefused).Inc()
		c.cfg.Log.Warn("refused an enrolment", "from", r.RemoteAddr, "error", err)
	} else {
		c.metrics.enrolments.WithLabelValues(resultAccepted).Inc()
	}
	c.answer(w, r, out, err)
}

// handleSnapshot answers with a newer snapshot as soon as there is one, with 204 if there is none in the time the branch
// is willing to wait.
func (c *Central) handleSnapshot(w http.ResponseWriter, r *http.Request, site string) {
	q := r.URL.Query()
	epoch, err1 := strconv.ParseUint(q.Get("epoch"), 10, 64)
	number, err2 := strconv.ParseUint(q.Get("number"), 10, 64)
	wait, err3 := time.ParseDuration(q.Get("wait"))
	if err := errors.Join(err1, err2, err3); err != nil || wait < 0 {
		c.fail(w, r, provisioning.Errorf(provisioning.CodeInvalid, "", "epoch, number and wait are wanted, such as epoch=1&number=7&wait=50s"))
		return
	}
	c.noteContact(r.Context(), provisioning.SiteContact{Site: site, Epoch: epoch, Number: number, RootPinned: q.Get("root") == "pinned"})
	if err := c.noteRecipient(r.Context(), site, provisioning.SumSHA256(r.TLS.VerifiedChains[0][0].Raw), q.Get("recipient")); provisioning.CodeOf(err) == provisioning.CodeInvalid {
		c.fail(w, r, err)
		return
	} else if err != nil { // its snapshot is not to wait for that
		c.cfg.Log.Warn("cannot store to whom a site's secrets are to be encrypted", "site", site, "error", err)
	}
	timer := time.NewTimer(min(wait, client.MaxWait))
	defer timer.Stop()
	for {
		changed := c.changes()       // before looking: what changes afterwards is seen
		_, err := c.recogniseSite(r) // again: a site that is revoked while it waits gets nothing more
		var s *provisioning.SignedSnapshot
		if err == nil {
			s, err = c.newer(r.Context(), site, epoch, number)
		}
		if err != nil || s != nil {
			if err == nil {
				c.metrics.sent.Inc()
			}
			c.answer(w, r, s, err)
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-c.stop:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// readJSON reads a body of at most limit bytes.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	// Not every ResponseWriter has deadlines (tests' have not); the limit holds without.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem(http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", limit)
	}
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "read request: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the request is not the JSON that is wanted: %w", err)
	}
	return nil
}

// answer sends v, or the error if there is one.
func (c *Central) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.answerStatus(w, r, http.StatusOK, v)
}

// answerStatus sends v with an HTTP status.
func (c *Central) answerStatus(w http.ResponseWriter, r *http.Request, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		c.fail(w, r, provisioning.Errorf(provisioning.CodeInternal, "", "encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b) // who asked is gone; there is nobody to tell
}
