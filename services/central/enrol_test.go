package central_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

func TestEnrol(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()

	token, key := s.createToken("LON"), newKey(t)
	first, err := s.bare().Enrol(ctx, token, request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	// The answer was lost; the token was typed by a person. The request is another one, but of the same key.
	again, err := s.bare().Enrol(ctx, " "+strings.ToUpper(token)+"\n", request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Certificate, again.Certificate) {
		t.Error("the same token and key gave another certificate")
	}
	_, err = s.bare().Enrol(ctx, token, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnauthorized, "has been used already")
	if provisioning.NextOf(err) == "" {
		t.Error("no next step")
	}

	b := s.branch(first.Certificate, key)
	signed, err := b.Snapshot(ctx, 0, 0, 0)
	if err != nil || signed == nil {
		t.Fatal(signed, err)
	}
	snap, err := signed.Open(first.SnapshotKey)
	if err != nil || snap.Site.Name != "LON" || snap.Epoch != 1 || snap.Number != 1 {
		t.Fatalf("%+v %v", snap, err)
	}
	signed.Payload[len(signed.Payload)/2] ^= 1
	_, err = signed.Open(first.SnapshotKey)
	wantCode(t, err, provisioning.CodeCorrupt, "signature")

	s.clock.Advance(time.Hour)
	_, err = s.bare().Enrol(ctx, token, request(t, key))
	wantCode(t, err, provisioning.CodeUnauthorized, "expired")
}

func TestEnrolRefused(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	token := s.createToken("LON")
	good := request(t, newKey(t))

	_, err := s.bare().Enrol(ctx, "wrong", good)
	wantCode(t, err, provisioning.CodeUnauthorized, "unknown here")

	p, _ := pem.Decode(good)
	tampered := bytes.Clone(p.Bytes)
	tampered[len(tampered)-1] ^= 1 // in the signature
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "tampered": pem.EncodeToMemory(&pem.Block{Type: p.Type, Bytes: tampered}),
		"cut off": pem.EncodeToMemory(&pem.Block{Type: p.Type, Bytes: p.Bytes[:50]}), "RSA": request(t, weak),
	} {
		_, err := s.bare().Enrol(ctx, token, csr)
		if provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = s.bare().Enrol(ctx, strings.Repeat("x", 1<<20), good)
	wantCode(t, err, provisioning.CodeInvalid, "larger than")

	other := client.NewBranch(client.BranchConfig{Address: s.address, CASHA256: provisioning.SumSHA256([]byte("another CA")), Now: s.clock.Now})
	_, err = other.Enrol(ctx, token, good)
	wantCode(t, err, provisioning.CodeForbidden, "not the central site that is expected")

	later := client.NewBranch(client.BranchConfig{
		Address: s.address, CASHA256: s.CASHA256(),
		Now: func() time.Time { return s.clock.Now().AddDate(-20, 0, 0) }, // a dead clock battery
	})
	_, err = later.Enrol(ctx, token, good)
	wantCode(t, err, provisioning.CodeUnavailable, "this machine's time")
	if !strings.Contains(provisioning.NextOf(err), "clock") {
		t.Error(provisioning.NextOf(err))
	}

	// None of that used the token up.
	if _, err := s.bare().Enrol(ctx, token, good); err != nil {
		t.Error(err)
	}
}

// TestSiteIsNotCentral: a stolen site certificate, with its chain to the pinned CA, must not pass for central.
func TestSiteIsNotCentral(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	key := newKey(t)
	e, err := s.bare().Enrol(t.Context(), s.createToken("LON"), request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(e.Certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // fails, which is what is tested at the other end
			_ = c.Close()
		}
	}()
	rogue := client.NewBranch(client.BranchConfig{Address: l.Addr().String(), CASHA256: s.CASHA256(), Now: s.clock.Now})
	_, err = rogue.Enrol(t.Context(), "token", request(t, key))
	wantCode(t, err, provisioning.CodeForbidden, "not the central site")
}

func TestCreateTokenRefused(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	_, err := s.admin.CreateToken(t.Context(), "ROM", time.Hour, false)
	wantCode(t, err, provisioning.CodeNotFound, `there is no site "ROM"`)
	_, err = s.admin.CreateToken(t.Context(), "../x", time.Hour, false)
	wantCode(t, err, provisioning.CodeInvalid, "use letters")
	for _, d := range []time.Duration{0, -time.Hour, time.Second, 91 * 24 * time.Hour} {
		_, err = s.admin.CreateToken(t.Context(), "LON", d, false)
		wantCode(t, err, provisioning.CodeInvalid, "1 minute to 90 days")
	}
}

// TestRestart: what was made at the first start stays.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	b, snapshotKey := s.enrol("LON")
	if _, err := b.Snapshot(t.Context(), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	sum := s.CASHA256()
	token := s.token
	s.stop()

	s = start(t, dir)
	if s.CASHA256() != sum {
		t.Error("another CA")
	}
	if s.AdminToken(token) {
		t.Error("the old administrator's token is good beside the new one")
	}
	if !s.AdminToken(s.token) || s.AdminToken("") {
		t.Error("the administrator's token")
	}
	// Without its content the site's snapshot cannot be made; it keeps the old one, and says why.
	sites, err := s.admin.Sites(t.Context())
	if err != nil || len(sites) != 2 || sites[0].Site != "LON" || sites[0].Number != 1 || !strings.Contains(sites[0].Problem, "debian-13") || sites[1].Problem != "" {
		t.Errorf("%+v %v", sites, err)
	}
	s.content.set("debian-13", 1)
	if err := s.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if sites, err := s.admin.Sites(t.Context()); err != nil || sites[0].Problem != "" || sites[0].Number != 1 {
		t.Errorf("%+v %v", sites, err)
	}
	signed, err := s.store.SiteSnapshot(t.Context(), "LON")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Signed.Open(snapshotKey); err != nil {
		t.Error("another signing key:", err)
	}
}

// TestAccess asks every path without the right to: a request that was let through would not be answered so.
func TestAccess(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	b, _ := s.enrol("LON")
	const ok = 200
	for _, c := range []struct {
		method, path       string
		nobody, site, admn int
	}{
		{"POST", client.PathApply, 401, 401, 400},
		{"GET", client.PathDocuments, 401, 401, ok},
		{"POST", client.PathTokens, 401, 401, 400},
		{"GET", client.PathStatus, 401, 401, ok},
		{"GET", client.PathSites, 401, 401, ok},
		{"GET", client.PathContentAdmin, 401, 401, ok},
		{"GET", client.PathContentAdmin + "/uploads", 401, 401, ok},
		{"GET", client.PathContentRead + "/chunks/x", 401, ok, 401},
		{"GET", client.PathBranchSnapshot + "?epoch=0&number=0&wait=0s", 401, ok, 401},
		{"GET", client.PathBranchSnapshot + "?epoch=9&number=9&wait=0s", 401, 204, 401},
		{"GET", client.PathBranchSnapshot, 401, 400, 401},
		{"GET", client.PathBranchSnapshot + "?epoch=-1&number=0&wait=1s", 401, 400, 401},
		{"POST", client.PathBranchStatus, 401, 400, 401},
		{"POST", client.PathEnrol, 400, 400, 400},
		{"GET", "/", 404, 404, 404},
		{"GET", "/v1/nothing", 404, 404, 404},
	} {
		nobody := client.NewBranch(client.BranchConfig{Address: s.address, CASHA256: s.CASHA256(), Now: s.clock.Now, Certificate: func() (tls.Certificate, error) { return tls.Certificate{}, nil }})
		for who, want := range map[string]int{"nobody": c.nobody, "site": c.site, "admin": c.admn} {
			h := map[string]interface {
				status(t *testing.T, method, path string) int
			}{"nobody": httpOf{nobody.HTTP(), nobody.URL()}, "site": httpOf{b.HTTP(), b.URL()}, "admin": httpOf{s.admin.HTTP(), s.admin.URL()}}[who]
			if got := h.status(t, c.method, c.path); got != want {
				t.Errorf("%s %s by %s: %d, want %d", c.method, c.path, who, got, want)
			}
		}
	}
	for _, token := range []string{"", "x", s.token[1:], s.token + "x", string(provisioning.SumSHA256([]byte(s.token)))} {
		wrong, err := client.NewAdmin(client.AdminFile{Address: s.address, CA: string(s.CA()), Token: token}, s.clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		_, err = wrong.Sites(t.Context())
		wantCode(t, err, provisioning.CodeUnauthorized, "token")
	}
	// What was entrusted to the store is not in it in clear.
	for _, name := range []string{"ca-key", "snapshot-signing-key"} {
		b, err := s.store.Setting(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x509.ParsePKCS8PrivateKey(b); err == nil || len(b) == 32 {
			t.Errorf("%s is in clear", name)
		}
	}
	// A certificate of another CA of the same name does not even get a connection.
	other := start(t, t.TempDir())
	other.content.set("debian-13", 1)
	other.mustApply(documents)
	key := newKey(t)
	e, err := other.bare().Enrol(t.Context(), other.createToken("LON"), request(t, key))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.branch(e.Certificate, key).Snapshot(t.Context(), 0, 0, 0)
	if err == nil {
		t.Error("a certificate of another central was let through")
	}
	// TLS 1.2 is not spoken.
	if c, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 was accepted")
	} else if _, ok := err.(net.Error); ok && err.(net.Error).Timeout() {
		t.Error(err)
	}
}
