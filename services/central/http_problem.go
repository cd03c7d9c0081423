package central

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
)

// huma has no other place to say how it describes what is wrong with a request.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError { return malformed(nil, status, msg, errs) }
	huma.NewErrorWithContext = func(ctx huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return malformed(ctx, status, msg, errs)
	}
}

// maxFaults bounds how many faults of a request are told.
const maxFaults = 100

// malformed describes a request that huma refuses. The values that it refuses are left out: they may be secrets.
func malformed(ctx huma.Context, status int, msg string, errs []error) *client.RequestProblem {
	switch status {
	case http.StatusUnprocessableEntity, http.StatusInternalServerError:
		// The form is wrong, or the body could not be read: all else that can fail is central's, which describes it itself.
		status = http.StatusBadRequest
	case http.StatusRequestEntityTooLarge:
		if ctx != nil {
			msg = fmt.Sprintf("the request is larger than %d bytes", ctx.Operation().MaxBodyBytes)
		}
	}
	p := problem(status, "%s", msg)
	var texts []string
	for _, err := range errs[:min(len(errs), maxFaults)] {
		f := client.RequestFault{Message: "it cannot be read"}
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			// Both may name what was sent, however long that is.
			f.Location, f.Message = fmt.Sprintf("%.200s", d.Location), fmt.Sprintf("%.200s", d.Message)
		}
		p.Errors = append(p.Errors, f)
		if len(texts) < maxNamed {
			texts = append(texts, strings.TrimPrefix(f.Location+": "+f.Message, ": "))
		}
	}
	if len(errs) > 0 {
		p.Detail = "the request is not of the form that is wanted: " + strings.Join(texts, "; ")
		if more := len(errs) - len(texts); more > 0 {
			p.Detail += fmt.Sprintf("; and %d more", more)
		}
	}
	return p
}

// problem describes a request that is wrong by HTTP's rules.
func problem(status int, format string, args ...any) *client.RequestProblem {
	return &client.RequestProblem{ProblemDocument: provisioning.ProblemDocument{
		Title: string(provisioning.CodeInvalid), Status: status, Code: provisioning.CodeInvalid, Detail: fmt.Sprintf(format, args...),
	}}
}

// describe makes the problem document of an error. Internal ones are logged, since who asked is not told what they are.
func (c *Central) describe(ctx context.Context, method, path string, err error) *client.RequestProblem {
	if p, ok := errors.AsType[*client.RequestProblem](err); ok {
		return p
	}
	if provisioning.CodeOf(err) == provisioning.CodeInternal && ctx.Err() == nil {
		c.cfg.Log.Error("request failed", "method", method, "path", path, "error", err)
	}
	return &client.RequestProblem{ProblemDocument: provisioning.NewProblemDocument(err)}
}

// fail sends an error.
func (c *Central) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := c.describe(r.Context(), r.Method, r.URL.Path, err)
	b, err := json.Marshal(p)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", provisioning.ProblemContentType)
	w.WriteHeader(p.Status)
	_, _ = w.Write(b)
}

// methods are those that anything here may answer to.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete}

// elsewhere answers requests that nothing else does: 405 where the path has other methods (RFC 9110 section 15.5.6), else 404.
func (c *Central) elsewhere(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, m := range methods {
			other := r.Clone(r.Context())
			other.Method = m
			if _, pattern := mux.Handler(other); pattern != "/" && pattern != "" {
				allowed = append(allowed, m)
			}
		}
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			c.fail(w, r, problem(http.StatusMethodNotAllowed, "%.32s is not possible at %.128s; %s is", r.Method, r.URL.Path, strings.Join(allowed, ", ")))
			return
		}
		c.fail(w, r, provisioning.Errorf(provisioning.CodeNotFound, "", "there is nothing at %.32s %.128s", r.Method, r.URL.Path))
	}
}
