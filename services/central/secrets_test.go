package central_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"filippo.io/age"
)

// theSecret must stand nowhere. It is a word that base64 and compression would have to change.
const theSecret = "Corr3ct-horse-battery-staple"

// joining are documents in which two computers, of two sites, have secrets for one sequence.
func joining(one, two string) string {
	return `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec:
  site: LON
  macAddresses: ["52:54:00:12:34:56"]
  secrets: {JoinPassword: "` + one + `", Unused: never-asked-for}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
spec:
  site: PAR
  macAddresses: ["52:54:00:12:34:57"]
  secrets: {JoinPassword: "` + two + `"}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: join}
spec: {steps: [{runCommandLine: {command: "join %JOINPASSWORD%", in: boot-image}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec: {taskSequence: join, computers: [desk-1, desk-2], purpose: required}
`
}

// documentText is the text of a document in force.
func (s *site) documentText(kind provisioning.Kind, name string) string {
	s.t.Helper()
	docs, err := s.admin.Documents(s.t.Context(), kind, name)
	if err != nil || len(docs) != 1 {
		s.t.Fatal(docs, err)
	}
	return docs[0].Text
}

// sealedIn is the sealed form of a variable in a document's text.
func sealedIn(t *testing.T, text, variable string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, variable+": \""+provisioning.SealedPrefix)
	value, _, _ := strings.Cut(rest, "\"")
	if !ok {
		t.Fatalf("%s is not sealed in\n%s", variable, text)
	}
	return provisioning.SealedPrefix + value
}

// nowhere fails where a text stands in a file below the site's folder, or in its log.
func (s *site) nowhere(what string) {
	s.t.Helper()
	files := 0
	err := filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return nil // the database's own journals come and go
		}
		files++
		if bytes.Contains(b, []byte(what)) {
			s.t.Errorf("the secret stands in %s", path)
		}
		return err
	})
	if err != nil || files == 0 {
		s.t.Error(files, err)
	}
	if s.log.String() == "" || strings.Contains(s.log.String(), what) {
		s.t.Error("the secret stands in the log, or there is none")
	}
}

