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
	if err := c.allow(ctx, provisioning.ActionEnrol, provisioning.AtSite(r.Site)); err != nil {
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
	t := provisioning.EnrolmentToken{Hash: tokenSum(token), Site: r.Site, CreatedAt: now, ExpiresAt: now.Add(valid), Approval: r.Approval}
	e := c.entry(ctx, "create", auditEnrolmentToken, provisioning.TokenID(t.Hash), r.Site)
	e.After = fmt.Sprintf("site: %s\nexpires: %s\napproval: %t\n", r.Site, t.ExpiresAt.Format(time.RFC3339), t.Approval)
	making(ctx, "enrolment token "+provisioning.TokenID(t.Hash))
	if err := c.cfg.Store.CreateEnrolmentToken(ctx, t, e); err != nil {
		return client.Token{}, err
	}
	c.cfg.Log.Info("made an enrolment token", "site", r.Site, "expires", t.ExpiresAt, "by", e.Account)
	return client.Token{Token: token, ID: provisioning.TokenID(t.Hash), Site: r.Site, CASHA256: c.CASHA256(), ExpiresAt: t.ExpiresAt}, nil
}

// Tokens lists the enrolment tokens of the sites that the caller may see, newest first.
func (c *Central) Tokens(ctx context.Context) ([]client.TokenState, error) {
	tokens, err := c.cfg.Store.EnrolmentTokens(ctx)
	if err != nil {
		return nil, err
	}
	out := []client.TokenState{}
	now := c.cfg.Now()
	for _, t := range tokens {
		if c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(t.Site)) != nil {
			continue
		}
		state := client.TokenState{
			ID: provisioning.TokenID(t.Hash), Site: t.Site, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, State: tokenState(&t, now),
			Approval: t.Approval, ApprovedBy: t.ApprovedBy,
		}
		if t.Key != "" {
			state.Fingerprint = provisioning.Fingerprint(t.Key)
		}
		out = append(out, state)
	}
	return out, nil
}

// changeToken changes the enrolment token that fits, of a site that the caller may enrol at. It fails with CodeNotFound where
// none does.
func (c *Central) changeToken(ctx context.Context, fits func(*provisioning.EnrolmentToken) bool, unknown error,
	change func(*provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error),
) error {
	tokens, err := c.cfg.Store.EnrolmentTokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if !fits(&t) {
			continue
		}
		if err := c.allow(ctx, provisioning.ActionEnrol, provisioning.AtSite(t.Site)); err != nil {
			return err
		}
		answering(ctx, func(any) any { return client.Done{} })
		return c.cfg.Store.UseEnrolmentToken(ctx, t.Hash, change)
	}
	return unknown
}

// RevokeToken revokes the enrolment token of that id. What was enrolled with it stays enrolled.
func (c *Central) RevokeToken(ctx context.Context, id string) error {
	unknown := provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint enrol-token list", "there is no enrolment token %.64q", id)
	return c.changeToken(ctx, func(t *provisioning.EnrolmentToken) bool { return provisioning.TokenID(t.Hash) == id }, unknown,
		func(t *provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error) {
			if !t.RevokedAt.IsZero() {
				return provisioning.EnrolmentChange{}, nil
			}
			now := c.cfg.Now()
			e := c.entry(ctx, "revoke", auditEnrolmentToken, id, t.Site)
			e.Before = "state: " + tokenState(t, now) + "\n"
			t.RevokedAt = now
			return provisioning.EnrolmentChange{Audit: []provisioning.AuditEntry{e}}, nil
		})
}

// ApproveSite approves the appliance that waits at a site, by the fingerprint of its key, which its screen shows.
func (c *Central) ApproveSite(ctx context.Context, site, fingerprint string) error {
	fingerprint = strings.ToLower(strings.TrimSpace(fingerprint))
	unknown := provisioning.Errorf(provisioning.CodeNotFound, "Compare it with the appliance's screen, and with: branchpoint enrol-token list",
		"no appliance waits for approval at site %.64q with that fingerprint", site)
	fits := func(t *provisioning.EnrolmentToken) bool {
		return t.Site == site && tokenState(t, c.cfg.Now()) == client.TokenWaiting && equal(provisioning.Fingerprint(t.Key), fingerprint)
	}
	return c.changeToken(ctx, fits, unknown, func(t *provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error) {
		if !fits(t) {
			return provisioning.EnrolmentChange{}, unknown
		}
		e := c.entry(ctx, "approve", auditEnrolmentToken, provisioning.TokenID(t.Hash), site)
		e.After = "key: " + fingerprint + "\n"
		if t.ApprovedBy = e.Account; t.ApprovedBy == "" {
			t.ApprovedBy = provisioning.AccountAdmin
		}
		c.cfg.Log.Info("approved an enrolment", "site", site, "key", fingerprint, "by", t.ApprovedBy)
		return provisioning.EnrolmentChange{Audit: []provisioning.AuditEntry{e}}, nil
	})
}

// nextToken is what to do about a token that is refused.
const nextToken = "Make a new token (branchpoint enrol-token create --site CODE) and put it into site.yaml." //nolint:gosec // no credential

