package store

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

func entry(action, name string) provisioning.AuditEntry {
	return provisioning.AuditEntry{At: noon, Account: "jo", From: "192.0.2.1", Action: action, Kind: "account", Name: name}
}

func TestAccounts(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	jo := provisioning.Account{Name: "jo", Password: "$argon2id$x", CreatedAt: noon}
	put := func(a *provisioning.Account) error {
		return s.UpdateAccount(ctx, "jo", func(*provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error) {
			return a, entry("create", "jo"), nil
		})
	}
	token := provisioning.APIToken{Hash: provisioning.SumSHA256([]byte("t")), Account: "jo", Name: "ci", CreatedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	if err := s.CreateAPIToken(ctx, token, entry("create token", "ci")); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error("a token of nobody:", err)
	}
	if err := put(&jo); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateAPIToken(ctx, token, entry("create token", "ci")); err != nil {
		t.Fatal(err)
	}
	same := token
	same.Hash = provisioning.SumSHA256([]byte("u"))
	if err := s.CreateAPIToken(ctx, same, entry("create token", "ci")); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Error("two tokens of one name:", err)
	}
	if err := errors.Join(s.UseAPIToken(ctx, token.Hash, noon.Add(time.Minute)), s.NoteLogin(ctx, "jo", noon.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	token.LastUsed, jo.LastLogin = noon.Add(time.Minute), noon.Add(time.Second)
	s = reopen(t, s)
	if got, err := s.APIToken(ctx, token.Hash); err != nil || !reflect.DeepEqual(*got, token) {
		t.Errorf("%+v, %v", got, err)
	}
	// A change does not take back when the account was last used.
	changed := jo
	changed.Disabled, changed.LastLogin = true, time.Time{}
	if err := put(&changed); err != nil {
		t.Fatal(err)
	}
	jo.Disabled = true
	if got, err := s.Accounts(ctx); err != nil || !reflect.DeepEqual(got, []provisioning.Account{jo}) {
		t.Errorf("%+v, %v", got, err)
	}
	// A new password ends logins, and nothing else.
	login := provisioning.APIToken{Hash: provisioning.SumSHA256([]byte("l")), Account: "jo", Name: provisioning.LoginToken + "now", CreatedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	if err := s.CreateAPIToken(ctx, login, entry("log in", "jo")); err != nil {
		t.Fatal(err)
	}
	if err := put(&jo); err != nil {
		t.Fatal(err)
	}
	if left, err := s.APITokens(ctx, "jo"); err != nil || len(left) != 2 {
		t.Error("the same password ended logins:", left, err)
	}
	jo.Password = "$argon2id$y"
	if err := put(&jo); err != nil {
		t.Fatal(err)
	}
	if left, err := s.APITokens(ctx, "jo"); err != nil || len(left) != 1 || left[0].Name != token.Name {
		t.Error("after a new password:", left, err)
	}
	// A token that has expired is in nobody's way.
	same.CreatedAt, same.ExpiresAt = noon.Add(2*time.Hour), noon.Add(3*time.Hour)
	if err := s.CreateAPIToken(ctx, same, entry("create token", "ci")); err != nil {
		t.Error(err)
	}
	if err := s.RevokeAPIToken(ctx, token.Hash, entry("revoke", "ci")); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error("revoked what is gone:", err)
	}
	if err := s.RevokeAPIToken(ctx, same.Hash, entry("revoke", "ci")); err != nil {
		t.Error(err)
	}
	if err := s.CreateAPIToken(ctx, token, entry("create token", "ci")); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("no")
	err := s.UpdateAccount(ctx, "jo", func(old *provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error) {
		if !reflect.DeepEqual(*old, jo) {
			t.Errorf("%+v", old)
		}
		return nil, entry("delete", "jo"), refusal
	})
	if !errors.Is(err, refusal) {
		t.Error(err)
	}
	if err := put(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Account(ctx, "jo"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	if left, err := s.APITokens(ctx, ""); err != nil || len(left) > 0 {
		t.Error("tokens of nobody are left:", left, err)
	}
	log, err := s.Audit(ctx, provisioning.AuditFilter{Limit: 2})
	if err != nil || len(log) != 2 || log[0].Number <= log[1].Number || log[0].From != "192.0.2.1" || !log[0].At.Equal(noon) {
		t.Fatalf("%+v, %v", log, err)
	}
	// What was refused left no entry: four changes of the account, one deletion by nil, five of tokens.
	all, err := s.Audit(ctx, provisioning.AuditFilter{})
	if err != nil || len(all) != 10 {
		t.Errorf("%d entries, %v: %+v", len(all), err, all)
	}
	if rest, err := s.Audit(ctx, provisioning.AuditFilter{Before: log[1].Number}); err != nil || len(rest) != 8 {
		t.Errorf("%d entries, %v", len(rest), err)
	}
}

// TestAuditOfDocuments: each changed document has an entry with its text before and after, without secrets, and from where.
func TestAuditOfDocuments(t *testing.T) {
	s := openTemp(t)
	ctx := provisioning.WithActor(t.Context(), provisioning.Actor{Account: "jo", From: "192.0.2.7"})
	text := func(hash string) string {
		return "kind: Site\nmetadata:\n  name: LON\nspec:\n  pxe:\n    passwordHash: " + hash + "\n    mode: proxy\n"
	}
	change := func(command provisioning.Command, docs ...provisioning.Document) {
		t.Helper()
		_, err := s.UpdateDocuments(ctx, provisioning.Change{At: noon, By: "jo", Command: command}, func([]provisioning.Document) ([]provisioning.Document, error) { return docs, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	lon, par := provisioning.Document{Kind: provisioning.KindSite, Name: "LON", Text: text("secret1")}, provisioning.Document{Kind: provisioning.KindSite, Name: "PAR", Text: "kind: Site\n"}
	change(provisioning.CommandApply, lon, par)
	lon.Text = text("secret2") + "x: 1\n"
	change(provisioning.CommandRollback, lon)
	lon.Deleted = true
	change(provisioning.CommandApply, lon)
	lon.Deleted = false
	change(provisioning.CommandApply, lon)
	redacted := text(provisioning.Redacted)
	want := []provisioning.AuditEntry{
		{Number: 5, Action: "apply", Change: 4, After: redacted + "x: 1\n"},
		{Number: 4, Action: "delete", Change: 3, Before: redacted + "x: 1\n"},
		{Number: 3, Action: "rollback", Change: 2, Before: redacted, After: redacted + "x: 1\n"},
		{Number: 1, Action: "apply", Change: 1, After: redacted},
	}
	for i := range want {
		want[i].At, want[i].Account, want[i].From, want[i].Kind, want[i].Name = noon, "jo", "192.0.2.7", "Site", "LON"
	}
	got, err := s.Audit(ctx, provisioning.AuditFilter{Site: "LON"})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
	if n, err := s.Audit(ctx, provisioning.AuditFilter{Account: "other"}); err != nil || len(n) > 0 {
		t.Error(n, err)
	}
}

func TestSiteCertificates(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	issue := func(sum, key string) *provisioning.SiteCertificate {
		return &provisioning.SiteCertificate{Sum: provisioning.SHA256(sum), Site: "LON", Key: provisioning.SHA256(key), IssuedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	}
	for _, n := range []string{"t1", "t2", "t3"} {
		if err := s.CreateEnrolmentToken(ctx, provisioning.EnrolmentToken{Hash: provisioning.SHA256(n), Site: "LON", CreatedAt: noon, ExpiresAt: noon, Approval: n == "t2"}, entry("create", n)); err != nil {
			t.Fatal(err)
		}
	}
	use := func(token string, x *provisioning.SiteCertificate) {
		t.Helper()
		err := s.UseEnrolmentToken(ctx, provisioning.SHA256(token), func(t *provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error) {
			t.Key, t.ApprovedBy = x.Key, "jo"
			return provisioning.EnrolmentChange{Issued: x, Replaced: "enrolled again", Audit: []provisioning.AuditEntry{entry("enrol", token)}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	good := func() string {
		t.Helper()
		all, err := s.SiteCertificates(ctx, "LON")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, x := range all {
			if x.RevokedAt.IsZero() {
				out = append(out, string(x.Sum))
			} else if x.Why == "" {
				t.Errorf("%s was revoked without a reason", x.Sum)
			}
		}
		return strings.Join(out, " ")
	}
	use("t1", issue("c1", "k1"))
	if err := errors.Join(s.AddSiteCertificate(ctx, *issue("c2", "k1"), "c1", entry("renew", "LON")), s.AddSiteCertificate(ctx, *issue("c1", "other"), "")); err != nil {
		t.Fatal(err)
	}
	if got := good(); got != "c1 c2" {
		t.Errorf("after a renewal %q are good", got)
	}
	use("t2", issue("c3", "k2"))
	if got := good(); got != "c3" {
		t.Errorf("after another enrolment %q are good", got)
	}
	// Who was replaced, or revoked, a moment ago renews nothing: whether that was seen before or not.
	if err := s.AddSiteCertificate(ctx, *issue("c4", "k1"), "c1", entry("renew", "LON")); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Error("a replaced appliance renewed its certificate:", err)
	}
	s = reopen(t, s)
	if n, err := s.RevokeSite(ctx, "LON", noon.Add(time.Minute), "stolen", entry("revoke", "LON")); err != nil || n != 1 {
		t.Error(n, err)
	}
	later := issue("c5", "k2")
	later.IssuedAt = noon.Add(2 * time.Minute)
	if err := s.AddSiteCertificate(ctx, *later, "c3"); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Error("a revoked site renewed its certificate:", err)
	}
	if err := s.AddSiteCertificate(ctx, *issue("c6", "k2"), ""); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Error("a certificate from before the site was revoked is good:", err)
	}
	if got := good(); got != "" {
		t.Errorf("after the site was revoked %q are good", got)
	}
	if x, err := s.SiteCertificate(ctx, "c3"); err != nil || x.Why != "stolen" || !x.RevokedAt.Equal(noon.Add(time.Minute)) || x.Key != "k2" {
		t.Errorf("%+v, %v", x, err)
	}
	if x, err := s.SiteCertificate(ctx, "c1"); err != nil || x.Why != "enrolled again" || x.Key != "k1" {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := s.SiteCertificate(ctx, "c9"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	tokens, err := s.EnrolmentTokens(ctx)
	if err != nil || len(tokens) != 3 {
		t.Fatal(tokens, err)
	}
	for _, x := range tokens {
		if x.RevokedAt.IsZero() {
			t.Errorf("token %s is still good", x.Hash)
		}
		if x.Approval != (x.Hash == "t2") {
			t.Errorf("%+v", x)
		}
	}
}

func TestSiteContacts(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	for _, c := range []provisioning.SiteContact{
		{Site: "LON", At: noon, Epoch: 1, Number: 9},
		{Site: "LON", At: noon.Add(time.Second), Epoch: 2, Number: 3, RootPinned: true},
		{Site: "LON", At: noon.Add(time.Minute), Epoch: 1, Number: 10, RootPinned: true},
	} {
		if err := s.NoteSiteContact(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.RevokeSite(ctx, "PAR", noon, "lost", entry("revoke", "PAR")); err != nil {
		t.Fatal(err)
	}
	want := map[string]provisioning.SiteContact{
		"LON": {Site: "LON", At: noon.Add(time.Minute), Epoch: 2, Number: 3, RootPinned: true},
		"PAR": {Site: "PAR", RevokedAt: noon},
	}
	if got, err := s.SiteContacts(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestEpochs(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	one := provisioning.SignedEpoch{Payload: []byte("1"), Signature: []byte("s")}
	if err := s.AddEpoch(ctx, 1, one, map[string][]byte{"epoch": []byte("1")}, entry("create", "root key")); err != nil {
		t.Fatal(err)
	}
	other := provisioning.SignedEpoch{Payload: []byte("2"), Signature: []byte("s")}
	if err := s.AddEpoch(ctx, 1, other, map[string][]byte{"epoch": []byte("7")}, entry("again", "root key")); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Error(err)
	}
	if v, err := s.Setting(ctx, "epoch"); err != nil || string(v) != "1" {
		t.Errorf("a refused epoch was half stored: %q, %v", v, err)
	}
	if err := s.AddEpoch(ctx, 2, other, map[string][]byte{"epoch": []byte("2")}, entry("new epoch", "root key")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Epochs(ctx); err != nil || !reflect.DeepEqual(got, []provisioning.SignedEpoch{one, other}) {
		t.Errorf("%+v, %v", got, err)
	}
	if log, err := s.Audit(ctx, provisioning.AuditFilter{}); err != nil || len(log) != 2 {
		t.Error(log, err)
	}
}

// TestRecipients: a site's secrets go to the newest appliance that is good, as soon as it has said so, and to no other.
func TestRecipients(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	add := func(site, sum string, age time.Duration) {
		t.Helper()
		err := s.AddSiteCertificate(ctx, provisioning.SiteCertificate{
			Sum: provisioning.SHA256(sum), Site: site, Key: provisioning.SHA256("key " + sum), IssuedAt: noon.Add(-age), ExpiresAt: noon.Add(time.Hour),
		}, "")
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(want map[string]string) {
		t.Helper()
		if got, err := s.Recipients(ctx); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	add("LON", "old", time.Hour)
	add("LON", "new", 0)
	add("PAR", "par", 0)
	want(map[string]string{})
	for _, sum := range []provisioning.SHA256{"old", "par"} {
		if err := s.PutRecipient(ctx, sum, "age1"+string(sum)); err != nil {
			t.Fatal(err)
		}
	}
	want(map[string]string{"LON": "age1old", "PAR": "age1par"})
	if err := s.PutRecipient(ctx, "new", "age1new"); err != nil {
		t.Fatal(err)
	}
	want(map[string]string{"LON": "age1new", "PAR": "age1par"})
	if x, err := s.SiteCertificate(ctx, "new"); err != nil || x.Recipient != "age1new" {
		t.Error(x, err)
	}
	if _, err := s.RevokeSite(ctx, "LON", noon.Add(time.Minute), "stolen", entry("revoke", "LON")); err != nil {
		t.Fatal(err)
	}
	want(map[string]string{"PAR": "age1par"})
	for _, sum := range []provisioning.SHA256{"new", "unheard of"} {
		if err := s.PutRecipient(ctx, sum, "age1again"); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
			t.Errorf("%s: %v", sum, err)
		}
	}
	want(map[string]string{"PAR": "age1par"})
}
