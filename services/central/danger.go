package central

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// confirmed fails with CodeConflict unless there is no danger, or confirm is what confirms exactly this one.
func confirmed(d *client.Danger, confirm string) error {
	if d == nil || d.Confirm == confirm {
		return nil
	}
	message := d.Text
	if confirm != "" {
		message += fmt.Sprintf(" (%.64q does not confirm that)", confirm)
	}
	return provisioning.Errorf(provisioning.CodeConflict, "Nothing was changed. If this is what you want, do it with --confirm "+d.Confirm+".", "%s", message)
}

// tell says what a danger is, for people.
func tell(d *client.Danger) string {
	var what []string
	if d.Count > 0 {
		names := strings.Join(d.Computers, ", ")
		if more := d.Count - len(d.Computers); more > 0 && names != "" {
			names += fmt.Sprintf(" and %d more", more)
		}
		what = append(what, strings.TrimSuffix(fmt.Sprintf("%s: %s", counted(d.Count), names), ": "))
	}
	if len(d.UnknownSites) > 0 {
		what = append(what, "every unknown machine at "+listed(d.UnknownSites))
	}
	var texts []string
	if len(what) > 0 {
		texts = append(texts, "this would let disks be erased without anybody at the computer, of "+strings.Join(what, "; and of "))
	}
	if len(d.Always) > 0 {
		texts = append(texts, "at each boot by "+listed(d.Always))
	}
	if len(d.Caps) > 0 {
		sites := make([]string, len(d.Caps))
		for i, c := range d.Caps {
			sites[i] = fmt.Sprintf("%s %d, not %d", c.Site, c.To, c.From)
		}
		texts = append(texts, "this would let more deployments that erase disks begin in an hour: at "+listed(sites))
	}
	return strings.Join(texts, "; ")
}

func counted(n int) string {
	if n == 1 {
		return "1 computer"
	}
	return fmt.Sprintf("%d computers", n)
}

// newDanger is the danger of what a change starts, nil where nobody needs to be asked: up to limit computers go unasked,
// unknown machines, what runs at each boot, and raised wipe caps never.
func newDanger(count int, names, unknownSites, always []string, caps []client.RaisedCap, limit int) *client.Danger {
	if count <= limit && len(unknownSites) == 0 && len(always) == 0 && len(caps) == 0 {
		return nil
	}
	d := &client.Danger{Count: count, Computers: names[:min(len(names), maxNamed)], UnknownSites: unknownSites, Always: always, Caps: caps}
	var confirm []string
	if count > 0 {
		confirm = append(confirm, fmt.Sprint(count))
	}
	if len(unknownSites) > 0 {
		confirm = append(confirm, "unknown")
	}
	if len(caps) > 0 {
		sum := 0
		for _, c := range caps {
			sum += c.To
		}
		confirm = append(confirm, fmt.Sprintf("%d/h", sum))
	}
	d.Confirm = strings.Join(confirm, "+")
	d.Text = tell(d)
	return d
}

// raisedCaps are the wipe caps that the plan raises, by site: against the site's own, or what a site has that sets none.
func (p *plan) raisedCaps() []client.RaisedCap {
	limit := func(o *provisioning.Object) int {
		if o == nil || o.Site.Spec.PXE == nil || o.Site.Spec.PXE.WipesPerHour == 0 {
			return provisioning.DefaultWipesPerHour
		}
		return o.Site.Spec.PXE.WipesPerHour
	}
	var out []client.RaisedCap
	for _, t := range p.touched {
		if t.key.Kind != provisioning.KindSite || t.after == nil || t.after.Site.Spec.PXE == nil {
			continue
		}
		if from, to := limit(t.before), limit(t.after); to > from {
			out = append(out, client.RaisedCap{Site: t.key.Name, From: from, To: to})
		}
	}
	return out
}

