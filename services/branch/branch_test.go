package branch

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
	"branchpoint/services/store"
)

var desk = provisioning.Machine{MAC: "52:54:00:00:00:01", GUID: "11111111-1111-4111-8111-111111111111", Arch: provisioning.ArchUEFIx64}

// central is the other side of the Central interface, with faults on request.
type central struct {
	key ed25519.PrivateKey

	mu        sync.Mutex
	snapshots chan *provisioning.SignedSnapshot
	down      bool
	received  []provisioning.StatusMessage
	reports   []provisioning.SiteReport
	got       chan struct{}

	// What central says of its root key, of the site's runs, and which certificate it gives for another.
	epochs  provisioning.Epochs
	runs    []provisioning.Run
	renewed []byte
	// hosts are what the branch said that its machine is recognised by, each time.
	hosts []provisioning.Hardware
	// refused: it takes the branch's certificate for nothing.
	refused bool
}

func newCentral(t *testing.T) *central {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &central{key: key, snapshots: make(chan *provisioning.SignedSnapshot), got: make(chan struct{}, 100)}
}

func (c *central) Enrol(_ context.Context, token string, csr []byte) (Enrolment, error) {
	if token != "good" {
		return Enrolment{}, provisioning.Errorf(provisioning.CodeUnauthorized, "", "the token is not valid")
	}
	return Enrolment{Certificate: csr, SnapshotKey: c.key.Public().(ed25519.PublicKey)}, nil
}

func (c *central) Snapshot(ctx context.Context, _, _ uint64, _ time.Duration) (*provisioning.SignedSnapshot, error) {
	if c.refused {
		return nil, provisioning.Errorf(provisioning.CodeUnauthorized, "", "the certificate was revoked")
	}
	select {
	case s := <-c.snapshots:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *central) Report(_ context.Context, messages []provisioning.StatusMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.got <- struct{}{} }()
	if c.down {
		c.down = false
		return errors.New("the connection was cut")
	}
	c.received = append(c.received, messages...)
	return nil
}

func (c *central) ReportSite(_ context.Context, reports []provisioning.SiteReport) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.got <- struct{}{} }()
	if c.down {
		c.down = false
		return errors.New("the connection was cut")
	}
	c.reports = append(c.reports, reports...)
	return nil
}

func (c *central) TellHost(_ context.Context, h provisioning.Hardware) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hosts = append(c.hosts, h)
	return nil
}

