package central_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central"
	"branchpoint/services/central/client"
	"branchpoint/services/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// clock is a clock that tests set. It begins at the real time, since crypto/tls looks at certificates by it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// packages is a content store in memory.
type packages struct {
	mu     sync.Mutex
	newest map[string]int
}

func (p *packages) set(name string, newest int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.newest == nil {
		p.newest = map[string]int{}
	}
	p.newest[name] = newest
	if newest == 0 {
		delete(p.newest, name)
	}
}

func (p *packages) Ref(_ context.Context, pkg string, version int) (provisioning.ContentRef, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version == 0 {
		version = p.newest[pkg]
	}
	if version == 0 || version > p.newest[pkg] {
		return provisioning.ContentRef{}, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no content package %q version %d", pkg, version)
	}
	return provisioning.ContentRef{
		Package: pkg, Version: version, Format: provisioning.FormatDiskImage,
		Manifest: provisioning.SumSHA256(fmt.Appendf(nil, "%s %d", pkg, version)), Size: 1,
	}, nil
}

func (p *packages) Packages(context.Context) (map[string]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for n, v := range p.newest {
		out[n] = v
	}
	return out, nil
}

// site is a central that serves on loopback, with what a test needs to speak with it.
type site struct {
	*central.Central
	t       *testing.T
	dir     string
	address string
	clock   *clock
	content *packages
	metrics *prometheus.Registry
	admin   *client.Admin
	token   string
	store   *store.Store
	log     *logText
	stop    func()
}

// logText is a log that is written to and read at one time.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// start starts a central in dir.
func start(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{t: t, dir: dir, clock: &clock{now: time.Now()}, content: &packages{}, metrics: prometheus.NewPedanticRegistry(), log: &logText{}}
	key, err := central.LoadKey(filepath.Join(dir, "key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.store, err = store.Open(t.Context(), filepath.Join(dir, "central.db")); err != nil {
		t.Fatal(err)
	}
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/commit") { // says what it is told
				_, _ = io.Copy(w, r.Body)
				return
			}
			fmt.Fprint(w, s, r.URL.Path)
		})
	}
	s.Central, err = central.Open(t.Context(), central.Config{
		Store: s.store, Content: s.content, Key: key, Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: s.clock.Now, Rand: rand.Reader,
		ContentRead: text("read "), ContentAdmin: text("admin "),
		Metrics: s.metrics, MetricsHandler: promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	if s.token, err = s.NewAdminToken(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.admin, err = client.NewAdmin(client.AdminFile{Address: s.address, CA: string(s.CA()), Token: s.token}, s.clock.Now); err != nil {
		t.Fatal(err)
	}
	return s
}

const documents = `apiVersion: branchpoint/v1
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
spec: {site: LON, macAddresses: ["52:54:00:12:34:56"]}
---
apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian}
spec: {package: debian-13}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec: {steps: [{applyOperatingSystemImage: {image: debian}}, {restart: {}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec: {taskSequence: install, computers: [desk-1], purpose: required}
`

func (s *site) apply(text string) (client.ChangeResult, error) {
	s.t.Helper()
	return s.admin.Apply(s.t.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(text)}}})
}

func (s *site) mustApply(text string) client.ChangeResult {
	s.t.Helper()
	r, err := s.apply(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "whatever"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// bare is the client of a branch that is not enrolled.
func (s *site) bare() *client.Branch {
	return client.NewBranch(client.BranchConfig{
		Address: s.address, CASHA256: s.CASHA256(), Now: s.clock.Now,
		Certificate: func() (tls.Certificate, error) { return tls.Certificate{}, nil },
	})
}

func (s *site) createToken(code string) string {
	s.t.Helper()
	tok, err := s.admin.CreateToken(s.t.Context(), code, time.Hour, false)
	if err != nil {
		s.t.Fatal(err)
	}
	return tok.Token
}

// enrol enrols a branch and returns its client and the key that verifies snapshots.
func (s *site) enrol(code string) (*client.Branch, ed25519.PublicKey) {
	s.t.Helper()
	key := newKey(s.t)
	e, err := s.bare().Enrol(s.t.Context(), s.createToken(code), request(s.t, key))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.branch(e.Certificate, key), e.SnapshotKey
}

func (s *site) branch(chain []byte, key *ecdsa.PrivateKey) *client.Branch {
	s.t.Helper()
	return s.branchFor(chain, key, nil)
}

// branchFor is a branch's client that says to whom secrets are to be encrypted.
func (s *site) branchFor(chain []byte, key *ecdsa.PrivateKey, recipient func() string) *client.Branch {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		s.t.Fatal(err)
	}
	return client.NewBranch(client.BranchConfig{
		Address: s.address, CASHA256: s.CASHA256(), Now: s.clock.Now,
		Certificate: func() (tls.Certificate, error) { return cert, nil }, Recipient: recipient,
	})
}

func wantCode(t *testing.T, err error, code provisioning.Code, text string) {
	t.Helper()
	if provisioning.CodeOf(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %q (%s), want %s with %q", err, provisioning.CodeOf(err), code, text)
	}
}
