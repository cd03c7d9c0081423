package central

import (
	"context"
	"net/http"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
)

const tagAccounts, tagRoot, tagSites = "Accounts", "Root key", "Sites"

// AccountChange changes the account of that name.
type AccountChange struct {
	Name string `path:"name" maxLength:"256" doc:"The account's name."`
	Body client.AccountRequest
}

// AccountName names an account.
type AccountName struct {
	Name string `path:"name" maxLength:"256" doc:"The account's name."`
}

// TokenName names a token.
type TokenName struct {
	ID string `path:"id" maxLength:"256" doc:"The token's id, as lists show it."`
}

// APITokensQuery chooses API tokens.
type APITokensQuery struct {
	Paging
	Account string `query:"account" doc:"Only this account's tokens; empty means every account's to an administrator, one's own to others."`
}

// identityOperations adds what is asked of accounts, the audit log and the root key.
func (c *Central) identityOperations(a *api) {
	add(a, anybody, huma.Operation{
		OperationID: "login", Method: http.MethodPost, Path: client.PathLogin, Tags: []string{tagAccounts}, MaxBodyBytes: maxToken,
		Summary: "Exchange a password for an API token", Description: "The token is good for 12 hours. Wrong passwords are slowed down, longer each time (503).",
	}, takes(func(ctx context.Context, in client.LoginRequest) (client.APIToken, error) {
		return c.Login(ctx, provisioning.ActorOf(ctx).From, in)
	}))
	add(a, anyAccount, huma.Operation{
		OperationID: "whoAmI", Method: http.MethodGet, Path: client.PathWhoAmI, Tags: []string{tagAccounts}, Summary: "Say whose token this is",
	}, asks(c.WhoAmI))
	add(a, anyAccount, huma.Operation{
		OperationID: "listAPITokens", Method: http.MethodGet, Path: client.PathAPITokens, Tags: []string{tagAccounts},
		Summary: "List API tokens", Description: "By account and name. The tokens themselves are kept nowhere.",
	}, func(ctx context.Context, in *APITokensQuery) (*page[client.APITokenState], error) {
		all, err := c.APITokens(ctx, in.Account)
		if err != nil {
			return nil, err
		}
		return cut(&in.Paging, all, func(t *client.APITokenState) string { return t.Account + "/" + t.Name }, nil), nil
	})
	addEffect(a, anyAccount, huma.Operation{
		OperationID: "createAPIToken", Method: http.MethodPost, Path: client.PathAPITokens, Tags: []string{tagAccounts}, MaxBodyBytes: maxToken,
		Summary: "Make an API token for a program", Description: "For one's own account; an administrator may for others'. The answer alone has the token.",
	}, posts(c.CreateAPIToken))
	add(a, anyAccount, huma.Operation{
		OperationID: "revokeAPIToken", Method: http.MethodDelete, Path: client.PathAPITokens + "/{id}", Tags: []string{tagAccounts},
		Summary: "Revoke an API token", Description: "One's own; an administrator may others'.",
	}, func(ctx context.Context, in *TokenName) (*nothing, error) { return done(c.RevokeAPIToken(ctx, in.ID)) })
	add(a, anyAccount, huma.Operation{
		OperationID: "changeAccount", Method: http.MethodPut, Path: client.PathAccounts + "/{name}", Tags: []string{tagAccounts}, MaxBodyBytes: maxToken,
		Summary: "Change an account", Description: "Everybody may change their own password, by the present one; the rest needs an administrator's role without limits. What is left out stays as it is.",
	}, func(ctx context.Context, in *AccountChange) (*nothing, error) {
		in.Body.Name = in.Name
		return done(c.ChangeAccount(ctx, provisioning.ActorOf(ctx).From, in.Body))
	})
	c.accountOperations(a)
	add(a, anyRole, huma.Operation{
		OperationID: "listAudit", Method: http.MethodGet, Path: client.PathAudit, Tags: []string{"Audit log"},
		Summary: "List who did what, when and from where", Description: "Newest first, without secrets. Whoever is limited sees what they did themselves and what concerns their sites and collections.",
	}, c.listAudit)
}

// accountOperations are for those whose rights have no limits.
func (c *Central) accountOperations(a *api) {
	accounts, epoch := administrators("accounts"), administrators("epoch")
	add(a, accounts, huma.Operation{
		OperationID: "listAccounts", Method: http.MethodGet, Path: client.PathAccounts, Tags: []string{tagAccounts}, Summary: "List the accounts", Description: "By name.",
	}, lists(c.Accounts, func(s *client.AccountState) string { return s.Name }))
	addEffect(a, accounts, huma.Operation{
		OperationID: "createAccount", Method: http.MethodPost, Path: client.PathAccounts, Tags: []string{tagAccounts}, MaxBodyBytes: maxToken,
		Summary: "Make an account", Description: "Documents of kind Role give it rights. Where there are some that name it already, this has to be confirmed (409).",
	}, posts(func(ctx context.Context, in client.AccountRequest) (client.Done, error) {
		return client.Done{}, c.CreateAccount(ctx, in)
	}))
	add(a, accounts, huma.Operation{
		OperationID: "deleteAccount", Method: http.MethodDelete, Path: client.PathAccounts + "/{name}", Tags: []string{tagAccounts}, Summary: "Delete an account with its tokens",
	}, func(ctx context.Context, in *AccountName) (*nothing, error) {
		return done(c.DeleteAccount(ctx, in.Name))
	})
	add(a, epoch, huma.Operation{
		OperationID: "getEpoch", Method: http.MethodGet, Path: client.PathEpoch, Tags: []string{tagRoot}, Summary: "Say where central stands with its root key",
	}, asks(c.Epoch))
	addEffect(a, epoch, huma.Operation{
		OperationID: "nextEpoch", Method: http.MethodPost, Path: client.PathEpochNext, Tags: []string{tagRoot}, MaxBodyBytes: maxToken,
		Summary: "Make the statement of the next epoch", Description: "It is to be signed with the root key, which central never has. A new signing key waits until then.",
	}, posts(c.NextEpoch))
	add(a, epoch, huma.Operation{
		OperationID: "putEpoch", Method: http.MethodPut, Path: client.PathEpoch, Tags: []string{tagRoot}, MaxBodyBytes: 4 * maxToken,
		Summary: "Put an epoch in force that the root key has signed",
	}, takes(c.PutEpoch))
}