// Enrol exchanges an enrolment token for a site's certificate. Where a person must approve it, it fails with CodeUnavailable
// until one has. The certificates that the site had for other keys are revoked by it.
func (c *Central) Enrol(ctx context.Context, r client.EnrolRequest) (client.Enrolment, error) {
	pub, key, err := requestedKey(r.CSR)
	if err != nil {
		return client.Enrolment{}, err
	}
	var cert []byte
	var site string
	again := false
	err = c.cfg.Store.UseEnrolmentToken(ctx, tokenSum(r.Token), func(t *provisioning.EnrolmentToken) (change provisioning.EnrolmentChange, err error) {
		now := c.cfg.Now()
		site = t.Site
		if err := refuseToken(t, key, now); err != nil {
			return change, err
		}
		if len(t.Certificate) > 0 {
			cert, again = t.Certificate, true
			return change, nil
		}
		careful, err := c.approves(ctx, site)
		if err != nil {
			return change, err
		}
		again = t.Key == key
		t.Key = key
		actor := provisioning.WithActor(ctx, provisioning.Actor{Account: "site " + site, From: provisioning.ActorOf(ctx).From})
		if (t.Approval || careful) && t.ApprovedBy == "" {
			if !again {
				e := c.entry(actor, "wait for approval", auditEnrolmentToken, provisioning.TokenID(t.Hash), site)
				e.After = "key: " + provisioning.Fingerprint(key) + "\n"
				change.Audit = append(change.Audit, e)
			}
			return change, nil
		}
		der, x, err := c.issueSite(site, pub, now)
		if err != nil {
			return change, err
		}
		cert, t.Certificate = der, der
		e := c.entry(actor, "enrol", auditSiteCertificate, provisioning.Fingerprint(key), site)
		e.After = certificateText(x)
		return provisioning.EnrolmentChange{Issued: &x, Replaced: whyReplaced, Audit: append(change.Audit, e)}, nil
	})
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return client.Enrolment{}, provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token is unknown here")
	}
	if err != nil {
		return client.Enrolment{}, err
	}
	if cert == nil {
		return client.Enrolment{}, provisioning.Errorf(provisioning.CodeUnavailable,
			fmt.Sprintf("Compare the key's fingerprint with the appliance's screen, and approve it at central: branchpoint site approve %s FINGERPRINT", site),
			"the enrolment of site %s waits until a person approves its key %s", site, provisioning.Fingerprint(key))
	}
	c.cfg.Log.Info("enrolled a branch", "site", site, "key", provisioning.Fingerprint(key), "again", again)
	if !again {
		c.publishSoon(ctx) // nothing is encrypted any more to who had the site's certificate before
	}
	c.wake() // and it gets nothing more, also where that failed
	return c.enrolment(ctx, cert)
}

// refuseToken says why a token cannot be used with a key, nil if it can.
func refuseToken(t *provisioning.EnrolmentToken, key provisioning.SHA256, now time.Time) error {
	switch {
	case !t.RevokedAt.IsZero():
		return provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token was revoked at %s", t.RevokedAt.UTC().Format(time.RFC3339))
	case !now.Before(t.ExpiresAt):
		return provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token expired at %s", t.ExpiresAt.UTC().Format(time.RFC3339))
	case t.Key != "" && t.Key != key:
		return provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the enrolment token has been used already, by another appliance or data disk")
	}
	return nil
}

// approves reports whether a site's document wants a person to approve each appliance. It is asked for tokens that are good
// alone: anybody can come with one that is not.
func (c *Central) approves(ctx context.Context, site string) (bool, error) {
	docs, err := c.documents(ctx, provisioning.KindSite, site)
	if err != nil {
		return false, err
	}
	if len(docs) == 0 {
		return false, provisioning.Errorf(provisioning.CodeUnauthorized, "Describe it in a document of kind Site and apply it.", "there is no site %s any more", site)
	}
	o, err := docs[0].Decode()
	if err != nil {
		return false, err
	}
	return o.Site.Spec.ApproveEnrolment, nil
}

// enrolment is what a site gets together with its certificate (DER).
func (c *Central) enrolment(ctx context.Context, cert []byte) (client.Enrolment, error) {
	epochs, err := c.epochs(ctx)
	return client.Enrolment{Certificate: c.ca.chain(cert), SnapshotKey: c.signer.Load().public(), Epochs: epochs}, err
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
	e := c.entry(ctx, "create", auditAPIToken, "admin.json", "")
	if err := c.cfg.Store.PutSetting(ctx, settingAdmin, []byte(sum), e); err != nil {
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

// tokenState says what has become of an enrolment token.
func tokenState(t *provisioning.EnrolmentToken, now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return client.TokenRevoked
	case len(t.Certificate) > 0:
		return client.TokenUsed
	case !now.Before(t.ExpiresAt):
		return client.TokenExpired
	case t.Key != "" && t.ApprovedBy != "":
		return client.TokenApproved
	case t.Key != "":
		return client.TokenWaiting
	}
	return client.TokenUnused
}
