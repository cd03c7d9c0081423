package branch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/store"
)

// chip is a computer's TPM: what it has sealed it has a copy of, and gives back until it is cleared.
type chip struct {
	kept map[string][]byte
	err  error                        // why it fails
	give func([]byte) ([]byte, error) // what it gives back instead, where it is set
}

func newChip() *chip { return &chip{kept: map[string][]byte{}} }

func (c *chip) Seal(_ context.Context, secret []byte) ([]byte, error) {
	name := rand.Text()
	c.kept[name] = bytes.Clone(secret)
	return []byte(name), c.err
}

func (c *chip) Unseal(_ context.Context, sealed []byte) ([]byte, error) {
	secret, ok := c.kept[string(sealed)]
	switch {
	case c.err != nil:
		return nil, c.err
	case !ok:
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "another computer's TPM has sealed it")
	case c.give != nil:
		return c.give(secret)
	}
	return secret, nil
}

// on opens the branch of a data disk on the computer with a TPM, nil where it has none.
func on(t *testing.T, c *central, path string, s Sealer) (*site, *Keys) {
	t.Helper()
	db, err := store.Open(t.Context(), path, store.Alone())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	kept := new(Keys)
	out := &site{central: c, path: path, installed: true}
	out.Branch, err = New(t.Context(), Config{
		Site: "LON", Store: db, Central: c, Installed: func(provisioning.ContentRef) bool { return true }, Sealer: s, Keys: func(k Keys) { *kept = k },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, kept
}

// off closes the branch's database, as who starts it anew has it alone.
func (s *site) off(t *testing.T) {
	t.Helper()
	if err := s.cfg.Store.(*store.Store).Close(); err != nil {
		t.Fatal(err)
	}
}

// deployable enrols a branch, and gives it a snapshot by which the desk boots.
func (s *site) deployable(t *testing.T) {
	t.Helper()
	for _, err := range []error{s.Enrol(t.Context(), "good"), s.fetchHistory(t.Context()), s.apply(t.Context(), s.central.sign(t, nil)), s.AcceptHistory(t.Context())} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// traces are the forms in which the branch's private keys could stand in its database's files, and are there.
func (s *site) traces(t *testing.T, keys map[string][]byte) []string {
	t.Helper()
	files, err := filepath.Glob(s.path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var found []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for purpose, key := range keys {
			text := base64.StdEncoding.EncodeToString(key)
			// Its middle, too: a page that was used again has lost the beginning.
			if bytes.Contains(b, key) || bytes.Contains(b, []byte(text)) || bytes.Contains(b, []byte(text[len(text)/2:])) || bytes.Contains(b, key[len(key)/2:]) {
				found = append(found, filepath.Base(f)+": "+purpose)
			}
		}
	}
	return found
}

// TestKeysAreSealed: with a TPM no private key is ever written as it is, and all are there after a restart.
func TestKeysAreSealed(t *testing.T) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, kept := on(t, newCentral(t), path, tpm)
	s.deployable(t)
	first := s.identity.Load().privateKeys()
	if err := s.Enrol(t.Context(), "good"); err != nil { // again, by way of the next key
		t.Fatal(err)
	}
	now := s.identity.Load().privateKeys()
	if len(now) != 2 || bytes.Equal(now[forCentral], first[forCentral]) || *kept != (Keys{}) {
		t.Fatalf("there are %d keys, kept as %+v", len(now), *kept)
	}
	if found := append(s.traces(t, first), s.traces(t, now)...); len(found) > 0 {
		t.Errorf("keys stand in %v", found)
	}
	for _, k := range tpm.kept {
		if len(k) != 32 || bytes.Equal(k, make([]byte, 32)) {
			t.Errorf("the keys are wrapped with %x", k)
		}
	}
	s.off(t)
	again, _ := on(t, s.central, path, tpm)
	if got := again.identity.Load().privateKeys(); !maps.EqualFunc(got, now, bytes.Equal) {
		t.Error("after a restart the keys are others")
	}
	if _, err := again.ClientCertificate(); provisioning.CodeOf(err) == provisioning.CodeUnavailable {
		t.Error(err)
	}
}

// TestPlainKeysAreSealed: keys of before are sealed at the first start with a TPM, and stand nowhere in the database's files then;
// also where that was cut off in between. Without one they stay as they were, which is said.
func TestPlainKeysAreSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "branch.db")
	s, kept := on(t, newCentral(t), path, nil)
	s.deployable(t)
	if provisioning.CodeOf(kept.Plain) != provisioning.CodeNotFound || kept.Locked != nil {
		t.Errorf("kept as %+v", *kept)
	}
	keys := s.identity.Load().privateKeys()
	if found := s.traces(t, keys); len(found) == 0 {
		t.Fatal("the test does not find keys that are there")
	}
	s.off(t)
	tpm := newChip()
	tpm.err = provisioning.Errorf(provisioning.CodeUnavailable, "", "the TPM fails")
	s, kept = on(t, s.central, path, tpm) // one that does not work changes nothing
	if provisioning.CodeOf(kept.Plain) != provisioning.CodeUnavailable || !maps.EqualFunc(s.identity.Load().privateKeys(), keys, bytes.Equal) {
		t.Errorf("kept as %+v", *kept)
	}
	// Cut off: sealed, and nothing taken out.
	tpm.err = nil
	cut := s.identity.Load().protected(t.Context(), Config{Sealer: tpm})
	cut.Remains = true
	if err := saveIdentity(t.Context(), s.cfg.Store, cut); err != nil {
		t.Fatal(err)
	}
	// Where the database puts what it is given next is its own affair: here are pages that it will not use again soon.
	for _, b := range [][]byte{bytes.Repeat([]byte(base64.StdEncoding.EncodeToString(keys[forCentral])), 100), []byte("{}")} {
		if err := s.cfg.Store.Commit(t.Context(), provisioning.BranchChange{PasswordAttempts: b}); err != nil {
			t.Fatal(err)
		}
	}
	s.off(t)
	if found := s.traces(t, keys); len(found) == 0 {
		t.Fatal("nothing remains that is to be taken out")
	}
	s, kept = on(t, s.central, path, tpm)
	if *kept != (Keys{}) || s.identity.Load().Remains {
		t.Errorf("kept as %+v", *kept)
	}
	if found := s.traces(t, keys); len(found) > 0 {
		t.Errorf("keys stand in %v", found)
	}
	if got := s.identity.Load().privateKeys(); !maps.EqualFunc(got, keys, bytes.Equal) {
		t.Error("they are others")
	}
	if d := s.Decide(t.Context(), desk); d.Action != policy.Boot {
		t.Errorf("%+v", d)
	}
}

