package branch

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"

	"filippo.io/age"
)

// theSecret must stand nowhere but in what an agent is given.
const theSecret = "Corr3ct-horse-battery-staple"

// withSecrets is a change that gives desk-1 a secret which its sequence needs, encrypted to a recipient, and more.
func withSecrets(t *testing.T, recipient string, more func(*provisioning.Snapshot)) func(*provisioning.Snapshot) {
	t.Helper()
	return func(n *provisioning.Snapshot) {
		r, err := age.ParseX25519Recipient(recipient)
		if err != nil {
			t.Fatal(err)
		}
		values, err := json.Marshal(map[string]string{"Computer/desk-1/JOIN": theSecret, "Computer/desk-2/JOIN": "another-computer's", "Computer/desk-1/UNUSED": "unused-value"})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w, err := age.Encrypt(&out, r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(values); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		n.Secrets, n.SecretsFor = out.Bytes(), recipient
		n.Computers[0].Spec.Secrets = map[string]string{"Join": "", "Unused": ""}
		n.TaskSequences[0].Spec.Steps = append(n.TaskSequences[0].Spec.Steps, provisioning.Step{RunCommandLine: &provisioning.RunCommandLine{Command: "join %JOIN%"}})
		if more != nil {
			more(n)
		}
	}
}

func toKnown(n *provisioning.Snapshot) { n.Site.Spec.PXE.SecretsAfter = provisioning.SecretsKnown }

func protected(n *provisioning.Snapshot) { n.Site.Spec.PXE.PasswordHash = passwordHash() }

// TestSecretsAfterPassword: they are handed out after the password that was given in this very start, to the computer that they are of;
// and stand nowhere at the branch.
func TestSecretsAfterPassword(t *testing.T) {
	s := enrolled(t)
	var log bytes.Buffer
	s.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.listen(t)
	s.put(t, withSecrets(t, s.Recipient(), protected))
	a, r := s.registered(t, desk, "", client.Facts{})
	if !r.PasswordWanted {
		t.Fatalf("registration %+v", r)
	}
	_, err := a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if got, err := a.Password(t.Context(), rightPassword); err != nil || !got.Right {
		t.Fatal(got, err)
	}
	as := assignment(t, a)
	if want := map[string]string{"JOIN": theSecret}; !maps.Equal(as.Secrets, want) || as.Computer.Spec.Secrets != nil {
		t.Errorf("given are %d secrets, names %v", len(as.Secrets), as.Computer.Spec.Secrets)
	}
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	// Another start goes on with the run. Whoever it is has not given the password.
	b, r := s.registered(t, desk, "", client.Facts{})
	if !r.PasswordWanted {
		t.Error("what goes on is given secrets without the password")
	}
	_, err = b.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if got, err := b.Password(t.Context(), rightPassword); err != nil || !got.Right {
		t.Fatal(got, err)
	}
	if again := assignment(t, b); again.Run.ID != as.Run.ID || again.Secrets["JOIN"] != theSecret {
		t.Errorf("goes on with run %s", again.Run.ID)
	}
	if !strings.Contains(log.String(), "secrets handed out") || strings.Contains(log.String(), theSecret) {
		t.Errorf("the log is\n%s", log.String())
	}
	s.nowhere(t, theSecret)
}

// nowhere fails where a text stands in the branch's database.
func (s *site) nowhere(t *testing.T, what string) {
	t.Helper()
	files, err := filepath.Glob(s.path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(what)) {
			t.Errorf("the secret stands in %s", f)
		}
	}
}

