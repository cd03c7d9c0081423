package central_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

const passphrase = "correct horse battery"

// as is the client of another token.
func (s *site) as(token string) *client.Admin {
	s.t.Helper()
	a, err := client.NewAdmin(client.AdminFile{Address: s.address, CA: string(s.CA()), Token: token}, s.clock.Now)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// account makes an account with a token, and returns its client; roles are those that name it already.
func (s *site) account(name string, roles ...string) *client.Admin {
	s.t.Helper()
	if err := s.admin.CreateAccount(s.t.Context(), client.AccountRequest{Name: name, Confirm: strings.Join(roles, ",")}); err != nil {
		s.t.Fatal(err)
	}
	tok, err := s.admin.CreateAPIToken(s.t.Context(), client.APITokenRequest{Account: name, Name: "test", ValidSeconds: 3600})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.as(tok.Token)
}

func role(name, rights, account, limits string) string {
	return fmt.Sprintf("---\napiVersion: branchpoint/v1\nkind: Role\nmetadata: {name: %s}\nspec: {rights: %s, accounts: [%s]%s}\n", name, rights, account, limits)
}

func TestLogin(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	given := passphrase
	if err := s.admin.CreateAccount(ctx, client.AccountRequest{Name: "jo", Password: &given}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.admin.CreateAccount(ctx, client.AccountRequest{Name: "jo"}), provisioning.CodeConflict, "already")
	wantCode(t, s.admin.CreateAccount(ctx, client.AccountRequest{Name: "admin"}), provisioning.CodeConflict, "built in")
	short := "short"
	wantCode(t, s.admin.CreateAccount(ctx, client.AccountRequest{Name: "mo", Password: &short}), provisioning.CodeInvalid, "8 characters")

	nobody := s.as("no token")
	tok, err := nobody.Login(ctx, "jo", passphrase)
	if err != nil {
		t.Fatal(err)
	}
	jo := s.as(tok.Token)
	who, err := jo.WhoAmI(ctx)
	if err != nil || who.Name != "jo" || !who.HasPassword || who.LastLogin.IsZero() {
		t.Errorf("%+v, %v", who, err)
	}
	// Without a role there is nothing to see.
	_, err = jo.Sites(ctx)
	wantCode(t, err, provisioning.CodeForbidden, "account jo has no role")

	// Whoever guesses waits, whichever account it is, and there need not be one.
	for _, account := range []string{"jo", "nobody-there"} {
		_, err = nobody.Login(ctx, account, "wrong password")
		if account == "jo" {
			wantCode(t, err, provisioning.CodeUnauthorized, "account or its password is wrong")
		} else {
			wantCode(t, err, provisioning.CodeUnavailable, "too many wrong passwords")
		}
	}
	_, err = nobody.Login(ctx, "jo", passphrase)
	wantCode(t, err, provisioning.CodeUnavailable, "too many wrong passwords")
	s.clock.Advance(time.Minute)
	_, err = nobody.Login(ctx, "nobody-there", "wrong password")
	wantCode(t, err, provisioning.CodeUnauthorized, "account or its password is wrong")
	s.clock.Advance(time.Minute)
	if _, err = nobody.Login(ctx, "jo", passphrase); err != nil {
		t.Error(err)
	}

	// Their own password they change with the present one, and nothing else; logins end by it.
	next := "another passphrase"
	s.clock.Advance(time.Hour)
	wantCode(t, jo.ChangeAccount(ctx, client.AccountRequest{Name: "jo", Password: &next, Present: "wrong"}), provisioning.CodeUnauthorized, "wrong")
	s.clock.Advance(time.Hour)
	off := true
	wantCode(t, jo.ChangeAccount(ctx, client.AccountRequest{Name: "jo", Disabled: &off, Present: passphrase}), provisioning.CodeForbidden, "no role")
	if err := jo.ChangeAccount(ctx, client.AccountRequest{Name: "jo", Password: &next, Present: passphrase}); err != nil {
		t.Fatal(err)
	}
	_, err = jo.WhoAmI(ctx)
	wantCode(t, err, provisioning.CodeUnauthorized, "token")
	s.clock.Advance(time.Hour)
	_, err = nobody.Login(ctx, "jo", passphrase)
	wantCode(t, err, provisioning.CodeUnauthorized, "wrong")
	s.clock.Advance(time.Hour)
	if tok, err = nobody.Login(ctx, "jo", next); err != nil {
		t.Fatal(err)
	}
	jo = s.as(tok.Token)
	if err := s.admin.ChangeAccount(ctx, client.AccountRequest{Name: "jo", Disabled: &off}); err != nil {
		t.Fatal(err)
	}
	_, err = jo.WhoAmI(ctx)
	wantCode(t, err, provisioning.CodeUnauthorized, "disabled")
	_, err = nobody.Login(ctx, "jo", next)
	wantCode(t, err, provisioning.CodeUnauthorized, "wrong")
	if err := s.admin.DeleteAccount(ctx, "jo"); err != nil {
		t.Fatal(err)
	}
	_, err = jo.WhoAmI(ctx)
	wantCode(t, err, provisioning.CodeUnauthorized, "token")

	page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "Account", Name: "jo"})
	if err != nil || len(page.Entries) != 4 {
		t.Fatalf("%+v, %v", page, err)
	}
	for i, action := range []string{"delete", "change", "change", "create"} {
		e := page.Entries[i]
		if e.Action != action || e.From != "127.0.0.1" || strings.Contains(e.Before+e.After, "argon2") || strings.Contains(e.Before+e.After, passphrase) {
			t.Errorf("%+v", e)
		}
	}
	if e := page.Entries[2]; e.Account != "jo" || !strings.Contains(e.After, "a new one") {
		t.Errorf("%+v", e)
	}
}

