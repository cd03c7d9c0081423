package provisioning

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Facts are what a snapshot says beside the documents. Whoever resolves supplies them; all but Content may be missing.
type Facts struct {
	// Content gives a package's version, 0 the newest.
	Content func(pkg string, version int) (ContentRef, error)
	// Changed gives the number of the change that made or last changed a document; nil leaves it out.
	Changed func(Key) uint64
	// Inventories are what is known of computers' hardware, by name; those of the site's computers are taken.
	Inventories map[string]Inventory
	// Clears are people's orders that still stand, in any order; those for computers of other sites are left out. Aged are
	// older ones, which branches are told of no more: what they have cleared at other sites stays cleared.
	Clears, Aged []Clear
	// Approvals are those for the site, in any order.
	Approvals []Approval
	// Runs are those of all sites that have begun to erase, or have ended, in any order.
	Runs []SiteRun
	// Hosts are those that have told what they are, in any order.
	Hosts []Host
}

// Resolve makes the part of a snapshot that the configuration and the facts decide for one site; its numbers and its
// time are left zero. It holds:
//   - the site's computers: those of the site, and those of no site; where the site supports unknown computers, what those
//     of other sites are recognised by, too;
//   - the advertisements that can concern a computer of the site, or, where the site supports unknown computers, one that
//     nobody knows yet; of computers that they list, the site's;
//   - the collections that these advertisements are for, or that can give the site's computers variables. Who belongs to a
//     query is decided where the snapshot is used: a collection with a query can concern every site. The built-in ones have
//     no document;
//   - what has run at other sites and must not run here again;
//   - the machines that appliances and central run on, of all sites;
//   - of the secrets of these computers, collections and sequences, those that the sequences refer to, as they are stored;
//   - the sequences of these advertisements with their boot images, their operating system images, and the content.
//
// Everything is sorted, by name and orders by number, so that the same input gives the same bytes. The snapshot shares
// memory with the catalog: neither is to be changed afterwards.
func (c Catalog) Resolve(site string, facts Facts) (*Snapshot, error) {
	so, ok := c[Key{KindSite, site}]
	if !ok {
		return nil, Errorf(CodeNotFound, "Describe it in a document of kind Site and apply it.", "there is no site %q", clip(site))
	}
	r := resolver{catalog: c, facts: facts, snapshot: &Snapshot{Site: *so.Site}, mine: map[string]bool{}}
	r.unknown = so.Site.Spec.PXE != nil && so.Site.Spec.PXE.UnknownComputers != nil
	r.computers()
	r.snapshot.Infrastructure = c.Infrastructure(facts.Hosts)
	collections := r.advertisements()
	r.collections(collections)
	images, err := r.sequences()
	if err != nil {
		return nil, err
	}
	if err := r.images(images); err != nil {
		return nil, err
	}
	r.orders()
	r.runs()
	r.snapshot.onlySecrets()
	return r.snapshot, nil
}

// resolver makes one site's snapshot.
type resolver struct {
	catalog  Catalog
	facts    Facts
	snapshot *Snapshot
	// mine are the names of the site's computers; unknown says that the site supports unknown ones.
	mine    map[string]bool
	unknown bool
}

func (r *resolver) computers() {
	s := r.snapshot
	for _, o := range r.catalog {
		if o.Computer == nil {
			continue
		}
		if o.Computer.Spec.Site != "" && o.Computer.Spec.Site != s.Site.Name {
			if spec := o.Computer.Spec; r.unknown {
				s.Elsewhere = append(s.Elsewhere, Computer{Name: o.Name, Spec: ComputerSpec{
					Site: spec.Site, MACAddresses: spec.MACAddresses, SMBIOSGUID: spec.SMBIOSGUID, Infrastructure: spec.Infrastructure,
				}})
			}
			continue
		}
		r.mine[o.Name] = true
		s.Computers = append(s.Computers, *o.Computer)
		if inv, ok := r.facts.Inventories[o.Name]; ok {
			if s.Inventories == nil {
				s.Inventories = map[string]Inventory{}
			}
			s.Inventories[o.Name] = inv
		}
	}
	slices.SortFunc(s.Computers, func(a, b Computer) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Elsewhere, func(a, b Computer) int { return cmp.Compare(a.Name, b.Name) })
}

// own returns those of names that are the site's computers, in their order.
func (r *resolver) own(names []string) []string {
	if !slices.ContainsFunc(names, func(n string) bool { return !r.mine[n] }) {
		return names
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !r.mine[n] })
}

