package central

import (
	"slices"
	"time"

	"branchpoint/provisioning"
)

// ways are how an advertisement can begin on a computer without a person there: by PXE, for each architecture, and from an
// installed system. Media need a person.
type ways uint8

const (
	byBIOS ways = 1 << iota
	byUEFI
	byHTTP
	byClient
	// again and onFailure are no ways but say that it begins where it has run.
	again
	onFailure

	byPXE = byBIOS | byUEFI | byHTTP
)

// wiping is an advertisement that erases disks by itself: required, not expired, of a sequence with a destructive step.
type wiping struct {
	*provisioning.Advertisement
	ways   ways
	direct map[string]bool
	member func(*provisioning.Computer) bool
}

// differs reports whether whom a concerns, or how, may differ from old; changed are the keys that a change touches.
func (a *wiping) differs(old *wiping, changed map[provisioning.Key]bool) bool {
	return a.ways != old.ways || changed[provisioning.Key{Kind: provisioning.KindAdvertisement, Name: a.Name}] ||
		changed[provisioning.Key{Kind: provisioning.KindCollection, Name: a.Spec.Collection}]
}

// reached are the addresses by which a computer can be known, each with the ways in which an advertisement begins there.
type reached map[string]ways

// exceeds reports whether r has an address, or a way, that o has not.
func (r reached) exceeds(o reached) bool {
	for id, w := range r {
		if w&^o[id] != 0 {
			return true
		}
	}
	return false
}

// siteRules are what a site's PXE service point makes of machines.
type siteRules struct {
	pxe, unknown bool
	// silent are the addresses that name no computer: ignored ones, and adapters that wander.
	silent map[provisioning.MAC]bool
}

// world is a configuration as far as it decides which disks are erased.
type world struct {
	catalog     provisioning.Catalog
	inventories map[string]provisioning.Inventory
	wiping      []*wiping // by name
	sites       map[string]siteRules
	// serving counts the sites with a PXE service point, and silent in how many of them an address names nobody.
	serving int
	silent  map[provisioning.MAC]int
	// infrastructure are the machines that appliances and central run on, by what makes them targets at no site; hosts finds
	// them.
	infrastructure []provisioning.Host
	hosts          provisioning.Hosts
}

func newWorld(catalog provisioning.Catalog, now time.Time, inventories map[string]provisioning.Inventory, told []provisioning.Host) *world {
	w := &world{catalog: catalog, inventories: inventories, sites: map[string]siteRules{}, silent: map[provisioning.MAC]int{}}
	w.infrastructure = catalog.Everywhere(catalog.Infrastructure(told))
	w.hosts = provisioning.NewHosts(w.infrastructure)
	for _, o := range catalog {
		switch {
		case o.Site != nil:
			w.addSite(o.Site)
		case o.Advertisement != nil:
			if a := w.newWiping(o.Advertisement, now); a != nil {
				w.wiping = append(w.wiping, a)
			}
		}
	}
	return w
}

func (w *world) addSite(s *provisioning.Site) {
	r := siteRules{}
	if p := s.Spec.PXE; p != nil {
		r = siteRules{pxe: true, unknown: p.UnknownComputers != nil, silent: map[provisioning.MAC]bool{}}
		for _, list := range [][]provisioning.MAC{p.Ignore, p.SharedAdapters} {
			for _, m := range list {
				r.silent[m] = true
			}
		}
		w.serving++
		for m := range r.silent {
			w.silent[m]++
		}
	}
	w.sites[s.Name] = r
}

// newWiping returns nil for an advertisement that erases nothing by itself.
func (w *world) newWiping(a *provisioning.Advertisement, now time.Time) *wiping {
	s := w.catalog[provisioning.Key{Kind: provisioning.KindTaskSequence, Name: a.Spec.TaskSequence}].TaskSequence
	if a.Spec.Purpose != provisioning.PurposeRequired || s == nil || !a.Spec.Expires.IsZero() && !now.Before(a.Spec.Expires.Time) ||
		!slices.ContainsFunc(s.Spec.Steps, func(st provisioning.Step) bool { return st.Destructive() }) {
		return nil
	}
	out := &wiping{Advertisement: a, direct: map[string]bool{}, member: func(*provisioning.Computer) bool { return false }}
	for _, n := range a.Spec.Computers {
		out.direct[n] = true
	}
	if len(a.Spec.AvailableTo) == 0 || slices.Contains(a.Spec.AvailableTo, provisioning.AvailableToPXE) {
		out.ways = w.architectures(s)
	}
	if slices.Contains(a.Spec.AvailableTo, provisioning.AvailableToClient) {
		out.ways |= byClient
	}
	switch a.Spec.Rerun {
	case provisioning.RerunAlways:
		out.ways |= again | onFailure
	case provisioning.RerunIfFailed:
		out.ways |= onFailure
	}
	if c := w.catalog[provisioning.Key{Kind: provisioning.KindCollection, Name: a.Spec.Collection}].Collection; c != nil {
		for _, n := range c.Spec.Computers {
			out.direct[n] = true
		}
		if c.Spec.Query != "" {
			out.member = w.query(c)
		}
	}
	if a.Spec.Collection == provisioning.AllSystems {
		out.member = func(*provisioning.Computer) bool { return true }
	}
	return out
}

