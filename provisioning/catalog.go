package provisioning

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Key names a configuration document.
type Key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

// Key returns the object's key.
func (o *Object) Key() Key { return Key{o.Kind, o.Name} }

// Catalog is a whole configuration: every document that is in force, by key.
type Catalog map[Key]Object

// NewCatalog gathers objects; a key that stands twice is a problem at its second place.
func NewCatalog(objects []Object) (Catalog, Problems) {
	c := make(Catalog, len(objects))
	var ps Problems
	for _, o := range objects {
		if first, ok := c[o.Key()]; ok {
			ps = append(ps, o.Problem("$.metadata.name", "%s %s is already described in %s", o.Kind, o.Name, first.source.file))
			continue
		}
		c[o.Key()] = o
	}
	return c, ps
}

// Check checks the documents in names against the rest of the catalog, and content by packages (name → newest version):
//   - everything that a document names exists;
//   - no two computers have the same name but for case, or share a MAC address or SMBIOS GUID;
//   - no boundaries of two sites overlap;
//   - no two associations name the same computers;
//   - what an advertisement downloads first is not erased by its own sequence.
//
// Names that the catalog does not have are passed over. Whoever changes documents checks their Dependants too; whoever
// deletes some takes them out of the catalog and checks those that were their Dependants.
func (c Catalog) Check(names []Key, packages map[string]int) Problems {
	var ps Problems
	among := c.compare(names)
	for _, k := range names {
		o, ok := c[k]
		if !ok {
			continue
		}
		o.source = o.source.loaded()
		o.refer(func(path string, kind Kind, name string) {
			if _, ok := c[Key{kind, name}]; !ok {
				ps = append(ps, o.Problem(path, "there is no %s %q; describe it in a document, or correct the name", kind, clip(name)))
			}
		})
		ps = append(ps, checkContent(&o, packages)...)
		switch {
		case o.Site != nil:
			ps = append(ps, among.boundaries(&o)...)
		case o.Computer != nil:
			ps = append(ps, among.identities(&o)...)
		case o.ComputerAssociation != nil:
			ps = append(ps, among.pairs(&o)...)
		case o.Advertisement != nil:
			ps = append(ps, c.checkDownload(&o)...)
		}
	}
	return ps
}

// checkContent checks that the content package that a document names is there.
func checkContent(o *Object, packages map[string]int) Problems {
	content := rules[o.Kind].content
	if content == nil || o.spec() == nil {
		return nil
	}
	name, version := content(o)
	switch newest, ok := packages[name]; {
	case !ok:
		return Problems{o.Problem("$.spec.package", "there is no content package %q; add it first: branchpoint content add %s FILE", clip(name), name)}
	case version > newest:
		return Problems{o.Problem("$.spec.version", "package %s has no version %d; its newest is %d", name, version, newest)}
	}
	return nil
}

// checkDownload refuses what would erase the disk that it was downloaded to. Both partitioning and an operating system
// image do, and which disk content is downloaded to is not known before the sequence runs.
func (c Catalog) checkDownload(o *Object) Problems {
	s := &o.Advertisement.Spec
	seq, ok := c[Key{KindTaskSequence, s.TaskSequence}]
	if !s.DownloadFirst || !ok {
		return nil
	}
	for i := range seq.TaskSequence.Spec.Steps {
		if st := &seq.TaskSequence.Spec.Steps[i]; st.Destructive() {
			return Problems{o.Problem("$.spec.downloadFirst", "step %d (%s) of task sequence %s erases the disk that content would be downloaded to; leave downloadFirst out",
				i+1, st.Title(), s.TaskSequence)}
		}
	}
	return nil
}

// comparison is what the documents of a catalog must not have in common.
type comparison struct {
	// owners maps each MAC address, GUID and lower-case name to the names of the computers that have it, sorted.
	owners map[string][]string
	// subnets are the boundaries of all sites, by address; of equal ones the wider first.
	subnets []subnet
	// associations maps source and destination to the names of the associations of the two, sorted.
	associations map[[2]string][]string
}

// subnet is a boundary of a site.
type subnet struct {
	prefix netip.Prefix
	site   string
}

// compare gathers what is needed to check the documents in names.
func (c Catalog) compare(names []Key) comparison {
	asked := map[Kind]bool{}
	for _, k := range names {
		asked[k.Kind] = true
	}
	var a comparison
	if asked[KindComputer] {
		a.owners = c.owners()
	}
	if asked[KindSite] {
		a.subnets = c.subnets()
	}
	if asked[KindComputerAssociation] {
		a.associations = map[[2]string][]string{}
		for _, o := range c {
			if o.ComputerAssociation != nil {
				pair := pairOf(o.ComputerAssociation)
				a.associations[pair] = append(a.associations[pair], o.Name)
			}
		}
		for _, n := range a.associations {
			slices.Sort(n)
		}
	}
	return a
}

