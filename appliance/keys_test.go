package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/tpm"
	"branchpoint/initramfs/tpm/tpmtest"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"

	"github.com/google/go-tpm/tpm2"
)

// TestKeysItem: the screen says in every case how the key is kept, and what to do about it.
func TestKeysItem(t *testing.T) {
	coded := func(code provisioning.Code) error { return provisioning.Errorf(code, "Do this.", "the reason") }
	for name, c := range map[string]struct {
		keys  branch.Keys
		state screen.State
		says  []string
		next  []string
	}{
		"sealed":  {branch.Keys{}, screen.OK, []string{"sealed to this computer's TPM"}, nil},
		"none":    {branch.Keys{Plain: coded(provisioning.CodeNotFound)}, screen.OK, []string{"not protected by a TPM", "whoever takes the data disk has it"}, nil},
		"failing": {branch.Keys{Plain: coded(provisioning.CodeUnavailable)}, screen.OK, []string{"not protected by a TPM", "the reason"}, []string{"firmware"}},
		"lost": {
			branch.Keys{Locked: coded(provisioning.CodeForbidden)},
			screen.Problem,
			[]string{"cannot be opened: the reason", "goes on"},
			[]string{"Put the data disk back", "branchpoint enrol-token create --site LON --central c:8443 -o site.yaml"},
		},
		"busy": {branch.Keys{Locked: coded(provisioning.CodeUnavailable)}, screen.Problem, []string{"at the moment: the reason", "tried again"}, []string{"Do this.", "enrol-token"}},
	} {
		settings := provisioning.Appliance{Site: "LON"}
		settings.Central.Address = "c:8443"
		it := keysItem(settings, c.keys)
		if it.State != c.state || (len(c.next) == 0) != (it.Next == "") {
			t.Errorf("%s: %+v", name, it)
		}
		for _, w := range c.says {
			if !strings.Contains(it.Text, w) {
				t.Errorf("%s: %q is not said: %s", name, w, it.Text)
			}
		}
		for _, w := range c.next {
			if !strings.Contains(it.Next, w) {
				t.Errorf("%s: %q is not said: %s", name, w, it.Next)
			}
		}
	}
}

// sealedSite is a central, and a data disk that branches are started with.
type sealedSite struct {
	central *central.Central
	address string
	path    string
	log     *slog.Logger
}

func newSealedSite(t *testing.T) *sealedSite {
	t.Helper()
	dir, ctx := t.TempDir(), t.Context()
	log := slog.New(slog.DiscardHandler)
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "central.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := central.Open(ctx, central.Config{Store: db, Key: key, Log: log, Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	s := &sealedSite{central: c, path: filepath.Join(dir, "branch.db"), log: log}
	s.apply(t, "desk-1")
	srv := httptest.NewUnstartedServer(c.Handler())
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	srv.Listener = tls.NewListener(srv.Listener, c.TLS())
	srv.Start()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	s.address = srv.Listener.Addr().String()
	return s
}

func (s *sealedSite) apply(t *testing.T, computer string) {
	t.Helper()
	text := "apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {pxe: {mode: proxy}, distributionPoint: {}}\n---\n" +
		"apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: " + computer + "}\nspec: {macAddresses: ['52:54:00:00:00:0" + computer[len("desk-"):] + "']}\n"
	if _, err := s.central.Apply(t.Context(), centralclient.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(text)}}}); err != nil {
		t.Fatal(err)
	}
}

