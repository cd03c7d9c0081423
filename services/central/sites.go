package central

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// siteOnly lets requests with a good certificate of a site through and says which site it is.
func (c *Central) siteOnly(next func(w http.ResponseWriter, r *http.Request, site string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site, err := c.recogniseSite(r)
		if err != nil {
			c.fail(w, r, err)
			return
		}
		ctx := provisioning.WithActor(r.Context(), provisioning.Actor{Account: "site " + site, From: remoteHost(r)})
		next(w, r.WithContext(ctx), site)
	})
}

// recogniseSite says which site asks, by its certificate. It fails with CodeUnauthorized where that was revoked.
func (c *Central) recogniseSite(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", provisioning.Errorf(provisioning.CodeUnauthorized, "Enrol the appliance.", "a site's certificate is wanted here")
	}
	cert := r.TLS.VerifiedChains[0][0]
	if !slices.Contains(cert.Subject.OrganizationalUnit, siteUnit) || provisioning.CheckName(cert.Subject.CommonName) != nil {
		return "", provisioning.Errorf(provisioning.CodeForbidden, "", "the certificate is not a site's")
	}
	if now := c.cfg.Now(); now.After(cert.NotAfter) { // the connection may be older than that
		return "", provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the certificate of site %s expired at %s", cert.Subject.CommonName, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	known, err := c.siteCertificate(r.Context(), cert)
	if err != nil {
		return "", err
	}
	if !known.RevokedAt.IsZero() {
		return "", provisioning.Errorf(provisioning.CodeUnauthorized, nextToken, "the certificate of site %s was revoked at %s: %s",
			known.Site, known.RevokedAt.UTC().Format(time.RFC3339), known.Why)
	}
	return known.Site, nil
}

// siteCertificate returns what is stored of a site's certificate. One that is not known was issued before certificates were
// kept, or by a central that was restored from a backup since: it is good, and kept from then on, unless the site was revoked
// or another appliance was enrolled after it had been issued.
func (c *Central) siteCertificate(ctx context.Context, cert *x509.Certificate) (*provisioning.SiteCertificate, error) {
	known, err := c.cfg.Store.SiteCertificate(ctx, provisioning.SumSHA256(cert.Raw))
	if provisioning.CodeOf(err) != provisioning.CodeNotFound {
		return known, err
	}
	x, err := describeCertificate(cert)
	if err != nil {
		return nil, err
	}
	others, err := c.cfg.Store.SiteCertificates(ctx, x.Site)
	if err != nil {
		return nil, err
	}
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	if err != nil {
		return nil, err
	}
	revoked := contacts[x.Site].RevokedAt
	switch {
	case !revoked.IsZero() && !x.IssuedAt.After(revoked):
		x.RevokedAt, x.Why = revoked, "the site was revoked"
	case slices.ContainsFunc(others, func(o provisioning.SiteCertificate) bool { return o.Key != x.Key && !o.IssuedAt.Before(x.IssuedAt) }):
		x.RevokedAt, x.Why = c.cfg.Now(), whyReplaced
	default:
		c.cfg.Log.Warn("a site shows a certificate that is not stored here; it is taken", "site", x.Site, "key", provisioning.Fingerprint(x.Key))
	}
	return &x, c.cfg.Store.AddSiteCertificate(ctx, x, "")
}

const whyReplaced = "another appliance or data disk was enrolled in its place"

// describeCertificate is what is stored of a site's certificate.
func describeCertificate(cert *x509.Certificate) (provisioning.SiteCertificate, error) {
	der, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
	if err != nil {
		return provisioning.SiteCertificate{}, provisioning.Errorf(provisioning.CodeInvalid, "", "read a site's certificate: %w", err)
	}
	return provisioning.SiteCertificate{
		Sum: provisioning.SumSHA256(cert.Raw), Site: cert.Subject.CommonName, Key: provisioning.SumSHA256(der),
		IssuedAt: cert.NotBefore.Add(clockSlack).UTC(), ExpiresAt: cert.NotAfter.UTC(),
	}, nil
}

// contacts remembers when sites spoke with central, so that not each word of theirs is a write. The zero value is ready.
type contacts struct {
	mu   sync.Mutex
	last map[string]provisioning.SiteContact
}