// pairOf is what an association brings together. Names of computers are the same in either case.
func pairOf(a *ComputerAssociation) [2]string {
	return [2]string{strings.ToLower(a.Spec.Source), strings.ToLower(a.Spec.Destination)}
}

func (c Catalog) owners() map[string][]string {
	owners := map[string][]string{}
	for _, o := range c {
		if o.Computer == nil {
			continue
		}
		for _, id := range Identities(o.Computer) {
			owners[id] = append(owners[id], o.Name)
		}
	}
	for _, n := range owners {
		slices.Sort(n)
	}
	return owners
}

// Identities are what no other computer may have: the computer's name in lower case, its MAC addresses and its SMBIOS GUID.
// None can be taken for one of another sort.
func Identities(c *Computer) []string {
	ids := make([]string, 0, 2+len(c.Spec.MACAddresses))
	ids = append(ids, "name "+strings.ToLower(c.Name))
	for _, m := range c.Spec.MACAddresses {
		ids = append(ids, "MAC address "+string(m))
	}
	if c.Spec.SMBIOSGUID != "" {
		ids = append(ids, "SMBIOS GUID "+string(c.Spec.SMBIOSGUID))
	}
	return ids
}

// identities checks that a machine is known by one name.
func (a *comparison) identities(o *Object) Problems {
	var ps Problems
	const names = 1 // what Identities gives before the MAC addresses
	for i, id := range Identities(o.Computer) {
		n := a.owners[id]
		if len(n) < 2 {
			continue
		}
		switch {
		case i < names:
			ps = append(ps, o.Problem("$.metadata.name", "computers %v have the same name: case does not count; a machine must be known by one name", n))
		case i < names+len(o.Computer.Spec.MACAddresses):
			ps = append(ps, o.Problem(item("$.spec.macAddresses", i-names), "%s belongs to more than one computer: %v; a machine must be known by one name", id, n))
		default:
			ps = append(ps, o.Problem("$.spec.smbiosGUID", "%s belongs to more than one computer: %v; a machine must be known by one name", id, n))
		}
	}
	return ps
}

func (a *comparison) pairs(o *Object) Problems {
	if n := a.associations[pairOf(o.ComputerAssociation)]; len(n) > 1 {
		return Problems{o.Problem("$.spec", "associations %v bring the same two computers together; keep one of them", n)}
	}
	return nil
}

func (c Catalog) subnets() []subnet {
	var subnets []subnet
	for _, o := range c {
		if o.Site == nil {
			continue
		}
		for _, b := range o.Site.Spec.Boundaries {
			if p, err := netip.ParsePrefix(b); err == nil {
				subnets = append(subnets, subnet{p, o.Name})
			}
		}
	}
	slices.SortFunc(subnets, func(a, b subnet) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.site, b.site))
	})
	return subnets
}

// boundaries checks that a client's address belongs to one site.
func (a *comparison) boundaries(o *Object) Problems {
	var ps Problems
	for i, b := range o.Site.Spec.Boundaries {
		p, err := netip.ParsePrefix(b)
		if err != nil {
			continue
		}
		if other, ok := a.overlapping(p, o.Name); ok {
			ps = append(ps, o.Problem(item("$.spec.boundaries", i), "%s overlaps with %s of site %s: a client there would belong to both", p, other.prefix, other.site))
		}
	}
	return ps
}

// overlapping returns a subnet of another site that overlaps with p. Subnets that overlap hold one another.
func (a *comparison) overlapping(p netip.Prefix, site string) (subnet, bool) {
	for bits := p.Bits(); bits >= 0; bits-- {
		wider := netip.PrefixFrom(p.Addr(), bits).Masked()
		for i := a.search(wider); i < len(a.subnets) && a.subnets[i].prefix == wider; i++ {
			if a.subnets[i].site != site {
				return a.subnets[i], true
			}
		}
	}
	for i := a.search(p); i < len(a.subnets) && p.Contains(a.subnets[i].prefix.Addr()); i++ {
		if a.subnets[i].site != site {
			return a.subnets[i], true
		}
	}
	return subnet{}, false
}

// search returns the first place in subnets at which p, or what it holds, may be.
func (a *comparison) search(p netip.Prefix) int {
	i, _ := slices.BinarySearchFunc(a.subnets, p, func(s subnet, p netip.Prefix) int {
		return cmp.Or(s.prefix.Addr().Compare(p.Addr()), cmp.Compare(s.prefix.Bits(), p.Bits()))
	})
	return i
}
