package central_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// follow asks for a list page by page, and returns its entries and how many each page had. between is called after each page.
func follow[T any](s *site, a *client.Admin, path string, between func()) (all []T, sizes []int) {
	s.t.Helper()
	after := ""
	for {
		r := s.send(a, http.MethodGet, path+after, "")
		var page client.List[T]
		if err := json.Unmarshal(r.body, &page); err != nil || r.status != http.StatusOK || page.Items == nil {
			s.t.Fatalf("%s: %d %s (%v)", path, r.status, r.body, err)
		}
		all, sizes = append(all, page.Items...), append(sizes, len(page.Items))
		if len(sizes) > 1000 {
			s.t.Fatal("the list has no end")
		}
		if between != nil {
			between()
		}
		if page.Next == "" {
			return all, sizes
		}
		after = "&after=" + url.QueryEscape(page.Next)
	}
}

func computer(name, site string, n int) string {
	return fmt.Sprintf("---\napiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: %s}\nspec: {site: %s, macAddresses: [\"52:54:00:00:%02x:%02x\"]}\n", name, site, n>>8, n&255)
}

func TestPagesOfDocuments(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	text := documents + role("london", "viewer", "lon", ", sites: [LON]")
	for i := range 40 {
		text += computer(fmt.Sprintf("c-%02d", i), []string{"LON", "PAR", "PAR", "PAR"}[i%4], i+1)
	}
	lon := s.account("lon")
	s.mustApply(text)
	names := func(docs []provisioning.Document) (out []string) {
		for _, d := range docs {
			out = append(out, string(d.Kind)+"/"+d.Name)
		}
		return out
	}
	whole, err := s.admin.Documents(t.Context(), "", "")
	if err != nil || len(whole) != 47 {
		t.Fatal(len(whole), err)
	}
	got, sizes := follow[provisioning.Document](s, s.admin, client.PathDocuments+"?limit=10", nil)
	if !slices.Equal(names(got), names(whole)) || !slices.Equal(sizes, []int{10, 10, 10, 10, 7}) || !slices.IsSorted(names(got)) {
		t.Errorf("%v %q", sizes, names(got))
	}
	// Whatever is applied or deleted meanwhile, all pages are of one moment.
	before, err := s.admin.Documents(t.Context(), provisioning.KindComputer, "")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	got, _ = follow[provisioning.Document](s, s.admin, client.PathDocuments+"?kind=Computer&limit=7", func() {
		n++
		s.mustApply(computer(fmt.Sprintf("a-%02d", n), "LON", 1000+n) + computer(fmt.Sprintf("x-%02d", n), "LON", 2000+n) + computer("c-39", "LON", 3000+n))
		if _, err := s.admin.Delete(t.Context(), client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindComputer, Name: fmt.Sprintf("c-%02d", 39-n)}}}); err != nil {
			t.Fatal(err)
		}
	})
	if n < 5 || !reflect.DeepEqual(got, before) {
		t.Errorf("%d pages: %q", n, names(got))
	}
	if now, err := s.admin.Documents(t.Context(), provisioning.KindComputer, ""); err != nil || len(now) != len(before)+n {
		t.Errorf("%d documents now, %d before, %v", len(now), len(before), err)
	}
	for after, status := range map[string]int{"Computer/c-00@999": http.StatusConflict, "Computer/c-00@x": http.StatusBadRequest, "Computer/c-00@-1": http.StatusBadRequest} {
		s.send(s.admin, http.MethodGet, client.PathDocuments+"?after="+url.QueryEscape(after), "").problem(t, status)
	}
	// Pages are filtered by rights before they are cut: they are full.
	got, sizes = follow[provisioning.Document](s, lon, client.PathDocuments+"?kind=Computer&name=&limit=4", nil)
	if slices.ContainsFunc(got, func(d provisioning.Document) bool { return strings.Contains(d.Text, "site: PAR") }) || len(got) < 10 {
		t.Errorf("%q", names(got))
	}
	for _, n := range sizes[:len(sizes)-1] {
		if n != 4 {
			t.Errorf("pages of %v", sizes)
		}
	}
	// A cursor of what is gone, or never was, leads to what comes after it.
	r := s.send(s.admin, http.MethodGet, client.PathDocuments+"?kind=Site&after=Site%2FM", "")
	var sites client.List[provisioning.Document]
	if err := json.Unmarshal(r.body, &sites); err != nil || len(sites.Items) != 1 || sites.Items[0].Name != "PAR" || sites.Next != "" {
		t.Errorf("%s %v", r.body, err)
	}
}

