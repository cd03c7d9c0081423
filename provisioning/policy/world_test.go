package policy

import (
	"fmt"
	"math/rand/v2"
	"time"

	"branchpoint/provisioning"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// world makes sites, machines and histories by chance: full of what contradicts, is missing, or is not known.
type world struct{ *rand.Rand }

func newWorld(seed uint64) world { return world{rand.New(rand.NewPCG(seed, 7))} }

func (w world) chance(percent int) bool { return w.IntN(100) < percent }

func pick[T any](w world, of ...T) T { return of[w.IntN(len(of))] }

// some returns a few of the names, at least one.
func (w world) some(names []string) []string {
	var out []string
	for range 1 + w.IntN(3) {
		out = append(out, pick(w, names...))
	}
	return out
}

func mac(n int) provisioning.MAC { return provisioning.MAC(fmt.Sprintf("52:54:00:00:00:%02x", n)) }

func guid(n int) provisioning.GUID {
	if n == 0 {
		return ""
	}
	return provisioning.GUID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", n))
}

// machine is mostly one whose MAC address and GUID belong together, as those of computer n or of a stranger do.
func (w world) machine() provisioning.Machine {
	n := w.IntN(14)
	m := provisioning.Machine{MAC: mac(n), GUID: guid(n + 1), Arch: provisioning.ArchUEFIx64}
	if w.chance(20) {
		m.MAC = mac(w.IntN(14))
	}
	if w.chance(20) {
		m.GUID = guid(w.IntN(14))
	}
	if w.chance(20) {
		m.Arch = pick(w, provisioning.ArchBIOS, provisioning.ArchUEFIx64Alt, provisioning.ArchHTTPBootx64, provisioning.ArchUEFIIA32)
	}
	return m
}

func (w world) time() time.Time { return noon.Add(time.Duration(w.IntN(96)-48) * time.Hour / 2) }

func (w world) maybeTime() provisioning.Time {
	if w.chance(70) {
		return provisioning.Time{}
	}
	return provisioning.Time{Time: w.time()}
}

var (
	computers   = []string{"pc-0", "pc-1", "pc-2", "pc-3", "pc-4", "pc-5", "pc-6", "pc-7", "found-1", "found-2"}
	collections = []string{provisioning.AllSystems, provisioning.AllUnknownComputers, "all", "query", "broken", "listed", "missing"}
	adNames     = []string{"ad-0", "ad-1", "ad-2", "ad-3", "ad-4", "ad-5"}
)

func (w world) role() *provisioning.PXERole {
	if w.chance(3) {
		return nil
	}
	r := &provisioning.PXERole{Mode: provisioning.PXEModeProxy, WipesPerHour: w.IntN(5)}
	if w.chance(60) {
		r.UnknownComputers = &provisioning.UnknownComputers{}
	}
	if w.chance(20) {
		r.Ignore = []provisioning.MAC{mac(w.IntN(14))}
	}
	if w.chance(20) {
		r.SharedAdapters = []provisioning.MAC{mac(w.IntN(14))}
	}
	if w.chance(20) {
		r.PasswordHash = "$argon2id$"
	}
	return r
}

func (w world) snapshot() *provisioning.Snapshot {
	s := &provisioning.Snapshot{
		Epoch: 1, Number: 1, IssuedAt: w.time(),
		Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: w.role(), TimeZone: pick(w, "", "Europe/London", "Asia/Kolkata", "No/Where")}},
		Collections: []provisioning.Collection{
			{Name: "all", Spec: provisioning.CollectionSpec{Query: "true", Variables: map[string]string{"A": "all"}}},
			{Name: "broken", Spec: provisioning.CollectionSpec{Query: "computer.", Computers: w.some(computers)}},
			{Name: "listed", Spec: provisioning.CollectionSpec{Computers: w.some(computers), Variables: map[string]string{"A": "listed"}}},
			{Name: "query", Spec: provisioning.CollectionSpec{Query: pick(w, `inventory.memoryMiB > 4096`, `computer.name < "pc-4"`, `deployments.exists(d, d.spent)`, `computer.macAddresses[1] != ""`)}},
		},
		TaskSequences: []provisioning.TaskSequence{
			{Name: "install", Spec: provisioning.TaskSequenceSpec{Steps: []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{}}}}},
			{Name: "modern", Spec: provisioning.TaskSequenceSpec{BootImage: pick(w, "uefi", "missing"), Steps: []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{}}}}},
			{Name: "check"},
		},
		BootImages:  []provisioning.BootImage{{Name: "uefi", Spec: provisioning.BootImageSpec{Architectures: []provisioning.BootArchitecture{provisioning.BootUEFIx64}}}},
		Inventories: map[string]provisioning.Inventory{"pc-1": {MemoryMiB: 8192}, "pc-2": {MemoryMiB: 1024}},
	}
	for i := range 8 {
		spec := provisioning.ComputerSpec{Infrastructure: w.chance(10)}
		for range w.IntN(3) {
			spec.MACAddresses = append(spec.MACAddresses, mac(pick(w, i, i, i, i, i, i, i, w.IntN(10))))
		}
		if w.chance(60) {
			spec.SMBIOSGUID = guid(pick(w, i+1, i+1, i+1, i+1, i+1, i+1, i+1, w.IntN(10)))
		}
		spec.Site = pick(w, "", "", "", "LON", "LON", "PAR")
		c := provisioning.Computer{Name: computers[i], Spec: spec}
		if spec.Site == "PAR" && w.chance(80) {
			s.Elsewhere = append(s.Elsewhere, c)
		} else {
			s.Computers = append(s.Computers, c)
		}
	}
	if w.chance(15) {
		n := w.IntN(14)
		s.Infrastructure = []provisioning.Host{{Site: pick(w, "", "LON", "PAR")}}
		if w.chance(70) {
			s.Infrastructure[0].MACAddresses = []provisioning.MAC{mac(n), mac(n + 20)}
		}
		if w.chance(70) {
			s.Infrastructure[0].SMBIOSGUID = pick(w, guid(n+1), guid(n+1).Swapped())
		}
	}
	for _, name := range adNames[:w.IntN(len(adNames)+1)] {
		s.Advertisements = append(s.Advertisements, w.advertisement(name))
	}
	return s
}