// TestSecretsOfARuleThatChanged: an agent that was let in without the password gets no secrets once they are handed out after it.
func TestSecretsOfARuleThatChanged(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, withSecrets(t, s.Recipient(), toKnown))
	boot, key := s.bootOf(t, desk, ""), filepath.Join(t.TempDir(), "key")
	a := agentWith(t, boot, key)
	if r, err := a.Register(t.Context(), client.Facts{}); err != nil || r.PasswordWanted {
		t.Fatal(r, err)
	}
	// The password is not wanted yet, and whatever is given is right.
	if got, err := a.Password(t.Context(), "whatever"); err != nil || !got.Right {
		t.Fatal(got, err)
	}
	s.put(t, withSecrets(t, s.Recipient(), protected))
	_, err := a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if len(s.state.Load().past.Runs) != 0 {
		t.Error("a run was stored for it")
	}
	// Started anew within the same start of the computer it does not get them either.
	b := agentWith(t, boot, key)
	if _, err := b.Register(t.Context(), client.Facts{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	s.put(t, withSecrets(t, s.Recipient(), toKnown))
	if as := assignment(t, b); as.Secrets["JOIN"] != theSecret {
		t.Error("to known computers they are not handed out")
	}
}

// TestSecretsOfOthers: without a password the computer is not answered; unknown ones never are; and what is encrypted to another
// appliance boots nobody.
func TestSecretsOfOthers(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, withSecrets(t, s.Recipient(), nil))
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("a site without a password, before anybody has approved: %+v", d)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, withSecrets(t, s.Recipient(), toKnown))
	a, _ := s.registered(t, desk, "", client.Facts{})
	s.put(t, withSecrets(t, other.Recipient().String(), toKnown))
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("for what cannot be opened here: %+v", d)
	}
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if !strings.Contains(err.Error(), "cannot be opened by this appliance") {
		t.Errorf("it is told %v", err)
	}
	s.put(t, withSecrets(t, s.Recipient(), func(n *provisioning.Snapshot) { toKnown(n); n.Secrets[len(n.Secrets)-1] ^= 1 }))
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeCorrupt)
	if len(s.state.Load().past.Runs) != 0 {
		t.Error("a run was stored without its secrets")
	}
	s.put(t, withSecrets(t, s.Recipient(), func(n *provisioning.Snapshot) {
		toKnown(n)
		forUnknown(n)
		n.TaskSequences[0].Spec.Secrets = map[string]string{"Join": ""}
	}))
	if d := s.Decide(t.Context(), stranger); d.Action != policy.Silent {
		t.Errorf("an unknown computer: %+v", d)
	}
}

// TestSecretsKey: it survives a restart, is made for data disks of before, and does not survive another enrolment.
func TestSecretsKey(t *testing.T) {
	s := enrolled(t)
	first := s.Recipient()
	if again := openWith(t, s); first == "" || again.Recipient() != first {
		t.Error("a restart brings another key")
	}
	old := *s.identity.Load()
	old.SecretsKey = ""
	if err := saveIdentity(t.Context(), s.cfg.Store, &old); err != nil {
		t.Fatal(err)
	}
	upgraded := openWith(t, s)
	if made := upgraded.Recipient(); made == "" || made == first {
		t.Errorf("a data disk of before has recipient %q", made)
	}
	if again := openWith(t, s); again.Recipient() != upgraded.Recipient() {
		t.Error("the key that was made was not stored")
	}
	before := s.Recipient()
	if err := s.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if s.Recipient() == before {
		t.Error("another enrolment keeps the key")
	}
}

// TestSecretsAfterApproval: a person at the console lets one start of one computer be given secrets, within an hour.
func TestSecretsAfterApproval(t *testing.T) {
	s := enrolled(t)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	s.listen(t)
	s.put(t, withSecrets(t, s.Recipient(), nil))
	if _, err := s.ApproveSecrets("desk-2"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Errorf("for a computer that there is not: %v", err)
	}
	until, err := s.ApproveSecrets("DESK-1")
	if err != nil || !until.Equal(now.Add(time.Hour)) {
		t.Fatal(until, err)
	}
	s.put(t, withSecrets(t, s.Recipient(), nil)) // which changes nothing about it
	a, _ := s.registered(t, desk, "", client.Facts{})
	other, _ := s.registered(t, desk, "", client.Facts{}) // another start
	if as := assignment(t, a); as.Secrets["JOIN"] != theSecret {
		t.Error("what was approved is not handed out")
	}
	if as := assignment(t, a); as.Secrets["JOIN"] != theSecret {
		t.Error("asked again in the same start, it is not handed out")
	}
	_, err = other.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || !slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool {
		return r.Rule == policy.RuleSecrets && strings.Contains(r.Text, "approve secrets desk-1")
	}) {
		t.Errorf("another start, by an approval that is used up: %+v", d)
	}
	if _, err := s.ApproveSecrets("desk-1"); err != nil {
		t.Fatal(err)
	}
	if as := assignment(t, other); as.Secrets["JOIN"] != theSecret {
		t.Error("approved again it is not handed out")
	}
	now = now.Add(time.Hour)
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("after the hour: %+v", d)
	}
	// Where the hour ends between the decision and what is handed out.
	is := s.state.Load()
	wantCode(t, is.spend("desk-1", *is.released["desk-1"].boot.Load(), now), provisioning.CodeForbidden)
}
