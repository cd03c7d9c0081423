package provisioning

import (
	"slices"
	"strings"
	"testing"
)

func role(name string, rights Rights, account string, sites, collections []string) Role {
	return Role{Name: name, Spec: RoleSpec{Rights: rights, Accounts: []string{account}, Sites: sites, Collections: collections}}
}

var rightsRoles = []Role{
	role("boss", RightsAdministrator, "root", nil, nil),
	role("helpdesk", RightsOperator, "op", nil, nil),
	role("audit", RightsViewer, "eye", nil, nil),
	role("london-admins", RightsAdministrator, "lon-admin", []string{"LON"}, nil),
	role("london", RightsOperator, "lon-op", []string{"LON"}, nil),
	role("two", RightsOperator, "two-op", []string{"LON"}, nil),
	role("two-more", RightsOperator, "two-op", []string{"PAR"}, nil),
	role("look-wide", RightsViewer, "mixed", nil, nil),
	role("act-narrow", RightsOperator, "mixed", []string{"LON"}, nil),
	role("lab", RightsOperator, "lab-op", nil, []string{"lab"}),
	role("london-view", RightsViewer, "lon-eye", []string{"LON"}, nil),
	{Name: "nobody", Spec: RoleSpec{Rights: RightsAdministrator, Accounts: []string{""}}},
}

func TestAllowed(t *testing.T) {
	lon, par, lab := Scope{Site: "LON"}, Scope{Site: "PAR"}, Scope{Site: "PAR", Collections: []string{"all", "lab"}}
	computer := func(at ...Scope) Target { return Target{Kind: KindComputer, Name: "pc", Scopes: at} }
	sequence := Target{Kind: KindTaskSequence, Name: "install", Shared: true}
	site := AtSite("LON")
	for _, c := range []struct {
		account string
		action  Action
		target  Target
		allowed bool
	}{
		{AccountAdmin, ActionAdminister, Everywhere("accounts"), true},
		{AccountAdmin, ActionChange, Target{Kind: KindRole}, true},
		{"root", ActionAdminister, Everywhere("accounts"), true},
		{"root", ActionChange, Target{Kind: KindRole}, true},
		{"root", ActionChange, sequence, true},
		{"root", ActionEnrol, AtSite("PAR"), true},
		{"nobody", ActionRead, sequence, false},
		{"", ActionRead, sequence, false},

		{"op", ActionRead, computer(par), true},
		{"op", ActionChange, computer(par), true},
		{"op", ActionChange, computer(), true},
		{"op", ActionChange, sequence, false},
		{"op", ActionChange, site, false},
		{"op", ActionChange, Target{Kind: KindRole}, false},
		{"op", ActionOrder, computer(lon), true},
		{"op", ActionEnrol, site, false},
		{"op", ActionAdminister, Everywhere("accounts"), false},

		{"eye", ActionRead, computer(par), true},
		{"eye", ActionRead, Target{Kind: KindRole}, true},
		{"eye", ActionChange, computer(par), false},
		{"eye", ActionOrder, computer(par), false},

		{"lon-admin", ActionChange, site, true},
		{"lon-admin", ActionChange, AtSite("PAR"), false},
		{"lon-admin", ActionEnrol, site, true},
		{"lon-admin", ActionEnrol, AtSite("PAR"), false},
		{"lon-admin", ActionChange, sequence, false},
		{"lon-admin", ActionChange, Target{Kind: KindRole}, false},
		{"lon-admin", ActionRead, Target{Kind: KindRole, Shared: true}, false},
		{"lon-admin", ActionAdminister, Everywhere("accounts"), false},
		{"lon-admin", ActionAdminister, site, false},

		{"lon-op", ActionRead, computer(lon), true},
		{"lon-op", ActionRead, computer(par), false},
		{"lon-op", ActionRead, sequence, true},
		{"lon-op", ActionRead, site, true},
		{"lon-op", ActionChange, computer(lon), true},
		{"lon-op", ActionChange, computer(lon, par), false},
		{"lon-op", ActionRead, computer(lon, par), true},
		{"lon-op", ActionChange, computer(Scope{}), false},
		{"lon-op", ActionChange, computer(), false},
		{"lon-op", ActionRead, computer(), false},

		{"two-op", ActionChange, computer(lon, par), true},
		{"two-op", ActionChange, computer(lon, Scope{Site: "ROM"}), false},

		{"mixed", ActionRead, computer(par), true},
		{"mixed", ActionChange, computer(par), false},
		{"mixed", ActionChange, computer(lon), true},

		{"lab-op", ActionChange, computer(lab), true},
		{"lab-op", ActionChange, computer(par), false},
		{"lab-op", ActionOrder, computer(lab), true},
		{"lab-op", ActionChange, computer(lab, lon), false},

		{"lon-eye", ActionRead, computer(lon), true},
		{"lon-eye", ActionChange, computer(lon), false},
	} {
		if why := Allowed(c.account, rightsRoles, c.action, c.target); (why == "") != c.allowed {
			t.Errorf("%s, %s %s at %v: %q", c.account, c.action, c.target.Kind, c.target.Scopes, why)
		}
	}
	if why := Allowed("lon-op", rightsRoles, ActionChange, computer(par)); !strings.Contains(why, "london: operator for sites LON") {
		t.Errorf("it says %q", why)
	}
}