func (w world) advertisement(name string) provisioning.Advertisement {
	a := provisioning.Advertisement{Name: name, Changed: uint64(w.IntN(3)), Spec: provisioning.AdvertisementSpec{
		TaskSequence: pick(w, "install", "install", "modern", "check", "missing"), Purpose: pick(w, provisioning.PurposeRequired, provisioning.PurposeRequired, provisioning.PurposeAvailable, "strange"),
		Priority: w.IntN(3), Rerun: pick(w, "", "", provisioning.RerunNever, provisioning.RerunIfFailed, provisioning.RerunAlways, "strange"),
		Start: w.maybeTime(), Expires: w.maybeTime(),
	}}
	if w.chance(70) {
		a.Spec.Collection = pick(w, collections...)
	} else {
		a.Spec.Computers = w.some(computers)
	}
	if w.chance(15) {
		a.Spec.MaintenanceWindows = []provisioning.Window{{From: "10:00", To: "14:00"}}
	}
	if w.chance(15) {
		a.Spec.AvailableTo = []provisioning.Availability{pick(w, provisioning.AvailableToPXE, provisioning.AvailableToMedia)}
	}
	return a
}

func (w world) run(id int) provisioning.Run {
	at := w.time()
	r := provisioning.Run{
		ID: fmt.Sprintf("%032x", id), Computer: pick(w, computers...), Advertisement: pick(w, adNames...), TaskSequence: pick(w, "install", "check", "missing"),
		State: pick(w, provisioning.RunStarted, provisioning.RunStarted, provisioning.RunSucceeded, provisioning.RunFailed, "strange"), Spent: w.chance(60), Cleared: w.chance(20),
		Machine: w.machine(), StartedAt: at, UpdatedAt: at,
	}
	for n, name := range computers {
		if r.Computer == name && w.chance(70) {
			r.Machine = provisioning.Machine{MAC: mac(n), GUID: guid(n + 1), Arch: provisioning.ArchUEFIx64}
		}
	}
	if w.chance(10) {
		r.Machine = provisioning.Machine{}
	}
	if r.Spent && w.chance(80) {
		r.SpentAt = at
	}
	if r.Spent && w.chance(10) {
		r.Allowance = "1"
	}
	return r
}

func (w world) history() History {
	h := History{Complete: w.chance(85), Approved: w.IntN(3) - 1, Inventories: map[string]provisioning.Inventory{"pc-3": {MemoryMiB: 8192}}}
	if w.chance(30) {
		h.Own = provisioning.NewHosts([]provisioning.Host{{Site: "LON", Hardware: provisioning.Hardware{MACAddresses: []provisioning.MAC{mac(13)}, SMBIOSGUID: guid(14)}}})
	}
	for i := range w.IntN(12) {
		h.Runs = append(h.Runs, w.run(i))
	}
	for i := range w.IntN(3) {
		h.Discovered = append(h.Discovered, provisioning.Computer{Name: fmt.Sprint("found-", i+1), Spec: provisioning.ComputerSpec{
			MACAddresses: []provisioning.MAC{mac(8 + i)}, SMBIOSGUID: guid(9 + i),
		}})
	}
	return h
}
