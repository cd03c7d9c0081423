package central

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// The settings in which central's identity stands. Names of secrets are part of their encryption: they cannot be
// exchanged for one another.
const (
	settingCA      = "ca-certificate"       // DER
	settingCAKey   = "ca-key"               // sealed, PKCS #8 DER
	settingSignKey = "snapshot-signing-key" // sealed, ed25519 seed
	settingEpoch   = "epoch"                // decimal
	settingAdmin   = "admin-token-sha256"   // SHA256 as text
)

// Validities. A site renews its certificate when half of its time is over: one that has not spoken with central for a year has
// to be enrolled again. The CA is not replaced; the root key's statements name it.
const (
	caYears       = 30
	siteYears     = 2
	serverDays    = 365
	serverRenewal = 30 * 24 * time.Hour
	// clockSlack is how far back certificates begin: an appliance's clock may be behind.
	clockSlack = 48 * time.Hour
)

// authority is the site CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	rand io.Reader
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (c *Central) loadIdentity(ctx context.Context) error {
	der, err := c.cfg.Store.Setting(ctx, settingCA)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		if err := c.createIdentity(ctx); err != nil {
			return fmt.Errorf("make central's keys: %w", err)
		}
		der, err = c.cfg.Store.Setting(ctx, settingCA)
	}
	if err != nil {
		return fmt.Errorf("load the CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "Restore central's data from a backup.", "read the CA certificate: %w", err)
	}
	keyDER, err := c.openSetting(ctx, settingCAKey)
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return provisioning.Errorf(provisioning.CodeCorrupt, "Restore central's data from a backup.", "the CA's key does not fit its certificate")
	}
	c.ca = &authority{cert: cert, key: ec, rand: c.cfg.Rand}
	seed, err := c.openSetting(ctx, settingSignKey)
	if err != nil {
		return err
	}
	if len(seed) != ed25519.SeedSize {
		return provisioning.Errorf(provisioning.CodeCorrupt, "Restore central's data from a backup.", "the snapshot signing key has %d bytes", len(seed))
	}
	epoch, err := c.cfg.Store.Setting(ctx, settingEpoch)
	if err != nil {
		return fmt.Errorf("load the epoch: %w", err)
	}
	number, err := strconv.ParseUint(string(epoch), 10, 63)
	if err != nil || number == 0 {
		return provisioning.Errorf(provisioning.CodeCorrupt, "Restore central's data from a backup.", "the epoch is %q", epoch)
	}
	c.signer.Store(&signer{number, ed25519.NewKeyFromSeed(seed)})
	sum, err := c.cfg.Store.Setting(ctx, settingAdmin)
	if err != nil && provisioning.CodeOf(err) != provisioning.CodeNotFound {
		return fmt.Errorf("load the administrator's token: %w", err)
	}
	c.admin = provisioning.SHA256(sum) // empty fits no token
	return nil
}

func (c *Central) openSetting(ctx context.Context, name string) ([]byte, error) {
	sealed, err := c.cfg.Store.Setting(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return c.cfg.Key.open(name, sealed)
}

// createIdentity makes the identity. Of two that try at once one wins, and both go on with what it made.
func (c *Central) createIdentity(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), c.cfg.Rand)
	if err != nil {
		return err
	}
	now := c.cfg.Now()
	serial, err := serialNumber(c.cfg.Rand)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Branchpoint site CA"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.AddDate(caYears, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(c.cfg.Rand, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(c.cfg.Rand, seed); err != nil {
		return err
	}
	sealedCA, err := c.cfg.Key.seal(c.cfg.Rand, settingCAKey, keyDER)
	if err != nil {
		return err
	}
	sealedSign, err := c.cfg.Key.seal(c.cfg.Rand, settingSignKey, seed)
	if err != nil {
		return err
	}
	err = c.cfg.Store.CreateSettings(ctx, map[string][]byte{
		settingCA: der, settingCAKey: sealedCA, settingSignKey: sealedSign, settingEpoch: []byte("1"),
	})
	if provisioning.CodeOf(err) == provisioning.CodeConflict {
		return nil
	}
	if err == nil {
		c.cfg.Log.Info("made the site CA and the snapshot signing key", "epoch", 1)
	}
	return err
}

// serialNumber is a positive random number of 127 bits (RFC 5280 section 4.1.2.2 allows 20 octets).
func serialNumber(r io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// serverCertificate returns central's own certificate. Its key is never stored: each start, and each renewal, makes a
// new one, since clients recognise the CA.
func (c *Central) serverCertificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if c.server != nil && now.Before(c.expires) {
		return c.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), c.cfg.Rand)
	if err != nil {
		return nil, fmt.Errorf("make central's certificate: %w", err)
	}
	end := now.AddDate(0, 0, serverDays)
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Branchpoint central"},
		NotBefore: now.Add(-clockSlack), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, n := range c.cfg.Names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := c.ca.issue(tmpl, key.Public())
	if err != nil {
		return nil, fmt.Errorf("make central's certificate: %w", err)
	}
	c.server = &tls.Certificate{Certificate: [][]byte{der, c.ca.cert.Raw}, PrivateKey: key}
	c.expires = end.Add(-serverRenewal)
	return c.server, nil
}

// issue signs a certificate with a new serial number.
func (a *authority) issue(tmpl *x509.Certificate, pub any) ([]byte, error) {
	serial, err := serialNumber(a.rand)
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	return x509.CreateCertificate(a.rand, tmpl, a.cert, pub, a.key)
}

// siteUnit marks a site's certificate in its organizational unit; the common name is the site code.
const siteUnit = "Branchpoint site"

// issueSite makes a site's certificate, for client authentication only: it can never pass for central.
func (a *authority) issueSite(site string, pub any, now time.Time) ([]byte, error) {
	return a.issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: site, OrganizationalUnit: []string{siteUnit}},
		NotBefore: now.Add(-clockSlack), NotAfter: now.AddDate(siteYears, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub)
}

// chain is a site's certificate with the CA's, PEM.
func (a *authority) chain(der []byte) []byte {
	return bytes.Join([][]byte{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.pem()}, nil)
}