// direct is membership by the documents' lists, and of "byname" by the name.
func direct(c Catalog) Member {
	return func(collection string, x *Computer) bool {
		if collection == "byname" {
			return strings.HasPrefix(x.Name, "lab-")
		}
		o, ok := c[Key{KindCollection, collection}]
		return ok && slices.Contains(o.Collection.Spec.Computers, x.Name)
	}
}

func computerAt(name, site string) Object {
	return Object{Kind: KindComputer, Name: name, Computer: &Computer{Name: name, Spec: ComputerSpec{Site: site}}}
}

func collectionOf(name, query string, computers ...string) Object {
	return Object{Kind: KindCollection, Name: name, Collection: &Collection{Name: name, Spec: CollectionSpec{Query: query, Computers: computers}}}
}

func advertisementTo(collection string, computers ...string) Object {
	return Object{Kind: KindAdvertisement, Name: "ad", Advertisement: &Advertisement{Name: "ad", Spec: AdvertisementSpec{Collection: collection, Computers: computers}}}
}

func TestAllowedChange(t *testing.T) {
	c := Catalog{}
	for _, o := range []Object{
		computerAt("l1", "LON"), computerAt("l2", "LON"), computerAt("p1", "PAR"), computerAt("any", ""), computerAt("lab-1", "PAR"),
		collectionOf("lab", "", "p1"), collectionOf("london-pcs", "", "l1", "l2"), collectionOf("both", "", "l1", "p1"), collectionOf("byname", "true"),
		collectionOf("empty", ""),
		{Kind: KindRole, Name: "r", Role: &Role{Name: "r"}},
		{Kind: KindTaskSequence, Name: "s", TaskSequence: &TaskSequence{Name: "s"}},
	} {
		c[o.Key()] = o
	}
	roles := append(slices.Clone(rightsRoles), role("names", RightsOperator, "names-op", nil, []string{"byname"}))
	for name, x := range map[string]struct {
		account string
		next    []Object
		gone    []Key
		allowed bool
	}{
		"a computer of their site":                      {"lon-op", []Object{computerAt("l1", "LON")}, nil, true},
		"a new computer of their site":                  {"lon-op", []Object{computerAt("new", "LON")}, nil, true},
		"one that moves away":                           {"lon-op", []Object{computerAt("l1", "PAR")}, nil, false},
		"one that they take":                            {"lon-op", []Object{computerAt("p1", "LON")}, nil, false},
		"one that they make everybody's":                {"lon-op", []Object{computerAt("l1", "")}, nil, false},
		"everybody's computer":                          {"lon-op", []Object{computerAt("any", "LON")}, nil, false},
		"one of two that is not theirs":                 {"lon-op", []Object{computerAt("l1", "LON"), computerAt("p1", "PAR")}, nil, false},
		"a move between both of their sites":            {"two-op", []Object{computerAt("l1", "PAR")}, nil, true},
		"deleting theirs":                               {"lon-op", nil, []Key{{KindComputer, "l1"}}, true},
		"deleting another site's":                       {"lon-op", nil, []Key{{KindComputer, "p1"}}, false},
		"deleting what is not there":                    {"lon-op", nil, []Key{{KindComputer, "none"}}, true},
		"a collection of theirs":                        {"lon-op", []Object{collectionOf("mine", "", "l1")}, nil, true},
		"a collection with another's":                   {"lon-op", []Object{collectionOf("mine", "", "l1", "p1")}, nil, false},
		"a collection with a query":                     {"lon-op", []Object{collectionOf("mine", "true", "l1")}, nil, false},
		"an empty collection":                           {"lon-op", []Object{collectionOf("mine", "")}, nil, false},
		"taking another's computer out of a collection": {"lon-op", []Object{collectionOf("both", "", "l1")}, nil, false},
		"an advertisement to theirs":                    {"lon-op", []Object{advertisementTo("", "l1", "l2")}, nil, true},
		"an advertisement to another's":                 {"lon-op", []Object{advertisementTo("", "l1", "p1")}, nil, false},
		"an advertisement to their collection":          {"lon-op", []Object{advertisementTo("london-pcs")}, nil, true},
		"an advertisement to a mixed collection":        {"lon-op", []Object{advertisementTo("both")}, nil, false},
		"an advertisement to a query":                   {"lon-op", []Object{advertisementTo("byname")}, nil, false},
		"an advertisement to nobody yet":                {"lon-op", []Object{advertisementTo("empty")}, nil, false},
		"an advertisement to all systems":               {"lon-op", []Object{advertisementTo(AllSystems)}, nil, false},
		"an advertisement to unknown computers":         {"lon-op", []Object{advertisementTo(AllUnknownComputers)}, nil, false},
		"a sequence":                                    {"lon-admin", []Object{c[Key{KindTaskSequence, "s"}]}, nil, false},
		"a role":                                        {"lon-admin", []Object{c[Key{KindRole, "r"}]}, nil, false},
		"deleting a role":                               {"lon-admin", nil, []Key{{KindRole, "r"}}, false},
		"a member of their collection":                  {"lab-op", []Object{computerAt("p1", "PAR")}, nil, true},
		"somebody who is no member":                     {"lab-op", []Object{computerAt("l1", "LON")}, nil, false},
		"their collection as it is":                     {"lab-op", []Object{collectionOf("lab", "", "p1")}, nil, true},
		"their collection, widened":                     {"lab-op", []Object{collectionOf("lab", "", "p1", "l1")}, nil, false},
		"their collection, widened by a query":          {"lab-op", []Object{collectionOf("lab", "true", "p1")}, nil, false},
		"an advertisement to the collection":            {"lab-op", []Object{advertisementTo("lab")}, nil, true},
		"a member by query":                             {"names-op", []Object{computerAt("lab-1", "PAR")}, nil, true},
		"a new member by query":                         {"names-op", []Object{computerAt("lab-2", "PAR")}, nil, true},
		"an advertisement to the query":                 {"names-op", []Object{advertisementTo("byname")}, nil, true},
		"the query itself":                              {"names-op", []Object{collectionOf("byname", "computer.site == 'LON'")}, nil, false},
		"the administrator":                             {AccountAdmin, []Object{c[Key{KindRole, "r"}]}, []Key{{KindRole, "r"}}, true},
	} {
		err := c.Reach(Limits(x.account, roles), direct(c)).AllowedChange(x.account, roles, x.next, x.gone)
		if (err == nil) != x.allowed || err != nil && CodeOf(err) != CodeForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}
