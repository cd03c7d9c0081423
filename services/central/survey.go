package central

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
	"branchpoint/provisioning/policy"
)

// survey is what central knows of computers and of what has run on them. It holds a few hundred bytes for each computer, and
// fewer for each run.
type survey struct {
	catalog     provisioning.Catalog
	inventories map[string]provisioning.Inventory
	// computers are those of the catalog, by name.
	computers []*surveyed
	byName    map[string]*surveyed
	byMAC     map[provisioning.MAC]*surveyed
	// hosts are the machines that appliances and central run on.
	hosts provisioning.Hosts
	// strangers are computers of runs that the catalog has no more, by name.
	strangers map[string]*surveyed
	// readable says whether the caller may read a document, and atSite whether of a site.
	readable func(provisioning.Key) bool
	atSite   func(site string) bool
}

// surveyed is a computer with what has run on it.
type surveyed struct {
	name string
	// computer is nil where the catalog has it no more.
	computer *provisioning.Computer
	visible  bool
	// infrastructure says that it is never a target.
	infrastructure bool
	// provisioned says that a task sequence that erases a disk has succeeded, whether that was cleared since or not; last is
	// the newest run.
	provisioned bool
	last        *provisioning.RunRecord
	// newest are, of each advertisement that was asked for, the newest run that no order has cleared.
	newest map[string]*provisioning.RunRecord
	// ran are the runs as queries see them.
	ran []provisioning.Run
}

// survey looks at every computer and every run, and remembers the runs of advertisements that wanted names.
func (c *Central) survey(ctx context.Context, wanted func(advertisement string) bool) (*survey, error) {
	docs, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	s := &survey{byName: map[string]*surveyed{}, byMAC: map[provisioning.MAC]*surveyed{}, strangers: map[string]*surveyed{}}
	if s.catalog, err = c.decoded.catalog(docs); err != nil {
		return nil, err
	}
	if s.inventories, err = c.cfg.Store.Inventories(ctx); err != nil {
		return nil, err
	}
	if s.readable, err = c.readable(ctx, docs); err != nil {
		return nil, err
	}
	told, err := c.hosts(ctx)
	if err != nil {
		return nil, err
	}
	s.hosts = provisioning.NewHosts(s.catalog.Infrastructure(told))
	sites := map[string]bool{}
	s.atSite = func(site string) bool {
		may, ok := sites[site]
		if !ok {
			may = c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(site)) == nil
			sites[site] = may
		}
		return may
	}
	for k, o := range s.catalog {
		if o.Computer == nil {
			continue
		}
		x := &surveyed{name: o.Name, computer: o.Computer, visible: s.readable(k), infrastructure: o.Computer.Spec.Infrastructure || s.hosts.Of(o.Computer) != nil}
		s.computers, s.byName[o.Name] = append(s.computers, x), x
		for _, m := range o.Computer.Spec.MACAddresses {
			s.byMAC[m] = x
		}
	}
	slices.SortFunc(s.computers, func(a, b *surveyed) int { return cmp.Compare(a.name, b.name) })
	given, err := c.cfg.Store.Orders(ctx)
	if err != nil {
		return nil, err
	}
	stand := standing(given, c.cfg.Now())
	clearing := newClearing(slices.Concat(stand.aged, stand.clears), func(name string) *provisioning.Computer {
		if x := s.byName[name]; x != nil {
			return x.computer
		}
		return nil
	})
	err = c.cfg.Store.EachRun(ctx, provisioning.RunFilter{}, func(r provisioning.RunRecord) error {
		r.Run.Cleared = clearing.clears(&r.Run)
		s.take(&r, wanted(r.Run.Advertisement))
		return nil
	})
	return s, err
}

// take takes a run in.
func (s *survey) take(r *provisioning.RunRecord, wanted bool) {
	x := s.owner(&r.Run)
	if x.computer == nil && !s.atSite(r.Site) {
		return
	}
	// A computer that is limited to no site is seen by whoever may read of a site where something ran on it.
	if x.computer == nil || x.computer.Spec.Site == "" {
		x.visible = x.visible || s.atSite(r.Site)
	}
	x.provisioned = x.provisioned || r.Run.Spent && r.Run.State == provisioning.RunSucceeded
	if x.last == nil || newerRun(&r.Run, &x.last.Run) {
		x.last = r
	}
	if r.Run.Cleared {
		return
	}
	if x.computer != nil && r.Run.Computer == x.name {
		x.ran = append(x.ran, r.Run)
	}
	if old := x.newest[r.Run.Advertisement]; wanted && (old == nil || newerRun(&r.Run, &old.Run)) {
		if x.newest == nil {
			x.newest = map[string]*provisioning.RunRecord{}
		}
		x.newest[r.Run.Advertisement] = r
	}
}

// owner is whose a run was: the computer's of its name, else of that with its MAC address, which was renamed since.
func (s *survey) owner(r *provisioning.Run) *surveyed {
	if x := s.byName[r.Computer]; x != nil {
		return x
	}
	if x := s.byMAC[r.Machine.MAC]; x != nil && policy.RunOf(r, x.computer) {
		return x
	}
	x := s.strangers[r.Computer]
	if x == nil {
		x = &surveyed{name: r.Computer}
		s.strangers[r.Computer] = x
	}
	return x
}

func newerRun(a, b *provisioning.Run) bool {
	return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID)) > 0
}

// subject is a computer as queries see it.
func (s *survey) subject(x *surveyed) *collection.Subject {
	var inventory *provisioning.Inventory
	if v, ok := s.inventories[x.name]; ok {
		inventory = &v
	}
	provisioning.SortRuns(x.ran)
	return collection.NewSubject(x.computer, inventory, collection.Deployments(x.ran, x.name))
}

// subjects are the computers that the caller may see, by name, as queries see them.
func (s *survey) subjects() iter.Seq[*collection.Subject] {
	return func(yield func(*collection.Subject) bool) {
		for _, x := range s.computers {
			if x.visible && !yield(s.subject(x)) {
				return
			}
		}
	}
}

// readable returns what tells which of the documents in force the caller may read.
func (c *Central) readable(ctx context.Context, docs []provisioning.Document) (func(provisioning.Key) bool, error) {
	sees, err := c.sees(ctx)
	if err != nil {
		return nil, err
	}
	byKey := make(map[provisioning.Key]*provisioning.Document, len(docs))
	for i := range docs {
		byKey[docs[i].Key()] = &docs[i]
	}
	return func(k provisioning.Key) bool { return byKey[k] != nil && sees(byKey[k]) }, nil
}
