package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// Paths of accounts, rights and identity. PathLogin wants a password and no token.
const (
	PathLogin     = "/v1/login"
	PathWhoAmI    = "/v1/whoami"
	PathAccounts  = "/v1/accounts"
	PathAPITokens = "/v1/api-tokens"
	PathAudit     = "/v1/audit"
	PathEpoch     = "/v1/epoch"
	PathEpochNext = "/v1/epoch/next"

	PathBranchEpochs = "/branch/v1/epochs"
	PathBranchRuns   = "/branch/v1/runs"
	PathBranchRenew  = "/branch/v1/renew"
)

// LoginRequest exchanges a password for an API token.
type LoginRequest struct {
	Account  string `json:"account"`
	Password string `json:"password"`
}

// APIToken is a new API token; central keeps only its sum.
type APIToken struct {
	Token     string    `json:"token"`
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Name      string    `json:"name"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// APITokenState is an API token as it is listed.
type APITokenState struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt"`
	LastUsed  time.Time `json:"lastUsed,omitzero"`
}

// APITokenRequest asks for an API token.
type APITokenRequest struct {
	// Account is whose it is; empty is the caller's own.
	Account string `json:"account,omitempty"`
	Name    string `json:"name"`
	// ValidSeconds is how long it is good for, 60 seconds to 400 days.
	ValidSeconds int64 `json:"validSeconds"`
}

// AccountRequest makes an account, or changes one. What is left out stays as it is.
type AccountRequest struct {
	// Name may be left out where the path has it.
	Name string `json:"name,omitempty"`
	// Password is the new one; empty takes the password away, so that nobody logs in with one.
	Password *string `json:"password,omitempty"`
	Disabled *bool   `json:"disabled,omitempty"`
	// Present is the present password, which whoever changes their own must give.
	Present string `json:"present,omitempty"`
	// Confirm are the roles that a new account has at once, by name, with a comma between two: documents that name it already.
	Confirm string `json:"confirm,omitempty"`
}

// AccountState is an account as it is listed.
type AccountState struct {
	Name        string    `json:"name"`
	HasPassword bool      `json:"hasPassword"`
	Disabled    bool      `json:"disabled,omitempty"`
	CreatedAt   time.Time `json:"createdAt,omitzero"`
	LastLogin   time.Time `json:"lastLogin,omitzero"`
	// Roles are the names of the roles that it has.
	Roles []string `json:"roles,omitempty"`
}

// TokenState is an enrolment token as it is listed.
type TokenState struct {
	ID        string    `json:"id"`
	Site      string    `json:"site"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt"`
	// State is unused, waiting (for approval), approved, used, expired or revoked.
	State string `json:"state"`
	// Approval says that a person must approve the appliance.
	Approval bool `json:"approval,omitempty"`
	// Fingerprint is that of the key that presented it, empty as long as nobody did.
	Fingerprint string `json:"fingerprint,omitempty"`
	ApprovedBy  string `json:"approvedBy,omitempty"`
}

// The states of an enrolment token.
const (
	TokenUnused   = "unused"
	TokenWaiting  = "waiting"
	TokenApproved = "approved"
	TokenUsed     = "used"
	TokenExpired  = "expired"
	TokenRevoked  = "revoked"
)

// SiteApproval approves the appliance of a site that waits with the key of that fingerprint.
type SiteApproval struct {
	Fingerprint string `json:"fingerprint"`
}

// SiteRevocation revokes a site's certificates.
type SiteRevocation struct {
	Why string `json:"why"`
}

// Revoked says how many certificates were revoked.
type Revoked struct {
	Certificates int `json:"certificates"`
}

// EpochState is where central stands with its root key.
type EpochState struct {
	// Epoch, SnapshotKey (ed25519) and CASHA256 are those in force.
	Epoch       uint64              `json:"epoch"`
	SnapshotKey []byte              `json:"snapshotKey"`
	CASHA256    provisioning.SHA256 `json:"caSHA256"`
	// Root is the root key's public half, empty as long as there is none.
	Root []byte `json:"root,omitempty"`
	// Ahead are the sites that have seen a newer snapshot than central has made: central was restored from a backup.
	Ahead []string `json:"ahead,omitempty"`
	// Pinned are the sites that have pinned a root key though central has none: it was restored from a backup of before.
	Pinned []string `json:"pinned,omitempty"`
}

// EpochRequest asks for the next epoch's statement, to be signed.
type EpochRequest struct {
	// RotateKey makes a new snapshot signing key for it.
	RotateKey bool `json:"rotateKey,omitempty"`
}

// EpochSigned puts an epoch in force.
type EpochSigned struct {
	// Root is given once, with the first statement.
	Root      []byte                   `json:"root,omitempty"`
	Statement provisioning.SignedEpoch `json:"statement"`
}

// Login exchanges a password for an API token.
func (a *Admin) Login(ctx context.Context, account, password string) (APIToken, error) {
	var out APIToken
	err := a.ask(ctx, http.MethodPost, PathLogin, LoginRequest{account, password}, &out)
	return out, err
}

// WhoAmI says whose token is used, and the roles of the account.
func (a *Admin) WhoAmI(ctx context.Context) (AccountState, error) {
	var out AccountState
	err := a.ask(ctx, http.MethodGet, PathWhoAmI, nil, &out)
	return out, err
}

// Accounts lists the accounts.
func (a *Admin) Accounts(ctx context.Context) ([]AccountState, error) {
	return list[AccountState](ctx, a, PathAccounts, nil)
}

