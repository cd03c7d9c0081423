package branch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

func (c *central) Epochs(context.Context) (provisioning.Epochs, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epochs, nil
}

func (c *central) Runs(context.Context) ([]provisioning.Run, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "the line is dead")
	}
	return c.runs, nil
}

func (c *central) Renew(context.Context, []byte) (Enrolment, error) {
	return Enrolment{Certificate: c.renewed}, nil
}

// begin has the root key sign an epoch for central's present key.
func (c *central) begin(t *testing.T, root ed25519.PrivateKey, epoch uint64) {
	t.Helper()
	s, err := provisioning.SignEpoch(provisioning.EpochStatement{
		Epoch: epoch, SnapshotKey: c.key.Public().(ed25519.PublicKey), CASHA256: testCA, IssuedAt: time.Now(),
	}, root)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epochs.Root = root.Public().(ed25519.PublicKey)
	c.epochs.Statements = append(c.epochs.Statements, *s)
}

var testCA = provisioning.SumSHA256([]byte("CA"))

func newRoot(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// rotate gives central another signing key.
func (c *central) rotate(t *testing.T) { c.key = newRoot(t) }

func TestRootKey(t *testing.T) {
	s := enrolled(t)
	s.cfg.CentralCA = testCA
	ctx, c := t.Context(), s.central
	if err := s.pinRoot(ctx); err != nil || s.RootPinned() {
		t.Fatal("there is no root key yet:", err)
	}
	root := newRoot(t)
	c.begin(t, root, 1)
	if err := s.pinRoot(ctx); err != nil || !s.RootPinned() {
		t.Fatal(err)
	}
	next := func(epoch, number uint64) *provisioning.SignedSnapshot {
		return c.sign(t, func(x *provisioning.Snapshot) { x.Epoch, x.Number = epoch, number })
	}
	if err := s.apply(ctx, next(1, 2)); err != nil {
		t.Fatal(err)
	}
	// Nothing that the root key has not signed.
	wantCode(t, s.apply(ctx, next(2, 1)), provisioning.CodeConflict)
	c.rotate(t)
	wantCode(t, s.apply(ctx, next(1, 3)), provisioning.CodeCorrupt)
	thief := newRoot(t)
	good := c.epochs
	c.begin(t, thief, 2)
	wantCode(t, s.apply(ctx, next(2, 1)), provisioning.CodeForbidden)
	c.epochs.Root = good.Root
	wantCode(t, s.apply(ctx, next(2, 1)), provisioning.CodeCorrupt)
	c.epochs = provisioning.Epochs{Root: good.Root, Statements: good.Statements[:1]}

	// What it has reported goes to central again with a new epoch, once.
	run := provisioning.Run{ID: strings.Repeat("1", 32), Computer: "desk-1", Advertisement: "rollout", TaskSequence: "install", State: provisioning.RunStarted, StartedAt: time.Now().UTC()}
	m := message(&provisioning.Assignment{Run: run, Site: "LON", Computer: provisioning.Computer{Name: "desk-1"}}, 1, provisioning.StatusPolicyReceived, "")
	if err := s.cfg.Store.Commit(ctx, provisioning.BranchChange{Runs: []provisioning.Run{run}, Messages: []provisioning.StatusMessage{m}}); err != nil {
		t.Fatal(err)
	}
	if err := s.cfg.Store.MarkDelivered(ctx, []string{m.ID}); err != nil {
		t.Fatal(err)
	}
	c.begin(t, root, 2)
	if err := s.apply(ctx, next(2, 1)); err != nil {
		t.Fatal(err)
	}
	if waits, err := s.cfg.Store.Undelivered(ctx, 10); err != nil || len(waits) != 1 {
		t.Errorf("%d messages wait, %v", len(waits), err)
	}
	if err := s.apply(ctx, next(2, 2)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.apply(ctx, next(2, 1)), provisioning.CodeConflict)
	wantCode(t, s.apply(ctx, next(1, 9)), provisioning.CodeConflict)

	// All of that holds over a restart, and the stored snapshot is good by it.
	again := openWith(t, s)
	if snap, _ := again.Snapshot(); snap == nil || snap.Epoch != 2 || snap.Number != 2 || !again.RootPinned() {
		t.Errorf("after a restart %+v is in force", snap)
	}
}

// openWith opens the branch of s again.
func openWith(t *testing.T, s *site) *site {
	t.Helper()
	again := open(t, s.central, s.path)
	again.cfg.CentralCA = s.cfg.CentralCA
	return again
}

// TestRootKeyLate: a branch that hears of the root key only after the signing key was rotated follows it all the same.
func TestRootKeyLate(t *testing.T) {
	s := enrolled(t)
	s.cfg.CentralCA = testCA
	root, c := newRoot(t), s.central
	c.begin(t, root, 1)
	c.rotate(t)
	c.begin(t, root, 2)
	if err := s.pinRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.RootPinned() {
		t.Error("it is pinned without the snapshot that is good by it: the one in force would not be, after a restart")
	}
	if err := s.apply(t.Context(), c.sign(t, func(x *provisioning.Snapshot) { x.Epoch = 2 })); err != nil || !s.RootPinned() {
		t.Fatal(err)
	}
	// A root key that has signed nothing for the key that is known is not pinned.
	other := enrolled(t)
	other.cfg.CentralCA = testCA
	other.central.rotate(t)
	other.central.begin(t, root, 1)
	wantCode(t, other.pinRoot(t.Context()), provisioning.CodeForbidden)
	wantCode(t, other.apply(t.Context(), other.central.sign(t, func(x *provisioning.Snapshot) { x.Number = 2 })), provisioning.CodeForbidden)
}

// TestHistoryFromCentral: a branch with a blank data disk gives no required answer until it has its runs from central.
func TestHistoryFromCentral(t *testing.T) {
	c := newCentral(t)
	s := open(t, c, filepath.Join(t.TempDir(), "branch.db"))
	ctx := t.Context()
	if err := s.Enrol(ctx, "good"); err != nil {
		t.Fatal(err)
	}
	cleared := time.Now().UTC()
	if err := s.apply(ctx, c.sign(t, func(x *provisioning.Snapshot) {
		x.Clears = []provisioning.Clear{{Number: 1, Computer: "desk-2", At: cleared, By: "jo"}}
	})); err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(ctx, desk); d.Action != policy.Silent || s.HistoryComplete() {
		t.Errorf("without its history: %v %v", d.Action, d.Reasons)
	}
	run := func(id, computer string, at time.Time) provisioning.Run {
		return provisioning.Run{
			ID: strings.Repeat(id, 32), Computer: computer, Advertisement: "rollout", TaskSequence: "install", State: provisioning.RunSucceeded,
			Spent: true, SpentAt: at, StartedAt: at, UpdatedAt: at,
		}
	}
	c.runs = []provisioning.Run{run("a", "desk-1", cleared.Add(-time.Hour)), run("b", "desk-2", cleared.Add(-time.Hour)), run("c", "desk-2", cleared.Add(time.Minute))}
	c.down = true
	s.keepUp(ctx)
	if s.HistoryComplete() {
		t.Fatal("the history is complete without central")
	}
	c.down = false
	s.keepUp(ctx)
	if !s.HistoryComplete() {
		t.Fatal("the history was not fetched")
	}
	if d := s.Decide(ctx, desk); d.Action != policy.Silent {
		t.Errorf("what has run runs again: %v", d.Reasons)
	}
	s = openWith(t, s)
	if !s.HistoryComplete() {
		t.Error("after a restart it is incomplete")
	}
	runs := s.state.Load().past.Runs
	if len(runs) != 3 || runs[0].Cleared || !runs[1].Cleared || runs[2].Cleared {
		t.Errorf("%+v", runs)
	}
	// A computer that never ran is answered by then.
	c.runs = nil
	other := enrolled(t)
	if d := other.Decide(ctx, desk); d.Action != policy.Boot {
		t.Errorf("%v", d.Reasons)
	}
}

func TestAcceptHistory(t *testing.T) {
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	if err := s.AcceptHistory(t.Context()); err != nil || !s.HistoryComplete() {
		t.Fatal(err)
	}
	if !openWith(t, s).HistoryComplete() {
		t.Error("after a restart it is incomplete")
	}
}

// siteCertificate is a certificate of the branch's key, or of another one.
func siteCertificate(t *testing.T, s *site, from, until time.Time) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(s.identity.Load().SiteKey)
	if err != nil {
		t.Fatal(err)
	}
	signer := key.(*ecdsa.PrivateKey)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestRenewCertificate(t *testing.T) {
	s := enrolled(t)
	ctx, now := t.Context(), time.Now()
	day := 24 * time.Hour
	set := func(cert []byte) {
		next := *s.identity.Load()
		next.Certificate = cert
		s.identity.Store(&next)
	}
	fresh, old := siteCertificate(t, s, now.Add(-day), now.Add(3*day)), siteCertificate(t, s, now.Add(-3*day), now.Add(day))
	s.central.renewed = siteCertificate(t, s, now, now.Add(9*day))
	set(fresh)
	if err := s.renewCertificate(ctx); err != nil || !bytes.Equal(s.identity.Load().Certificate, fresh) {
		t.Error("renewed too early:", err)
	}
	set(old)
	if err := s.renewCertificate(ctx); err != nil || !bytes.Equal(s.identity.Load().Certificate, s.central.renewed) {
		t.Error("not renewed:", err)
	}
	if again := openWith(t, s); !bytes.Equal(again.identity.Load().Certificate, s.central.renewed) {
		t.Error("the new certificate was not stored")
	}
	set(old)
	for _, bad := range [][]byte{nil, []byte("x"), old} {
		s.central.renewed = bad
		wantCode(t, s.renewCertificate(ctx), provisioning.CodeCorrupt)
		if !bytes.Equal(s.identity.Load().Certificate, old) {
			t.Error("a certificate was given up for none")
		}
	}
}

// TestEnrolAgain: a branch whose certificate is refused enrols again with another key and the token that it has, and says
// everything again.
func TestEnrolAgain(t *testing.T) {
	s := enrolled(t)
	ctx := t.Context()
	before, shown := s.identity.Load(), s.Fingerprint()
	refused := provisioning.Errorf(provisioning.CodeUnauthorized, "", "revoked")
	if err := s.enrolAgain(ctx, refused); err != error(refused) {
		t.Error("without a token:", err)
	}
	s.cfg.EnrolmentToken = "used"
	if err := s.enrolAgain(ctx, refused); err != error(refused) {
		t.Error("with a token that is refused:", err)
	}
	if id := s.identity.Load(); !bytes.Equal(id.SiteKey, before.SiteKey) || !id.Enrolled() || s.Fingerprint() == shown {
		t.Error("the old key is gone, or there is no new one")
	}
	waiting := s.Fingerprint()
	s = openWith(t, s)
	if s.Fingerprint() != waiting {
		t.Error("the new key did not survive a restart")
	}
	s.cfg.EnrolmentToken = "good"
	if err := s.enrolAgain(ctx, refused); err != nil {
		t.Fatal(err)
	}
	if id := s.identity.Load(); bytes.Equal(id.SiteKey, before.SiteKey) || id.NextSiteKey != nil || s.Fingerprint() != waiting {
		t.Error("the new key is not in use")
	}
	if !bytes.Equal(s.identity.Load().TokenKey, before.TokenKey) {
		t.Error("agents' tokens are worth nothing any more")
	}
}
