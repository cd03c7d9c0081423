package branch

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"branchpoint/provisioning"
)

// identity is who the branch is, to central and to agents. It stands in the store as one JSON value.
type identity struct {
	Site string `json:"site"`
	// SiteKey signs the branch's side of mutual TLS with central (PKCS #8 DER); Certificate is its chain (PEM), empty
	// until enrolled.
	SiteKey     []byte `json:"siteKey"`
	Certificate []byte `json:"certificate,omitempty"`
	// CentralCA is the sum of the CA of the central that the branch enrolled at.
	CentralCA provisioning.SHA256 `json:"centralCA,omitempty"`
	// SnapshotKey verifies snapshots.
	SnapshotKey ed25519.PublicKey `json:"snapshotKey,omitempty"`
	// AgentKey and AgentCertificate (DER) are for the agents' HTTPS, pinned by the sum that each boot is told.
	AgentKey         []byte `json:"agentKey"`
	AgentCertificate []byte `json:"agentCertificate"`
	// TokenKey authenticates the tokens given to agents, 32 octets: they survive a restart of the appliance.
	TokenKey []byte `json:"tokenKey"`
}

// Enrolled reports whether central has accepted the branch.
func (id *identity) Enrolled() bool { return len(id.Certificate) > 0 }

// ErrOtherSite is why New fails where what is stored belongs to another site, or to a site of another central.
var ErrOtherSite = errors.New("the data disk is not this site's")

// loadIdentity loads the identity, or makes and stores a new one: the key exists before the first contact, so that an
// enrolment whose answer was lost can be repeated with the same key.
func loadIdentity(ctx context.Context, cfg Config) (*identity, error) {
	b, err := cfg.Store.LoadIdentity(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the branch's identity: %w", err)
	}
	if b != nil {
		var id identity
		if err := json.Unmarshal(b, &id); err != nil {
			return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the branch's identity: %w", err)
		}
		if id.Site != cfg.Site {
			return nil, provisioning.Errorf(provisioning.CodeConflict,
				"Put the right site code into site.yaml, or attach this site's data disk. To give up what is on this one, type: claim SERIAL",
				"%w: it belongs to site %s, but site.yaml says %s", ErrOtherSite, id.Site, cfg.Site)
		}
		if id.Enrolled() && id.CentralCA != cfg.CentralCA {
			return nil, provisioning.Errorf(provisioning.CodeConflict,
				"Put this data disk's own central into site.yaml, or attach this site's data disk. To give up what is on this one, type: claim SERIAL",
				"%w: it was enrolled at a central with CA %s, but site.yaml names %s", ErrOtherSite, id.CentralCA, cfg.CentralCA)
		}
		return &id, nil
	}
	id, err := newIdentity(cfg.Site, cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("make the branch's keys: %w", err)
	}
	return id, saveIdentity(ctx, cfg.Store, id)
}

func saveIdentity(ctx context.Context, s Store, id *identity) error {
	b, err := json.Marshal(id)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encode the branch's identity: %w", err)
	}
	if err := s.SaveIdentity(ctx, b); err != nil {
		return fmt.Errorf("store the branch's identity: %w", err)
	}
	return nil
}

func newIdentity(site string, now time.Time) (*identity, error) {
	id := &identity{Site: site, TokenKey: make([]byte, 32)}
	if _, err := io.ReadFull(rand.Reader, id.TokenKey); err != nil {
		return nil, err
	}
	for _, der := range []*[]byte{&id.SiteKey, &id.AgentKey} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		if *der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return nil, err
		}
		// The agents' certificate: pinned by its sum, so names and dates say nothing that anybody checks.
		if der == &id.AgentKey {
			tmpl := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "branchpoint branch " + site},
				NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(30, 0, 0),
				KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}
			if id.AgentCertificate, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key); err != nil {
				return nil, err
			}
		}
	}
	return id, nil
}

// request makes a PEM certificate request for the site key.
func (id *identity) request() ([]byte, error) {
	key, err := x509.ParsePKCS8PrivateKey(id.SiteKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id.Site}}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ClientCertificate returns the certificate with which the branch shows itself to central. It fails with
// CodeUnauthorized until the branch is enrolled.
func (b *Branch) ClientCertificate() (tls.Certificate, error) {
	id := b.identity.Load()
	if !id.Enrolled() {
		return tls.Certificate{}, provisioning.Errorf(provisioning.CodeUnauthorized, "", "the branch is not enrolled yet")
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: id.SiteKey})
	return tls.X509KeyPair(id.Certificate, keyPEM)
}

// Enrolled reports whether central has accepted the branch.
func (b *Branch) Enrolled() bool { return b.identity.Load().Enrolled() }

// Enrol exchanges an enrolment token for the branch's certificate and stores it.
func (b *Branch) Enrol(ctx context.Context, token string) error {
	csr, err := b.identity.Load().request()
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "make certificate request: %w", err)
	}
	answer, err := b.cfg.Central.Enrol(ctx, token, csr)
	if err != nil {
		return fmt.Errorf("enrol at central: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := *b.identity.Load()
	next.Certificate, next.SnapshotKey, next.CentralCA = answer.Certificate, answer.SnapshotKey, b.cfg.CentralCA
	if len(next.Certificate) == 0 || len(next.SnapshotKey) != ed25519.PublicKeySize {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "central's answer to the enrolment is incomplete")
	}
	if err := saveIdentity(ctx, b.cfg.Store, &next); err != nil {
		return err
	}
	b.identity.Store(&next)
	b.cfg.Log.Info("enrolled at central", "site", b.cfg.Site)
	return nil
}

// agentCertificate returns the certificate for the agents' HTTPS, and its sum.
func (id *identity) agentCertificate() (tls.Certificate, provisioning.SHA256, error) {
	key, err := x509.ParsePKCS8PrivateKey(id.AgentKey)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	sum := sha256.Sum256(id.AgentCertificate)
	return tls.Certificate{Certificate: [][]byte{id.AgentCertificate}, PrivateKey: key}, provisioning.SHA256(hex.EncodeToString(sum[:])), nil
}
