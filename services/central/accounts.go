package central

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"
	"branchpoint/services/central/client"
)

// Bounds of API tokens.
const (
	minAPITokenValid = time.Minute
	maxAPITokenValid = 400 * 24 * time.Hour
	// loginValid is how long a token is good for that a password was exchanged for.
	loginValid = 12 * time.Hour
	// maxAPITokens bounds the tokens of an account.
	maxAPITokens = 100
)

// apiTokenSum is the sum by which an API token is kept. Tokens are random, so that a plain sum cannot be turned back.
func apiTokenSum(token string) provisioning.SHA256 {
	return provisioning.SumSHA256([]byte("branchpoint API token\n" + token))
}

// nobody is a hash that no password fits, so that an account that is not there takes as long as one that is.
const nobody = "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// Login exchanges a password for an API token that is good for 12 hours. from is the address that it is asked from.
func (c *Central) Login(ctx context.Context, from string, r client.LoginRequest) (client.APIToken, error) {
	hash, err := c.checkPassword(ctx, r.Account, r.Password, from)
	if err != nil {
		if provisioning.CodeOf(err) == provisioning.CodeUnauthorized {
			c.cfg.Log.Warn("refused a login", "account", c.knownAccount(ctx, r.Account), "from", from)
		}
		return client.APIToken{}, err
	}
	now := c.cfg.Now()
	if err := c.cfg.Store.NoteLogin(ctx, r.Account, now); err != nil {
		return client.APIToken{}, err
	}
	suffix, err := newSecret(c.cfg.Rand)
	if err != nil {
		return client.APIToken{}, err
	}
	ctx = provisioning.WithActor(ctx, provisioning.Actor{Account: r.Account, From: from})
	token, err := c.newAPIToken(ctx, r.Account, provisioning.LoginToken+now.UTC().Format(time.RFC3339)+" "+suffix[:6], loginValid, "log in")
	if err != nil {
		return client.APIToken{}, err
	}
	// Who has set another password since it was looked at has ended the logins that there were then: not this one.
	if a, err := c.cfg.Store.Account(ctx, r.Account); err != nil || a.Password != hash {
		err := c.cfg.Store.RevokeAPIToken(ctx, apiTokenSum(token.Token), c.entry(ctx, "revoke", auditAPIToken, token.Name, ""))
		if provisioning.CodeOf(err) == provisioning.CodeNotFound {
			err = nil
		}
		return client.APIToken{}, errors.Join(errWrongPassword, err)
	}
	return token, nil
}

// knownAccount is what the log says of an account that somebody named: people type their password there, too.
func (c *Central) knownAccount(ctx context.Context, name string) string {
	if _, err := c.cfg.Store.Account(ctx, name); err != nil {
		return "(none)"
	}
	return name
}

var errWrongPassword = provisioning.Errorf(provisioning.CodeUnauthorized, "Try again, or ask who administers central.", "the account or its password is wrong")

// checkPassword returns the hash that a password fits. It fails with CodeUnauthorized where it is not the account's, and with
// CodeUnavailable where too many were wrong: then nothing is said about this one.
func (c *Central) checkPassword(ctx context.Context, account, given, from string) (string, error) {
	keys := c.logins.loginKeys(c.cfg.Now(), account, from)
	if wait := c.logins.begin(c.cfg.Now(), keys...); wait > 0 {
		return "", provisioning.Errorf(provisioning.CodeUnavailable, "Wait, and try again.",
			"too many wrong passwords: the next one is looked at in %s", (wait + time.Second - 1).Truncate(time.Second))
	}
	hash, good, fits := nobody, false, false
	a, err := c.cfg.Store.Account(ctx, account)
	switch {
	case err == nil && a.Password != "":
		hash, good = a.Password, !a.Disabled
	case provisioning.CodeOf(err) == provisioning.CodeNotFound:
		err = nil
	}
	if err == nil {
		err = c.hashing.do(ctx, func() (err error) {
			fits, err = password.Verify(hash, given)
			return err
		})
	}
	if err != nil {
		c.logins.unjudged(c.cfg.Now(), keys...)
		return "", err
	}
	if !fits || !good {
		return "", errWrongPassword
	}
	c.logins.succeeded(c.cfg.Now(), keys...)
	c.logins.loggedIn(c.cfg.Now(), account, from)
	return hash, nil
}