func (c *central) sign(t *testing.T, change func(*provisioning.Snapshot)) *provisioning.SignedSnapshot {
	s := &provisioning.Snapshot{
		Epoch: 1, Number: 1, IssuedAt: time.Now(),
		Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{
			PXE: &provisioning.PXERole{Mode: provisioning.PXEModeProxy}, DistributionPoint: &provisioning.DistributionPointRole{},
		}},
		Computers:     []provisioning.Computer{{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{desk.MAC}}}},
		Images:        []provisioning.OperatingSystemImage{{Name: "debian", Spec: provisioning.OperatingSystemImageSpec{Package: "debian-13", Version: 1}}},
		TaskSequences: []provisioning.TaskSequence{{Name: "install", Spec: provisioning.TaskSequenceSpec{Steps: []provisioning.Step{{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Image: "debian"}}}}}},
		Advertisements: []provisioning.Advertisement{{Name: "rollout", Spec: provisioning.AdvertisementSpec{
			TaskSequence: "install", Computers: []string{"desk-1"}, Purpose: provisioning.PurposeRequired,
		}}},
		Content: []provisioning.ContentRef{{Package: "debian-13", Version: 1, Format: provisioning.FormatDiskImage, Manifest: provisioning.SumSHA256([]byte("m")), Size: 1}},
	}
	if change != nil {
		change(s)
	}
	signed, err := provisioning.SignSnapshot(s, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// site is a branch on a real database, with the parts that tests change.
type site struct {
	*Branch
	central   *central
	path      string
	installed bool
}

func open(t *testing.T, c *central, path string) *site {
	t.Helper()
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{central: c, path: path, installed: true}
	s.Branch, err = New(t.Context(), Config{
		Site: "LON", Store: db, Central: c, Installed: func(provisioning.ContentRef) bool { return s.installed },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enrolled opens a branch that has its first snapshot.
func enrolled(t *testing.T) *site {
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	if err := s.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if err := s.fetchHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t.Context(), s.central.sign(t, nil)); err != nil {
		t.Fatal(err)
	}
	if err := s.AcceptHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// listen serves agents on loopback.
func (s *site) listen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.AgentPort = l.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.ServeAgents(ctx, l, s.Handler()); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// boot is what the PXE service point gives the machine.
func (s *site) boot(t *testing.T) client.Boot {
	t.Helper()
	b, err := s.BootConfig(t.Context(), desk, s.Decide(t.Context(), desk), netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	var boot client.Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		t.Fatal(err)
	}
	return boot
}

func agent(t *testing.T, boot client.Boot) *client.Client {
	t.Helper()
	return agentWith(t, boot, filepath.Join(t.TempDir(), "key"))
}

// agentWith is an agent that keeps its key in a file.
func agentWith(t *testing.T, boot client.Boot, keyFile string) *client.Client {
	t.Helper()
	key, err := client.LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(boot, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantCode(t *testing.T, err error, code provisioning.Code) {
	t.Helper()
	if provisioning.CodeOf(err) != code {
		t.Fatalf("error %v has code %q, want %q", err, provisioning.CodeOf(err), code)
	}
}

func TestSnapshotsThatAreRefused(t *testing.T) {
	s := enrolled(t)
	tampered := s.central.sign(t, func(s *provisioning.Snapshot) { s.Number = 2 })
	tampered.Payload[len(tampered.Payload)/2] ^= 1
	wantCode(t, s.apply(t.Context(), tampered), provisioning.CodeCorrupt)
	wantCode(t, s.apply(t.Context(), newCentral(t).sign(t, func(s *provisioning.Snapshot) { s.Number = 2 })), provisioning.CodeCorrupt)
	wantCode(t, s.apply(t.Context(), s.central.sign(t, func(s *provisioning.Snapshot) { s.Number, s.Site.Name = 2, "PAR" })), provisioning.CodeForbidden)
	wantCode(t, s.apply(t.Context(), s.central.sign(t, nil)), provisioning.CodeConflict) // the same number again
	if err := s.apply(t.Context(), s.central.sign(t, func(s *provisioning.Snapshot) { s.Epoch = 2 })); err != nil {
		t.Fatal("a new epoch:", err)
	}
	wantCode(t, s.apply(t.Context(), s.central.sign(t, func(s *provisioning.Snapshot) { s.Number = 9 })), provisioning.CodeConflict)
}

func TestADamagedSnapshotIsFetchedAgain(t *testing.T) {
	for name, damage := range map[string]func(*provisioning.SignedSnapshot){
		"payload":      func(s *provisioning.SignedSnapshot) { s.Payload[len(s.Payload)/2] ^= 1 },
		"signature":    func(s *provisioning.SignedSnapshot) { s.Signature[0] ^= 1 },
		"cut off":      func(s *provisioning.SignedSnapshot) { s.Payload = s.Payload[:10] },
		"no signature": func(s *provisioning.SignedSnapshot) { s.Signature = []byte{} },
	} {
		t.Run(name, func(t *testing.T) {
			first := enrolled(t)
			stored, err := first.cfg.Store.LoadSnapshot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			damage(stored)
			if err := first.cfg.Store.Commit(t.Context(), provisioning.BranchChange{Snapshot: stored}); err != nil {
				t.Fatal(err)
			}
			s := open(t, first.central, first.path)
			if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
				t.Errorf("a snapshot whose signature is wrong decides %s", d.Action)
			}
			if err := s.apply(t.Context(), s.central.sign(t, nil)); err != nil {
				t.Errorf("what central sends again is refused: %v", err)
			}
			if d := s.Decide(t.Context(), desk); d.Action != policy.Boot {
				t.Errorf("decided %s: %s", d.Action, d.Why())
			}
		})
	}
}

func TestFollowAppliesWhatCentralSends(t *testing.T) {
	s := enrolled(t)
	_, changed := s.Snapshot()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Follow(ctx); close(done) }()
	s.central.snapshots <- s.central.sign(t, func(s *provisioning.Snapshot) { s.Number = 2 })
	<-changed
	if now, _ := s.Snapshot(); now.Number != 2 {
		t.Errorf("snapshot %d is in force", now.Number)
	}
	cancel()
	<-done
	again := open(t, s.central, s.path)
	if now, _ := again.Snapshot(); now == nil || now.Number != 2 {
		t.Error("the snapshot did not survive a restart")
	}
}

func TestSilentWithoutContent(t *testing.T) {
	s := enrolled(t)
	s.installed = false
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || d.Why() == "" {
		t.Errorf("a machine whose image is not here was answered: %+v", d)
	}
	s.installed = true
	if d := s.Decide(t.Context(), desk); d.Action != policy.Boot {
		t.Errorf("got %+v", d)
	}
}

func TestEnrolRefused(t *testing.T) {
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	wantCode(t, s.Enrol(t.Context(), "bad"), provisioning.CodeUnauthorized)
	if s.Enrolled() {
		t.Error("enrolled all the same")
	}
	if _, err := s.ClientCertificate(); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Error("a certificate before enrolment:", err)
	}
}

func TestDataDiskOfAnotherSite(t *testing.T) {
	s := enrolled(t)
	cfg := s.cfg
	cfg.Site = "PAR"
	_, err := New(t.Context(), cfg)
	wantCode(t, err, provisioning.CodeConflict)
}

// TestDataDiskOfAnotherCentral: a test laboratory may have a site of the same code, and other advertisements.
func TestDataDiskOfAnotherCentral(t *testing.T) {
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	s.cfg.CentralCA = provisioning.SumSHA256([]byte("laboratory"))
	if err := s.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), s.cfg); err != nil {
		t.Errorf("the same central is refused: %v", err)
	}
	cfg := s.cfg
	cfg.CentralCA = provisioning.SumSHA256([]byte("production"))
	_, err := New(t.Context(), cfg)
	wantCode(t, err, provisioning.CodeConflict)
}

// message makes a valid status message of a run.
func message(a *provisioning.Assignment, seq, code int, action string) provisioning.StatusMessage {
	return provisioning.StatusMessage{
		ID: fmt.Sprintf("%032x", 0xabc000+seq), Site: a.Site, Computer: a.Computer.Name, Run: a.Run.ID,
		Advertisement: a.Run.Advertisement, TaskSequence: a.Run.TaskSequence,
		Time: time.Now().UTC(), Sequence: seq, Code: code, Action: action,
	}
}

// TestDeployment goes once through everything an agent does, with a restart of the appliance in the middle.
func TestDeployment(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	a := agent(t, s.boot(t))
	if _, err := a.Assignment(t.Context()); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Fatal("an assignment without a token:", err)
	}
	if _, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC, GUID: desk.GUID}); err != nil {
		t.Fatal(err)
	}
	as, err := a.Assignment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if as.Computer.Name != "desk-1" || as.NextStatus != 1 || as.Run.Spent || as.Content["debian"].Package != "debian-13" {
		t.Errorf("assignment %+v", as)
	}
	s.installed = false // a new version is on its way
	if _, err := a.Assignment(t.Context()); provisioning.CodeOf(err) != provisioning.CodeUnavailable {
		t.Error("an assignment whose content is not here yet:", err)
	}
	s.installed = true
	if err := a.Report(t.Context(), []provisioning.StatusMessage{message(as, 1, provisioning.StatusStepStarted, "runCommandLine")}); err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(t.Context(), desk); d.Resume != "" {
		t.Error("the run is spent before anything was destroyed")
	}
	begin := message(as, 2, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	for range 2 { // the second time as if the answer had been lost
		if err := a.Report(t.Context(), []provisioning.StatusMessage{begin}); err != nil {
			t.Fatal(err)
		}
	}

	// The appliance restarts: the agent's token holds, the run goes on under its number.
	again := open(t, s.central, s.path)
	if d := again.Decide(t.Context(), desk); d.Resume != as.Run.ID {
		t.Errorf("the interrupted run is not gone on with: %+v", d)
	}
	again.listen(t)
	b := agent(t, again.boot(t))
	if _, err := b.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	as2, err := b.Assignment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if as2.Run.ID != as.Run.ID || !as2.Run.Spent || as2.NextStatus != 3 {
		t.Errorf("assignment after a restart: %+v", as2)
	}
	if err := b.Report(t.Context(), []provisioning.StatusMessage{message(as2, 3, provisioning.StatusSequenceDone, "")}); err != nil {
		t.Fatal(err)
	}
	if d := again.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("a machine that is done was answered: %+v", d)
	}
	if _, err := b.Assignment(t.Context()); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error("an assignment after the end:", err)
	}

	// The queue reaches central in order, each message once, although the first attempt fails.
	s.central.down = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { again.Deliver(ctx); close(done) }()
	<-s.central.got
	<-s.central.got
	for {
		rest, err := again.cfg.Store.Undelivered(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(rest) == 0 {
			break
		}
	}
	cancel()
	<-done
	var got []int
	for _, m := range s.central.received {
		got = append(got, m.Sequence)
	}
	if fmt.Sprint(got) != "[1 2 3]" {
		t.Errorf("central received messages %v", got)
	}
}

