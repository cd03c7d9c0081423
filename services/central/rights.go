package central

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
	"branchpoint/services/central/client"
)

// caller is who a request comes from. What central does by itself has none, and may do everything.
type caller struct {
	account string
	roles   []provisioning.Role
}

type callerKey struct{}

func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// tokenUseNoted is how exactly it is noted when a token was last used.
const tokenUseNoted = time.Minute

// recognise says who a request comes from, by its token. It fails with CodeUnauthorized.
func (c *Central) recognise(r *http.Request) (*caller, error) {
	const next = "Take admin.json from central's data folder again, or log in: branchpoint login"
	refused := provisioning.Errorf(provisioning.CodeUnauthorized, next, "the administrator's token is missing or not this central's")
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, refused
	}
	if c.AdminToken(token) {
		return &caller{account: provisioning.AccountAdmin}, nil
	}
	ctx, now := r.Context(), c.cfg.Now()
	t, err := c.cfg.Store.APIToken(ctx, apiTokenSum(token))
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	if !now.Before(t.ExpiresAt) {
		return nil, provisioning.Errorf(provisioning.CodeUnauthorized, next, "the token expired at %s", t.ExpiresAt.UTC().Format(time.RFC3339))
	}
	a, err := c.cfg.Store.Account(ctx, t.Account)
	if err != nil {
		return nil, err
	}
	if a.Disabled {
		return nil, provisioning.Errorf(provisioning.CodeUnauthorized, "Ask who administers central.", "account %s is disabled", a.Name)
	}
	if now.Sub(t.LastUsed) >= tokenUseNoted {
		if err := c.cfg.Store.UseAPIToken(ctx, t.Hash, now); err != nil {
			return nil, err
		}
	}
	roles, err := c.roles(ctx)
	return &caller{account: a.Name, roles: roles}, err
}

// roles are the roles in force.
func (c *Central) roles(ctx context.Context) ([]provisioning.Role, error) {
	docs, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	var out []provisioning.Role
	for i := range docs {
		if docs[i].Kind != provisioning.KindRole {
			continue
		}
		o, err := docs[i].Decode()
		if err != nil {
			return nil, err
		}
		out = append(out, *o.Role)
	}
	return out, nil
}

// rolesIn are the roles of a catalog.
func rolesIn(catalog provisioning.Catalog) []provisioning.Role {
	var out []provisioning.Role
	for _, o := range catalog {
		if o.Role != nil {
			out = append(out, *o.Role)
		}
	}
	slices.SortFunc(out, func(a, b provisioning.Role) int { return strings.Compare(a.Name, b.Name) }) // messages name them
	return out
}

// remoteHost is the address that a request comes from, without port.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// signedIn lets requests of accounts through, whatever their rights.
func (c *Central) signedIn(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := c.recognise(r)
		if err != nil {
			c.fail(w, r, err)
			return
		}
		ctx := provisioning.WithActor(r.Context(), provisioning.Actor{Account: who.account, From: remoteHost(r)})
		next(w, r.WithContext(context.WithValue(ctx, callerKey{}, who)))
	})
}

// adminOnly lets requests of accounts through that have a role: one that reads, for GET and HEAD, one that does something, for
// others. What is within the role's limits, what is asked for itself decides.
func (c *Central) adminOnly(next http.HandlerFunc) http.Handler {
	return c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		who := callerOf(r.Context())
		if err := who.mayAsk(r.Method); err != nil {
			c.fail(w, r, err)
			return
		}
		next(w, r)
	})
}

// mayAsk is the least that a request needs.
func (who *caller) mayAsk(method string) error {
	action := provisioning.ActionOrder // what every role has that does something
	if method == http.MethodGet || method == http.MethodHead {
		action = provisioning.ActionRead
	}
	if who.account == provisioning.AccountAdmin || slices.ContainsFunc(who.roles, func(r provisioning.Role) bool {
		return slices.Contains(r.Spec.Accounts, who.account) && r.Spec.Rights.Allows(action, "")
	}) {
		return nil
	}
	return forbidden(provisioning.Allowed(who.account, who.roles, action, provisioning.Everywhere("")))
}

// everywhere lets requests through of accounts that have the action's right without limits.
func (c *Central) everywhere(action provisioning.Action, what string, next http.HandlerFunc) http.Handler {
	return c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		if err := c.allow(r.Context(), action, provisioning.Everywhere(what)); err != nil {
			c.fail(w, r, err)
			return
		}
		next(w, r)
	})
}

func forbidden(why string) error {
	if why == "" {
		return nil
	}
	return provisioning.Errorf(provisioning.CodeForbidden, "Ask who administers central.", "%s", why)
}

// allow fails with CodeForbidden where whoever asks may not do that.
func (c *Central) allow(ctx context.Context, action provisioning.Action, t provisioning.Target) error {
	who := callerOf(ctx)
	if who == nil {
		return nil
	}
	return forbidden(provisioning.Allowed(who.account, who.roles, action, t))
}

// sees returns what tells which documents, of today or earlier, the caller may read.
func (c *Central) sees(ctx context.Context) (func(*provisioning.Document) bool, error) {
	who := callerOf(ctx)
	if who == nil || provisioning.Unlimited(who.account, who.roles, provisioning.ActionRead) {
		return func(*provisioning.Document) bool { return true }, nil
	}
	docs, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	catalog, err := c.decoded.catalog(docs)
	if err != nil {
		return nil, err
	}
	reach, err := c.reach(ctx, who, catalog)
	if err != nil {
		return nil, err
	}
	inForce := make(map[provisioning.Key]int64, len(docs))
	for i := range docs {
		inForce[docs[i].Key()] = docs[i].Revision
	}
	return func(d *provisioning.Document) bool {
		o := catalog[d.Key()]
		if inForce[d.Key()] != d.Revision {
			var err error
			if o, err = d.Decode(); err != nil {
				return false // by today's rules it cannot be said whom it concerned
			}
		}
		return provisioning.Allowed(who.account, who.roles, provisioning.ActionRead, reach.Target(provisioning.ActionRead, o)) == ""
	}, nil
}

