package central

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Bounds of an enrolment token's validity.
const (
	minTokenValid = time.Minute
	maxTokenValid = 90 * 24 * time.Hour
)

// tokenText is how secrets are written: 20 octets (160 bits) make 32 letters and digits that a person can type.
var tokenText = base32.StdEncoding.WithPadding(base32.NoPadding)

func newSecret(r io.Reader) (string, error) {
	b := make([]byte, 20)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("make secret: %w", err)
	}
	return strings.ToLower(tokenText.EncodeToString(b)), nil
}

// tokenSum is the sum by which a token is kept. Tokens are random, so that a plain sum cannot be turned back. People
// type them: case and blanks around do not count.
func tokenSum(token string) provisioning.SHA256 {
	return provisioning.SumSHA256([]byte("branchpoint enrolment token\n" + strings.ToLower(strings.TrimSpace(token))))
}

// CreateToken makes an enrolment token for a site that is described.
func (c *Central) CreateToken(ctx context.Context, r client.TokenRequest) (client.Token, error) {
	if err := provisioning.CheckName(r.Site); err != nil {
		return client.Token{}, err
	}
	valid := time.Duration(r.ValidSeconds) * time.Second
	if r.ValidSeconds < int64(minTokenValid/time.Second) || r.ValidSeconds > int64(maxTokenValid/time.Second) {
		return client.Token{}, provisioning.Errorf(provisioning.CodeInvalid, "Choose a validity such as 24h.",
			"an enrolment token is valid for 1 minute to 90 days")
	}
	docs, err := c.documents(ctx, provisioning.KindSite, r.Site)
	if err != nil {
		return client.Token{}, err
	}
	if len(docs) == 0 {
		return client.Token{}, provisioning.Errorf(provisioning.CodeNotFound, "Describe it in a document of kind Site and apply it.", "there is no site %q", r.Site)
	}
	token, err := newSecret(c.cfg.Rand)
	if err != nil {
		return client.Token{}, err
	}
	now := c.cfg.Now().UTC()
	t := provisioning.EnrolmentToken{Hash: tokenSum(token), Site: r.Site, CreatedAt: now, ExpiresAt: now.Add(valid)}
	if err := c.cfg.Store.CreateEnrolmentToken(ctx, t); err != nil {
		return client.Token{}, err
	}
	c.cfg.Log.Info("made an enrolment token", "site", r.Site, "expires", t.ExpiresAt)
	return client.Token{Token: token, Site: r.Site, CASHA256: c.CASHA256(), ExpiresAt: t.ExpiresAt}, nil
}

// nextToken is what to do about a token that is refused.
const nextToken = "Make a new token (branchpoint enrol-token create --site CODE) and put it into site.yaml." //nolint:gosec // no credential

// Enrol exchanges an enrolment token for a site's certificate.
func (c *Central) Enrol(ctx context.Context, r client.EnrolRequest) (client.Enrolment, error) {
	pub, sum, err := requestedKey(r.CSR)
	if err != nil {
		return client.Enrolment{}, err
	}
	var cert []byte
	var site string
	again := false
	err = c.cfg.Store.UseEnrolmentToken(ctx, tokenSum(r.Token), func(t *provisioning.EnrolmentToken) error {
		now := c.cfg.Now()
		site = t.Site
		switch {
		case !now.Before(t.ExpiresAt):
			return provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token expired at %s", t.ExpiresAt.UTC().Format(time.RFC3339))
		case t.Key != "" && t.Key != sum:
			return provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token has been used already, by another appliance or data disk")
		case t.Key == sum:
			cert, again = t.Certificate, true
			return nil
		}
		der, err := c.ca.issueSite(t.Site, pub, now)
		if err != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "issue certificate: %w", err)
		}
		cert, t.Key, t.Certificate = der, sum, der
		return nil
	})
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return client.Enrolment{}, provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token is unknown here")
	}
	if err != nil {
		return client.Enrolment{}, err
	}
	c.cfg.Log.Info("enrolled a branch", "site", site, "key", sum, "again", again)
	return client.Enrolment{Certificate: c.ca.chain(cert), SnapshotKey: c.sign.Public().(ed25519.PublicKey)}, nil
}

// requestedKey reads a certificate request and returns its public key, which must have signed it, and the key's sum.
func requestedKey(csr string) (any, provisioning.SHA256, error) {
	bad := func(format string, args ...any) (any, provisioning.SHA256, error) {
		return nil, "", provisioning.Errorf(provisioning.CodeInvalid, "", "certificate request: "+format, args...)
	}
	p, _ := pem.Decode([]byte(csr))
	if p == nil || p.Type != "CERTIFICATE REQUEST" {
		return bad("it is no PEM block of type CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(p.Bytes)
	if err != nil {
		return bad("%w", err)
	}
	switch k := req.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return bad("the key is shorter than 256 bits")
		}
	default:
		return bad("its key is %T; ECDSA or ed25519 is wanted", k)
	}
	if err := req.CheckSignature(); err != nil {
		return bad("%w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(req.PublicKey)
	if err != nil {
		return bad("%w", err)
	}
	return req.PublicKey, provisioning.SumSHA256(der), nil
}

// NewAdminToken makes a token for the administrator's interface; the one before it is refused from now on.
func (c *Central) NewAdminToken(ctx context.Context) (string, error) {
	token, err := newSecret(c.cfg.Rand)
	if err != nil {
		return "", err
	}
	sum := adminSum(token)
	if err := c.cfg.Store.PutSetting(ctx, settingAdmin, []byte(sum)); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admin = sum
	return token, nil
}

// AdminToken reports whether token is the administrator's.
func (c *Central) AdminToken(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return equal(string(adminSum(token)), string(c.admin))
}

func adminSum(token string) provisioning.SHA256 {
	return provisioning.SumSHA256([]byte("branchpoint admin token\n" + token))
}
