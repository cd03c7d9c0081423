package central

import (
	"context"
	"time"

	"branchpoint/provisioning"
)

// IdentityStore keeps who may speak with central, and what they did. Every method is one transaction, with its audit entries;
// services/store implements it.
type IdentityStore interface {
	CreateEnrolmentToken(ctx context.Context, t provisioning.EnrolmentToken, entries ...provisioning.AuditEntry) error
	// EnrolmentTokens are newest first.
	EnrolmentTokens(ctx context.Context) ([]provisioning.EnrolmentToken, error)
	// UseEnrolmentToken stores what decide sets and returns; it fails with CodeNotFound if there is no such token.
	UseEnrolmentToken(ctx context.Context, hash provisioning.SHA256, decide func(*provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error)) error
	// SiteCertificate fails with CodeNotFound if it is not known; SiteCertificates are a site's, newest first, or all.
	SiteCertificate(ctx context.Context, sum provisioning.SHA256) (*provisioning.SiteCertificate, error)
	SiteCertificates(ctx context.Context, site string) ([]provisioning.SiteCertificate, error)
	// AddSiteCertificate fails with CodeUnauthorized where the certificate that it renews (by its sum; empty is none), or the site
	// after the certificate was issued, was revoked.
	AddSiteCertificate(ctx context.Context, x provisioning.SiteCertificate, renewed provisioning.SHA256, entries ...provisioning.AuditEntry) error
	// PutRecipient keeps the recipient of a certificate that is good, for Recipients: of each site, that of its newest good one
	// that has any.
	PutRecipient(ctx context.Context, certificate provisioning.SHA256, recipient string) error
	Recipients(ctx context.Context) (map[string]string, error)
	RevokeSite(ctx context.Context, site string, at time.Time, why string, entry provisioning.AuditEntry) (int, error)
	NoteSiteContact(ctx context.Context, c provisioning.SiteContact) error
	SiteContacts(ctx context.Context) (map[string]provisioning.SiteContact, error)

	// Epochs are the root key's statements, oldest first. AddEpoch stores one with the settings that put it in force; it fails
	// with CodeConflict where there is one of that epoch.
	Epochs(ctx context.Context) ([]provisioning.SignedEpoch, error)
	AddEpoch(ctx context.Context, epoch uint64, signed provisioning.SignedEpoch, settings map[string][]byte, entry provisioning.AuditEntry) error

	// Account fails with CodeNotFound if there is none.
	Account(ctx context.Context, name string) (*provisioning.Account, error)
	Accounts(ctx context.Context) ([]provisioning.Account, error)
	// UpdateAccount stores what decide makes of an account (nil: there is none); nil deletes it. A new password ends the
	// account's logins.
	UpdateAccount(ctx context.Context, name string, decide func(*provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error)) error
	NoteLogin(ctx context.Context, name string, at time.Time) error
	// APIToken fails with CodeNotFound if there is none; APITokens are an account's, or all.
	APIToken(ctx context.Context, hash provisioning.SHA256) (*provisioning.APIToken, error)
	APITokens(ctx context.Context, account string) ([]provisioning.APIToken, error)
	CreateAPIToken(ctx context.Context, t provisioning.APIToken, entry provisioning.AuditEntry) error
	RevokeAPIToken(ctx context.Context, hash provisioning.SHA256, entry provisioning.AuditEntry) error
	UseAPIToken(ctx context.Context, hash provisioning.SHA256, at time.Time) error

	Audit(ctx context.Context, f provisioning.AuditFilter) ([]provisioning.AuditEntry, error)
	AppendAudit(ctx context.Context, entries ...provisioning.AuditEntry) error
}
