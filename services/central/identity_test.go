package central_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
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

func TestApproval(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	tok, err := s.admin.CreateToken(ctx, "LON", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	for range 2 {
		_, err = s.bare().Enrol(ctx, tok.Token, request(t, key))
		wantCode(t, err, provisioning.CodeUnavailable, "waits until a person approves its key ")
	}
	_, err = s.bare().Enrol(ctx, tok.Token, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnauthorized, "used already")
	tokens, err := s.admin.Tokens(ctx)
	if err != nil || len(tokens) != 1 || tokens[0].State != client.TokenWaiting || tokens[0].ID != tok.ID {
		t.Fatalf("%+v, %v", tokens, err)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Waiting != tokens[0].Fingerprint || sites[0].Enrolment != "" {
		t.Errorf("%+v, %v", sites, err)
	}
	wantCode(t, s.admin.ApproveSite(ctx, "LON", "0000-0000-0000-0000-0000-0000-0000-0000"), provisioning.CodeNotFound, "no appliance waits")
	wantCode(t, s.admin.ApproveSite(ctx, "LON", tokens[0].Fingerprint[:4]), provisioning.CodeNotFound, "no appliance waits")
	wantCode(t, s.admin.ApproveSite(ctx, "PAR", tokens[0].Fingerprint), provisioning.CodeNotFound, "no appliance waits")
	if err := s.admin.ApproveSite(ctx, "LON", strings.ToUpper(tokens[0].Fingerprint)); err != nil {
		t.Fatal(err)
	}
	e, err := s.bare().Enrol(ctx, tok.Token, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.branch(e.Certificate, key).Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Enrolment != "enrolled" || sites[0].Fingerprint != tokens[0].Fingerprint || sites[0].LastContact.IsZero() {
		t.Errorf("%+v, %v", sites, err)
	}

	// The site's document can want it, too; and a token can be revoked, while it waits as well.
	s.mustApply("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {approveEnrolment: true, pxe: {mode: proxy}}\n")
	second := s.createToken("LON")
	_, err = s.bare().Enrol(ctx, second, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnavailable, "waits until")
	if tokens, err = s.admin.Tokens(ctx); err != nil || len(tokens) != 2 {
		t.Fatal(tokens, err)
	}
	waiting := tokens[slices.IndexFunc(tokens, func(x client.TokenState) bool { return x.State == client.TokenWaiting })]
	if err := s.admin.RevokeToken(ctx, waiting.ID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.admin.ApproveSite(ctx, "LON", waiting.Fingerprint), provisioning.CodeNotFound, "no appliance waits")
	_, err = s.bare().Enrol(ctx, second, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnauthorized, "was revoked")
	wantCode(t, s.admin.RevokeToken(ctx, "0000000000000000"), provisioning.CodeNotFound, "no enrolment token")
	// Nothing of that was taken from the one that is enrolled.
	if _, err := s.branch(e.Certificate, key).Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}
}

// TestReplacedAndRevoked: another enrolment of the site, and its revocation, end what there was before: at once, everywhere.
func TestReplacedAndRevoked(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	par, _ := s.enrol("PAR")
	first, _ := s.enrol("LON")
	refused := func(b *client.Branch, why string) {
		t.Helper()
		_, err := b.Snapshot(ctx, 0, 0, 0)
		wantCode(t, err, provisioning.CodeUnauthorized, why)
		wantCode(t, b.Report(ctx, []provisioning.StatusMessage{{}}), provisioning.CodeUnauthorized, why)
		_, err = b.Epochs(ctx)
		wantCode(t, err, provisioning.CodeUnauthorized, why)
		_, err = b.Runs(ctx)
		wantCode(t, err, provisioning.CodeUnauthorized, why)
		_, err = b.Renew(ctx, nil)
		wantCode(t, err, provisioning.CodeUnauthorized, why)
		if got := (httpOf{b.HTTP(), b.URL()}).status(t, http.MethodGet, client.PathContentRead+"/chunks/x"); got != http.StatusUnauthorized {
			t.Errorf("content: %d", got)
		}
	}
	// It waits for a snapshot when it is replaced.
	snap, err := first.Snapshot(ctx, 0, 0, 0)
	if err != nil || snap == nil {
		t.Fatal(snap, err)
	}
	ended := make(chan error, 1)
	waits := s.waiting(t, func() {
		_, err := first.Snapshot(ctx, 1, 1, client.MaxWait)
		ended <- err
	})
	<-waits
	second, _ := s.enrol("LON")
	select {
	case err := <-ended:
		wantCode(t, err, provisioning.CodeUnauthorized, "was enrolled in its place")
	case <-time.After(30 * time.Second):
		t.Fatal("a replaced appliance still waits")
	}
	refused(first, "was enrolled in its place")
	if _, err := second.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}

	unused := s.createToken("LON")
	_, err = s.admin.RevokeSite(ctx, "LON", "")
	wantCode(t, err, provisioning.CodeInvalid, "why")
	_, err = s.admin.RevokeSite(ctx, "ROM", "lost")
	wantCode(t, err, provisioning.CodeNotFound, "no site")
	if r, err := s.admin.RevokeSite(ctx, "LON", "the PC was stolen"); err != nil || r.Certificates != 1 {
		t.Fatal(r, err)
	}
	if page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "SiteCertificate", Name: "LON"}); err != nil || len(page.Entries) != 1 ||
		!strings.Contains(page.Entries[0].Before, "key: ") || !strings.Contains(page.Entries[0].After, "stolen") {
		t.Errorf("%+v, %v", page, err)
	}
	refused(second, "the PC was stolen")
	_, err = s.bare().Enrol(ctx, unused, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnauthorized, "revoked")
	if _, err := par.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error("another site:", err)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Enrolment != "revoked" || sites[1].Enrolment != "enrolled" {
		t.Errorf("%+v, %v", sites, err)
	}
	third, _ := s.enrol("LON")
	if _, err := third.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error("enrolled again:", err)
	}
	refused(second, "the PC was stolen")
}