// TestAccountWithRoles: an account that is made again has the roles that it had, and a new one those that name it, only where that is
// said.
func TestAccountWithRoles(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	ctx := t.Context()
	create := func(name, confirm string) error {
		return s.admin.CreateAccount(ctx, client.AccountRequest{Name: name, Confirm: confirm})
	}
	s.account("jo")
	s.mustApply(documents + role("london", "operator", "jo", ", sites: [LON]") + role("bosses", "administrator", "jo", ""))
	wantCode(t, create("jo", ""), provisioning.CodeConflict, "already")
	if err := s.admin.DeleteAccount(ctx, "jo"); err != nil {
		t.Fatal(err)
	}
	for _, confirm := range []string{"", "london", "bosses", "london,bosses", "bosses,london,x"} {
		err := create("jo", confirm)
		wantCode(t, err, provisioning.CodeConflict, "roles at once, which name it already: bosses, london")
		if !strings.Contains(provisioning.NextOf(err), "--confirm bosses,london.") {
			t.Errorf("%q", provisioning.NextOf(err))
		}
	}
	wantCode(t, create("mo", "bosses"), provisioning.CodeConflict, "confirms nothing")
	if all, err := s.admin.Accounts(ctx); err != nil || len(all) != 1 {
		t.Errorf("%+v %v", all, err)
	}
	for name, confirm := range map[string]string{"jo": "bosses,london", "mo": ""} {
		if err := create(name, confirm); err != nil {
			t.Error(err)
		}
	}
}

