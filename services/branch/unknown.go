package branch

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// reservation keeps a name for an unknown computer from its registration to its run.
type reservation struct {
	machine provisioning.Machine
	expires time.Time
}

// inventory is what an agent's facts say of the hardware, bounded.
func inventory(f client.Facts) provisioning.Inventory {
	cut := func(s string) string {
		s = strings.ToValidUTF8(s, "?")
		if len(s) > provisioning.MaxInventoryField {
			s = strings.ToValidUTF8(s[:provisioning.MaxInventoryField], "")
		}
		return s
	}
	firmware := "bios"
	if f.UEFI {
		firmware = "uefi"
	}
	return provisioning.Inventory{
		Manufacturer: cut(f.Manufacturer), Product: cut(f.Product), Serial: cut(f.Serial), AssetTag: cut(f.AssetTag),
		MemoryMiB: max(0, f.MemoryBytes>>20), Firmware: firmware, SecureBoot: f.SecureBoot,
	}
}

// sameMachine reports whether two descriptions are of one machine; by which firmware it asks is no difference.
func sameMachine(a, b provisioning.Machine) bool { return a.MAC == b.MAC && a.GUID == b.GUID }

// nameUnknown is the name for an unknown computer, which is kept for it from now on. One that has a run that destroyed
// nothing has its name already. b.mu is held.
func (b *Branch) nameUnknown(s *state, m provisioning.Machine, hardware provisioning.Inventory, now time.Time) string {
	for i := len(s.past.Runs) - 1; i >= 0; i-- {
		if r := &s.past.Runs[i]; sameMachine(r.Machine, m) && r.State == provisioning.RunStarted && !r.Spent && !s.taken(r.Computer, m) {
			return r.Computer
		}
	}
	// Names that are kept for others count as if these were being deployed.
	h := policy.History{Runs: slices.Clone(s.past.Runs), Discovered: s.past.Discovered}
	for name, r := range b.reserved {
		if !now.Before(r.expires) || sameMachine(r.machine, m) { // what it says of itself may have become better
			delete(b.reserved, name)
			continue
		}
		h.Runs = append(h.Runs, provisioning.Run{Computer: name, Machine: r.machine})
	}
	name := s.policy.UnknownName(m, hardware, &h)
	b.reserved[strings.ToLower(name)] = reservation{machine: m, expires: now.Add(tokenLife)}
	return name
}

// taken reports whether another computer than m has the name.
func (s *state) taken(name string, m provisioning.Machine) bool {
	return s.names[strings.ToLower(name)] ||
		slices.ContainsFunc(s.past.Discovered, func(c provisioning.Computer) bool { return strings.EqualFold(c.Name, name) }) ||
		slices.ContainsFunc(s.past.Runs, func(r provisioning.Run) bool {
			return strings.EqualFold(r.Computer, name) && !sameMachine(r.Machine, m)
		})
}

// namesOf are the names of a snapshot's computers, in lower case: of its own, and of those that it knows of elsewhere.
func namesOf(s *provisioning.Snapshot) map[string]bool {
	out := make(map[string]bool, len(s.Computers)+len(s.Elsewhere))
	for i := range s.Computers {
		out[strings.ToLower(s.Computers[i].Name)] = true
	}
	for i := range s.Elsewhere {
		out[strings.ToLower(s.Elsewhere[i].Name)] = true
	}
	return out
}

// discover is what an unknown computer is known as once it is being deployed; nil where it is known already. From that moment
// on nothing that is for unknown computers reaches it.
func (s *state) discover(run *provisioning.Run) *provisioning.Computer {
	if !run.Unknown || run.Machine.MAC == "" || s.snapshot == nil || s.names[strings.ToLower(run.Computer)] {
		return nil
	}
	for i := range s.past.Discovered {
		if s.past.Discovered[i].Name == run.Computer {
			return nil
		}
	}
	return discovered(s.snapshot, run)
}

// discovered is the computer that a run was given to. A network adapter that wanders from computer to computer is none of
// its own.
func discovered(s *provisioning.Snapshot, run *provisioning.Run) *provisioning.Computer {
	out := &provisioning.Computer{Name: run.Computer, Spec: provisioning.ComputerSpec{
		Description: "Discovered when it was deployed by advertisement " + run.Advertisement,
		Site:        s.Site.Name, MACAddresses: []provisioning.MAC{run.Machine.MAC}, SMBIOSGUID: run.Machine.GUID,
	}}
	if p := s.Site.Spec.PXE; p != nil && run.Machine.GUID != "" && slices.Contains(p.SharedAdapters, run.Machine.MAC) {
		out.Spec.MACAddresses = nil
	}
	return out
}