// waiting runs f in the background, and tells when a request for a snapshot has been noted since.
func (s *site) waiting(t *testing.T, f func()) <-chan struct{} {
	t.Helper()
	before, err := s.store.SiteContacts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go f()
	out := make(chan struct{})
	go func() {
		defer close(out)
		for range 3000 {
			now, err := s.store.SiteContacts(t.Context())
			if err != nil || now["LON"] != before["LON"] {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return out
}

func TestRenew(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	key := newKey(t)
	e, err := s.bare().Enrol(ctx, s.createToken("LON"), request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	b := s.branch(e.Certificate, key)
	_, err = b.Renew(ctx, request(t, key))
	wantCode(t, err, provisioning.CodeConflict, "not renewed yet")
	s.clock.Advance(366 * 24 * time.Hour)
	_, err = b.Renew(ctx, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeForbidden, "another key")
	next, err := b.Renew(ctx, request(t, key))
	if err != nil || bytes.Equal(next.Certificate, e.Certificate) {
		t.Fatal(err)
	}
	renewed := s.branch(next.Certificate, key)
	if _, err := renewed.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}
	if _, err := b.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error("the answer may have been lost:", err)
	}
	s.clock.Advance(366 * 24 * time.Hour)
	if _, err := renewed.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error("after the first has expired:", err)
	}
	if _, err := b.Snapshot(ctx, 0, 0, 0); err == nil {
		t.Error("an expired certificate is taken")
	}
}

// TestUnknownCertificate: a certificate that the database does not know is taken where nothing speaks against it.
func TestUnknownCertificate(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	key := newKey(t)
	forget := func() {
		t.Helper()
		db, err := sql.Open("sqlite", s.store.Path())
		if err == nil {
			_, err = db.ExecContext(ctx, `DELETE FROM site_certificates`)
			err = errors.Join(err, db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	forget()
	if _, err := lon.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}
	if all, err := s.store.SiteCertificates(ctx, "LON"); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	s.clock.Advance(time.Hour)
	e, err := s.bare().Enrol(ctx, s.createToken("LON"), request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	forget()
	if _, err := s.branch(e.Certificate, key).Snapshot(ctx, 0, 0, 0); err != nil {
		t.Error(err)
	}
	_, err = lon.Snapshot(ctx, 0, 0, 0)
	wantCode(t, err, provisioning.CodeUnauthorized, "in its place")
	if _, err := s.admin.RevokeSite(ctx, "LON", "lost"); err != nil {
		t.Fatal(err)
	}
	forget()
	_, err = s.branch(e.Certificate, key).Snapshot(ctx, 0, 0, 0)
	wantCode(t, err, provisioning.CodeUnauthorized, "the site was revoked")
}

func newRoot(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func (s *site) signEpoch(root ed25519.PrivateKey, e provisioning.EpochStatement) provisioning.SignedEpoch {
	s.t.Helper()
	signed, err := provisioning.SignEpoch(e, root)
	if err != nil {
		s.t.Fatal(err)
	}
	return *signed
}

// createRoot makes central's root key.
func (s *site) createRoot() ed25519.PrivateKey {
	s.t.Helper()
	pub, root := newRoot(s.t)
	now, err := s.admin.Epoch(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	signed := s.signEpoch(root, provisioning.EpochStatement{Epoch: now.Epoch, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256})
	if _, err := s.admin.PutEpoch(s.t.Context(), client.EpochSigned{Root: pub, Statement: signed}); err != nil {
		s.t.Fatal(err)
	}
	return root
}

// nextEpoch begins the next epoch.
func (s *site) nextEpoch(root ed25519.PrivateKey, rotate bool) client.EpochState {
	s.t.Helper()
	next, err := s.admin.NextEpoch(s.t.Context(), client.EpochRequest{RotateKey: rotate})
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.admin.PutEpoch(s.t.Context(), client.EpochSigned{Statement: s.signEpoch(root, next)})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func TestEpochs(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	before, beforeKey := s.enrol("LON") // before there was a root key
	_, err := s.admin.NextEpoch(ctx, client.EpochRequest{})
	wantCode(t, err, provisioning.CodeConflict, "no root key yet")
	root := s.createRoot()
	if e, err := before.Epochs(ctx); err != nil || len(e.Statements) != 1 {
		t.Fatal(e, err)
	}
	trust, err := provisioning.Trust{SnapshotKey: beforeKey}.Follow(s.CASHA256(), must(before.Epochs(ctx)))
	if err != nil || trust.Root == nil || trust.Epoch != 1 {
		t.Fatalf("%+v, %v", trust, err)
	}

	other, otherRoot := newRoot(t)
	now := must(s.admin.Epoch(ctx))
	statement := provisioning.EpochStatement{Epoch: now.Epoch + 1, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256}
	put := func(e client.EpochSigned) error { return discardState(s.admin.PutEpoch(ctx, e)) }
	wantCode(t, put(client.EpochSigned{Root: other, Statement: s.signEpoch(otherRoot, statement)}), provisioning.CodeConflict, "a root key already")
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(otherRoot, statement)}), provisioning.CodeCorrupt, "not signed by the root key")
	foreign := statement
	foreign.SnapshotKey = other
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeConflict, "does not wait here")
	foreign = statement
	foreign.CASHA256 = provisioning.SumSHA256([]byte("x"))
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeInvalid, "another CA")
	foreign = statement
	foreign.Epoch = now.Epoch
	if err := put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}); err != nil {
		t.Error("the statement in force cannot be put again:", err)
	}
	foreign.IssuedAt = s.clock.Now()
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeConflict, "in epoch 1 already")

	signed, err := before.Snapshot(ctx, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	old := must(trust.Open(signed))
	state := s.nextEpoch(root, true)
	if state.Epoch != 2 || bytes.Equal(state.SnapshotKey, now.SnapshotKey) {
		t.Errorf("%+v", state)
	}
	signed, err = before.Snapshot(ctx, old.Epoch, old.Number, time.Minute)
	if err != nil || signed == nil {
		t.Fatal(signed, err)
	}
	if _, err := trust.Open(signed); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Error("the new key is trusted before the root key says so:", err)
	}
	trust, err = trust.Follow(s.CASHA256(), must(before.Epochs(ctx)))
	if err != nil {
		t.Fatal(err)
	}
	if snap := must(trust.Open(signed)); snap.Epoch != 2 || snap.Number != 1 || len(snap.Computers) != 1 {
		t.Errorf("%+v", snap)
	}
	// Who comes now pins it at once.
	key := newKey(t)
	e, err := s.bare().Enrol(ctx, s.createToken("PAR"), request(t, key))
	if err != nil || len(e.Epochs.Statements) != 2 || !bytes.Equal(e.SnapshotKey, state.SnapshotKey) {
		t.Errorf("%+v, %v", e.Epochs, err)
	}
	if state = s.nextEpoch(root, false); state.Epoch != 3 || !bytes.Equal(state.SnapshotKey, e.SnapshotKey) {
		t.Errorf("%+v", state)
	}
	s.stop()
	s = start(t, dir)
	if again := must(s.admin.Epoch(ctx)); again.Epoch != 3 || !bytes.Equal(again.SnapshotKey, state.SnapshotKey) || !bytes.Equal(again.Root, state.Root) {
		t.Errorf("after a restart %+v", again)
	}
	page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "RootKey"})
	if err != nil || len(page.Entries) != 5 || page.Entries[4].Action != "create" || page.Entries[1].Action != "prepare" || !strings.Contains(page.Entries[0].After, "epoch: 3") {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestRestoredCentral: a central that is behind its sites says so, and goes beyond all that they have seen.
func TestRestoredCentral(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	b, _ := s.enrol("LON")
	if e := must(s.admin.Epoch(ctx)); len(e.Pinned) > 0 {
		t.Errorf("%+v", e)
	}
	// The backup is of before there was a root key, and the site has pinned it.
	if err := s.store.NoteSiteContact(ctx, provisioning.SiteContact{Site: "LON", At: s.clock.Now(), RootPinned: true}); err != nil {
		t.Fatal(err)
	}
	if e := must(s.admin.Epoch(ctx)); !slices.Equal(e.Pinned, []string{"LON"}) {
		t.Errorf("%+v", e)
	}
	root := s.createRoot()
	if e := must(s.admin.Epoch(ctx)); len(e.Pinned) > 0 {
		t.Errorf("%+v", e)
	}
	if s, err := b.Snapshot(ctx, 7, 3, 0); err != nil || s != nil {
		t.Fatal(s, err)
	}
	sites, err := s.admin.Sites(ctx)
	if err != nil || !sites[0].Ahead || sites[0].HasEpoch != 7 || sites[0].HasNumber != 3 || sites[1].Ahead {
		t.Errorf("%+v, %v", sites, err)
	}
	if e := must(s.admin.Epoch(ctx)); !slices.Equal(e.Ahead, []string{"LON"}) {
		t.Errorf("%+v", e)
	}
	// However often it changes now, its numbers never come to look like news to that site.
	had, par := s.snapshot("LON").Number, s.snapshot("PAR").Number
	for i := range 3 {
		s.mustApply(fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: new-%d}\nspec: {macAddresses: [\"52:54:00:00:01:0%d\"]}\n", i, i))
	}
	if now := s.snapshot("LON").Number; now != had || s.snapshot("PAR").Number != par+3 {
		t.Errorf("LON went from %d to %d, PAR from %d to %d", had, now, par, s.snapshot("PAR").Number)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || !strings.Contains(sites[0].Problem, "7.3") || sites[1].Problem != "" {
		t.Errorf("%+v, %v", sites, err)
	}
	if e := s.nextEpoch(root, false); e.Epoch != 8 || len(e.Ahead) > 0 {
		t.Errorf("%+v", e)
	}
	if signed, err := b.Snapshot(ctx, 7, 3, 0); err != nil || signed == nil {
		t.Error(signed, err)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Ahead {
		t.Errorf("%+v, %v", sites, err)
	}
}

// TestSiteRuns: a site gets its runs back from what it has reported.
func TestSiteRuns(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	par, _ := s.enrol("PAR")
	run := strings.Repeat("a", 32)
	at := time.Now().UTC().Truncate(time.Second)
	var messages []provisioning.StatusMessage
	for i, m := range []provisioning.StatusMessage{
		{Code: provisioning.StatusPolicyReceived}, {Code: provisioning.StatusStepStarted, Step: 1, Action: "applyOperatingSystemImage"},
	} {
		m.ID, m.Site, m.Computer, m.Run, m.Advertisement, m.TaskSequence = fmt.Sprintf("%032x", i), "LON", "desk-1", run, "rollout", "install"
		m.Time, m.Sequence = at.Add(time.Duration(i)*time.Minute), i+1
		messages = append(messages, m)
	}
	if err := errors.Join(lon.Report(ctx, messages), lon.Report(ctx, messages)); err != nil {
		t.Fatal(err)
	}
	runs, err := lon.Runs(ctx)
	if err != nil || len(runs) != 1 || !runs[0].Spent || !runs[0].SpentAt.Equal(at.Add(time.Minute)) || runs[0].State != provisioning.RunStarted || runs[0].Computer != "desk-1" {
		t.Errorf("%+v, %v", runs, err)
	}
	if runs, err := par.Runs(ctx); err != nil || len(runs) > 0 {
		t.Errorf("another site gets %+v, %v", runs, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func discardState(_ client.EpochState, err error) error { return err }
