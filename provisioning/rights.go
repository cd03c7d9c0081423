package provisioning

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what somebody wants to do.
type Action string

// The actions that rights are asked for.
const (
	// ActionRead looks at something.
	ActionRead Action = "read"
	// ActionChange applies, deletes or rolls back a document.
	ActionChange Action = "change"
	// ActionOrder gives branches an order: clear, approve, resolve a conflict.
	ActionOrder Action = "order"
	// ActionEnrol makes and revokes enrolment tokens, approves enrolments and revokes sites' certificates.
	ActionEnrol Action = "enrol"
	// ActionAdminister manages accounts and the root key, adds content, and reads central's metrics. It has no limits.
	ActionAdminister Action = "administer"
)

// operatorKinds are the documents that operators apply.
var operatorKinds = []Kind{KindComputer, KindCollection, KindAdvertisement, KindComputerAssociation}

// Allows reports whether the rights include the action on a document of that kind, limits aside; the kind is empty where
// it is about no document.
func (r Rights) Allows(action Action, kind Kind) bool {
	switch r {
	case RightsAdministrator:
		return true
	case RightsOperator:
		return action == ActionRead || action == ActionOrder || action == ActionChange && slices.Contains(operatorKinds, kind)
	case RightsViewer:
		return action == ActionRead
	}
	return false
}

// Scope is a part of the organisation: a role whose limits name the site, or one of the collections, holds there. The zero
// Scope is beyond every limit.
type Scope struct {
	Site        string
	Collections []string
}

// Target is what an action is about.
type Target struct {
	// Kind is the document's, empty where it is about none; Name is for messages.
	Kind Kind
	Name string
	// Shared says that every role may read it, whatever its limits: what all sites use, such as task sequences.
	Shared bool
	// Scopes are where it has effect. Whoever changes it must have the right in each; whoever reads it, in one.
	Scopes []Scope
}

func (t Target) String() string { return strings.TrimSpace(string(t.Kind) + " " + t.Name) }

// Everywhere is a target that only roles without limits reach.
func Everywhere(name string) Target { return Target{Name: name} }

// AtSite is a target that is a site's own.
func AtSite(site string) Target {
	return Target{Kind: KindSite, Name: site, Scopes: []Scope{{Site: site}}}
}

// unlimited reports whether the role holds everywhere.
func (s *RoleSpec) unlimited() bool { return len(s.Sites) == 0 && len(s.Collections) == 0 }

// covers reports whether the role holds in a scope.
func (s *RoleSpec) covers(at Scope) bool {
	return s.unlimited() || at.Site != "" && slices.Contains(s.Sites, at.Site) ||
		slices.ContainsFunc(at.Collections, func(c string) bool { return c != "" && slices.Contains(s.Collections, c) })
}

// Allowed decides whether an account may do something by its roles, and says why not: "" is yes.
func Allowed(account string, roles []Role, action Action, t Target) string {
	if account == AccountAdmin {
		return ""
	}
	mine := rolesOf(account, roles)
	if len(mine) == 0 {
		return fmt.Sprintf("account %s has no role", clip(account))
	}
	able := slices.DeleteFunc(slices.Clone(mine), func(r Role) bool { return !r.Spec.Rights.Allows(action, t.Kind) })
	if len(able) == 0 {
		return fmt.Sprintf("the roles of account %s (%s) do not allow to %s %s", clip(account), describeRoles(mine), action, clip(orThis(t.String())))
	}
	if slices.ContainsFunc(able, func(r Role) bool { return r.Spec.unlimited() }) {
		return ""
	}
	held := func(at Scope) bool { return slices.ContainsFunc(able, func(r Role) bool { return r.Spec.covers(at) }) }
	limited := fmt.Sprintf("%s is beyond the limits of account %s (%s)", clip(orThis(t.String())), clip(account), describeRoles(able))
	switch {
	case action == ActionAdminister || t.Kind == KindRole:
		return limited
	case action == ActionRead:
		if t.Shared || slices.ContainsFunc(t.Scopes, held) {
			return ""
		}
		return limited
	case len(t.Scopes) == 0:
		return limited
	}
	for _, at := range t.Scopes {
		if !held(at) {
			return limited
		}
	}
	return ""
}

// Unlimited reports whether one of an account's roles has the action's right without limits.
func Unlimited(account string, roles []Role, action Action) bool {
	return Allowed(account, roles, action, Target{Kind: KindComputer}) == ""
}

func orThis(s string) string {
	if s == "" {
		return "this"
	}
	return s
}

func rolesOf(account string, roles []Role) []Role {
	var out []Role
	for _, r := range roles {
		if account != "" && slices.Contains(r.Spec.Accounts, account) {
			out = append(out, r)
		}
	}
	return out
}

// describeRoles says "helpdesk: operator for sites LON and PAR; …".
func describeRoles(roles []Role) string {
	parts := make([]string, len(roles))
	for i, r := range roles {
		parts[i] = r.Name + ": " + string(r.Spec.Rights)
		var limits []string
		if len(r.Spec.Sites) > 0 {
			limits = append(limits, "sites "+strings.Join(r.Spec.Sites, ", "))
		}
		if len(r.Spec.Collections) > 0 {
			limits = append(limits, "collections "+strings.Join(r.Spec.Collections, ", "))
		}
		if len(limits) > 0 {
			parts[i] += " for " + strings.Join(limits, " and ")
		}
	}
	return strings.Join(parts, "; ")
}

