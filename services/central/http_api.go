package central

import (
	"context"
	"mime"
	"net/http"

	"branchpoint/provisioning"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// rights say who may ask for an operation. What is within the limits of whoever asks, the operation itself decides.
type rights struct {
	// text is for people.
	text  string
	guard func(c *Central, next http.HandlerFunc) http.Handler
	// open says that no token is wanted.
	open bool
}

// The rights that operations want. mayAsk says which roles may ask for what, where any role may.
var (
	anybody    = rights{text: "anybody, with a password", guard: (*Central).open, open: true}
	anyAccount = rights{text: "any account", guard: (*Central).signedIn}
	anyRole    = rights{text: "any role, to read; an operator's or administrator's, to do something; within its limits", guard: (*Central).adminOnly}
)

// administrators are those who may administer without limits; what is for the error of those who may not.
func administrators(what string) rights {
	return rights{text: "an administrator's role without limits", guard: func(c *Central, next http.HandlerFunc) http.Handler {
		return c.everywhere(provisioning.ActionAdminister, what, next)
	}}
}

// open lets every request through.
func (c *Central) open(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next(w, r.WithContext(provisioning.WithActor(r.Context(), provisioning.Actor{From: remoteHost(r)})))
	})
}

// api is what administrators may ask for below /v1. huma reads requests, checks their form and describes them as OpenAPI; it
// sees a request only after the operation's rights let it through.
type api struct {
	c    *Central
	huma huma.API
	mux  guardedMux
}

// guardedMux is how huma adds operations to a mux.
type guardedMux struct {
	*http.ServeMux
	c      *Central
	rights map[string]rights // by pattern
}

// HandleFunc adds an operation behind its rights.
func (m guardedMux) HandleFunc(pattern string, next func(http.ResponseWriter, *http.Request)) {
	who, ok := m.rights[pattern]
	if !ok {
		panic("nothing says who may ask for " + pattern)
	}
	m.Handle(pattern, who.guard(m.c, func(w http.ResponseWriter, r *http.Request) {
		if t := r.Header.Get("Content-Type"); t != "" && r.ContentLength != 0 {
			if media, _, err := mime.ParseMediaType(t); err != nil || media != "application/json" {
				m.c.fail(w, r, problem(http.StatusUnsupportedMediaType, "the request is of the type %.64q; application/json is wanted", t))
				return
			}
			r.Header.Set("Content-Type", "application/json")
		}
		next(w, r)
	}))
}

// newAPI adds the operations to a mux.
func (c *Central) newAPI(mux *http.ServeMux) *api {
	m := guardedMux{mux, c, map[string]rights{}}
	a := &api{c: c, mux: m, huma: humago.New(m, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "Branchpoint central", Version: "1", Description: apiText},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry(schemaPrefix, huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					tokenScheme: {Type: "http", Scheme: "bearer", Description: "An API token: of admin.json in central's data folder, of a login, or made for a program."},
				},
			},
		},
		// +json is what problem documents are written as.
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
		// A misspelt filter must not list everything.
		RejectUnknownQueryParameters: true,
	})}
	c.configurationOperations(a)
	c.identityOperations(a)
	c.siteOperations(a)
	c.reportOperations(a)
	for _, s := range a.huma.OpenAPI().Components.Schemas.Map() {
		for _, p := range s.Properties {
			p.Nullable = p.Nullable || p.ContentEncoding != "" // null is how Go writes no bytes at all
		}
	}
	return a
}

const tokenScheme = "token"

const apiText = `What administrators and programs ask of a Branchpoint central site.

Lists come in pages: where there is more, the answer has a next, which is the after of the following page. A page may have fewer
entries than were asked for, even none, and still not be the last.

Requests that have an effect take a header Idempotency-Key. Within 24 hours the same request under the same key has no further
effect and gets the first answer; another request under it is refused (422). Requests that fail may be sent again under their key.
Where the answer holds a secret, it is not given a second time: what was made is named (409).

Errors are problem documents (RFC 9457).`

// add adds an operation. Bodies of requests are at most maxRequest bytes, unless the operation says otherwise.
func add[In, Out any](a *api, who rights, op huma.Operation, do func(context.Context, *In) (*Out, error)) {
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxRequest
	}
	op.BodyReadTimeout = bodyTimeout
	if !who.open {
		op.Security = []map[string][]string{{tokenScheme: {}}}
	}
	op.Extensions = map[string]any{"x-rights": who.text}
	a.mux.rights[op.Method+" "+op.Path] = who
	huma.Register(a.huma, op, func(ctx context.Context, in *In) (*Out, error) {
		out, err := do(ctx, in)
		if err != nil {
			return nil, a.c.describe(ctx, op.Method, op.Path, err)
		}
		return out, nil
	})
}

// answer is the answer to a request, as huma wants it.
type answer[T any] struct{ Body T }

// answered makes an answer of what one of central's methods returned.
func answered[T any](v T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{v}, nil
}

// nothing is asked, or answered.
type nothing struct{}

// done is the answer of what returns nothing.
func done(err error) (*nothing, error) { return nil, err }

// sent is a request that is a JSON document.
type sent[T any] struct{ Body T }

// asks makes an operation of one of central's methods that is asked for by nothing but who asks.
func asks[T any](do func(context.Context) (T, error)) func(context.Context, *nothing) (*answer[T], error) {
	return func(ctx context.Context, _ *nothing) (*answer[T], error) { return answered(do(ctx)) }
}

// takes makes an operation of one of central's methods that takes a JSON document.
func takes[In, Out any](do func(context.Context, In) (Out, error)) func(context.Context, *sent[In]) (*answer[Out], error) {
	return func(ctx context.Context, in *sent[In]) (*answer[Out], error) { return answered(do(ctx, in.Body)) }
}