// CreateAccount makes an account. It fails with CodeConflict if there is one of that name, or roles name it already and that is
// not confirmed.
func (a *Admin) CreateAccount(ctx context.Context, r AccountRequest) error {
	return a.ask(ctx, http.MethodPost, PathAccounts, r, nil)
}

// ChangeAccount changes an account.
func (a *Admin) ChangeAccount(ctx context.Context, r AccountRequest) error {
	return a.ask(ctx, http.MethodPut, PathAccounts+"/"+url.PathEscape(r.Name), r, nil)
}

// DeleteAccount deletes an account with its tokens.
func (a *Admin) DeleteAccount(ctx context.Context, name string) error {
	return a.ask(ctx, http.MethodDelete, PathAccounts+"/"+url.PathEscape(name), nil, nil)
}

// APITokens lists the tokens of an account; empty is every account's that the caller may see.
func (a *Admin) APITokens(ctx context.Context, account string) ([]APITokenState, error) {
	return list[APITokenState](ctx, a, PathAPITokens, url.Values{"account": {account}})
}

// CreateAPIToken makes an API token.
func (a *Admin) CreateAPIToken(ctx context.Context, r APITokenRequest) (APIToken, error) {
	var out APIToken
	err := a.ask(ctx, http.MethodPost, PathAPITokens, r, &out)
	return out, err
}

// RevokeAPIToken revokes the API token of that id.
func (a *Admin) RevokeAPIToken(ctx context.Context, id string) error {
	return a.ask(ctx, http.MethodDelete, PathAPITokens+"/"+url.PathEscape(id), nil, nil)
}

// Audit returns entries of the audit log, newest first, as many as f says.
func (a *Admin) Audit(ctx context.Context, f provisioning.AuditFilter) (AuditPage, error) {
	q := url.Values{"after": {numberOrNone(f.Before)}, "account": {f.Account}, "kind": {f.Kind}, "name": {f.Name}, "site": {f.Site}}
	if f.Limit == 0 {
		f.Limit = 100
	}
	entries, next, err := pages[provisioning.AuditEntry](ctx, a, PathAudit, q, f.Limit)
	out := AuditPage{Entries: entries}
	if err == nil && next != "" {
		if out.Before, err = strconv.ParseUint(next, 10, 64); err != nil {
			err = provisioning.Errorf(provisioning.CodeCorrupt, "Check that the address is central's.", "read where the audit log goes on: %w", err)
		}
	}
	return out, err
}

// numberOrNone is a number after which a list begins.
func numberOrNone(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// AuditPage is a part of the audit log, as far as the caller may see it.
type AuditPage struct {
	Entries []provisioning.AuditEntry `json:"entries"`
	// Before is the AuditFilter.Before of what follows, 0 where nothing does.
	Before uint64 `json:"before,omitempty"`
}

// Tokens lists the enrolment tokens, newest first.
func (a *Admin) Tokens(ctx context.Context) ([]TokenState, error) {
	return list[TokenState](ctx, a, PathTokens, nil)
}

// RevokeToken revokes the enrolment token of that id. What was enrolled with it stays enrolled.
func (a *Admin) RevokeToken(ctx context.Context, id string) error {
	return a.ask(ctx, http.MethodDelete, PathTokens+"/"+url.PathEscape(id), nil, nil)
}

// ApproveSite approves the appliance that waits for it with the key of that fingerprint.
func (a *Admin) ApproveSite(ctx context.Context, site, fingerprint string) error {
	return a.ask(ctx, http.MethodPost, PathSites+"/"+url.PathEscape(site)+"/approve", SiteApproval{fingerprint}, nil)
}

// RevokeSite revokes a site's certificates.
func (a *Admin) RevokeSite(ctx context.Context, site, why string) (Revoked, error) {
	var out Revoked
	err := a.ask(ctx, http.MethodPost, PathSites+"/"+url.PathEscape(site)+"/revoke", SiteRevocation{why}, &out)
	return out, err
}

// Epoch says where central stands with its root key.
func (a *Admin) Epoch(ctx context.Context) (EpochState, error) {
	var out EpochState
	err := a.ask(ctx, http.MethodGet, PathEpoch, nil, &out)
	return out, err
}

// NextEpoch asks for the next epoch's statement, to be signed with the root key.
func (a *Admin) NextEpoch(ctx context.Context, r EpochRequest) (provisioning.EpochStatement, error) {
	var out provisioning.EpochStatement
	err := a.ask(ctx, http.MethodPost, PathEpochNext, r, &out)
	return out, err
}

// PutEpoch puts an epoch in force that the root key has signed.
func (a *Admin) PutEpoch(ctx context.Context, r EpochSigned) (EpochState, error) {
	var out EpochState
	err := a.ask(ctx, http.MethodPut, PathEpoch, r, &out)
	return out, err
}

// Epochs asks for the root key and everything that it has signed.
func (b *Branch) Epochs(ctx context.Context) (provisioning.Epochs, error) {
	var out provisioning.Epochs
	_, err := b.call(ctx, http.MethodGet, PathBranchEpochs, nil, &out)
	return out, err
}

// Runs asks for the site's runs, as far as central knows of them.
func (b *Branch) Runs(ctx context.Context) ([]provisioning.Run, error) {
	var out []provisioning.Run
	_, err := b.call(ctx, http.MethodGet, PathBranchRuns, nil, &out)
	return out, err
}

// Renew asks for a new certificate of the site's key, with a certificate request (PEM) by it.
func (b *Branch) Renew(ctx context.Context, csr []byte) (Enrolment, error) {
	var out Enrolment
	_, err := b.call(ctx, http.MethodPost, PathBranchRenew, EnrolRequest{CSR: string(csr)}, &out)
	return out, err
}