// advertisements takes those that can concern the site, and returns the names of the collections that they are for.
func (r *resolver) advertisements() map[string]bool {
	s, collections := r.snapshot, map[string]bool{}
	for k, o := range r.catalog {
		if o.Advertisement == nil {
			continue
		}
		a := *o.Advertisement
		if a.Spec.Collection == "" {
			a.Spec.Computers = r.own(a.Spec.Computers)
			if len(a.Spec.Computers) == 0 {
				continue
			}
		} else if !r.concerns(a.Spec.Collection) {
			continue
		}
		if a.Spec.Collection != "" {
			collections[a.Spec.Collection] = true
		}
		if r.facts.Changed != nil {
			a.Changed = r.facts.Changed(k)
		}
		s.Advertisements = append(s.Advertisements, a)
	}
	slices.SortFunc(s.Advertisements, func(a, b Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	return collections
}

// concerns reports whether a computer of the site can belong to a collection, now or once it is known.
func (r *resolver) concerns(collection string) bool {
	switch collection {
	case AllSystems:
		return len(r.mine) > 0 || r.unknown
	case AllUnknownComputers:
		return r.unknown
	}
	o, ok := r.catalog[Key{KindCollection, collection}]
	if !ok {
		return false
	}
	if o.Collection.Spec.Query != "" {
		return len(r.mine) > 0 || r.unknown
	}
	return slices.ContainsFunc(o.Collection.Spec.Computers, func(n string) bool { return r.mine[n] })
}

// collections takes those that are wanted, and those that can give the site's computers variables.
func (r *resolver) collections(wanted map[string]bool) {
	s := r.snapshot
	for _, o := range r.catalog {
		if o.Collection == nil || !wanted[o.Name] && (len(o.Collection.Spec.Variables)+len(o.Collection.Spec.Secrets) == 0 || !r.concerns(o.Name)) {
			continue
		}
		c := *o.Collection
		c.Spec.Computers = r.own(c.Spec.Computers)
		s.Collections = append(s.Collections, c)
	}
	slices.SortFunc(s.Collections, func(a, b Collection) int { return cmp.Compare(a.Name, b.Name) })
}

// sequences takes those of the advertisements with their boot images, and returns the names of the images they apply.
func (r *resolver) sequences() ([]string, error) {
	s := r.snapshot
	names, boots, images := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, a := range s.Advertisements {
		names[a.Spec.TaskSequence] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		o, ok := r.catalog[Key{KindTaskSequence, name}]
		if !ok {
			return nil, missing(KindTaskSequence, name)
		}
		s.TaskSequences = append(s.TaskSequences, *o.TaskSequence)
		if b := o.TaskSequence.Spec.BootImage; b != "" {
			boots[b] = true
		}
		for _, st := range o.TaskSequence.Spec.Steps {
			if st.ApplyOperatingSystemImage != nil {
				images[st.ApplyOperatingSystemImage.Image] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(boots)) {
		o, ok := r.catalog[Key{KindBootImage, name}]
		if !ok {
			return nil, missing(KindBootImage, name)
		}
		s.BootImages = append(s.BootImages, *o.BootImage)
	}
	return slices.Sorted(maps.Keys(images)), nil
}

// images takes operating system images and the content behind them, each once.
func (r *resolver) images(names []string) error {
	s := r.snapshot
	seen := map[ContentRef]bool{}
	for _, name := range names {
		o, ok := r.catalog[Key{KindOperatingSystemImage, name}]
		if !ok {
			return missing(KindOperatingSystemImage, name)
		}
		im := *o.OperatingSystemImage
		ref, err := r.facts.Content(im.Spec.Package, im.Spec.Version)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		im.Spec.Version = ref.Version // the snapshot says which one "newest" is
		s.Images = append(s.Images, im)
		if !seen[ref] {
			seen[ref] = true
			s.Content = append(s.Content, ref)
		}
	}
	slices.SortFunc(s.Content, func(a, b ContentRef) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version))
	})
	return nil
}

// orders takes people's orders. One for a computer without a document is taken too: the branch may know the computer
// already, where it has deployed an unknown one.
func (r *resolver) orders() {
	s := r.snapshot
	for _, c := range r.facts.Clears {
		if _, known := r.catalog[Key{KindComputer, c.Computer}]; !known || r.mine[c.Computer] {
			s.Clears = append(s.Clears, c)
		}
	}
	s.Approvals = slices.Clone(r.facts.Approvals)
	slices.SortFunc(s.Clears, func(a, b Clear) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(s.Approvals, func(a, b Approval) int { return cmp.Compare(a.Number, b.Number) })
}

// runs takes what has run at other sites: on the site's computers, under whatever name, and, where it supports unknown ones, on
// machines that no record names any more.
func (r *resolver) runs() {
	s, owners := r.snapshot, map[string]string{}
	if len(r.facts.Runs) == 0 {
		return
	}
	for i := range s.Computers {
		for _, id := range Identities(&s.Computers[i]) {
			owners[id] = s.Computers[i].Name
		}
	}
	orders := map[string][]*Clear{}
	for _, list := range [][]Clear{r.facts.Clears, r.facts.Aged} {
		for i := range list {
			orders[list[i].Computer] = append(orders[list[i].Computer], &list[i])
		}
	}
	for _, x := range r.facts.Runs {
		if x.Site == s.Site.Name {
			continue
		}
		run, mine := x.Run, false
		covers := func(c *Clear) bool { return c.Covers(&run) }
		run.Cleared = run.Cleared || slices.ContainsFunc(orders[run.Computer], covers)
		for _, id := range Identities(&Computer{Name: run.Computer, Spec: ComputerSpec{MACAddresses: []MAC{run.Machine.MAC}, SMBIOSGUID: run.Machine.GUID}}) {
			owner, ok := owners[id]
			mine = mine || ok
			run.Cleared = run.Cleared || ok && slices.ContainsFunc(orders[owner], covers)
		}
		_, described := r.catalog[Key{KindComputer, run.Computer}]
		if mine || !described && r.unknown && run.Machine != (Machine{}) {
			s.Deployed = append(s.Deployed, run)
		}
	}
	slices.SortFunc(s.Deployed, func(a, b Run) int { return cmp.Compare(a.ID, b.ID) })
}

// missing is the error of a snapshot that cannot be made. Check keeps it from happening.
func missing(kind Kind, name string) error {
	return Errorf(CodeConflict, "", "there is no %s %q", kind, clip(name))
}