// visible returns those of the documents that the caller may read.
func (c *Central) visible(ctx context.Context, docs []provisioning.Document) ([]provisioning.Document, error) {
	sees, err := c.sees(ctx)
	if err != nil {
		return nil, err
	}
	out := []provisioning.Document{}
	for i := range docs {
		if sees(&docs[i]) {
			out = append(out, docs[i])
		}
	}
	return out, nil
}

// visibleRevisions returns those of the revisions that the caller may read: one that says that a document was deleted where
// they may read the one before it.
func (c *Central) visibleRevisions(ctx context.Context, revisions []provisioning.Revision) ([]provisioning.Revision, error) {
	sees, err := c.sees(ctx)
	if err != nil {
		return nil, err
	}
	out := []provisioning.Revision{}
	for _, r := range revisions {
		d := r.Document
		if d.Deleted {
			before, err := c.cfg.Store.Revisions(ctx, d.Key(), d.Revision-2, 1)
			if err != nil {
				return nil, err
			}
			if len(before) == 0 || before[0].Deleted {
				continue
			}
			d = before[0].Document
		}
		if sees(&d) {
			out = append(out, r)
		}
	}
	return out, nil
}

// visibleChanges leaves out of changes what is said of others' besides their numbers: it names documents and sites.
func (c *Central) visibleChanges(ctx context.Context, changes []provisioning.Change) []provisioning.Change {
	who := callerOf(ctx)
	if who == nil || provisioning.Unlimited(who.account, who.roles, provisioning.ActionRead) {
		return changes
	}
	for i := range changes {
		if changes[i].By != who.account {
			changes[i].Note = ""
		}
	}
	return changes
}

// seesRuns returns what tells which runs the caller may read of, nil where that is all of them: those of their sites, and on
// computers that they may see.
func (c *Central) seesRuns(ctx context.Context) (func(site, computer string) bool, error) {
	who := callerOf(ctx)
	if who == nil || provisioning.Unlimited(who.account, who.roles, provisioning.ActionRead) {
		return nil, nil
	}
	docs, err := c.documents(ctx, provisioning.KindComputer, "")
	if err != nil {
		return nil, err
	}
	if docs, err = c.visible(ctx, docs); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, d := range docs {
		seen[d.Name] = true
	}
	return func(site, computer string) bool {
		return seen[computer] || c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(site)) == nil
	}, nil
}

// reach says where documents have effect, as far as the caller's limits name collections.
func (c *Central) reach(ctx context.Context, who *caller, catalog provisioning.Catalog) (*provisioning.Reach, error) {
	limits := provisioning.Limits(who.account, who.roles)
	if len(limits) == 0 {
		return catalog.Reach(nil, nil), nil
	}
	inventories, err := c.cfg.Store.Inventories(ctx)
	if err != nil {
		return nil, err
	}
	compiled := map[string]*collection.Collection{}
	for _, n := range limits {
		if o, ok := catalog[provisioning.Key{Kind: provisioning.KindCollection, Name: n}]; ok {
			// One whose query is wrong has its direct members still.
			compiled[n], _ = collection.New(*o.Collection)
		}
	}
	return catalog.Reach(limits, func(name string, computer *provisioning.Computer) bool {
		m := compiled[name]
		if m == nil {
			return false
		}
		var inventory *provisioning.Inventory
		if v, ok := inventories[computer.Name]; ok {
			inventory = &v
		}
		return m.Member(collection.NewSubject(computer, inventory, nil)).Member
	}), nil
}

// mayChange fails with CodeForbidden where the caller may not change what a plan changes: by what they may when it is made, as the request may have taken long to arrive.
func (c *Central) mayChange(ctx context.Context, p *plan) error {
	who := callerOf(ctx)
	if who == nil || who.account == provisioning.AccountAdmin {
		return nil
	}
	a, err := c.cfg.Store.Account(ctx, who.account)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound || err == nil && a.Disabled {
		return forbidden("account " + who.account + " was disabled or deleted")
	}
	if err != nil {
		return err
	}
	who = &caller{account: who.account, roles: rolesIn(p.before)}
	reach, err := c.reach(ctx, who, p.before)
	if err != nil {
		return err
	}
	var next []provisioning.Object
	var gone []provisioning.Key
	for _, t := range p.touched {
		switch {
		case t.effect == client.Unchanged && !t.values:
		case t.after != nil:
			next = append(next, *t.after)
		default:
			gone = append(gone, t.key)
		}
	}
	return reach.AllowedChange(who.account, who.roles, next, gone)
}

// mayOrder fails with CodeForbidden where the caller may give no orders about one of the computers.
func (c *Central) mayOrder(ctx context.Context, catalog provisioning.Catalog, computers []string) error {
	who := callerOf(ctx)
	if who == nil || who.account == provisioning.AccountAdmin {
		return nil
	}
	reach, err := c.reach(ctx, who, catalog)
	if err != nil {
		return err
	}
	for _, n := range computers {
		o, ok := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: n}]
		if !ok {
			continue // whoever asks is told so
		}
		if err := c.allow(ctx, provisioning.ActionOrder, reach.Target(provisioning.ActionOrder, o)); err != nil {
			return err
		}
	}
	return nil
}