// contactNoted is how exactly a contact is stored.
const contactNoted = time.Minute

// maxAhead is how many epochs a site can be believed to be ahead of central: more than a backup is behind. A site that is not
// honest must not use up the numbers by which the root key gets ahead of all sites.
const maxAhead = provisioning.MaxEpochs

// noteContact notes that a site has asked, with the snapshot that it says it has, where that can be.
func (c *Central) noteContact(ctx context.Context, contact provisioning.SiteContact) {
	if contact.Epoch > c.signer.Load().epoch+maxAhead || contact.Number > provisioning.MaxNumber {
		c.cfg.Log.Warn("a site says that it has a snapshot that cannot be", "site", contact.Site, "site.epoch", contact.Epoch, "site.number", contact.Number)
		contact.Epoch, contact.Number = 0, 0
	}
	contact.At = c.cfg.Now().UTC()
	c.seen.mu.Lock()
	before, ok := c.seen.last[contact.Site]
	if c.seen.last == nil {
		c.seen.last = map[string]provisioning.SiteContact{}
	}
	store := !ok || contact.At.Sub(before.At) >= contactNoted || contact.Epoch != before.Epoch || contact.Number != before.Number || contact.RootPinned != before.RootPinned
	if store {
		c.seen.last[contact.Site] = contact
	}
	c.seen.mu.Unlock()
	if !store {
		return
	}
	if err := c.cfg.Store.NoteSiteContact(ctx, contact); err != nil && ctx.Err() == nil {
		c.cfg.Log.Warn("cannot note when a site was last heard of", "site", contact.Site, "error", err)
	}
}

// Sites says where every site stands that the caller may see.
func (c *Central) Sites(ctx context.Context) ([]client.SiteState, error) {
	docs, err := c.documents(ctx, provisioning.KindSite, "")
	if err != nil {
		return nil, err
	}
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	if err != nil {
		return nil, err
	}
	certificates, err := c.cfg.Store.SiteCertificates(ctx, "")
	if err != nil {
		return nil, err
	}
	tokens, err := c.cfg.Store.EnrolmentTokens(ctx)
	if err != nil {
		return nil, err
	}
	out := []client.SiteState{}
	for _, d := range docs {
		if c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(d.Name)) != nil {
			continue
		}
		state := client.SiteState{Site: d.Name}
		s, err := c.cfg.Store.SiteSnapshot(ctx, d.Name)
		switch {
		case err == nil:
			state.Epoch, state.Number, state.Problem = s.Epoch, s.Number, s.Problem
		case provisioning.CodeOf(err) != provisioning.CodeNotFound:
			return nil, err
		}
		c.describeSite(&state, contacts[d.Name], certificates, tokens)
		out = append(out, state)
	}
	return out, nil
}

// describeSite says how a site stands with its appliance.
func (c *Central) describeSite(s *client.SiteState, contact provisioning.SiteContact, certificates []provisioning.SiteCertificate, tokens []provisioning.EnrolmentToken) {
	s.LastContact, s.HasEpoch, s.HasNumber, s.RootPinned = contact.At, contact.Epoch, contact.Number, contact.RootPinned
	if !contact.RevokedAt.IsZero() {
		s.Enrolment = "revoked"
	}
	for _, x := range certificates { // a site's newest first
		if x.Site == s.Site && x.RevokedAt.IsZero() {
			s.Enrolment, s.Fingerprint, s.CertificateExpires = "enrolled", provisioning.Fingerprint(x.Key), x.ExpiresAt
			break
		}
	}
	now := c.cfg.Now()
	for _, t := range tokens {
		if t.Site == s.Site && tokenState(&t, now) == client.TokenWaiting {
			s.Waiting = provisioning.Fingerprint(t.Key)
		}
	}
	if ahead(contact, s.Epoch, s.Number) {
		s.Ahead = true
	}
}

// ahead reports whether a site has seen a newer snapshot than central has made.
func ahead(contact provisioning.SiteContact, epoch, number uint64) bool {
	return contact.Epoch > epoch || contact.Epoch == epoch && contact.Number > number
}