// danger says which computers would begin to erase their disks because of the plan, by themselves, that would not have
// without it; and at which sites more of them could at once.
func (p *plan) danger(now time.Time, inventories map[string]provisioning.Inventory, hosts []provisioning.Host, limit int) *client.Danger {
	changed := map[provisioning.Key]bool{}
	for _, t := range p.touched {
		if t.effect != client.Unchanged {
			changed[t.key] = true
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return p.between(newWorld(p.before, now, inventories, hosts), newWorld(p.after, now, inventories, hosts), changed, limit)
}

// between is the danger of the plan's change from one world to another, in which documents are changed.
func (p *plan) between(before, after *world, changed map[provisioning.Key]bool, limit int) *client.Danger {
	touchedComputers := []string{}
	for k := range changed {
		if k.Kind == provisioning.KindComputer {
			touchedComputers = append(touchedComputers, k.Name)
		}
	}
	computers, always := map[string]bool{}, map[string]bool{}
	for _, a := range after.wiping {
		old := before.byName(a.Name)
		// Where nothing of the advertisement, of the sites and of hosts has changed, only computers that have can be new to it.
		all := old == nil || a.differs(old, changed) || !sameSites(before, after) || !slices.EqualFunc(before.infrastructure, after.infrastructure, sameHost)
		among := touchedComputers
		if all {
			among = nil
		}
		for _, c := range after.candidates(a, among) {
			if after.reach(a, c).exceeds(before.reachOf(old, c.Name)) {
				computers[c.Name] = true
				always[a.Name] = always[a.Name] || a.Spec.Rerun == provisioning.RerunAlways
			}
		}
	}
	maps.DeleteFunc(always, func(_ string, v bool) bool { return !v })
	for _, name := range p.forgotten(after) {
		computers[name] = true
		limit = 0 // as with all unknown machines, nobody is left unasked
	}
	unknown := newlyUnknown(before, after)
	names := slices.Sorted(maps.Keys(computers))
	return newDanger(len(names), names, unknown, slices.Sorted(maps.Keys(always)), p.raisedCaps(), limit)
}

// forgotten are the computers that nothing describes any more after the plan, or not with each of their network cards, at sites
// that erase the disks of unknown machines.
func (p *plan) forgotten(after *world) []string {
	sites := map[string]bool{}
	for k := range after.unknown() {
		sites[k.site] = true
	}
	if len(sites) == 0 {
		return nil
	}
	known := map[string]bool{}
	for _, o := range after.catalog {
		for _, id := range addresses(o.Computer) {
			known[id] = true
		}
	}
	unnamed := func(c *provisioning.Computer) bool {
		if g := c.Spec.SMBIOSGUID; g != "" && (known[string(g)] || after.hosts.Find("", g) != nil) {
			return false
		}
		return len(c.Spec.MACAddresses) == 0 || slices.ContainsFunc(c.Spec.MACAddresses, func(m provisioning.MAC) bool {
			return !known[string(m)] && after.hosts.Find(m, "") == nil && after.answers(c, m)
		})
	}
	var out []string
	for _, t := range p.touched {
		if t.effect == client.Unchanged || t.before == nil || t.before.Computer == nil {
			continue
		}
		c := t.before.Computer
		if (sites[c.Spec.Site] || c.Spec.Site == "") && unnamed(c) {
			out = append(out, c.Name)
		}
	}
	return out
}

// addresses are what a computer can be known by; c may be nil.
func addresses(c *provisioning.Computer) []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, m := range c.Spec.MACAddresses {
		out = append(out, string(m))
	}
	if c.Spec.SMBIOSGUID != "" {
		out = append(out, string(c.Spec.SMBIOSGUID))
	}
	return out
}

func sameHost(a, b provisioning.Host) bool { return a.Site == b.Site && a.Equal(b.Hardware) }

// newlyUnknown are the sites at which unknown machines would erase their disks because of what has changed, sorted.
func newlyUnknown(before, after *world) []string {
	out, old := map[string]bool{}, before.unknown()
	hostFreed := slices.ContainsFunc(before.infrastructure, func(h provisioning.Host) bool {
		return h.SMBIOSGUID != "" && after.hosts.Find("", h.SMBIOSGUID) == nil ||
			slices.ContainsFunc(h.MACAddresses, func(m provisioning.MAC) bool { return after.hosts.Find(m, "") == nil })
	})
	for k, w := range after.unknown() {
		freed := slices.ContainsFunc(slices.Collect(maps.Keys(before.sites[k.site].silent)), func(m provisioning.MAC) bool {
			return !after.sites[k.site].silent[m]
		})
		if w&^old[k] != 0 || freed || hostFreed {
			out[k.site] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// clearDanger says which of the named computers would begin to erase their disks if what has run on them could run again.
func clearDanger(catalog provisioning.Catalog, names []string, now time.Time, inventories map[string]provisioning.Inventory, hosts []provisioning.Host, limit int) *client.Danger {
	w := newWorld(catalog, now, inventories, hosts)
	unknown := map[unknownAt]bool{} // what a computer had as an unknown one runs again, too
	for k := range w.unknown() {
		unknown[k], unknown[unknownAt{"", k.advertisement}] = true, true
	}
	var out []string
	for _, n := range names {
		c := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: n}].Computer
		if c != nil && slices.ContainsFunc(w.wiping, func(a *wiping) bool {
			return (w.targets(a, c) || unknown[unknownAt{c.Spec.Site, a.Name}]) && len(w.reach(a, c)) > 0
		}) {
			out = append(out, n)
		}
	}
	return newDanger(len(out), out, nil, nil, nil, limit)
}