// marks are what a snapshot's computers are recognised by.
type marks struct {
	macs  map[provisioning.MAC]bool
	guids map[provisioning.GUID]bool
}

func marksOf(s *provisioning.Snapshot) marks {
	out := marks{map[provisioning.MAC]bool{}, map[provisioning.GUID]bool{}}
	for _, c := range slices.Concat(s.Computers, s.Elsewhere) {
		for _, m := range c.Spec.MACAddresses {
			out.macs[m] = true
		}
		if g := c.Spec.SMBIOSGUID; g != "" {
			out.guids[g] = true
		}
	}
	return out
}

// known are the names of discovered computers that the snapshot has by now, by what they are recognised by; of infrastructure, as
// a host, too.
func known(list []provisioning.Computer, s *provisioning.Snapshot) []string {
	has, hosts := marksOf(s), provisioning.NewHosts(s.Infrastructure)
	var out []string
	for i := range list {
		spec := &list[i].Spec
		if spec.Infrastructure && hosts.Of(&list[i]) != nil || slices.ContainsFunc(spec.MACAddresses, func(m provisioning.MAC) bool { return has.macs[m] }) || has.guids[spec.SMBIOSGUID] {
			out = append(out, list[i].Name)
		}
	}
	return out
}

// lost are the computers, and the machines of appliances and of central, that the snapshot before recognised and the one after does
// not, where that is one of another epoch: central was restored from a backup of a time before it knew of them, and they are not
// unknown for that. They keep what they are recognised by, and that they are another site's or infrastructure; and their names, but for what is left of one that
// is described in part, or by other addresses.
func lost(past *policy.History, before, after *provisioning.Snapshot) []provisioning.Computer {
	if before == nil || before.Epoch == after.Epoch {
		return nil
	}
	names, has := namesOf(after), marksOf(after)
	for i := range past.Discovered {
		names[strings.ToLower(past.Discovered[i].Name)] = true
	}
	var out []provisioning.Computer
	for _, c := range slices.Concat(before.Computers, before.Elsewhere, lostHosts(before, after)) {
		spec := provisioning.ComputerSpec{
			Description: "Known to this site when central was restored from an older backup",
			Site:        c.Spec.Site, SMBIOSGUID: c.Spec.SMBIOSGUID, Infrastructure: c.Spec.Infrastructure,
			MACAddresses: slices.DeleteFunc(slices.Clone(c.Spec.MACAddresses), func(m provisioning.MAC) bool { return has.macs[m] }),
		}
		if has.guids[spec.SMBIOSGUID] {
			continue
		}
		if len(spec.MACAddresses) < len(c.Spec.MACAddresses) {
			spec.SMBIOSGUID = "" // else what is described and what is left would contradict each other
		} else if r := deployment(past.Runs, c.Name); r != nil && spec.SMBIOSGUID == "" {
			spec.SMBIOSGUID = r.Machine.GUID
		}
		if len(spec.MACAddresses) == 0 && spec.SMBIOSGUID == "" {
			continue
		}
		name := c.Name
		for n := 2; names[strings.ToLower(name)]; n++ {
			suffix := "-" + strconv.Itoa(n)
			name = c.Name[:min(len(c.Name), 63-len(suffix))] + suffix
		}
		names[strings.ToLower(name)] = true
		out = append(out, provisioning.Computer{Name: name, Spec: spec})
	}
	return out
}

// deployment is the last run that erased a disk of the computer of that name and says which machine that was, nil if there is
// none.
func deployment(runs []provisioning.Run, computer string) *provisioning.Run {
	for i := len(runs) - 1; i >= 0; i-- {
		if r := &runs[i]; r.Computer == computer && r.Spent && r.Machine.MAC != "" {
			return r
		}
	}
	return nil
}

// reportable reports whether central may make a record of a computer as the branch knows it: one that was deployed here, and
// of which a record would say no less.
func reportable(c *provisioning.Computer, site string, runs []provisioning.Run) bool {
	return deployment(runs, c.Name) != nil && len(c.Spec.MACAddresses) <= 1 && !c.Spec.Infrastructure && (c.Spec.Site == "" || c.Spec.Site == site)
}
