package central_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central"
	"branchpoint/services/central/client"
	"branchpoint/services/store"
)

// TestInventoriesOfOthers: what a site says of the hardware of computers that are not its own counts for nothing, nor what it says
// of a machine that only has the name of one; and its report is taken, so that the next ones are.
func TestInventoriesOfOthers(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	const guid = provisioning.GUID("4c4c4544-0042-3510-8052-b4c04f4d3432")
	s.mustApply(documents + `---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: paris-1}
spec: {site: PAR, smbiosGUID: ` + string(guid) + `}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: anywhere}
spec: {macAddresses: ["52:54:00:12:34:58"]}
`)
	lon, _ := s.enrol("LON")
	par, _ := s.enrol("PAR")
	inventory := func(n int, computer string) provisioning.SiteReport {
		r := siteReport(n, provisioning.ReportInventory)
		r.Computer, r.Inventory = computer, &provisioning.Inventory{Serial: "said by LON"}
		return r
	}
	disguised := siteReport(5, provisioning.ReportPasswordRefused)
	disguised.Computer, disguised.Inventory = "paris-1", &provisioning.Inventory{Serial: "said by LON"}
	named := siteReport(6, provisioning.ReportDiscovered) // another machine, which is called desk-1
	named.Computer, named.Inventory = "paris-1", &provisioning.Inventory{Serial: "another machine"}
	named.Discovered = &provisioning.Computer{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{"52:54:00:00:00:03"}}}
	byGUID := siteReport(7, provisioning.ReportDiscovered) // started from a shared adapter, and PAR's
	byGUID.Discovered = &provisioning.Computer{Name: "pc-7", Spec: provisioning.ComputerSpec{SMBIOSGUID: guid}}
	err := lon.ReportSite(t.Context(), []provisioning.SiteReport{
		inventory(1, "paris-1"), inventory(2, "anywhere"), inventory(3, "desk-1"), inventory(4, "nobody"), disguised, named, byGUID,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.store.Inventories(t.Context())
	if err != nil || len(got) != 2 || got["desk-1"].Serial != "said by LON" || got["anywhere"].Serial != "said by LON" {
		t.Errorf("%+v, %v", got, err)
	}
	if conflicts, err := s.admin.Conflicts(t.Context()); err != nil || len(conflicts) != 2 {
		t.Errorf("%+v, %v", conflicts, err)
	}
	theirs := inventory(8, "paris-1")
	theirs.Site = "PAR"
	if err := par.ReportSite(t.Context(), []provisioning.SiteReport{theirs}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.store.Inventories(t.Context()); err != nil || len(got) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRenewWhileRevoked: who is revoked, or replaced, while the renewal of a certificate is under way has none by it.
func TestRenewWhileRevoked(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(`apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {}
`)
	ctx := t.Context()
	for name, end := range map[string]func(){
		"revoked": func() {
			if _, err := s.admin.RevokeSite(ctx, "LON", "stolen"); err != nil {
				t.Fatal(err)
			}
		},
		"replaced": func() { s.enrol("LON") },
	} {
		key := newKey(t)
		e, err := s.bare().Enrol(ctx, s.createToken("LON"), request(t, key))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := pem.Decode(e.Certificate)
		shown, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		s.clock.Advance(366 * 24 * time.Hour)
		end() // the certificate was looked at before that
		_, err = s.Renew(ctx, shown, client.EnrolRequest{CSR: string(request(t, key))})
		wantCode(t, err, provisioning.CodeUnauthorized, "was revoked")
		all, err := s.store.SiteCertificates(ctx, "LON")
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if der, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil || x.Key == provisioning.SumSHA256(der) && x.RevokedAt.IsZero() {
				t.Errorf("%s: a certificate of its key is good: %+v, %v", name, x, err)
			}
		}
	}
}

// TestImpossibleSnapshots: a site that says that it has seen what cannot be breaks nothing for others, and does not keep the root
// key from getting ahead of every site.
func TestImpossibleSnapshots(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	root := s.createRoot()
	for _, said := range [][2]uint64{{math.MaxUint64, 1}, {1, math.MaxUint64}, {1 << 62, 1}, {provisioning.MaxNumber, provisioning.MaxNumber}, {math.MaxUint64, math.MaxUint64}} {
		if _, err := lon.Snapshot(ctx, said[0], said[1], 0); err != nil {
			t.Errorf("%d: %v", said, err)
		}
		if sites, err := s.admin.Sites(ctx); err != nil || len(sites) != 2 || sites[0].HasEpoch > 2000 {
			t.Errorf("%d: %+v, %v", said, sites, err)
		}
	}
	// What it has claimed goes with it: another appliance gets what is new.
	if _, err := lon.Snapshot(ctx, 1, provisioning.MaxNumber, 0); err != nil {
		t.Fatal(err)
	}
	s.mustApply("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {description: new, pxe: {mode: proxy}}\n")
	honest, _ := s.enrol("LON")
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Ahead || sites[0].HasNumber != 0 {
		t.Errorf("%+v, %v", sites, err)
	}
	s.mustApply("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {description: newer, pxe: {mode: proxy}}\n")
	if signed, err := honest.Snapshot(ctx, 1, 1, 0); err != nil || signed == nil {
		t.Errorf("the site gets nothing new: %v, %v", signed, err)
	}
	before := must(s.admin.Epoch(ctx)).Epoch
	if after := s.nextEpoch(root, true); after.Epoch != before+1 {
		t.Errorf("epoch %d comes after %d", after.Epoch, before)
	}
}

// TestRightsAtTheChange: a change is made by the rights that its account has then, not by those with which its request began.
func TestRightsAtTheChange(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	ctx, off := t.Context(), true
	s.mustApply(documents + role("role-r", "operator", "r", ", sites: [LON]") + role("role-d", "operator", "d", ", sites: [LON]"))
	for account, end := range map[string]func() error{
		"r": func() error {
			_, err := s.admin.Delete(ctx, client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindRole, Name: "role-r"}}})
			return err
		},
		"d": func() error { return s.admin.ChangeAccount(ctx, client.AccountRequest{Name: "d", Disabled: &off}) },
	} {
		s.account(account, "role-"+account)
		tok, err := s.admin.CreateAPIToken(ctx, client.APITokenRequest{Account: account, Name: "slow", ValidSeconds: 3600})
		if err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		answered := s.slowly(s.as(tok.Token), r)
		if _, err := w.Write(bytes.Repeat([]byte(" "), 64<<10)); err != nil { // more than is held back
			t.Fatal(err)
		}
		recognised := func() bool {
			tokens, err := s.admin.APITokens(ctx, account)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(tokens, func(x client.APITokenState) bool { return x.ID == tok.ID && !x.LastUsed.IsZero() })
		}
		for late := time.Now().Add(time.Minute); !recognised(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal("central has not seen the request")
			}
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		err = json.NewEncoder(w).Encode(client.ApplyRequest{Files: []provisioning.File{{
			Name: "x.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-1}\nspec: {site: LON, description: late " + account + ", macAddresses: [\"52:54:00:12:34:56\"]}\n"),
		}}})
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if status := <-answered; status != http.StatusForbidden {
			t.Errorf("account %s, which may nothing any more, changed a computer: status %d", account, status)
		}
	}
}