func shorten(s string) string { return fmt.Sprintf("%.64q", s) }

// newAPIToken makes and stores a token.
func (c *Central) newAPIToken(ctx context.Context, account, name string, valid time.Duration, action string) (client.APIToken, error) {
	now := c.cfg.Now().UTC()
	present, err := c.cfg.Store.APITokens(ctx, account)
	if err != nil {
		return client.APIToken{}, err
	}
	present = slices.DeleteFunc(present, func(t provisioning.APIToken) bool { return !now.Before(t.ExpiresAt) })
	if len(present) >= maxAPITokens {
		return client.APIToken{}, provisioning.Errorf(provisioning.CodeConflict, "Revoke some: branchpoint api-token list", "account %s has %d tokens already", account, len(present))
	}
	secret, err := newSecret(c.cfg.Rand)
	if err != nil {
		return client.APIToken{}, err
	}
	t := provisioning.APIToken{Hash: apiTokenSum(secret), Account: account, Name: name, CreatedAt: now, ExpiresAt: now.Add(valid)}
	e := c.entry(ctx, action, auditAPIToken, name, "")
	e.After = fmt.Sprintf("account: %s\nid: %s\nexpires: %s\n", account, provisioning.TokenID(t.Hash), t.ExpiresAt.Format(time.RFC3339))
	making(ctx, "API token "+provisioning.TokenID(t.Hash))
	if err := c.cfg.Store.CreateAPIToken(ctx, t, e); err != nil {
		return client.APIToken{}, err
	}
	c.cfg.Log.Info("made an API token", "account", account, "name", name, "expires", t.ExpiresAt)
	return client.APIToken{Token: secret, ID: provisioning.TokenID(t.Hash), Account: account, Name: name, ExpiresAt: t.ExpiresAt}, nil
}

// CreateAPIToken makes a token for the caller's own account, or for another's where they may administer.
func (c *Central) CreateAPIToken(ctx context.Context, r client.APITokenRequest) (client.APIToken, error) {
	account, err := c.own(ctx, r.Account)
	if err != nil {
		return client.APIToken{}, err
	}
	if account == provisioning.AccountAdmin {
		return client.APIToken{}, provisioning.Errorf(provisioning.CodeInvalid, "Make an account and give it a role that is an administrator's.",
			"account admin has one token, in admin.json")
	}
	if err := checkLabel(r.Name); err != nil {
		return client.APIToken{}, err
	}
	if r.ValidSeconds < int64(minAPITokenValid/time.Second) || r.ValidSeconds > int64(maxAPITokenValid/time.Second) {
		return client.APIToken{}, provisioning.Errorf(provisioning.CodeInvalid, "Choose a validity such as 720h.", "an API token is valid for 1 minute to 400 days")
	}
	return c.newAPIToken(ctx, account, r.Name, time.Duration(r.ValidSeconds)*time.Second, "create")
}

// checkLabel checks a name that people give to a token.
func checkLabel(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "a token's name has 1 to 64 characters of ASCII")
	}
	return nil
}

// own returns whose account is meant: the caller's own where it is empty. Others' need the right to administer.
func (c *Central) own(ctx context.Context, account string) (string, error) {
	who := callerOf(ctx)
	if who != nil && (account == "" || account == who.account) {
		return who.account, nil
	}
	return account, c.allow(ctx, provisioning.ActionAdminister, provisioning.Everywhere("accounts"))
}

