package policy

import (
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// identify finds which computer the machine is, by MAC address and SMBIOS GUID. False ends the decision; with true and no
// computer the machine is unknown.
func (q *question) identify() bool {
	p, m := q.p, q.m
	byMAC, byGUID := q.owners()
	shared := p.shared[m.MAC]
	if shared {
		byMAC = nil
	}
	mac, guid := "MAC address "+string(m.MAC), "SMBIOS GUID "+string(m.GUID)
	switch {
	case len(byMAC) > 1:
		q.conflict(byMAC, byGUID, mac+" belongs to more than one computer: "+list(byMAC))
	case len(byGUID) > 1:
		q.conflict(byMAC, byGUID, guid+" belongs to more than one computer: "+list(byGUID))
	case len(byMAC) == 1 && len(byGUID) == 1 && byMAC[0] != byGUID[0]:
		q.conflict(byMAC, byGUID, mac+" is "+byMAC[0].Name+", "+guid+" is "+byGUID[0].Name)
	case len(byMAC) == 1 && contradict(byMAC[0].Spec.SMBIOSGUID, m.GUID):
		q.conflict(byMAC, byGUID, mac+" is "+byMAC[0].Name+", whose SMBIOS GUID is "+string(byMAC[0].Spec.SMBIOSGUID)+", not "+string(m.GUID))
	case len(byMAC) == 1:
		if r := q.wandered(byMAC[0]); r != nil {
			q.conflict(byMAC, byGUID, mac+" is "+byMAC[0].Name+", but the adapter was in the machine with SMBIOS GUID "+string(r.Machine.GUID)+
				" when that was deployed, and is in the one with "+string(m.GUID)+" now; enter the right GUID in its record, or list the adapter as shared")
			return false
		}
		if c := q.deployedAs(byMAC[0]); c != nil && byMAC[0].Spec.SMBIOSGUID == "" {
			q.conflict(byMAC, []*provisioning.Computer{c}, mac+" is "+byMAC[0].Name+", but the machine with SMBIOS GUID "+string(m.GUID)+" was deployed as "+c.Name+
				", and neither record has a GUID; enter the right one in each, or list the adapter as shared")
			return false
		}
		return q.found(byMAC[0], mac+" is "+byMAC[0].Name)
	case len(byGUID) == 1:
		return q.found(byGUID[0], guid+" is "+byGUID[0].Name)
	case shared:
		q.conflict(nil, nil, mac+" is a shared adapter's, which names no computer, and no computer has "+guidText(m.GUID))
	default:
		return q.unnamed(mac)
	}
	return false
}

func (q *question) found(c *provisioning.Computer, text string) bool {
	q.computer = c
	q.d.Computer = c.Name
	q.discovered = q.p.computers[c.Name] != c && q.p.elsewhere[c.Name] != c
	if q.discovered {
		text += ", which was deployed here and is not in the configuration yet"
	}
	q.d.because(RuleIdentity, text)
	return true
}

// unnamed looks at a machine that no record names. It is unknown only if it cannot be a known one with another adapter.
func (q *question) unnamed(mac string) bool {
	if of := q.p.byGUID[q.m.GUID.Swapped()]; len(of) > 0 {
		q.conflict(nil, of, "no computer has "+mac+" or "+guidText(q.m.GUID)+", but "+list(of)+" has "+string(q.m.GUID.Swapped())+
			", which is the same in another order of bytes; write it as "+string(q.m.GUID))
		return false
	}
	if q.p.role.UnknownComputers == nil { // whoever it is, it gets nothing: that needs nobody's attention
		q.d.because(RuleIdentity, "no computer has "+mac+" or "+guidText(q.m.GUID))
		return true
	}
	if q.m.GUID == "" {
		q.conflict(nil, nil, "no computer has "+mac+", and the firmware gives no SMBIOS GUID of its own: it may be a known computer with another network adapter")
		return false
	}
	if c := q.deployedAs(nil); c != nil {
		q.conflict(nil, []*provisioning.Computer{c}, "no computer has "+mac+", but the machine with SMBIOS GUID "+string(q.m.GUID)+
			" was deployed as "+c.Name+", whose record has no GUID; enter it there")
		return false
	}
	q.d.because(RuleIdentity, "no computer has "+mac+" or "+guidText(q.m.GUID))
	return true
}

// deployedAs returns a computer whose record has no GUID and that was a machine with this GUID when it was deployed, nil if
// there is none but the given one.
func (q *question) deployedAs(but *provisioning.Computer) *provisioning.Computer {
	for _, r := range q.h.runs("", q.m.GUID) {
		if c := q.named(r.Computer); c != nil && c != but && c.Spec.SMBIOSGUID == "" {
			return c
		}
	}
	return nil
}

// owners returns the computers that have the machine's MAC address, and its GUID. A discovered one counts as long as the
// snapshot names neither it nor what it is known by: there the snapshot is right.
func (q *question) owners() (byMAC, byGUID []*provisioning.Computer) {
	byMAC = q.p.byMAC[q.m.MAC]
	if q.m.GUID != "" {
		byGUID = q.p.byGUID[q.m.GUID]
	}
	for _, c := range q.h.discovered(q.m) {
		if q.p.superseded(c) {
			continue
		}
		if slices.Contains(c.Spec.MACAddresses, q.m.MAC) {
			byMAC = append(slices.Clip(byMAC), c)
		}
		if q.m.GUID != "" && c.Spec.SMBIOSGUID == q.m.GUID {
			byGUID = append(slices.Clip(byGUID), c)
		}
	}
	return byMAC, byGUID
}

// superseded reports whether the snapshot knows better than a discovered computer.
func (p *Policy) superseded(c *provisioning.Computer) bool {
	return p.computers[c.Name] != nil || p.elsewhere[c.Name] != nil || c.Spec.SMBIOSGUID != "" && len(p.byGUID[c.Spec.SMBIOSGUID]) > 0 ||
		slices.ContainsFunc(c.Spec.MACAddresses, func(m provisioning.MAC) bool { return len(p.byMAC[m]) > 0 })
}

// named returns the computer of that name, discovered ones too, nil if there is none.
func (q *question) named(name string) *provisioning.Computer {
	for _, of := range []map[string]*provisioning.Computer{q.p.computers, q.p.elsewhere} {
		if c := of[name]; c != nil {
			return c
		}
	}
	for i := range q.h.Discovered {
		if c := &q.h.Discovered[i]; c.Name == name && !q.p.superseded(c) {
			return c
		}
	}
	return nil
}

// wandered returns a run that shows that a computer, which its record knows by address alone, was another machine with the
// same network adapter: a dongle or a dock that nobody has listed as shared. A person's order to clear the computer makes
// no difference: it was about the computer, not about the adapter.
func (q *question) wandered(c *provisioning.Computer) *provisioning.Run {
	if c.Spec.SMBIOSGUID != "" || q.m.GUID == "" {
		return nil
	}
	for _, r := range q.h.runs(c.Name, "") {
		if r.Machine.MAC == q.m.MAC && contradict(r.Machine.GUID, q.m.GUID) {
			return r
		}
	}
	return nil
}

// conflict ends the decision with a conflicting record.
func (q *question) conflict(byMAC, byGUID []*provisioning.Computer, text string) {
	q.d.Conflict = &provisioning.Conflict{Machine: q.m, ByMAC: namesOf(byMAC), ByGUID: namesOf(byGUID), Text: text}
	q.d.because(RuleIdentity, "conflicting record: "+text)
}

func namesOf(of []*provisioning.Computer) []string {
	var out []string
	for _, c := range of {
		out = append(out, c.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func list(of []*provisioning.Computer) string { return strings.Join(namesOf(of), ", ") }

func guidText(g provisioning.GUID) string {
	if g == "" {
		return "an SMBIOS GUID that says nothing"
	}
	return "SMBIOS GUID " + string(g)
}

// UnknownName is the name that an unknown machine is deployed under, by its site's rule and what is known of its hardware
// (the zero Inventory is nothing). No other computer has it: none of the snapshot's, none that was discovered, and none
// that another machine is being deployed as.
func (p *Policy) UnknownName(m provisioning.Machine, hardware provisioning.Inventory, h *History) string {
	pattern := ""
	if p.role != nil && p.role.UnknownComputers != nil {
		pattern = p.role.UnknownComputers.NamePattern
	}
	return provisioning.UnknownName(pattern, m, hardware.Serial, hardware.AssetTag, func(lower string) bool {
		same := func(c provisioning.Computer) bool { return strings.EqualFold(c.Name, lower) }
		return p.names[lower] || slices.ContainsFunc(h.Discovered, same) || h.deploys(lower, m)
	})
}

// deploys reports whether another machine than m is being deployed, or was, under a name in lower case.
func (h *History) deploys(lower string, m provisioning.Machine) bool {
	other := func(r *provisioning.Run) bool {
		return strings.EqualFold(r.Computer, lower) && r.Machine != (provisioning.Machine{}) &&
			(r.Machine.MAC != m.MAC || contradict(r.Machine.GUID, m.GUID))
	}
	if h.index != nil {
		return slices.ContainsFunc(h.index.byComputer[lower], func(i int32) bool { return other(&h.Runs[i]) })
	}
	for i := range h.Runs {
		if other(&h.Runs[i]) {
			return true
		}
	}
	return false
}