// TestSecretsAreSealed: what an administrator writes once stands nowhere afterwards, and its sealed form can be applied again,
// in its place alone.
func TestSecretsAreSealed(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	answers := ""
	apply := func(text string, dry bool) client.ChangeResult {
		t.Helper()
		r, err := s.admin.Apply(ctx, client.ApplyRequest{
			Files: []provisioning.File{{Name: "all.yaml", Text: []byte(text)}}, Caution: client.Caution{Diff: true, DryRun: dry},
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		answers += string(b)
		return r
	}
	apply(joining(theSecret, theSecret), true)
	apply(joining(theSecret, theSecret), false)
	first := s.documentText(provisioning.KindComputer, "desk-1")
	if sealedIn(t, first, "JoinPassword") == sealedIn(t, s.documentText(provisioning.KindComputer, "desk-2"), "JoinPassword") {
		t.Error("two computers' secrets show that they are the same")
	}
	if got := effects(apply(joining(theSecret, theSecret), false)); strings.Count(got, "unchanged") != 6 {
		t.Errorf("the same values again: %s", got)
	}
	if got := effects(apply(first, false)); got != "unchanged desk-1" {
		t.Errorf("what get prints, applied again: %s", got)
	}
	if got := effects(apply(strings.Replace(joining(theSecret, theSecret), theSecret, theSecret+"-2", 1), false)); !strings.Contains(got, " PAR, changed desk-1, unchanged desk-2") {
		t.Errorf("another value: %s", got)
	}
	// To another computer, another variable, another kind; and one that was tampered with.
	sealed := sealedIn(t, first, "JoinPassword")
	for name, text := range map[string]string{
		"computer": strings.Replace(joining("keep-this-one", theSecret), theSecret, sealed, 1),
		"variable": strings.Replace(first, "JoinPassword", "Other", 1),
		"kind":     "apiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: desk-1}\nspec: {secrets: {JoinPassword: \"" + sealed + "\"}}\n",
		"bytes":    strings.Replace(first, sealed, sealed[:20]+"AAAA"+sealed[24:], 1),
		"nothing":  strings.Replace(first, sealed, provisioning.SealedPrefix, 1),
		// One value has one form: neither with bits that mean nothing, nor with a line break between.
		"bits":  strings.Replace(first, sealed, sealed[:len(sealed)-1]+string(sealed[len(sealed)-1]+1), 1),
		"break": strings.Replace(first, sealed, sealed[:20]+`\n`+sealed[20:], 1),
	} {
		_, err := s.apply(text)
		wantCode(t, err, provisioning.CodeInvalid, "sealed for another document")
		if name == "computer" && !strings.Contains(err.Error(), "all.yaml:25") {
			t.Errorf("the place is not named: %v", err)
		}
	}
	if _, err := s.admin.Rollback(ctx, client.RollbackRequest{Document: provisioning.Key{Kind: provisioning.KindComputer, Name: "desk-1"}, Revision: 1}); err != nil {
		t.Fatal(err)
	}
	if s.documentText(provisioning.KindComputer, "desk-1") != first {
		t.Error("a rollback brings another sealed form")
	}
	audit, err := s.store.Audit(ctx, provisioning.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	revisions, err := s.store.Revisions(ctx, provisioning.Key{Kind: provisioning.KindComputer, Name: "desk-1"}, 0, 10)
	if err != nil || len(revisions) != 3 {
		t.Fatal(revisions, err)
	}
	for what, v := range map[string]any{"audit": audit, "history": revisions} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		answers += what + string(b)
	}
	if strings.Contains(answers, theSecret) {
		t.Errorf("the secret stands in an answer:\n%s", answers)
	}
	s.nowhere(theSecret)
	s.nowhere("never-asked-for")
}

// secretsOf opens a snapshot's secrets.
func secretsOf(t *testing.T, n *provisioning.Snapshot, key *age.X25519Identity) map[string]string {
	t.Helper()
	r, err := age.Decrypt(bytes.NewReader(n.Secrets), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]string
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func newAge(t *testing.T) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// appliance enrols an appliance that opens its site's secrets with a key.
func (s *site) appliance(code string, secrets *age.X25519Identity) *client.Branch {
	s.t.Helper()
	key := newKey(s.t)
	e, err := s.bare().Enrol(s.t.Context(), s.createToken(code), request(s.t, key))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.branchFor(e.Certificate, key, func() string { return secrets.Recipient().String() })
}

// TestSecretsInSnapshots: a site gets the secrets that its computers need, encrypted to its appliance as long as it has one.
func TestSecretsInSnapshots(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	s.mustApply(joining(theSecret, "another-value"))
	if n := s.snapshot("LON"); n.Number != 1 || n.SecretsFor != "" || len(n.Secrets) > 0 || n.Computers[0].Spec.Secrets["JoinPassword"] != "" || len(n.Computers[0].Spec.Secrets) != 1 {
		t.Errorf("before there is an appliance: %+v", n)
	} else if len(n.Advertisements) != 0 || len(n.TaskSequences) != 1 {
		t.Errorf("an appliance that may know no secrets is given %+v, %+v", n.Advertisements, n.TaskSequences)
	}
	lon := newAge(t)
	b := s.appliance("LON", lon)
	if _, err := b.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	n := s.snapshot("LON")
	if n.Number != 2 || n.SecretsFor != lon.Recipient().String() || n.Computers[0].Spec.Secrets["JoinPassword"] != "" {
		t.Errorf("snapshot %d for %s: %+v", n.Number, n.SecretsFor, n.Computers)
	} else if len(n.Advertisements) != 1 {
		t.Errorf("once it is known it is given %+v", n.Advertisements)
	}
	if got := secretsOf(t, n, lon); len(got) != 1 || got["Computer/desk-1/JOINPASSWORD"] != theSecret {
		t.Errorf("%d secrets", len(got))
	}
	if _, err := age.Decrypt(bytes.NewReader(n.Secrets), newAge(t)); err == nil {
		t.Error("another key opens the site's secrets")
	}
	if p := s.snapshot("PAR"); p.Number != 1 || len(p.Secrets) > 0 {
		t.Errorf("another site's snapshot: %+v", p)
	}
	// Nothing that is the same is published again: age would make other bytes of it.
	if _, err := b.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	s.mustApply(joining(theSecret, "another-value"))
	if err := s.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	if again := s.snapshot("LON"); again.Number != 2 || !bytes.Equal(again.Secrets, n.Secrets) {
		t.Errorf("published again as %d", again.Number)
	}
	s.mustApply(joining(theSecret+"-2", "another-value"))
	if n := s.snapshot("LON"); n.Number != 3 || secretsOf(t, n, lon)["Computer/desk-1/JOINPASSWORD"] != theSecret+"-2" {
		t.Errorf("a new value: snapshot %d", n.Number)
	}

	// Another appliance takes its place.
	next := newAge(t)
	replacement := s.appliance("LON", next)
	if n := s.snapshot("LON"); n.SecretsFor != "" || len(n.Secrets) > 0 {
		t.Error("secrets are still encrypted to the appliance that was replaced")
	}
	if _, err := b.Snapshot(ctx, 0, 0, 0); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Errorf("the replaced appliance: %v", err)
	}
	if _, err := replacement.Snapshot(ctx, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if n := s.snapshot("LON"); secretsOf(t, n, next)["Computer/desk-1/JOINPASSWORD"] != theSecret+"-2" {
		t.Error("the new appliance does not get them")
	} else if _, err := age.Decrypt(bytes.NewReader(n.Secrets), lon); err == nil {
		t.Error("the replaced appliance's key opens them")
	}
	if _, err := s.admin.RevokeSite(ctx, "LON", "stolen"); err != nil {
		t.Fatal(err)
	}
	if n := s.snapshot("LON"); n.SecretsFor != "" || len(n.Secrets) > 0 {
		t.Error("secrets are still encrypted to an appliance that was revoked")
	}
	s.nowhere(theSecret)
	s.nowhere("another-value")
}

// TestStrangeRecipient: what is no recipient is refused, and changes nothing.
func TestStrangeRecipient(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(joining(theSecret, theSecret))
	key := newKey(t)
	e, err := s.bare().Enrol(t.Context(), s.createToken("LON"), request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"age1nonsense", "ssh-ed25519 AAAA", strings.Repeat("a", 4000)} {
		_, err := s.branchFor(e.Certificate, key, func() string { return r }).Snapshot(t.Context(), 0, 0, 0)
		wantCode(t, err, provisioning.CodeInvalid, "no age X25519 recipient")
	}
	if n := s.snapshot("LON"); n.SecretsFor != "" {
		t.Errorf("secrets for %s", n.SecretsFor)
	}
}

// TestSecretsAreNotGuessed: who may not change a document does not learn either whether a value for its secret is right.
func TestSecretsAreNotGuessed(t *testing.T) {
	s := start(t, t.TempDir())
	par := s.account("par")
	s.mustApply(joining(theSecret, theSecret) + role("paris", "operator", "par", ", sites: [PAR]"))
	guess := func(a *client.Admin, computer, value string, dry bool) error {
		text := strings.Replace(s.documentText(provisioning.KindComputer, computer), sealedIn(t, s.documentText(provisioning.KindComputer, computer), "JoinPassword"), value, 1)
		_, err := a.Apply(t.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "guess.yaml", Text: []byte(text)}}, Caution: client.Caution{DryRun: dry}})
		return err
	}
	for _, dry := range []bool{true, false} {
		if err := guess(par, "desk-2", theSecret, dry); err != nil {
			t.Errorf("of a computer of theirs: %v", err)
		}
		right, wrong := guess(par, "desk-1", theSecret, dry), guess(par, "desk-1", "not-"+theSecret, dry)
		wantCode(t, right, provisioning.CodeForbidden, "desk-1")
		if wrong == nil || right == nil || right.Error() != wrong.Error() {
			t.Errorf("the right value: %v; a wrong one: %v", right, wrong)
		}
	}
}