// APITokens lists an account's tokens; empty is every account's for those who may administer, else the caller's own.
func (c *Central) APITokens(ctx context.Context, account string) ([]client.APITokenState, error) {
	if who := callerOf(ctx); who != nil && account == "" && c.allow(ctx, provisioning.ActionAdminister, provisioning.Everywhere("")) != nil {
		account = who.account
	}
	if account != "" {
		var err error
		if account, err = c.own(ctx, account); err != nil {
			return nil, err
		}
	}
	tokens, err := c.cfg.Store.APITokens(ctx, account)
	out := make([]client.APITokenState, 0, len(tokens))
	for _, t := range tokens {
		out = append(out, client.APITokenState{
			ID: provisioning.TokenID(t.Hash), Account: t.Account, Name: t.Name, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, LastUsed: t.LastUsed,
		})
	}
	return out, err
}

// RevokeAPIToken revokes the token of that id: the caller's own, or another's where they may administer.
func (c *Central) RevokeAPIToken(ctx context.Context, id string) error {
	tokens, err := c.cfg.Store.APITokens(ctx, "")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(tokens, func(t provisioning.APIToken) bool { return provisioning.TokenID(t.Hash) == id })
	unknown := provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint api-token list", "there is no API token %.64q", id)
	if i < 0 {
		return unknown
	}
	t := tokens[i]
	if _, err := c.own(ctx, t.Account); err != nil {
		return unknown // whose it is, is nobody else's business
	}
	e := c.entry(ctx, "revoke", auditAPIToken, t.Name, "")
	e.Before = fmt.Sprintf("account: %s\nid: %s\nexpires: %s\n", t.Account, id, t.ExpiresAt.UTC().Format(time.RFC3339))
	return c.cfg.Store.RevokeAPIToken(ctx, t.Hash, e)
}

// Accounts lists the accounts, the built-in one first.
func (c *Central) Accounts(ctx context.Context) ([]client.AccountState, error) {
	all, err := c.cfg.Store.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	roles, err := c.roles(ctx)
	out := []client.AccountState{{Name: provisioning.AccountAdmin}}
	for _, a := range all {
		out = append(out, accountState(a, roles))
	}
	return out, err
}

func accountState(a provisioning.Account, roles []provisioning.Role) client.AccountState {
	s := client.AccountState{Name: a.Name, HasPassword: a.Password != "", Disabled: a.Disabled, CreatedAt: a.CreatedAt, LastLogin: a.LastLogin}
	for _, r := range roles {
		if slices.Contains(r.Spec.Accounts, a.Name) {
			s.Roles = append(s.Roles, r.Name)
		}
	}
	return s
}

// WhoAmI says who the caller is.
func (c *Central) WhoAmI(ctx context.Context) (client.AccountState, error) {
	who := callerOf(ctx)
	if who == nil || who.account == provisioning.AccountAdmin {
		return client.AccountState{Name: provisioning.AccountAdmin}, nil
	}
	a, err := c.cfg.Store.Account(ctx, who.account)
	if err != nil {
		return client.AccountState{}, err
	}
	return accountState(*a, who.roles), nil
}

// CreateAccount makes an account. It fails with CodeConflict if there is one of that name, and where it would have roles at once and
// that is not confirmed: an account that was deleted, or somebody else of that name, must not come by rights unnoticed.
func (c *Central) CreateAccount(ctx context.Context, r client.AccountRequest) error {
	if err := provisioning.CheckName(r.Name); err != nil {
		return err
	}
	if r.Name == provisioning.AccountAdmin {
		return provisioning.Errorf(provisioning.CodeConflict, "Choose another name.", "account admin is built in")
	}
	if _, err := c.cfg.Store.Account(ctx, r.Name); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		return c.putAccount(ctx, r, true) // says that there is one
	}
	roles, err := c.roles(ctx)
	if err != nil {
		return err
	}
	has := accountState(provisioning.Account{Name: r.Name}, roles).Roles
	if confirm := strings.Join(has, ","); confirm != r.Confirm {
		if confirm == "" {
			return provisioning.Errorf(provisioning.CodeConflict, "Leave the confirmation out.", "no role names account %s: %.64q confirms nothing", r.Name, r.Confirm)
		}
		return provisioning.Errorf(provisioning.CodeConflict, "Take it out of these documents of kind Role; or if it shall have them, do it with --confirm "+confirm+".",
			"account %s would have roles at once, which name it already: %s", r.Name, listed(has))
	}
	return c.putAccount(ctx, r, true)
}

