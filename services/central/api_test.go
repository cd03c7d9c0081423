package central_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// reply is what central answered.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request with a body, by a client or without credentials (nil), and headers "Name: value".
func (s *site) send(a *client.Admin, method, path, body string, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		if name, value, ok := strings.Cut(h, ": "); ok {
			req.Header.Set(name, value)
		}
	}
	h := s.bare().HTTP()
	if a != nil {
		h = a.HTTP()
	}
	resp, err := h.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, b}
}

// problem reads a reply that must be a problem document of that status.
func (r reply) problem(t *testing.T, status int) client.RequestProblem {
	t.Helper()
	var p client.RequestProblem
	if err := json.Unmarshal(r.body, &p); err != nil || r.header.Get("Content-Type") != provisioning.ProblemContentType || r.status != status || p.Status != status ||
		p.Title == "" || p.Detail == "" || p.Code == "" {
		t.Errorf("%d %s: %.300s (%v); want a problem document of status %d", r.status, r.header.Get("Content-Type"), r.body, err, status)
	}
	return p
}

// described is what the OpenAPI document says of an operation.
type described struct {
	OperationID string                `json:"operationId"`
	Rights      string                `json:"x-rights"`
	Security    []map[string][]string `json:"security"`
}

// operations returns the operations that central says it has, by "METHOD path".
func (s *site) operations() map[string]described {
	s.t.Helper()
	r := s.send(nil, http.MethodGet, client.PathOpenAPIJSON, "")
	var doc struct {
		OpenAPI string                          `json:"openapi"`
		Paths   map[string]map[string]described `json:"paths"`
	}
	if err := json.Unmarshal(r.body, &doc); err != nil || r.status != http.StatusOK || !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		s.t.Fatalf("%d %q %v", r.status, doc.OpenAPI, err)
	}
	out := map[string]described{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			out[strings.ToUpper(method)+" "+path] = op
		}
	}
	if len(out) < 30 {
		s.t.Fatalf("only %d operations are described", len(out))
	}
	return out
}

// TestEveryOperationRefuses asks for every operation without credentials, with a token that is none, with an account that has no
// role, and where the operation does something, with one that may only look.
func TestEveryOperationRefuses(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	nobody, viewer := s.account("nobody"), s.account("eye")
	s.mustApply(documents + role("eyes", "viewer", "eye", ""))
	// What any account may ask for concerns itself; operations are added here with a thought only.
	ofAccounts := []string{"whoAmI", "listAPITokens", "createAPIToken", "revokeAPIToken", "changeAccount"}
	for name, op := range s.operations() {
		t.Run(name, func(t *testing.T) {
			method, path, _ := strings.Cut(name, " ")
			path = strings.NewReplacer("{id}", "0123456789abcdef", "{name}", "other", "{site}", "LON").Replace(path)
			body := ""
			if method == http.MethodPost || method == http.MethodPut {
				body = "{}"
			}
			if op.Security == nil {
				if op.OperationID != "login" {
					t.Error("no token is wanted here")
				}
				return
			}
			for _, auth := range []string{"", "Authorization: Bearer", "Authorization: Bearer abcdefghijklmnopqrstuvwxyz234567", "Authorization: Basic YWRtaW46YWRtaW4="} {
				s.send(nil, method, path, body, auth).problem(t, http.StatusUnauthorized)
			}
			if strings.Contains(op.Rights, "any account") {
				if !slices.Contains(ofAccounts, op.OperationID) {
					t.Error("every account may ask for this")
				}
				return
			}
			s.send(nobody, method, path, body).problem(t, http.StatusForbidden)
			if op.Rights != "any role; within its limits" && (method != http.MethodGet || !strings.Contains(op.Rights, "any role")) {
				s.send(viewer, method, path, body).problem(t, http.StatusForbidden)
			} else if r := s.send(viewer, method, path, body); r.status == http.StatusForbidden || r.status == http.StatusUnauthorized {
				t.Errorf("a viewer is answered %d: %s", r.status, r.body)
			}
		})
	}
	// Nor may an account do to others what it may to itself.
	s.send(viewer, http.MethodGet, client.PathAPITokens+"?account=nobody", "").problem(t, http.StatusForbidden)
	s.send(viewer, http.MethodPost, client.PathAPITokens, `{"account":"nobody","name":"x","validSeconds":3600}`).problem(t, http.StatusForbidden)
	s.send(viewer, http.MethodPut, client.PathAccounts+"/nobody", `{"disabled":true}`).problem(t, http.StatusForbidden)
	s.send(viewer, http.MethodPut, client.PathAccounts+"/eye", `{"disabled":true}`).problem(t, http.StatusForbidden)
	tokens, err := nobody.APITokens(t.Context(), "")
	if err != nil || len(tokens) == 0 {
		t.Fatal(tokens, err)
	}
	s.send(viewer, http.MethodDelete, client.PathAPITokens+"/"+tokens[0].ID, "").problem(t, http.StatusNotFound)
}

