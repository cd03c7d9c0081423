package central_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

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
