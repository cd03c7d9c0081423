package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"
	"branchpoint/services/branch"
	branchclient "branchpoint/services/branch/client"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"

	"filippo.io/age"
)

// lockedBuffer is a log that goroutines write to and a test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// secretsKey is the key of a site's secrets that an appliance has in its database.
func secretsKey(t *testing.T, s *store.Store) age.Identity {
	t.Helper()
	b, err := s.LoadIdentity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		SecretsKey string `json:"secretsKey"`
	}
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	key, err := age.ParseX25519Identity(kept.SecretsKey)
	if err != nil {
		t.Fatal("there is no key in the database")
	}
	return key
}

// TestSecretFromAdministratorToAgent: what an administrator applies reaches the agent of the computer that it is of, after the
// site's password, and stands in no file and no line of the log of central or branch. An appliance that was replaced reads nothing
// of what is published then.
func TestSecretFromAdministratorToAgent(t *testing.T) {
	const secret, sitePassword = "Corr3ct-horse-battery-staple", "open sesame 4711"
	dir, ctx := t.TempDir(), t.Context()
	kept := &lockedBuffer{}
	log := slog.New(slog.NewTextHandler(kept, &slog.HandlerOptions{Level: slog.LevelDebug}))
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cdb, err := store.Open(ctx, filepath.Join(dir, "central.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer cdb.Close()
	c, err := central.Open(ctx, central.Config{Store: cdb, Key: key, Log: log, Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	hash, err := password.Hash(rand.Reader, sitePassword)
	if err != nil {
		t.Fatal(err)
	}
	text := `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy, passwordHash: "` + hash + `"}, distributionPoint: {}}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec: {macAddresses: ["52:54:00:00:00:01"], secrets: {JoinPassword: ` + secret + `}}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: join}
spec: {steps: [{runCommandLine: {command: "join %JoinPassword%", in: boot-image}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec: {taskSequence: join, computers: [desk-1], purpose: required}
`
	if _, err := c.Apply(ctx, centralclient.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(text)}}}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(c.Handler())
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	srv.Listener = tls.NewListener(srv.Listener, c.TLS())
	srv.Start()
	defer srv.Close()
	defer srv.CloseClientConnections()

	bdb, err := store.Open(ctx, filepath.Join(dir, "branch.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer bdb.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var br *branch.Branch
	far := centralclient.NewBranch(centralclient.BranchConfig{
		Address: srv.Listener.Addr().String(), CASHA256: c.CASHA256(), Now: time.Now,
		Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() }, Recipient: func() string { return br.Recipient() },
	})
	br, err = branch.New(ctx, branch.Config{
		Site: "LON", CentralCA: c.CASHA256(), Store: bdb, Central: centralSide{far}, Log: log, Now: time.Now, Rand: rand.Reader,
		AgentPort: l.Addr().(*net.TCPAddr).Port,
	})
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.CreateToken(ctx, centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	if err := br.Enrol(ctx, token.Token); err != nil {
		t.Fatal(err)
	}
	work, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { _ = br.Follow(work) })
	all.Go(func() { _ = br.ServeAgents(work, l, br.Handler()) })
	m := provisioning.Machine{MAC: "52:54:00:00:00:01", GUID: "11111111-1111-4111-8111-111111111111", Arch: provisioning.ArchUEFIx64}
	eventually(t, "the snapshot with its secrets, and the history", func() bool {
		s, _ := br.Snapshot()
		return s != nil && s.SecretsFor == br.Recipient() && br.HistoryComplete()
	})

	config, err := br.BootConfig(ctx, m, br.Decide(ctx, m), netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	var boot branchclient.Boot
	if err := json.Unmarshal(config, &boot); err != nil {
		t.Fatal(err)
	}
	agentKey, err := branchclient.LoadKey(filepath.Join(t.TempDir(), "agent.key"))
	if err != nil {
		t.Fatal(err)
	}
	agent, err := branchclient.New(boot, agentKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := agent.Register(ctx, branchclient.Facts{MAC: m.MAC, GUID: m.GUID}); err != nil || !r.PasswordWanted {
		t.Fatal(r, err)
	}
	if _, err := agent.Assignment(ctx); provisioning.CodeOf(err) != provisioning.CodeForbidden {
		t.Fatalf("before the password: %v", err)
	}
	if a, err := agent.Password(ctx, sitePassword); err != nil || !a.Right {
		t.Fatal(a, err)
	}
	as, err := agent.Assignment(ctx)
	if err != nil || as.Secrets["JOINPASSWORD"] != secret {
		t.Fatalf("given are %d secrets, %v", len(as.Secrets), err)
	}

	// Another appliance takes its place, with a blank data disk: from then on what central publishes is for that one alone.
	var next *branch.Branch
	nextDB, err := store.Open(ctx, filepath.Join(dir, "next.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer nextDB.Close()
	nextFar := centralclient.NewBranch(centralclient.BranchConfig{
		Address: srv.Listener.Addr().String(), CASHA256: c.CASHA256(), Now: time.Now,
		Certificate: func() (tls.Certificate, error) { return next.ClientCertificate() }, Recipient: func() string { return next.Recipient() },
	})
	next, err = branch.New(ctx, branch.Config{Site: "LON", CentralCA: c.CASHA256(), Store: nextDB, Central: centralSide{nextFar}, Log: log, Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	if token, err = c.CreateToken(ctx, centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600}); err != nil {
		t.Fatal(err)
	}
	if err := next.Enrol(ctx, token.Token); err != nil {
		t.Fatal(err)
	}
	all.Go(func() { _ = next.Follow(work) })
	eventually(t, "the new appliance's snapshot with its secrets", func() bool {
		s, _ := next.Snapshot()
		return s != nil && s.SecretsFor == next.Recipient()
	})
	if _, err := far.Snapshot(ctx, 0, 0, 0); provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		t.Errorf("the appliance that was replaced asks for a snapshot: %v", err)
	}
	before, _ := br.Snapshot()
	after, _ := next.Snapshot()
	oldKey, newKey := secretsKey(t, bdb), secretsKey(t, nextDB)
	for _, opens := range []struct {
		name string
		s    *provisioning.Snapshot
		key  age.Identity
		want bool
	}{
		{"its own, by the appliance that was replaced", before, oldKey, true}, // which nothing takes back
		{"the new one's, by the appliance that was replaced", after, oldKey, false},
		{"its own, by the new one", after, newKey, true},
		{"that of the appliance before, by the new one", before, newKey, false},
	} {
		if _, err := age.Decrypt(bytes.NewReader(opens.s.Secrets), opens.key); (err == nil) != opens.want {
			t.Errorf("the secrets are opened: %s: %v", opens.name, err)
		}
	}
	cancel()
	all.Wait()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, []byte(secret)) {
			t.Errorf("%s: the secret stands in it, or %v", f, err)
		}
	}
	if bytes.Contains(kept.buf.Bytes(), []byte(secret)) {
		t.Errorf("the secret stands in the log:\n%s", kept.buf.String())
	}
}