// architectures are the ways by PXE for which a sequence's boot image is made.
func (w *world) architectures(s *provisioning.TaskSequence) ways {
	b := w.catalog[provisioning.Key{Kind: provisioning.KindBootImage, Name: s.Spec.BootImage}].BootImage
	if b == nil || len(b.Spec.Architectures) == 0 {
		return byPXE
	}
	var out ways
	for _, a := range b.Spec.Architectures {
		out |= map[provisioning.BootArchitecture]ways{
			provisioning.BootBIOS: byBIOS, provisioning.BootUEFIx64: byUEFI, provisioning.BootHTTPUEFIx64: byHTTP,
		}[a]
	}
	return out
}

// byName returns nil where no such advertisement erases anything.
func (w *world) byName(name string) *wiping {
	if i := slices.IndexFunc(w.wiping, func(a *wiping) bool { return a.Name == name }); i >= 0 {
		return w.wiping[i]
	}
	return nil
}

// candidates are the computers that an advertisement is for, of those that are named; nil names all.
func (w *world) candidates(a *wiping, among []string) []*provisioning.Computer {
	var out []*provisioning.Computer
	add := func(c *provisioning.Computer) {
		if c != nil && w.targets(a, c) {
			out = append(out, c)
		}
	}
	if among == nil && a.Spec.Collection == "" {
		among = a.Spec.Computers
	}
	if among == nil {
		for _, o := range w.catalog {
			add(o.Computer)
		}
		return out
	}
	for _, n := range among {
		add(w.catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: n}].Computer)
	}
	return out
}

func (w *world) targets(a *wiping, c *provisioning.Computer) bool {
	return a.direct[c.Name] || a.member(c)
}

// reach says by which addresses, and how, an advertisement begins on a computer that it is for.
func (w *world) reach(a *wiping, c *provisioning.Computer) reached {
	out := reached{}
	if c.Spec.Infrastructure || w.hosts.Of(c) != nil {
		return out
	}
	add := func(id string, answered bool) {
		ways := a.ways
		if !answered {
			ways &^= byPXE
		}
		if ways&(byPXE|byClient) != 0 {
			out[id] = ways
		}
	}
	for _, m := range c.Spec.MACAddresses {
		add(string(m), w.answers(c, m))
	}
	if g := c.Spec.SMBIOSGUID; g != "" {
		add(string(g), w.answers(c, ""))
	}
	return out
}

// reachOf is what reach says of the computer of that name, nothing where a is nil, or not for it.
func (w *world) reachOf(a *wiping, name string) reached {
	c := w.catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: name}].Computer
	if a == nil || c == nil || !w.targets(a, c) {
		return nil
	}
	return w.reach(a, c)
}

// answers reports whether a PXE service point answers a computer that is known by that MAC address; "" is by its GUID.
func (w *world) answers(c *provisioning.Computer, m provisioning.MAC) bool {
	if c.Spec.Site == "" {
		return w.serving > w.silent[m]
	}
	s := w.sites[c.Spec.Site]
	return s.pxe && !s.silent[m]
}

// unknownAt is an advertisement at a site that supports unknown machines.
type unknownAt struct{ site, advertisement string }

// unknown says at which sites which advertisements erase the disks of unknown machines, and how.
func (w *world) unknown() map[unknownAt]ways {
	out := map[unknownAt]ways{}
	for _, a := range w.wiping {
		if a.Spec.Collection != provisioning.AllUnknownComputers || a.ways&byPXE == 0 {
			continue
		}
		for name, s := range w.sites {
			if s.unknown {
				out[unknownAt{name, a.Name}] = a.ways
			}
		}
	}
	return out
}

// sameSites reports whether both worlds' PXE service points make the same of machines.
func sameSites(a, b *world) bool {
	if len(a.sites) != len(b.sites) {
		return false
	}
	for name, x := range a.sites {
		y, ok := b.sites[name]
		if !ok || x.pxe != y.pxe || len(x.silent) != len(y.silent) {
			return false
		}
		for m := range x.silent {
			if !y.silent[m] {
				return false
			}
		}
	}
	return true
}