func (s *sealedSite) token(t *testing.T) string {
	t.Helper()
	token, err := s.central.CreateToken(t.Context(), centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	return token.Token
}

// with runs a branch of the data disk, on a computer with a TPM or none, until do returns.
func (s *sealedSite) with(t *testing.T, sealer branch.Sealer, token string, do func(b *branch.Branch, keys func() branch.Keys)) {
	t.Helper()
	db, err := store.Open(t.Context(), s.path, store.Alone())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var mu sync.Mutex
	var kept branch.Keys
	var br *branch.Branch
	far := centralclient.NewBranch(centralclient.BranchConfig{
		Address: s.address, CASHA256: s.central.CASHA256(), Now: time.Now,
		Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() }, Recipient: func() string { return br.Recipient() },
	})
	br, err = branch.New(t.Context(), branch.Config{
		Site: "LON", CentralCA: s.central.CASHA256(), EnrolmentToken: token, Store: db, Central: centralSide{far}, Log: s.log, Now: time.Now, Rand: rand.Reader,
		Sealer: sealer, Keys: func(k branch.Keys) { mu.Lock(); kept = k; mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !br.Enrolled() {
		if err := br.Enrol(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = br.Follow(ctx) })
	do(br, func() branch.Keys { mu.Lock(); defer mu.Unlock(); return kept })
	cancel()
	all.Wait()
}

// knows waits until the configuration in force has a computer.
func knows(t *testing.T, b *branch.Branch, computer string) {
	t.Helper()
	eventually(t, "the configuration with "+computer, func() bool {
		s, _ := b.Snapshot()
		return s != nil && slices.ContainsFunc(s.Computers, func(c provisioning.Computer) bool { return c.Name == computer })
	})
}

// TestSealedToARealTPM: a data disk of before is sealed, speaks with central after that, says what is wrong on another computer and once
// the TPM was cleared, and is enrolled again with a new token.
func TestSealedToARealTPM(t *testing.T) {
	s, chip, other := newSealedSite(t), tpmtest.Start(t), tpmtest.Start(t)
	first := s.token(t)
	s.with(t, nil, first, func(b *branch.Branch, keys func() branch.Keys) {
		knows(t, b, "desk-1")
		if provisioning.CodeOf(keys().Plain) != provisioning.CodeNotFound {
			t.Errorf("%+v", keys())
		}
	})
	plain, err := os.ReadFile(s.path)
	if err != nil || !strings.Contains(string(plain), "AGE-SECRET-KEY-1") || !strings.Contains(string(plain), `"siteKey"`) {
		t.Fatal("the data disk of before has no keys as they are: ", err)
	}
	s.apply(t, "desk-2")
	s.with(t, tpm.New(chip.Open), first, func(b *branch.Branch, keys func() branch.Keys) {
		knows(t, b, "desk-2")
		if keys() != (branch.Keys{}) {
			t.Errorf("%+v", keys())
		}
	})
	files, err := filepath.Glob(s.path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.Contains(string(b), "AGE-SECRET-KEY-1") || strings.Contains(string(b), `"siteKey"`) {
			t.Errorf("%s: a key stands in it as it is, or %v", f, err)
		}
	}
	s.apply(t, "desk-3")
	s.with(t, tpm.New(other.Open), first, func(b *branch.Branch, keys func() branch.Keys) {
		knows(t, b, "desk-2") // from the data disk
		if provisioning.CodeOf(keys().Locked) != provisioning.CodeForbidden {
			t.Errorf("%+v", keys())
		}
		if err := b.Enrol(t.Context(), first); err == nil {
			t.Error("a token is good twice")
		}
	})
	s.with(t, tpm.New(chip.Open), first, func(b *branch.Branch, keys func() branch.Keys) { knows(t, b, "desk-3") }) // back where it was
	s.apply(t, "desk-4")
	direct, err := chip.Open()
	if err != nil {
		t.Fatal(err)
	}
	_, cleared := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(direct)
	if err := errors.Join(cleared, direct.Close()); err != nil {
		t.Fatal(err)
	}
	s.with(t, tpm.New(chip.Open), s.token(t), func(b *branch.Branch, keys func() branch.Keys) {
		knows(t, b, "desk-4")
		if keys() != (branch.Keys{}) {
			t.Errorf("%+v", keys())
		}
	})
	s.apply(t, "desk-5")
	s.with(t, tpm.New(chip.Open), "", func(b *branch.Branch, keys func() branch.Keys) { knows(t, b, "desk-5") })
}