func TestProblems(t *testing.T) {
	s := start(t, t.TempDir())
	s.send(s.admin, http.MethodGet, "/v1/nothing", "").problem(t, http.StatusNotFound)
	r := s.send(s.admin, http.MethodPatch, client.PathSettings, "{}")
	r.problem(t, http.StatusMethodNotAllowed)
	if allow := r.header.Get("Allow"); allow != "GET, HEAD, PUT" {
		t.Errorf("Allow: %s", allow)
	}
	r = s.send(s.admin, http.MethodGet, client.PathSites+"/LON/revoke", "")
	r.problem(t, http.StatusMethodNotAllowed)
	if allow := r.header.Get("Allow"); allow != http.MethodPost {
		t.Errorf("Allow: %s", allow)
	}
	for _, media := range []string{"application/x-www-form-urlencoded", "text/plain; charset=utf-8", "application/json;a=b+c;", "x", "application/xml"} {
		if r := s.send(s.admin, http.MethodPost, client.PathDelete, "{}", "Content-Type: "+media); media != "application/json;a=b+c;" {
			r.problem(t, http.StatusUnsupportedMediaType)
		} else if r.status/100 != 4 {
			t.Errorf("%s: %d %s", media, r.status, r.body)
		}
	}
	s.send(s.admin, http.MethodPost, client.PathTokens, `{"site":"`+strings.Repeat("x", 5000)+`"}`).problem(t, http.StatusRequestEntityTooLarge)
	s.send(s.admin, http.MethodPost, client.PathDelete, "").problem(t, http.StatusBadRequest)

	// All that is wrong with a request is told at once, with its place, and without the values: they may be secrets.
	p := s.send(s.admin, http.MethodPost, client.PathDelete, `{"documents":[{"kind":7,"name":"a"},{"kind":"Site"}],"dryRun":"hunter2","prune":true}`).problem(t, http.StatusBadRequest)
	var places []string
	for _, f := range p.Errors {
		places = append(places, f.Location)
	}
	slices.Sort(places)
	if want := []string{"body", "body.documents[0].kind", "body.documents[1]", "body.dryRun"}; !slices.Equal(places, want) && !slices.Equal(places, []string{"body.documents[0].kind", "body.documents[1]", "body.dryRun", "body.prune"}) {
		t.Errorf("%q in %+v", places, p)
	}
	if strings.Contains(fmt.Sprint(p), "hunter2") || !strings.Contains(p.Detail, "body.dryRun") {
		t.Errorf("%+v", p)
	}
	if r := s.send(s.admin, http.MethodPost, client.PathDelete, `{"`+strings.Repeat("x", 1<<20)+`":1}`); len(r.body) > 4096 {
		t.Errorf("an answer of %d bytes", len(r.body))
	} else {
		r.problem(t, http.StatusBadRequest)
	}
	for _, q := range []string{"limit=0", "limit=1001", "limit=-1", "limit=x", "offset=3"} {
		p := s.send(s.admin, http.MethodGet, client.PathChanges+"?"+q, "").problem(t, http.StatusBadRequest)
		name, _, _ := strings.Cut(q, "=")
		if len(p.Errors) != 1 || p.Errors[0].Location != "query."+name {
			t.Errorf("%s: %+v", q, p)
		}
	}
	s.send(s.admin, http.MethodGet, client.PathDocuments+"?kind=Nothing", "").problem(t, http.StatusBadRequest)
	for _, after := range []string{"x", "-1", "9223372036854775808"} {
		s.send(s.admin, http.MethodGet, client.PathRevisions+"?kind=Site&name=LON&after="+after, "").problem(t, http.StatusBadRequest)
		s.send(s.admin, http.MethodGet, client.PathAudit+"?after="+after, "").problem(t, http.StatusBadRequest)
	}
	// Faults of documents have their places as before.
	p = s.send(s.admin, http.MethodPost, client.PathApply, `{"files":[{"name":"a.yaml","text":"YQ=="}]}`).problem(t, http.StatusBadRequest)
	if len(p.Problems) == 0 || p.Problems[0].File != "a.yaml" {
		t.Errorf("%+v", p)
	}
	// What branches are told is of the same form.
	s.send(nil, http.MethodGet, client.PathBranchSnapshot, "").problem(t, http.StatusUnauthorized)
	s.send(nil, http.MethodDelete, client.PathEnrol, "").problem(t, http.StatusMethodNotAllowed)
}