// ChangeAccount changes an account's password, or disables and enables it. Everybody may change their own password, with the
// present one; the rest needs the right to administer. Whoever has a new password, or none, has no tokens of logins any more.
func (c *Central) ChangeAccount(ctx context.Context, from string, r client.AccountRequest) error {
	who := callerOf(ctx)
	if r.Name == provisioning.AccountAdmin {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "account admin is built in, and has its token in admin.json alone")
	}
	if err := c.allow(ctx, provisioning.ActionAdminister, provisioning.Everywhere("accounts")); err != nil {
		if who == nil || who.account != r.Name || r.Disabled != nil || r.Password == nil {
			return err
		}
		if _, err := c.checkPassword(ctx, r.Name, r.Present, from); err != nil {
			return err
		}
	}
	return c.putAccount(ctx, r, false)
}

func (c *Central) putAccount(ctx context.Context, r client.AccountRequest, create bool) error {
	hash := ""
	if r.Password != nil && *r.Password != "" {
		err := c.hashing.do(ctx, func() (err error) {
			hash, err = password.Hash(c.cfg.Rand, *r.Password)
			return err
		})
		if err != nil {
			return err
		}
	}
	answering(ctx, func(any) any { return client.Done{} })
	err := c.cfg.Store.UpdateAccount(ctx, r.Name, func(old *provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error) {
		e := c.entry(ctx, "create", auditAccount, r.Name, "")
		next := provisioning.Account{Name: r.Name, CreatedAt: c.cfg.Now()}
		switch {
		case create && old != nil:
			return nil, e, provisioning.Errorf(provisioning.CodeConflict, "Choose another name.", "there is an account %s already", r.Name)
		case !create && old == nil:
			return nil, e, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint account list", "there is no account %.64q", r.Name)
		case !create:
			next, e.Action, e.Before = *old, "change", accountText(old, false)
		}
		if r.Password != nil {
			next.Password = hash
		}
		if r.Disabled != nil {
			next.Disabled = *r.Disabled
		}
		e.After = accountText(&next, r.Password != nil)
		return &next, e, nil
	})
	if err != nil {
		return err
	}
	c.cfg.Log.Info("account changed", "account", r.Name, "created", create, "password", r.Password != nil, "by", provisioning.ActorOf(ctx).Account)
	return nil
}

// accountText is what the audit log says of an account.
func accountText(a *provisioning.Account, newPassword bool) string {
	word := "none"
	switch {
	case newPassword && a.Password != "":
		word = "a new one"
	case a.Password != "":
		word = "set"
	}
	return fmt.Sprintf("signs in by: %s\ndisabled: %t\n", word, a.Disabled)
}

// DeleteAccount deletes an account with its tokens.
func (c *Central) DeleteAccount(ctx context.Context, name string) error {
	err := c.cfg.Store.UpdateAccount(ctx, name, func(old *provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error) {
		e := c.entry(ctx, "delete", auditAccount, name, "")
		if old == nil {
			return nil, e, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint account list", "there is no account %.64q", name)
		}
		e.Before = accountText(old, false)
		return nil, e, nil
	})
	if err == nil {
		c.cfg.Log.Info("account deleted", "account", name, "by", provisioning.ActorOf(ctx).Account)
	}
	return err
}