func TestSecretsAndTokensOfOthers(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	boot := s.boot(t)
	thief, owner := agent(t, boot), agent(t, boot)
	if _, err := owner.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Error("the same agent after a lost answer:", err)
	}
	_, err := thief.Register(t.Context(), client.Facts{MAC: desk.MAC})
	wantCode(t, err, provisioning.CodeUnauthorized)
	wrong := boot
	wrong.Secret = "guess"
	_, err = agent(t, wrong).Register(t.Context(), client.Facts{})
	wantCode(t, err, provisioning.CodeUnauthorized)
	other := s.boot(t)
	_, err = agent(t, other).Register(t.Context(), client.Facts{GUID: "99999999-9999-4999-8999-999999999999"})
	wantCode(t, err, provisioning.CodeForbidden)
	impostor := s.boot(t)
	impostor.CertificateSHA256 = provisioning.SumSHA256([]byte("another"))
	if _, err := agent(t, impostor).Register(t.Context(), client.Facts{}); err == nil {
		t.Error("a branch with another certificate was believed")
	}
	as, err := owner.Assignment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alien := message(as, 1, provisioning.StatusStepStarted, "")
	alien.Computer = "desk-2"
	wantCode(t, owner.Report(t.Context(), []provisioning.StatusMessage{alien}), provisioning.CodeForbidden)
	alien = message(as, 1, provisioning.StatusStepStarted, "")
	alien.Run = "00000000000000000000000000000000"
	wantCode(t, owner.Report(t.Context(), []provisioning.StatusMessage{alien}), provisioning.CodeNotFound)
}