func TestPages(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	ctx := t.Context()
	lon := s.account("lon")
	for i := range 4 {
		s.account(fmt.Sprintf("a-%d", i))
		s.mustApply(documents + role("london", "operator", "lon", ", sites: [LON]") + fmt.Sprintf("# %d\n", i) + computer("desk-9", "LON", i+1))
		s.clock.Advance(time.Second)
		s.createToken("LON")
		s.createToken("PAR")
	}
	if _, err := s.admin.Delete(ctx, client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindComputer, Name: "desk-9"}}}); err != nil {
		t.Fatal(err)
	}
	machine := func(i int) provisioning.SiteReport {
		m := provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:01:%02x", i))}
		return provisioning.SiteReport{
			ID: strings.Repeat(fmt.Sprint(i), 32), Site: "LON", Kind: provisioning.ReportConflict, At: s.clock.Now(), Machine: m,
			Conflict: &provisioning.Conflict{Machine: m, Text: "two of them"},
		}
	}
	for i := range 3 {
		if _, err := s.TakeReports(ctx, "LON", []provisioning.SiteReport{machine(i)}); err != nil {
			t.Fatal(err)
		}
		s.clock.Advance(time.Second)
	}
	same := func(what string, got []string, sizes []int, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) || len(sizes) < 2 {
			t.Errorf("%s: pages of %v\ngot  %q\nwant %q", what, sizes, got, want)
		}
	}
	list := func(a *client.Admin, path string, name func(map[string]any) string) ([]string, []int) {
		all, sizes := follow[map[string]any](s, a, path, nil)
		var out []string
		for _, x := range all {
			out = append(out, name(x))
		}
		return out, sizes
	}
	field := func(n string) func(map[string]any) string {
		return func(m map[string]any) string { return fmt.Sprint(m[n]) }
	}

	got, sizes := list(s.admin, client.PathAccounts+"?limit=2", field("name"))
	same("accounts", got, sizes, "a-0", "a-1", "a-2", "a-3", "admin", "lon")
	got, sizes = list(s.admin, client.PathAPITokens+"?limit=2", field("account"))
	same("API tokens", got, sizes, "a-0", "a-1", "a-2", "a-3", "lon")
	got, sizes = list(s.admin, client.PathSites+"?limit=1", field("site"))
	same("sites", got, sizes, "LON", "PAR")
	got, sizes = list(s.admin, client.PathTokens+"?limit=3", field("site"))
	if slices.Sort(got); len(got) != 8 || got[3] != "LON" || got[4] != "PAR" {
		t.Errorf("tokens: %v %q", sizes, got)
	}
	tokens, err := s.admin.Tokens(ctx)
	if err != nil || len(tokens) != 8 || tokens[0].CreatedAt.Before(tokens[7].CreatedAt) {
		t.Error(tokens, err)
	}
	got, sizes = list(s.admin, client.PathConflicts+"?limit=2", field("id"))
	same("conflicts", got, sizes, machine(2).Conflict.ID(), machine(1).Conflict.ID(), machine(0).Conflict.ID())
	got, sizes = list(s.admin, client.PathChanges+"?limit=2", field("number"))
	same("changes", got, sizes, "5", "4", "3", "2", "1")
	got, sizes = list(s.admin, client.PathRevisions+"?kind=Computer&name=desk-9&limit=2", field("revision"))
	same("revisions", got, sizes, "1", "2", "3", "4", "5")
	got, sizes = list(s.admin, client.PathRevisions+"?change=1&limit=3", field("name"))
	same("a change's revisions", got, sizes, "rollout", "desk-1", "desk-9", "debian", "london", "LON", "PAR", "install")
	// Whoever is limited sees the deletion of what they could see, though it stands alone on its page.
	got, sizes = list(lon, client.PathRevisions+"?kind=Computer&name=desk-9&limit=1", field("revision"))
	same("revisions of a limited account", got, sizes, "1", "2", "3", "4", "5")
	got, sizes = list(lon, client.PathRevisions+"?kind=Site&name=PAR&limit=1", field("revision"))
	if len(got) != 0 || len(sizes) == 0 {
		t.Errorf("%v %q", sizes, got)
	}

	// The audit log's pages are those of all entries: what one may not see is left out, and the next page is there still.
	whole, sizes := follow[provisioning.AuditEntry](s, s.admin, client.PathAudit+"?limit=3", nil)
	for i, e := range whole[1:] {
		if e.Number != whole[i].Number-1 {
			t.Fatalf("entry %d follows %d", e.Number, whole[i].Number)
		}
	}
	limited, limitedSizes := follow[provisioning.AuditEntry](s, lon, client.PathAudit+"?limit=3", nil)
	if len(limitedSizes) != len(sizes) || len(limited) == 0 || len(limited) >= len(whole) {
		t.Errorf("%v of %v", limitedSizes, sizes)
	}
	// The client gathers them.
	page, err := lon.Audit(ctx, provisioning.AuditFilter{Limit: len(limited) - 1})
	if err != nil || !reflect.DeepEqual(page.Entries, limited[:len(limited)-1]) || page.Before == 0 {
		t.Errorf("%d of %d, before %d: %v", len(page.Entries), len(limited), page.Before, err)
	}
	page, err = lon.Audit(ctx, provisioning.AuditFilter{Limit: 1000})
	if err != nil || !reflect.DeepEqual(page.Entries, limited) || page.Before != 0 {
		t.Errorf("%d of %d, before %d: %v", len(page.Entries), len(limited), page.Before, err)
	}
	if changes, err := s.admin.Changes(ctx, 5, 3); err != nil || len(changes) != 3 || changes[2].Number != 2 {
		t.Error(changes, err)
	}
}

