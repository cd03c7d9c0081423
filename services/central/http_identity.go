package central

import (
	"context"
	"net/http"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// identityRoutes adds what is asked of accounts, rights, enrolment and the root key.
func (c *Central) identityRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+client.PathLogin, func(w http.ResponseWriter, r *http.Request) {
		handle(c, maxToken, func(ctx context.Context, in client.LoginRequest) (client.APIToken, error) {
			return c.Login(ctx, remoteHost(r), in)
		})(w, r)
	})
	mux.Handle("GET "+client.PathWhoAmI, c.signedIn(give(c, c.WhoAmI)))
	mux.Handle("GET "+client.PathAPITokens, c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		out, err := c.APITokens(r.Context(), r.URL.Query().Get("account"))
		c.answer(w, r, out, err)
	}))
	mux.Handle("POST "+client.PathAPITokens, c.signedIn(handle(c, maxToken, c.CreateAPIToken)))
	mux.Handle("DELETE "+client.PathAPITokens+"/{id}", c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, struct{}{}, c.RevokeAPIToken(r.Context(), r.PathValue("id")))
	}))
	mux.Handle("PUT "+client.PathAccounts+"/{name}", c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		handle(c, maxToken, func(ctx context.Context, in client.AccountRequest) (struct{}, error) {
			in.Name = r.PathValue("name")
			return struct{}{}, c.ChangeAccount(ctx, remoteHost(r), in)
		})(w, r)
	}))
	c.administrationRoutes(mux)

	mux.Handle("GET "+client.PathAudit, c.adminOnly(c.handleAudit))
	mux.Handle("GET "+client.PathSites, c.adminOnly(give(c, c.Sites)))
	mux.Handle("GET "+client.PathTokens, c.adminOnly(give(c, c.Tokens)))
	mux.Handle("POST "+client.PathTokens, c.adminOnly(handle(c, maxToken, c.CreateToken)))
	mux.Handle("DELETE "+client.PathTokens+"/{id}", c.adminOnly(func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, struct{}{}, c.RevokeToken(r.Context(), r.PathValue("id")))
	}))
	mux.Handle("POST "+client.PathSites+"/{site}/approve", c.adminOnly(func(w http.ResponseWriter, r *http.Request) {
		handle(c, maxToken, func(ctx context.Context, in client.SiteApproval) (struct{}, error) {
			return struct{}{}, c.ApproveSite(ctx, r.PathValue("site"), in.Fingerprint)
		})(w, r)
	}))
	mux.Handle("POST "+client.PathSites+"/{site}/revoke", c.adminOnly(func(w http.ResponseWriter, r *http.Request) {
		handle(c, maxToken, func(ctx context.Context, in client.SiteRevocation) (client.Revoked, error) {
			return c.RevokeSite(ctx, r.PathValue("site"), in)
		})(w, r)
	}))

	mux.Handle("GET "+client.PathBranchEpochs, c.siteOnly(func(w http.ResponseWriter, r *http.Request, _ string) {
		give(c, c.epochs)(w, r)
	}))
	mux.Handle("GET "+client.PathBranchRuns, c.siteOnly(func(w http.ResponseWriter, r *http.Request, site string) {
		out, err := c.siteRuns(r.Context(), site)
		c.answer(w, r, out, err)
	}))
	mux.Handle("POST "+client.PathBranchRenew, c.siteOnly(func(w http.ResponseWriter, r *http.Request, _ string) {
		handle(c, maxEnrol, func(ctx context.Context, in client.EnrolRequest) (client.Enrolment, error) {
			return c.Renew(ctx, r.TLS.VerifiedChains[0][0], in)
		})(w, r)
	}))
}

// administrationRoutes are for those whose rights have no limits.
func (c *Central) administrationRoutes(mux *http.ServeMux) {
	add := func(pattern string, h http.HandlerFunc) {
		mux.Handle(pattern, c.everywhere(provisioning.ActionAdminister, strings.TrimPrefix(pattern[strings.Index(pattern, "/v1/"):], "/v1/"), h))
	}
	add("GET "+client.PathAccounts, give(c, c.Accounts))
	add("POST "+client.PathAccounts, handle(c, maxToken, func(ctx context.Context, in client.AccountRequest) (struct{}, error) {
		return struct{}{}, c.CreateAccount(ctx, in)
	}))
	add("DELETE "+client.PathAccounts+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, struct{}{}, c.DeleteAccount(r.Context(), r.PathValue("name")))
	})
	add("GET "+client.PathEpoch, give(c, c.Epoch))
	add("POST "+client.PathEpochNext, handle(c, maxToken, c.NextEpoch))
	add("PUT "+client.PathEpoch, handle(c, 4*maxToken, c.PutEpoch))
}

// give answers a request that says nothing more by one of central's methods.
func give[Out any](c *Central, do func(context.Context) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := do(r.Context())
		c.answer(w, r, out, err)
	}
}

// contentOnly lets those who may read look at content, and those who may administer add and change it: it is every site's.
func (c *Central) contentOnly(h http.Handler) http.Handler {
	read, administer := c.adminOnly(h.ServeHTTP), c.everywhere(provisioning.ActionAdminister, "content", c.auditContent(h.ServeHTTP))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			read.ServeHTTP(w, r)
			return
		}
		administer.ServeHTTP(w, r)
	})
}

func (c *Central) handleAudit(w http.ResponseWriter, r *http.Request) {
	before, err := number(r, "before")
	if err != nil {
		c.fail(w, r, err)
		return
	}
	limit, err := number(r, "limit")
	if err != nil {
		c.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	out, err := c.Audit(r.Context(), provisioning.AuditFilter{
		Before: before, Limit: int(min(limit, maxAudit)), Account: q.Get("account"), Kind: q.Get("kind"), Name: q.Get("name"), Site: q.Get("site"),
	})
	c.answer(w, r, out, err)
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
