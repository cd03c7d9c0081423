package branch

import (
	"context"
	"crypto"
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
	// SiteKey signs the branch's side of mutual TLS with central (PKCS #8 DER), empty while it cannot be opened; Certificate is its
	// chain (PEM), empty until enrolled.
	SiteKey     []byte `json:"siteKey,omitempty"`
	Certificate []byte `json:"certificate,omitempty"`
	// NextSiteKey is the key with which the branch enrols again, until it has: central has revoked the certificate of SiteKey.
	NextSiteKey []byte `json:"nextSiteKey,omitempty"`
	// CentralCA is the sum of the CA of the central that the branch enrolled at.
	CentralCA provisioning.SHA256 `json:"centralCA,omitempty"`
	// SnapshotKey verifies snapshots.
	SnapshotKey ed25519.PublicKey `json:"snapshotKey,omitempty"`
	// Root is central's root key, once it is pinned, and Epoch the newest that it has signed here.
	Root  ed25519.PublicKey `json:"root,omitempty"`
	Epoch uint64            `json:"epoch,omitempty"`
	// AgentKey and AgentCertificate (DER) are for the agents' HTTPS, pinned by the sum that each boot is told. Like TokenKey it is never
	// sealed, so that clients are served where the other keys cannot be opened: it is worth something in the site's network alone.
	AgentKey         []byte `json:"agentKey"`
	AgentCertificate []byte `json:"agentCertificate"`
	// SecretsKey opens the secrets of snapshots, an age X25519 identity ("AGE-SECRET-KEY-1…"). An enrolment brings another one.
	SecretsKey string `json:"secretsKey,omitempty"`
	// TokenKey authenticates the tokens given to agents, 32 octets: they survive a restart of the appliance.
	TokenKey []byte `json:"tokenKey"`
	// Sealed are SiteKey, NextSiteKey and SecretsKey where they are sealed to a TPM, by what they are for: in the store those that
	// were, in memory those that cannot be opened.
	Sealed map[string]sealedKey `json:"sealed,omitempty"`
	// Remains: keys stood in the store as they are before they were sealed, and may still stand in what it has deleted.
	Remains bool `json:"remains,omitempty"`
	// HistoryAccepted: a person has taken the history of runs as complete although the site key cannot be opened. It holds until it can.
	HistoryAccepted bool `json:"historyAccepted,omitempty"`

	wrapping *wrapping // nil where the keys are stored as they are
	plain    error     // why they are, nil where they are sealed
	locked   error     // why the site key cannot be opened, nil where it can
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
		return id.opened(ctx, cfg)
	}
	id, err := newIdentity(cfg.Site, cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("make the branch's keys: %w", err)
	}
	id = id.protected(ctx, cfg)
	return id, saveIdentity(ctx, cfg.Store, id)
}

func (id *identity) encode() ([]byte, error) {
	stored, err := id.sealed()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(stored)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encode the branch's identity: %w", err)
	}
	return b, nil
}