// slowly applies what comes from body, and tells the answer's status.
func (s *site) slowly(a *client.Admin, body io.Reader) <-chan int {
	answered := make(chan int, 1)
	go func() {
		status := 0
		defer func() { answered <- status }()
		req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, a.URL()+client.PathApply, body)
		if err != nil {
			s.t.Error(err)
			return
		}
		resp, err := a.HTTP().Do(req)
		if err != nil {
			s.t.Error(err)
			return
		}
		status = resp.StatusCode
		_ = resp.Body.Close() // the status is all
	}()
	return answered
}

// TestEnrolmentAtAForgottenSite: a token of a site that nothing describes any more enrols nobody.
func TestEnrolmentAtAForgottenSite(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: ROM}\nspec: {approveEnrolment: true}\n")
	token := s.createToken("ROM")
	if _, err := s.admin.Delete(t.Context(), client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindSite, Name: "ROM"}}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.bare().Enrol(t.Context(), token, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnauthorized, "no site ROM any more")
}

// TestChangesOfOthers: whoever is limited is not told by the list of changes what exists elsewhere.
func TestChangesOfOthers(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	lon := s.account("lon")
	ctx := t.Context()
	s.mustApply(documents + role("london", "operator", "lon", ", sites: [LON]"))
	s.mustApply("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: PAR}\nspec: {description: the cellar}\n")
	back := func(a *client.Admin, k provisioning.Key) {
		t.Helper()
		if _, err := a.Rollback(ctx, client.RollbackRequest{Document: k, Revision: 1}); err != nil {
			t.Fatal(err)
		}
	}
	back(s.admin, provisioning.Key{Kind: provisioning.KindSite, Name: "PAR"})
	if _, err := lon.Apply(ctx, client.ApplyRequest{Files: []provisioning.File{{
		Name: "x.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-1}\nspec: {site: LON, description: x, macAddresses: [\"52:54:00:12:34:56\"]}\n"),
	}}}); err != nil {
		t.Fatal(err)
	}
	back(lon, provisioning.Key{Kind: provisioning.KindComputer, Name: "desk-1"})
	changes, err := lon.Changes(ctx, 0, 10)
	if err != nil || len(changes) != 5 || changes[0].Note == "" || changes[2].Note != "" || changes[2].Number == 0 {
		t.Errorf("%+v, %v", changes, err)
	}
	if all, err := s.admin.Changes(ctx, 0, 10); err != nil || all[2].Note == "" {
		t.Errorf("%+v, %v", all, err)
	}
}

// racing is a store that does something right before a token is stored.
type racing struct {
	*store.Store
	before func()
}

func (r *racing) CreateAPIToken(ctx context.Context, t provisioning.APIToken, e provisioning.AuditEntry) error {
	if r.before != nil {
		r.before()
	}
	return r.Store.CreateAPIToken(ctx, t, e)
}

// TestLoginWhileThePasswordChanges: a login by the old password does not outlive the new one.
func TestLoginWhileThePasswordChanges(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	key, err := central.LoadKey(filepath.Join(dir, "key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "central.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &racing{Store: db}
	c, err := central.Open(ctx, central.Config{Store: r, Key: key, Log: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	given, next := passphrase, "another passphrase"
	if err := c.CreateAccount(ctx, client.AccountRequest{Name: "jo", Password: &given}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login(ctx, "192.0.2.1", client.LoginRequest{Account: "jo", Password: given}); err != nil {
		t.Fatal(err)
	}
	r.before = func() {
		if err := c.ChangeAccount(ctx, "192.0.2.2", client.AccountRequest{Name: "jo", Password: &next}); err != nil {
			t.Error(err)
		}
	}
	_, err = c.Login(ctx, "192.0.2.1", client.LoginRequest{Account: "jo", Password: given})
	wantCode(t, err, provisioning.CodeUnauthorized, "wrong")
	if left, err := db.APITokens(ctx, "jo"); err != nil || len(left) != 0 {
		t.Errorf("logins of before are good: %+v, %v", left, err)
	}
}