// TestPlainKeysAreSealedAtOnce: as above, in one start.
func TestPlainKeysAreSealedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, nil)
	s.deployable(t)
	keys := s.identity.Load().privateKeys()
	s.off(t)
	s, kept := on(t, s.central, path, newChip())
	if found := s.traces(t, keys); len(found) > 0 || *kept != (Keys{}) {
		t.Errorf("keys stand in %v, kept as %+v", found, *kept)
	}
}

// TestSecretsKeyIsLostMeanwhile: where the site key can be opened again and the key for secrets cannot, there is another one.
func TestSecretsKeyIsLostMeanwhile(t *testing.T) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, tpm)
	s.deployable(t)
	broken, err := s.identity.Load().sealed()
	if err != nil {
		t.Fatal(err)
	}
	broken.wrapping = nil // stored as it stands here
	k := broken.Sealed[forSecrets]
	k.Box[len(k.Box)/2] ^= 1
	if err := saveIdentity(t.Context(), s.cfg.Store, broken); err != nil {
		t.Fatal(err)
	}
	before := s.Recipient()
	s.off(t)
	tpm.err = provisioning.Errorf(provisioning.CodeUnavailable, "", "busy")
	s, _ = on(t, s.central, path, tpm)
	if s.Recipient() != "" {
		t.Error("there is a key while nothing can be opened")
	}
	tpm.err = nil
	if err := s.reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := s.Recipient(); r == "" || r == before {
		t.Errorf("the recipient is %q", r)
	}
}

// TestTPMGivesBackOther: nothing is trusted to a TPM that does not give back what it has sealed; the keys stay as they are.
func TestTPMGivesBackOther(t *testing.T) {
	for name, give := range map[string]func([]byte) ([]byte, error){
		"another": func([]byte) ([]byte, error) { return make([]byte, 32), nil },
		"nothing": func([]byte) ([]byte, error) { return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "damaged") },
	} {
		t.Run(name, func(t *testing.T) {
			tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
			tpm.give = give
			s, kept := on(t, newCentral(t), path, tpm)
			s.deployable(t)
			keys := s.identity.Load().privateKeys()
			if provisioning.CodeOf(kept.Plain) != provisioning.CodeCorrupt || kept.Locked != nil {
				t.Errorf("kept as %+v", *kept)
			}
			s.off(t)
			s, kept = on(t, s.central, path, nil)
			if !maps.EqualFunc(s.identity.Load().privateKeys(), keys, bytes.Equal) || kept.Locked != nil {
				t.Errorf("after a restart: %+v", *kept)
			}
		})
	}
}

// TestDamagedKeys: a stored key that is damaged is refused; a damaged key for secrets alone has another in its place.
func TestDamagedKeys(t *testing.T) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, tpm)
	s.deployable(t)
	recipient, stored := s.Recipient(), s.identity.Load()
	for _, purpose := range []string{forSecrets, forCentral} {
		broken, err := stored.sealed()
		if err != nil {
			t.Fatal(err)
		}
		broken.wrapping = nil // stored as it stands here
		k := broken.Sealed[purpose]
		k.Box[len(k.Box)/2] ^= 1
		if err := saveIdentity(t.Context(), s.cfg.Store, broken); err != nil {
			t.Fatal(err)
		}
		s.off(t)
		var kept *Keys
		s, kept = on(t, s.central, path, tpm)
		switch {
		case purpose == forCentral:
			wantCode(t, kept.Locked, provisioning.CodeCorrupt)
			if s.Recipient() != "" || s.HistoryComplete() {
				t.Error("without its site key it goes on as if it had it")
			}
		case kept.Locked != nil || s.Recipient() == recipient || s.Recipient() == "":
			t.Errorf("kept as %+v", *kept)
		}
	}
	// One key does not stand in for another, nor another site's for this one's.
	w := &wrapping{key: make([]byte, 32)}
	k, err := w.wrap("LON", forCentral, []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range [][2]string{{"LON", forSecrets}, {"PAR", forCentral}} {
		if _, err := w.unwrap(x[0], x[1], k); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
			t.Errorf("%v: %v", x, err)
		}
	}
}