func saveIdentity(ctx context.Context, s Store, id *identity) error {
	b, err := id.encode()
	if err != nil {
		return err
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
	var err error
	if id.SecretsKey, err = newSecretsKey(); err != nil {
		return nil, err
	}
	for _, der := range []*[]byte{&id.SiteKey, &id.AgentKey} {
		key, encoded, err := newKey()
		if err != nil {
			return nil, err
		}
		*der = encoded
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

// newKey makes a key, and its encoding (PKCS #8 DER).
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, der, err
}

// request makes a PEM certificate request by a site key (PKCS #8 DER).
func request(site string, siteKey []byte) ([]byte, error) {
	key, err := x509.ParsePKCS8PrivateKey(siteKey)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "make certificate request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: site}}, key)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// enrolling is the key with which the branch enrols.
func (id *identity) enrolling() []byte {
	if id.NextSiteKey != nil {
		return id.NextSiteKey
	}
	return id.SiteKey
}

// Fingerprint is that of the key with which the branch enrols, for people to compare (provisioning.Fingerprint).
func (b *Branch) Fingerprint() string {
	key, err := x509.ParsePKCS8PrivateKey(b.identity.Load().enrolling())
	if err != nil {
		return ""
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return ""
	}
	return provisioning.Fingerprint(provisioning.SumSHA256(der))
}

// ClientCertificate returns the certificate with which the branch shows itself to central. It fails with
// CodeUnauthorized until the branch is enrolled, and with CodeUnavailable while its key cannot be opened.
func (b *Branch) ClientCertificate() (tls.Certificate, error) {
	id := b.identity.Load()
	if !id.Enrolled() {
		return tls.Certificate{}, provisioning.Errorf(provisioning.CodeUnauthorized, "", "the branch is not enrolled yet")
	}
	if id.locked != nil {
		return tls.Certificate{}, provisioning.Errorf(provisioning.CodeUnavailable, "", "central cannot be asked: %w", id.locked)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: id.SiteKey})
	return tls.X509KeyPair(id.Certificate, keyPEM)
}

// Enrolled reports whether central has accepted the branch.
func (b *Branch) Enrolled() bool { return b.identity.Load().Enrolled() }

// Enrol exchanges an enrolment token for the branch's certificate and stores it. A branch that was enrolled before, or cannot open its
// key for good, enrols with another key; one that was enrolled sends everything that it has to tell once more. As long as the
// key may still be opened another time it fails as that did.
func (b *Branch) Enrol(ctx context.Context, token string) error {
	if locked := b.reopen(ctx); locked != nil && !forGood(locked) {
		return locked
	}
	again, err := b.prepareEnrolment(ctx)
	if err != nil {
		return err
	}
	key := b.identity.Load().enrolling()
	csr, err := request(b.cfg.Site, key)
	if err != nil {
		return err
	}
	answer, err := b.cfg.Central.Enrol(ctx, token, csr)
	if err != nil {
		return fmt.Errorf("enrol at central: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := *b.identity.Load()
	wasLocked := next.locked != nil
	next.SiteKey, next.NextSiteKey, next.Sealed, next.locked, next.HistoryAccepted = key, nil, nil, nil, false
	next.Certificate, next.CentralCA = answer.Certificate, b.cfg.CentralCA
	if len(next.Certificate) == 0 || len(answer.SnapshotKey) != ed25519.PublicKeySize {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "central's answer to the enrolment is incomplete")
	}
	if next.Root == nil { // else the root key's statements alone say by which key snapshots are signed
		next.SnapshotKey = answer.SnapshotKey
		trust, err := next.trust().Follow(b.cfg.CentralCA, answer.Epochs)
		if err != nil {
			return fmt.Errorf("enrol at central: %w", err)
		}
		next = *next.trusting(trust)
	}
	if again || next.SecretsKey == "" { // what was encrypted to the key before is not meant for who is enrolled now
		if next.SecretsKey, err = newSecretsKey(); err != nil {
			return err
		}
	}
	if err := b.storeIdentity(ctx, &next, provisioning.BranchChange{Resend: again, HistoryMissing: wasLocked}); err != nil {
		return err
	}
	b.cfg.Log.Info("enrolled at central", "site", b.cfg.Site, "again", again, "root pinned", next.Root != nil)
	return nil
}

// prepareEnrolment reports whether the branch was enrolled before. Then, or where its key is lost, it has a new key after it, which is
// stored before central is asked, so that an answer that was lost can be asked for again. The key before stays until there is one.
func (b *Branch) prepareEnrolment(ctx context.Context) (again bool, err error) {
	is := b.identity.Load()
	again = is.Enrolled()
	if !again && is.locked == nil || is.NextSiteKey != nil {
		return again, nil
	}
	next := *is
	if next.wrapping == nil {
		next = *is.protected(ctx, b.cfg) // which may take the TPM long: nobody else waits for it
	}
	if _, next.NextSiteKey, err = newKey(); err != nil {
		return again, provisioning.Errorf(provisioning.CodeInternal, "", "make a key: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.identity.Load() != is {
		return again, provisioning.Errorf(provisioning.CodeUnavailable, "Try again.", "who the branch is has changed while it made a key")
	}
	return again, b.storeIdentity(ctx, &next, provisioning.BranchChange{})
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