// SiteApprove approves an appliance.
type SiteApprove struct {
	OnceKey
	Site string `path:"site" maxLength:"256" doc:"The site's code."`
	Body client.SiteApproval
}

// SiteRevoke revokes a site's certificates.
type SiteRevoke struct {
	OnceKey
	Site string `path:"site" maxLength:"256" doc:"The site's code."`
	Body client.SiteRevocation
}

// HostForget names what an appliance has told of its machine.
type HostForget struct {
	Site        string `path:"site" maxLength:"256" doc:"The site's code."`
	Fingerprint string `path:"fingerprint" maxLength:"256" doc:"The fingerprint of the appliance's key, as lists show it."`
	Confirm     string `query:"confirm" maxLength:"256" doc:"What the refusal asks to confirm."`
}

// siteOperations adds what is asked of sites and their enrolment.
func (c *Central) siteOperations(a *api) {
	add(a, anyRole, huma.Operation{
		OperationID: "listSites", Method: http.MethodGet, Path: client.PathSites, Tags: []string{tagSites},
		Summary: "Say where every site stands", Description: "By name: the snapshot that it is given and the one that it has, its certificate, when it was last heard of.",
	}, lists(c.Sites, func(s *client.SiteState) string { return s.Site }))
	add(a, anyRole, huma.Operation{
		OperationID: "listEnrolmentTokens", Method: http.MethodGet, Path: client.PathTokens, Tags: []string{tagSites},
		Summary: "List enrolment tokens", Description: "Newest first, with the appliances that wait for approval. The tokens themselves are kept nowhere.",
	}, lists(c.Tokens, func(t *client.TokenState) string { return newestFirst(t.CreatedAt, t.ID) }))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "createEnrolmentToken", Method: http.MethodPost, Path: client.PathTokens, Tags: []string{tagSites}, MaxBodyBytes: maxToken,
		Summary: "Make an enrolment token for a site", Description: "One appliance becomes the site's with it. The answer alone has the token. An administrator's role is wanted that holds at the site.",
	}, posts(c.CreateToken))
	add(a, anyRole, huma.Operation{
		OperationID: "revokeEnrolmentToken", Method: http.MethodDelete, Path: client.PathTokens + "/{id}", Tags: []string{tagSites},
		Summary: "Revoke an enrolment token", Description: "What was enrolled with it stays enrolled. An administrator's role is wanted that holds at the site.",
	}, func(ctx context.Context, in *TokenName) (*nothing, error) { return done(c.RevokeToken(ctx, in.ID)) })
	addEffect(a, anyRole, huma.Operation{
		OperationID: "approveSite", Method: http.MethodPost, Path: client.PathSites + "/{site}/approve", Tags: []string{tagSites}, MaxBodyBytes: maxToken,
		Summary: "Approve the appliance that waits at a site", Description: "By the fingerprint of its key, which its screen shows. An administrator's role is wanted that holds at the site.",
	}, func(ctx context.Context, in *SiteApprove) (client.Done, error) {
		return client.Done{}, c.ApproveSite(ctx, in.Site, in.Body.Fingerprint)
	})
	addEffect(a, anyRole, huma.Operation{
		OperationID: "revokeSite", Method: http.MethodPost, Path: client.PathSites + "/{site}/revoke", Tags: []string{tagSites}, MaxBodyBytes: maxToken,
		Summary: "Revoke a site's certificates", Description: "Its appliance is refused at once, until it is enrolled with a new token. An administrator's role is wanted that holds at the site.",
	}, func(ctx context.Context, in *SiteRevoke) (client.Revoked, error) {
		return c.RevokeSite(ctx, in.Site, in.Body)
	})
	add(a, anyRole, huma.Operation{
		OperationID: "listHosts", Method: http.MethodGet, Path: client.PathHosts, Tags: []string{tagSites},
		Summary: "List the machines of appliances and of central", Description: "By site and key, with those of appliances that were replaced: none of them is ever a target.",
	}, lists(c.Hosts, func(h *client.Host) string { return h.Site + "/" + h.Fingerprint }))
	add(a, administrators("hosts"), huma.Operation{
		OperationID: "forgetHost", Method: http.MethodDelete, Path: client.PathHosts + "/{site}/{fingerprint}", Tags: []string{tagSites},
		Summary: "Let the machine of a former appliance be a target again", Description: "Where the site has that appliance still, it is refused (409). Where disks could be erased for it, this has to be confirmed (409).",
	}, func(ctx context.Context, in *HostForget) (*nothing, error) {
		return done(c.ForgetHost(ctx, in.Site, in.Fingerprint, in.Confirm))
	})
	add(a, anyRole, huma.Operation{
		OperationID: "status", Method: http.MethodGet, Path: client.PathStatus, Tags: []string{"Status"},
		Summary: "Report deployments", Description: "The runs of task sequences, newest first, with their steps; of one run, with the last output of each step.",
	}, c.status)
}