func TestAPITokens(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	jo, mo := s.account("jo"), s.account("mo")
	own, err := jo.CreateAPIToken(ctx, client.APITokenRequest{Name: "script", ValidSeconds: 60})
	if err != nil || own.Account != "jo" {
		t.Fatal(own, err)
	}
	_, err = jo.CreateAPIToken(ctx, client.APITokenRequest{Name: "script", ValidSeconds: 60})
	wantCode(t, err, provisioning.CodeConflict, "has a token")
	_, err = jo.CreateAPIToken(ctx, client.APITokenRequest{Account: "mo", Name: "x", ValidSeconds: 60})
	wantCode(t, err, provisioning.CodeForbidden, "no role")
	_, err = jo.CreateAPIToken(ctx, client.APITokenRequest{Name: "x", ValidSeconds: 1})
	wantCode(t, err, provisioning.CodeInvalid, "1 minute to 400 days")
	_, err = jo.CreateAPIToken(ctx, client.APITokenRequest{Name: "x\n", ValidSeconds: 60})
	wantCode(t, err, provisioning.CodeInvalid, "ASCII")
	_, err = s.admin.CreateAPIToken(ctx, client.APITokenRequest{Name: "x", ValidSeconds: 60})
	wantCode(t, err, provisioning.CodeInvalid, "admin.json")
	wantCode(t, mo.RevokeAPIToken(ctx, own.ID), provisioning.CodeNotFound, "no API token")

	if tokens, err := mo.APITokens(ctx, ""); err != nil || len(tokens) != 1 || tokens[0].Account != "mo" || tokens[0].LastUsed.IsZero() {
		t.Errorf("%+v, %v", tokens, err)
	}
	if tokens, err := s.admin.APITokens(ctx, ""); err != nil || len(tokens) != 3 {
		t.Errorf("%+v, %v", tokens, err)
	}
	s.clock.Advance(time.Minute)
	_, err = s.as(own.Token).WhoAmI(ctx)
	wantCode(t, err, provisioning.CodeUnauthorized, "expired")
	again, err := jo.CreateAPIToken(ctx, client.APITokenRequest{Name: "script", ValidSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	if err := jo.RevokeAPIToken(ctx, again.ID); err != nil {
		t.Fatal(err)
	}
	_, err = s.as(again.Token).WhoAmI(ctx)
	wantCode(t, err, provisioning.CodeUnauthorized, "token")
	// Only its sum is kept.
	page, err := s.admin.Audit(ctx, provisioning.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		if strings.Contains(e.Before+e.After, again.Token) {
			t.Errorf("the token is in %+v", e)
		}
	}
}

// TestRights: every way to look at something or to change it, by accounts of every kind.
func TestRights(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	ctx := t.Context()
	clients := map[string]*client.Admin{"admin": s.admin}
	for _, n := range []string{"boss", "op", "eye", "lon", "lonboss", "lab", "none"} {
		clients[n] = s.account(n)
	}
	s.mustApply(documents + `---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
spec: {site: PAR, macAddresses: ["52:54:00:12:34:57"]}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: lab}
spec: {query: 'computer.name == "desk-2"'}
` + role("bosses", "administrator", "boss", "") + role("ops", "operator", "op", "") + role("eyes", "viewer", "eye", "") +
		role("london", "operator", "lon", ", sites: [LON]") + role("london-bosses", "administrator", "lonboss", ", sites: [LON]") +
		role("labs", "operator", "lab", ", collections: [lab]"))

	apply := func(text string) func(*client.Admin) error {
		return func(a *client.Admin) error {
			_, err := a.Apply(ctx, client.ApplyRequest{Files: []provisioning.File{{Name: "x.yaml", Text: []byte("apiVersion: branchpoint/v1\n" + text)}}})
			return err
		}
	}
	status := func(method, path string) func(*client.Admin) error {
		return func(a *client.Admin) error {
			req, err := http.NewRequestWithContext(ctx, method, a.URL()+path, nil)
			if err != nil {
				return err
			}
			resp, err := a.HTTP().Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusForbidden {
				return provisioning.Errorf(provisioning.CodeForbidden, "", "refused")
			}
			return nil
		}
	}
	discard := func(_ any, err error) error { return err }
	n := 0
	for _, x := range []struct {
		what  string
		do    func(*client.Admin) error
		whose string // accounts that may
	}{
		{"list sites", func(a *client.Admin) error { return discard(a.Sites(ctx)) }, "admin boss op eye lon lonboss lab"},
		{"list documents", func(a *client.Admin) error { return discard(a.Documents(ctx, "", "")) }, "admin boss op eye lon lonboss lab"},
		{"list runs", func(a *client.Admin) error { return discard(a.Status(ctx, provisioning.StatusFilter{})) }, "admin boss op eye lon lonboss lab"},
		{"read the audit log", func(a *client.Admin) error { return discard(a.Audit(ctx, provisioning.AuditFilter{})) }, "admin boss op eye lon lonboss lab"},
		{"list enrolment tokens", func(a *client.Admin) error { return discard(a.Tokens(ctx)) }, "admin boss op eye lon lonboss lab"},
		{"read metrics", status(http.MethodGet, "/metrics"), "admin boss op eye"},
		{"list content", status(http.MethodGet, client.PathContentAdmin), "admin boss op eye lon lonboss lab"},
		{"add content", status(http.MethodPost, client.PathContentAdmin+"/uploads"), "admin boss"},
		{"delete content", status(http.MethodDelete, client.PathContentAdmin+"/x"), "admin boss"},
		{"list accounts", func(a *client.Admin) error { return discard(a.Accounts(ctx)) }, "admin boss"},
		{"make an account", func(a *client.Admin) error {
			n++
			return a.CreateAccount(ctx, client.AccountRequest{Name: fmt.Sprintf("new-%d", n)})
		}, "admin boss"},
		{"see the epoch", func(a *client.Admin) error { return discard(a.Epoch(ctx)) }, "admin boss"},
		{"make a token for LON", func(a *client.Admin) error { return discard(a.CreateToken(ctx, "LON", time.Hour, false)) }, "admin boss lonboss"},
		{"make a token for PAR", func(a *client.Admin) error { return discard(a.CreateToken(ctx, "PAR", time.Hour, false)) }, "admin boss"},
		{"list hosts", func(a *client.Admin) error { return discard(a.Hosts(ctx)) }, "admin boss op eye lon lonboss lab"},
		{"forget a host", func(a *client.Admin) error {
			if err := a.ForgetHost(ctx, "LON", "none", ""); provisioning.CodeOf(err) != provisioning.CodeNotFound {
				return err
			}
			return nil
		}, "admin boss"},
		{"revoke LON", func(a *client.Admin) error { return discard(a.RevokeSite(ctx, "LON", "test")) }, "admin boss lonboss"},
		{"change settings", status(http.MethodPut, client.PathSettings), "admin boss op lon lonboss lab"}, // an empty body gets no further
		{"change a computer at LON", apply("kind: Computer\nmetadata: {name: desk-1}\nspec: {site: LON, description: x, macAddresses: [\"52:54:00:12:34:56\"]}\n"), "admin boss op lon lonboss"},
		{"change it back", apply("kind: Computer\nmetadata: {name: desk-1}\nspec: {site: LON, macAddresses: [\"52:54:00:12:34:56\"]}\n"), "admin boss op lon lonboss"},
		{"change a computer of the lab", apply("kind: Computer\nmetadata: {name: desk-2}\nspec: {site: PAR, description: x, macAddresses: [\"52:54:00:12:34:57\"]}\n"), "admin boss op lab"},
		{"change it back", apply("kind: Computer\nmetadata: {name: desk-2}\nspec: {site: PAR, macAddresses: [\"52:54:00:12:34:57\"]}\n"), "admin boss op lab"},
		{"change a site", apply("kind: Site\nmetadata: {name: LON}\nspec: {description: x, pxe: {mode: proxy}}\n"), "admin boss lonboss"},
		{"change it back", apply("kind: Site\nmetadata: {name: LON}\nspec: {pxe: {mode: proxy}}\n"), "admin boss lonboss"},
		{"change a role", apply("kind: Role\nmetadata: {name: eyes}\nspec: {rights: viewer, accounts: [eye], description: x}\n"), "admin boss"},
		{"change it back", apply("kind: Role\nmetadata: {name: eyes}\nspec: {rights: viewer, accounts: [eye]}\n"), "admin boss"},
		{"change a sequence", apply("kind: TaskSequence\nmetadata: {name: other}\nspec: {steps: [{restart: {}}]}\n"), "admin boss"},
		{"delete it", func(a *client.Admin) error {
			return discard(a.Delete(ctx, client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindTaskSequence, Name: "other"}}}))
		}, "admin boss"},
		{"clear a computer at LON", func(a *client.Admin) error {
			return discard(a.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1"}}))
		}, "admin boss op lon lonboss"},
		{"clear a computer of the lab", func(a *client.Admin) error {
			return discard(a.Clear(ctx, client.ClearRequest{Computers: []string{"desk-2"}}))
		}, "admin boss op lab"},
		{"approve at LON", func(a *client.Admin) error {
			return discard(a.Approve(ctx, client.ApprovalRequest{Site: "LON", Wipes: 1, ValidMinutes: 1}))
		}, "admin boss op lon lonboss"},
	} {
		may := strings.Fields(x.whose)
		// Those who may not are first, so that there is something to refuse.
		names := []string{"none", "eye", "lab", "lon", "lonboss", "op", "boss", "admin"}
		slices.SortStableFunc(names, func(a, b string) int {
			return map[bool]int{true: 1}[slices.Contains(may, a)] - map[bool]int{true: 1}[slices.Contains(may, b)]
		})
		for _, name := range names {
			err := x.do(clients[name])
			refused := provisioning.CodeOf(err) == provisioning.CodeForbidden
			if refused == slices.Contains(may, name) {
				t.Errorf("%s by %s: %v", x.what, name, err)
			}
			if err != nil && !refused && !(x.what == "delete it" && provisioning.CodeOf(err) == provisioning.CodeNotFound) {
				t.Errorf("%s by %s: %v", x.what, name, err)
			}
		}
	}

	// What is listed is within the limits.
	for name, want := range map[string]string{
		"lon": "LON debian desk-1 install rollout", "lab": "debian desk-2 install lab",
		"eye": "LON PAR bosses debian desk-1 desk-2 eyes install lab labs london london-bosses ops rollout",
	} {
		docs, err := clients[name].Documents(ctx, "", "")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range docs {
			if d.Name != "other" {
				got = append(got, d.Name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s sees %v, want %s", name, got, want)
		}
	}
	if sites, err := clients["lon"].Sites(ctx); err != nil || len(sites) != 1 || sites[0].Site != "LON" {
		t.Errorf("%+v, %v", sites, err)
	}
	if tokens, err := clients["lon"].Tokens(ctx); err != nil || len(tokens) == 0 || slices.ContainsFunc(tokens, func(x client.TokenState) bool { return x.Site != "LON" }) {
		t.Errorf("%+v, %v", tokens, err)
	}
	page, err := clients["lon"].Audit(ctx, provisioning.AuditFilter{Limit: 1000})
	if err != nil || len(page.Entries) == 0 {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		if e.Account != "lon" && e.Site != "LON" && e.Name != "LON" && e.Name != "desk-1" {
			t.Errorf("lon sees %+v", e)
		}
	}
}

// TestContentIsAudited: who added which version of a package is noted once, for what was added alone.
func TestContentIsAudited(t *testing.T) {
	s := start(t, t.TempDir())
	post := func(name, answer string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.admin.URL()+client.PathContentAdmin+"/uploads/x/commit", strings.NewReader(answer))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.admin.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || string(got) != answer {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	post("a new version", `{"ref":{"package":"debian","version":3}}`)
	post("one that was there", `{"ref":{"package":"debian","version":3},"unchanged":true}`)
	post("no JSON", "x")
	page, err := s.admin.Audit(t.Context(), provisioning.AuditFilter{Kind: "Content"})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Name != "debian" || !strings.Contains(page.Entries[0].After, "version: 3") || page.Entries[0].Account != "admin" {
		t.Errorf("%+v, %v", page, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