// TestStatusPages turns the pages of runs while these report again, which moves none: each is there once, and a limited account has
// full pages of those that it sees.
func TestStatusPages(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	ctx := t.Context()
	limited := s.account("lon")
	s.mustApply(documents + role("london", "operator", "lon", ", sites: [LON]"))
	branches := map[string]*client.Branch{}
	for _, code := range []string{"LON", "PAR"} {
		branches[code], _ = s.enrol(code)
	}
	said := 0
	report := func(code string, run int) {
		t.Helper()
		said++
		m := message(said, provisioning.StatusStepStarted, 1)
		m.Site, m.Computer, m.Run = code, fmt.Sprint("machine-", run), fmt.Sprintf("%032x", run)
		if err := branches[code].Report(ctx, []provisioning.StatusMessage{m}); err != nil {
			t.Fatal(err)
		}
	}
	for i, code := range []string{"LON", "PAR", "LON", "PAR", "LON", "LON", "PAR"} {
		report(code, i)
	}
	turn := func(a *client.Admin, again func()) (sizes []int, runs string) {
		t.Helper()
		for after := ""; ; {
			r := s.send(a, http.MethodGet, client.PathStatus+"?limit=2&after="+after, "")
			var page client.StatusReport
			if err := json.Unmarshal(r.body, &page); err != nil || r.status != http.StatusOK {
				t.Fatalf("%d %s %v", r.status, r.body, err)
			}
			var ids []string
			for _, x := range page.Runs {
				ids = append(ids, strings.TrimPrefix(x.Computer, "machine-"))
			}
			slices.Sort(ids)
			sizes, runs = append(sizes, len(ids)), runs+" "+strings.Join(ids, "+")
			if after = page.Next; after == "" {
				return sizes, runs
			}
			again()
		}
	}
	if sizes, runs := turn(s.admin, func() { report("LON", 0); report("LON", 5) }); runs != " 5+6 3+4 1+2 0" {
		t.Errorf("pages of %v:%s", sizes, runs)
	}
	// A run that is new meanwhile is on the first page, which was turned already.
	if sizes, runs := turn(limited, func() { report("LON", 100+said) }); runs != " 4+5 0+2" {
		t.Errorf("a limited account: pages of %v:%s", sizes, runs)
	}
	r, err := s.admin.Status(ctx, provisioning.StatusFilter{Runs: 3})
	if err != nil || len(r.Runs) != 3 || r.Next == "" {
		t.Fatal(r, err)
	}
	before, err := strconv.ParseUint(r.Next, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := s.admin.Status(ctx, provisioning.StatusFilter{Before: before, Runs: 1000})
	if err != nil || rest.Next != "" || len(rest.Runs) < 4 || slices.ContainsFunc(rest.Runs, func(x provisioning.RunReport) bool {
		return slices.ContainsFunc(r.Runs, func(y provisioning.RunReport) bool { return x.Run == y.Run })
	}) {
		t.Error(rest, err)
	}
	s.send(s.admin, http.MethodGet, client.PathStatus+"?after=x", "").problem(t, http.StatusBadRequest)
}

// TestIdempotencyKey sends each request that has an effect twice under one key: there is one effect, and one answer.
func TestIdempotencyKey(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	file := func(text string) string {
		b, err := json.Marshal(client.ApplyRequest{Files: []provisioning.File{{Name: "x.yaml", Text: []byte(text)}}, Caution: client.Caution{Diff: true}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	list, err := json.Marshal(client.ImportRequest{File: provisioning.File{Name: "x.csv", Text: []byte("name,mac\nnew-1,52:54:00:00:09:01\n")}, Site: "LON"})
	if err != nil {
		t.Fatal(err)
	}
	conflict := provisioning.Conflict{Machine: provisioning.Machine{MAC: "52:54:00:00:01:01"}, Text: "two of them"}
	if _, err := s.TakeReports(ctx, "LON", []provisioning.SiteReport{{ID: strings.Repeat("1", 32), Site: "LON", Kind: provisioning.ReportConflict, At: s.clock.Now(), Conflict: &conflict}}); err != nil {
		t.Fatal(err)
	}
	waiting, err := s.admin.CreateToken(ctx, "LON", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.bare().Enrol(ctx, waiting.Token, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnavailable, "")
	tokens, err := s.admin.Tokens(ctx)
	if err != nil || tokens[0].Fingerprint == "" {
		t.Fatal(tokens, err)
	}
	s.account("jo")
	s.createRoot()

	entries := func() int {
		page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Entries)
	}
	bodies := map[string]struct {
		body   string
		path   string // where it has names in it
		secret bool
		silent bool // nothing is noted of it
	}{
		"apply":                {body: file(computer("desk-8", "LON", 8))},
		"deleteDocuments":      {body: `{"documents":[{"kind":"Advertisement","name":"rollout"}]}`},
		"importComputers":      {body: string(list)},
		"rollback":             {body: `{"document":{"kind":"Site","name":"LON"},"revision":1}`, silent: true}, // it is that already
		"clear":                {body: `{"computers":["desk-1"]}`},
		"approve":              {body: `{"site":"LON","wipes":1,"validMinutes":1}`},
		"resolveConflict":      {body: `{"site":"LON","id":"` + conflict.ID() + `"}`},
		"createAPIToken":       {body: `{"account":"jo","name":"second","validSeconds":3600}`, secret: true},
		"createAccount":        {body: `{"name":"mo","password":"correct horse battery"}`},
		"nextEpoch":            {body: `{"rotateKey":true}`, silent: true},
		"createEnrolmentToken": {body: `{"site":"LON","validSeconds":3600}`, secret: true},
		"approveSite":          {body: `{"fingerprint":"` + tokens[0].Fingerprint + `"}`, path: "/v1/sites/LON/approve"},
		"revokeSite":           {body: `{"why":"stolen"}`, path: "/v1/sites/PAR/revoke"},
	}
	for name, op := range s.operations() {
		method, path, _ := strings.Cut(name, " ")
		if method != http.MethodPost || op.OperationID == "login" || op.OperationID == "previewCollection" {
			continue
		}
		c, ok := bodies[op.OperationID]
		if !ok {
			t.Errorf("%s is not tried", op.OperationID)
			continue
		}
		if c.path != "" {
			path = c.path
		}
		key := `Idempotency-Key: "` + op.OperationID + `-1"`
		before := entries()
		first := s.send(s.admin, method, path, c.body, key)
		if first.status != http.StatusOK {
			t.Errorf("%s: %d %s", op.OperationID, first.status, first.body)
			continue
		}
		after := entries()
		if after == before && !c.silent {
			t.Errorf("%s: nothing was noted", op.OperationID)
		}
		again := s.send(s.admin, method, path, " "+c.body, "Idempotency-Key: "+op.OperationID+"-1") // written otherwise, and the key without quotes
		if c.secret {
			var made struct{ ID string }
			if err := json.Unmarshal(first.body, &made); err != nil || len(made.ID) != 16 {
				t.Fatalf("%s: %s %v", op.OperationID, first.body, err)
			}
			if p := again.problem(t, http.StatusConflict); !strings.Contains(p.Detail, made.ID) || p.Next == "" {
				t.Errorf("%s: %+v", op.OperationID, p)
			}
		} else if again.status != first.status || !bytes.Equal(again.body, first.body) {
			t.Errorf("%s: first %d %s\nthen %d %s", op.OperationID, first.status, first.body, again.status, again.body)
		}
		if n := entries(); n != after {
			t.Errorf("%s: sent again it had another effect", op.OperationID)
		}
		other := strings.Replace(c.body, "{", `{"confirm":"7",`, 1)
		switch op.OperationID {
		case "resolveConflict":
			other = `{"site":"LON","id":"other"}`
		case "createAPIToken":
			other = `{"account":"jo","name":"third","validSeconds":3600}`
		case "createAccount":
			other = `{"name":"mo","password":"another horse battery"}`
		case "nextEpoch":
			other = `{}`
		case "createEnrolmentToken":
			other = `{"site":"LON","validSeconds":7200}`
		case "approveSite":
			other = `{"fingerprint":"0"}`
		case "revokeSite":
			other = `{"why":"lost"}`
		}
		s.send(s.admin, method, path, other, key).problem(t, http.StatusUnprocessableEntity)
	}

	// What is kept tells no secrets.
	files, err := filepath.Glob(filepath.Join(s.dir, "central.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, []byte("correct horse battery")) {
			t.Errorf("%s holds a password, or %v", f, err)
		}
	}
}

func TestIdempotencyKeys(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents + role("bosses", "administrator", "boss", ""))
	ctx := t.Context()
	boss := s.account("boss", "bosses")
	clears := func(a *client.Admin, key string) reply {
		return s.send(a, http.MethodPost, client.PathClears, `{"computers":["desk-1"]}`, "Idempotency-Key: "+key)
	}
	orders := func() int {
		all, err := s.store.Orders(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return int(all[len(all)-1].Number)
	}
	for _, bad := range []string{`"`, `""`, `"a`, `a b`, `a"b`, strings.Repeat("x", 256), "\u00e4"} {
		clears(s.admin, bad).problem(t, http.StatusBadRequest)
	}
	// Many at once have one effect, and all get its answer.
	var wg sync.WaitGroup
	replies := make([]reply, 8)
	for i := range replies {
		wg.Go(func() { replies[i] = clears(s.admin, `"k"`) })
	}
	wg.Wait()
	for _, r := range replies {
		if r.status != http.StatusOK || !bytes.Equal(r.body, replies[0].body) {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := orders(); n != 1 {
		t.Errorf("%d orders", n)
	}
	// Another account's key is another; without a key each request has its effect.
	if r := clears(boss, `"k"`); r.status != http.StatusOK || bytes.Equal(r.body, replies[0].body) || orders() != 2 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	for range 2 {
		if r := s.send(s.admin, http.MethodPost, client.PathClears, `{"computers":["desk-1"]}`); r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := orders(); n != 4 {
		t.Errorf("%d orders", n)
	}
	// It is kept over a restart, for 24 hours.
	s.clock.Advance(24*time.Hour - time.Minute)
	s.stop()
	now := s.clock
	s = start(t, s.dir)
	s.clock.Advance(now.Now().Sub(s.clock.Now()))
	if r := clears(s.admin, `"k"`); !bytes.Equal(r.body, replies[0].body) || orders() != 4 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	s.clock.Advance(2 * time.Minute)
	if r := clears(s.admin, `"k"`); r.status != http.StatusOK || bytes.Equal(r.body, replies[0].body) || orders() != 5 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	// A request that was refused may be sent again under its key.
	key := `Idempotency-Key: "refused"`
	body := `{"computers":["desk-7"]}`
	s.send(s.admin, http.MethodPost, client.PathClears, body, key).problem(t, http.StatusNotFound)
	s.mustApply(computer("desk-7", "LON", 7))
	if r := s.send(s.admin, http.MethodPost, client.PathClears, body, key); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	// What was put in force since is not undone by an older request that arrives again.
	one := computer("desk-7", "LON", 70)
	b, err := json.Marshal(client.ApplyRequest{Files: []provisioning.File{{Name: "x.yaml", Text: []byte(one)}}})
	if err != nil {
		t.Fatal(err)
	}
	s.send(s.admin, http.MethodPost, client.PathApply, string(b), `Idempotency-Key: "one"`)
	s.mustApply(computer("desk-7", "LON", 71))
	if r := s.send(s.admin, http.MethodPost, client.PathApply, string(b), `Idempotency-Key: "one"`); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	docs, err := s.admin.Documents(ctx, provisioning.KindComputer, "desk-7")
	if err != nil || len(docs) != 1 || !strings.Contains(docs[0].Text, "52:54:00:00:00:47") {
		t.Error(docs, err)
	}
}

// TestLostAnswer cuts a connection when central answers: the client sends the request again, and it has one effect.
func TestLostAnswer(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	var wg sync.WaitGroup
	over, end := context.WithCancel(ctx)
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Error(err)
				return
			}
			hangUp := func() { _, _ = near.Close(), far.Close() }
			context.AfterFunc(over, hangUp)
			wg.Go(func() {
				defer hangUp()
				_, _ = io.Copy(far, near)
			})
			wg.Go(func() {
				defer hangUp()
				b := make([]byte, 32<<10)
				for {
					n, err := far.Read(b)
					if err != nil || cut.CompareAndSwap(true, false) {
						return
					}
					if _, err := near.Write(b[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	a, err := client.NewAdmin(client.AdminFile{Address: l.Addr().String(), CA: string(s.CA()), Token: s.token}, s.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer wg.Wait()
	defer end()
	defer l.Close()
	if _, err := a.Sites(ctx); err != nil {
		t.Fatal(err)
	}
	cut.Store(true)
	given, err := a.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1"}})
	if err != nil || len(given.Orders) != 1 || given.Orders[0].Number != 1 || cut.Load() {
		t.Errorf("%+v %v", given, err)
	}
	if all, err := s.store.Orders(ctx); err != nil || len(all) != 1 {
		t.Errorf("%+v %v", all, err)
	}
}