// Member reports whether a computer belongs to a collection.
type Member func(collection string, c *Computer) bool

// Reach says where documents have effect.
type Reach struct {
	catalog     Catalog
	collections []string
	member      Member
}

// Reach prepares for questions about where documents have effect. Of collections only those with the given names are looked
// at: those that limits name.
func (c Catalog) Reach(collections []string, member Member) *Reach {
	r := &Reach{catalog: c, member: member}
	for _, n := range collections {
		if _, ok := c[Key{KindCollection, n}]; ok {
			r.collections = append(r.collections, n)
		}
	}
	return r
}

// Limits returns the names of the collections that an account's roles are limited to, each once, sorted.
func Limits(account string, roles []Role) []string {
	var out []string
	for _, r := range rolesOf(account, roles) {
		out = append(out, r.Spec.Collections...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Target says where a document has effect, by the catalog in force and its memberships: what a change would make true does
// not count, so that nobody widens their own limits.
func (r *Reach) Target(action Action, o Object) Target {
	t := Target{Kind: o.Kind, Name: o.Name}
	switch {
	case o.Site != nil:
		t.Scopes = []Scope{{Site: o.Name}}
	case o.Computer != nil:
		t.Scopes = []Scope{r.computerScope(o.Computer)}
	case o.Collection != nil:
		t.Scopes = r.collectionScopes(o.Collection)
		if action == ActionRead {
			t.Scopes = append(t.Scopes, Scope{Collections: []string{o.Name}})
		}
	case o.Advertisement != nil:
		t.Scopes = r.advertisementScopes(&o.Advertisement.Spec)
	case o.ComputerAssociation != nil:
		t.Scopes = []Scope{
			r.namedScope(o.ComputerAssociation.Spec.Source), r.namedScope(o.ComputerAssociation.Spec.Destination),
		}
	default:
		t.Shared = o.Kind != KindRole
	}
	return t
}

// computerScope is where a computer belongs: its site, and the collections that it is a member of as the catalog knows it.
func (r *Reach) computerScope(computer *Computer) Scope {
	at := Scope{Site: computer.Spec.Site}
	known, ok := r.catalog[Key{KindComputer, computer.Name}]
	for _, n := range r.collections {
		// A computer that is new, or that changes, belongs to what lists it; a query may fit it both before and after.
		if r.member(n, computer) && (!ok || r.member(n, known.Computer)) {
			at.Collections = append(at.Collections, n)
		}
	}
	return at
}

func (r *Reach) namedScope(computer string) Scope {
	if o, ok := r.catalog[Key{KindComputer, computer}]; ok {
		return r.computerScope(o.Computer)
	}
	return Scope{}
}

// collectionScopes are where changing a collection has effect: at each of its direct members; a query may fit anything.
func (r *Reach) collectionScopes(collection *Collection) []Scope {
	var out []Scope
	for _, n := range collection.Spec.Computers {
		out = append(out, r.namedScope(n))
	}
	if collection.Spec.Query != "" {
		out = append(out, Scope{})
	}
	return out
}

// advertisementScopes are where an advertisement has effect: at each computer that it names, and in its collection. One
// without a query is as far as its members reach, so that who is limited to their site may advertise to it.
func (r *Reach) advertisementScopes(spec *AdvertisementSpec) []Scope {
	var out []Scope
	for _, n := range spec.Computers {
		out = append(out, r.namedScope(n))
	}
	if spec.Collection == "" {
		return out
	}
	o, ok := r.catalog[Key{KindCollection, spec.Collection}]
	if !ok || o.Collection.Spec.Query != "" || len(o.Collection.Spec.Computers) == 0 {
		return append(out, Scope{Collections: []string{spec.Collection}})
	}
	for _, at := range r.collectionScopes(o.Collection) {
		at.Collections = append(at.Collections, spec.Collection)
		out = append(out, at)
	}
	return out
}

// AllowedChange decides whether an account may make a change: what it takes away must be within its rights as much as what
// it puts there. next are the documents to be applied, and gone those to be deleted. It
// fails with CodeForbidden.
func (r *Reach) AllowedChange(account string, roles []Role, next []Object, gone []Key) error {
	if account == AccountAdmin {
		return nil
	}
	check := func(o Object) error {
		if why := Allowed(account, roles, ActionChange, r.Target(ActionChange, o)); why != "" {
			return Errorf(CodeForbidden, "Ask an administrator, or leave it out.", "%s", why)
		}
		return nil
	}
	for _, o := range next {
		if err := check(o); err != nil {
			return err
		}
		gone = append(gone[:len(gone):len(gone)], o.Key())
	}
	for _, k := range gone {
		if o, ok := r.catalog[k]; ok {
			if err := check(o); err != nil {
				return err
			}
		}
	}
	return nil
}