// RevokeSite revokes every certificate of a site: they are refused from then on, and so are its enrolment tokens.
func (c *Central) RevokeSite(ctx context.Context, site string, r client.SiteRevocation) (client.Revoked, error) {
	if err := provisioning.CheckName(site); err != nil {
		return client.Revoked{}, err
	}
	if err := c.allow(ctx, provisioning.ActionEnrol, provisioning.AtSite(site)); err != nil {
		return client.Revoked{}, err
	}
	why := strings.TrimSpace(r.Why)
	if why == "" || len(why) > 200 || strings.ContainsFunc(why, func(r rune) bool { return r < ' ' }) {
		return client.Revoked{}, provisioning.Errorf(provisioning.CodeInvalid, "", "say why in 1 to 200 characters on one line")
	}
	known, err := c.cfg.Store.SiteCertificates(ctx, site)
	if err != nil {
		return client.Revoked{}, err
	}
	docs, err := c.documents(ctx, provisioning.KindSite, site)
	if err != nil {
		return client.Revoked{}, err
	}
	if len(known)+len(docs) == 0 {
		return client.Revoked{}, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint sites", "there is no site %q", site)
	}
	e := c.entry(ctx, "revoke", auditSiteCertificate, site, site)
	for _, x := range known {
		if x.RevokedAt.IsZero() {
			e.Before += certificateText(x)
		}
	}
	e.After = "why: " + why + "\n"
	answering(ctx, func(n int) any { return client.Revoked{Certificates: n} })
	n, err := c.cfg.Store.RevokeSite(ctx, site, c.cfg.Now(), why, e)
	if err != nil {
		return client.Revoked{}, err
	}
	c.cfg.Log.Warn("revoked a site", "site", site, "certificates", n, "why", why, "by", provisioning.ActorOf(ctx).Account)
	c.publishSoon(ctx) // nothing is encrypted to it any more
	c.wake()           // whoever waits for a snapshot is looked at again, also where that failed
	return client.Revoked{Certificates: n}, nil
}

// Renew gives a site a new certificate for the key of the one that it shows.
func (c *Central) Renew(ctx context.Context, shown *x509.Certificate, r client.EnrolRequest) (client.Enrolment, error) {
	pub, key, err := requestedKey(r.CSR)
	if err != nil {
		return client.Enrolment{}, err
	}
	x, err := describeCertificate(shown)
	if err != nil {
		return client.Enrolment{}, err
	}
	now := c.cfg.Now()
	switch {
	case key != x.Key:
		return client.Enrolment{}, provisioning.Errorf(provisioning.CodeForbidden, "Enrol it again with a new token.", "the request is for another key than the certificate's")
	case now.Sub(x.IssuedAt) < x.ExpiresAt.Sub(x.IssuedAt)/4:
		return client.Enrolment{}, provisioning.Errorf(provisioning.CodeConflict, "", "the certificate is good until %s: it is not renewed yet", x.ExpiresAt.Format(time.RFC3339))
	}
	der, next, err := c.issueSite(x.Site, pub, now)
	if err != nil {
		return client.Enrolment{}, err
	}
	e := c.entry(ctx, "renew", auditSiteCertificate, provisioning.Fingerprint(key), x.Site)
	e.Before, e.After = certificateText(x), certificateText(next)
	if err := c.cfg.Store.AddSiteCertificate(ctx, next, x.Sum, e); err != nil {
		return client.Enrolment{}, err
	}
	c.cfg.Log.Info("renewed a site's certificate", "site", x.Site, "expires", next.ExpiresAt)
	return c.enrolment(ctx, der)
}

// issueSite makes a certificate, and what is stored of it.
func (c *Central) issueSite(site string, pub any, now time.Time) ([]byte, provisioning.SiteCertificate, error) {
	der, err := c.ca.issueSite(site, pub, now)
	if err != nil {
		return nil, provisioning.SiteCertificate{}, provisioning.Errorf(provisioning.CodeInternal, "", "issue certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, provisioning.SiteCertificate{}, provisioning.Errorf(provisioning.CodeInternal, "", "issue certificate: %w", err)
	}
	x, err := describeCertificate(cert)
	return der, x, err
}

// certificateText is what the audit log says of a certificate.
func certificateText(x provisioning.SiteCertificate) string {
	return "site: " + x.Site + "\nkey: " + provisioning.Fingerprint(x.Key) + "\nexpires: " + x.ExpiresAt.UTC().Format(time.RFC3339) + "\n"
}
