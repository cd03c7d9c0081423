package central_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

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