// TestAgentStartedAgain crashes an agent long after its boot secret would have expired.
func TestAgentStartedAgain(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	boot, keyFile := s.boot(t), filepath.Join(t.TempDir(), "run", "key")
	if _, err := agentWith(t, boot, keyFile).Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	s.cfg.Now = func() time.Time { return time.Now().Add(2 * secretLife) }
	again := agentWith(t, boot, keyFile)
	if _, err := again.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal("the same agent, started again:", err)
	}
	if _, err := again.Assignment(t.Context()); err != nil {
		t.Error(err)
	}
	s.cfg.Now = func() time.Time { return time.Now().Add(tokenLife + time.Minute) }
	_, err := again.Register(t.Context(), client.Facts{MAC: desk.MAC})
	wantCode(t, err, provisioning.CodeUnauthorized)
	if st, err := os.Stat(keyFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v", st, err)
	}
}

func TestSecretsExpireAndTokensAreBound(t *testing.T) {
	s := enrolled(t)
	now := time.Now()
	secret, err := s.secrets.issue(desk, "", now)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.secrets.exchange(secret, "k", now.Add(secretLife+time.Second))
	wantCode(t, err, provisioning.CodeUnauthorized)

	id := s.identity.Load()
	token, err := id.sign(claims{Machine: desk, Computer: "desk-1", Key: "k", Expires: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := id.open(token, "k", now); err != nil {
		t.Error(err)
	}
	for name, try := range map[string]func() (claims, error){
		"another key": func() (claims, error) { return id.open(token, "other", now) },
		"expired":     func() (claims, error) { return id.open(token, "k", now.Add(2*time.Hour)) },
		"changed":     func() (claims, error) { return id.open("A"+token, "k", now) },
		"no tag":      func() (claims, error) { return id.open("abc", "k", now) },
		"empty":       func() (claims, error) { return id.open("", "k", now) },
	} {
		if _, err := try(); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
			t.Errorf("%s: %v", name, err)
		}
	}
}
