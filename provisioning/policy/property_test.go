package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
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
	return r
}

func (w world) history() History {
	h := History{Complete: w.chance(85), Approved: w.IntN(3) - 1, Inventories: map[string]provisioning.Inventory{"pc-3": {MemoryMiB: 8192}}}
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

// carried is v as it is after it has travelled.
func carried[T any](t *testing.T, v T) T {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// required is whether a decision begins or goes on without a person.
func required(d *Decision) bool { return d.Action == Boot }

// TestWhateverTheSiteIs makes many sites and machines, and holds what must always be true against each decision. A failure
// names its seed.
func TestWhateverTheSiteIs(t *testing.T) {
	counts := map[string]int{}
	for seed := range uint64(2500) {
		w := newWorld(seed)
		s, h := w.snapshot(), w.history()
		p, _ := Compile(s)
		branch, _ := Compile(carried(t, s))
		there := History{
			Runs: carried(t, h.Runs), Discovered: carried(t, h.Discovered), Inventories: carried(t, h.Inventories), Complete: h.Complete, Approved: h.Approved,
		}.Indexed()
		for range 12 {
			m, now := w.machine(), w.time()
			before := asJSON(t, h.Runs)
			d := p.Decide(m, h, now)
			if !bytes.Equal(before, asJSON(t, h.Runs)) {
				t.Fatalf("seed %d: the decision changed the history", seed)
			}
			if at := branch.Decide(m, there, now); !reflect.DeepEqual(d, at) {
				t.Fatalf("seed %d: central decides\n%v\nthe branch\n%v", seed, d.Lines(), at.Lines())
			}
			counts[string(d.Action)]++
			counts["rule "+d.Rule()]++
			if d.Resume != "" {
				counts["resume"]++
			}
			if why := wrong(s, &h, p, m, now, &d); why != "" {
				t.Fatalf("seed %d: %s\n%v", seed, why, d.Lines())
			}
		}
	}
	t.Log(counts)
	for _, k := range []string{
		"silent", "boot", "offer", "resume", "rule " + RuleIgnored, "rule " + RuleIdentity, "rule " + RuleSite, "rule " + RuleInfrastructure, "rule " + RuleUnknown,
		"rule " + RuleHistory, "rule " + RuleNothing, "rule " + RuleWipeCap,
	} {
		if counts[k] < 100 {
			t.Errorf("%q came %d times: the worlds are too poor to show anything", k, counts[k])
		}
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wrong says what of a decision must never be, "" where nothing is. It knows the rules by its own reading of them.
func wrong(s *provisioning.Snapshot, h *History, p *Policy, m provisioning.Machine, now time.Time, d *Decision) string {
	role := s.Site.Spec.PXE
	if len(d.Reasons) == 0 || d.Why() == "" || d.Rule() == "" {
		return "it has no reason"
	}
	if d.Action == Silent {
		return ""
	}
	all := append(slices.Clone(s.Computers), s.Elsewhere...)
	has := func(c provisioning.Computer) bool {
		return m.GUID != "" && c.Spec.SMBIOSGUID == m.GUID || slices.Contains(c.Spec.MACAddresses, m.MAC) && !slices.Contains(role.SharedAdapters, m.MAC)
	}
	switch {
	case role == nil:
		return "the role is off"
	case slices.Contains(role.Ignore, m.MAC):
		return "it is to be ignored"
	case slices.ContainsFunc(all, func(c provisioning.Computer) bool { return c.Spec.Infrastructure && has(c) }):
		return "it is infrastructure"
	case slices.ContainsFunc(all, func(c provisioning.Computer) bool { return c.Spec.Site == "PAR" && has(c) }):
		return "it belongs to another site"
	case d.Unknown && slices.ContainsFunc(all, has):
		return "a known machine is unknown"
	case d.Unknown && role.UnknownComputers == nil:
		return "unknown computers are off"
	case d.Unknown && (m.GUID == "" || slices.Contains(role.SharedAdapters, m.MAC)):
		return "it may be a known machine"
	case required(d) && !h.Complete:
		return "it is required without a history"
	case !required(d):
		return wrongChoices(s, d)
	}
	ad := s.Advertisements[slices.IndexFunc(s.Advertisements, func(a provisioning.Advertisement) bool { return a.Name == d.Advertisement })]
	if d.Resume != "" {
		r := h.Runs[slices.IndexFunc(h.Runs, func(r provisioning.Run) bool { return r.ID == d.Resume })]
		if !r.Spent || r.Cleared || r.State != provisioning.RunStarted || r.Computer != d.Computer || m.GUID != "" && r.Machine.GUID != "" && r.Machine.GUID != m.GUID {
			return "it goes on with what is not its own interrupted run"
		}
		return ""
	}
	switch {
	case ad.Spec.Purpose != provisioning.PurposeRequired:
		return "it is not required"
	case d.Unknown && ad.Spec.Collection != provisioning.AllUnknownComputers:
		return "an unknown machine gets what is not for unknown computers"
	case !ad.Spec.Expires.IsZero() && !now.Before(ad.Spec.Expires.Time), now.Before(ad.Spec.Start.Time):
		return "it is not in force"
	}
	for _, r := range h.Runs {
		if r.Computer != d.Computer || r.Advertisement != d.Advertisement || r.Cleared || !r.Spent && r.State != provisioning.RunSucceeded {
			continue
		}
		again := ad.Spec.Rerun == provisioning.RerunAlways || ad.Spec.Rerun == provisioning.RerunIfFailed && r.State == provisioning.RunFailed
		if !again || r.State != provisioning.RunSucceeded && r.State != provisioning.RunFailed {
			return "it has run: " + r.ID
		}
	}
	if erases(s, d.TaskSequence) {
		begun := 0
		for _, r := range h.Runs {
			if r.Spent && r.SpentAt.After(now.Add(-time.Hour)) {
				begun++
			}
		}
		most := role.WipesPerHour
		if most == 0 {
			most = provisioning.DefaultWipesPerHour
		}
		if begun >= most+max(0, h.Approved) {
			return "it is beyond the wipe cap"
		}
	}
	return ""
}

func wrongChoices(s *provisioning.Snapshot, d *Decision) string {
	if len(d.Choices) == 0 || d.Choices[0] != (Choice{d.Advertisement, d.TaskSequence}) {
		return "the offer has no first choice"
	}
	for _, c := range d.Choices {
		i := slices.IndexFunc(s.Advertisements, func(a provisioning.Advertisement) bool { return a.Name == c.Advertisement })
		if i < 0 || s.Advertisements[i].Spec.Purpose != provisioning.PurposeAvailable || s.TaskSequence(c.TaskSequence) == nil {
			return "choice " + c.Advertisement + " is not available"
		}
	}
	return ""
}

func erases(s *provisioning.Snapshot, sequence string) bool {
	ts := s.TaskSequence(sequence)
	return ts == nil || slices.ContainsFunc(ts.Spec.Steps, func(s provisioning.Step) bool { return s.Destructive() })
}

// TestAnHourOfBoots lets machines of a site boot, begin, erase, fail and be cleared by chance for hours, as a branch would
// note it: in no hour more disks are erased than the wipe cap lets, and nothing runs again that has run.
func TestAnHourOfBoots(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(seed)
		most := 1 + w.IntN(6)
		s := &provisioning.Snapshot{
			Epoch: 1, Number: 1,
			Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: &provisioning.PXERole{
				Mode: provisioning.PXEModeProxy, WipesPerHour: most, UnknownComputers: &provisioning.UnknownComputers{},
			}}},
			TaskSequences: []provisioning.TaskSequence{{Name: "install", Spec: provisioning.TaskSequenceSpec{Steps: []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{}}}}}},
			Advertisements: []provisioning.Advertisement{
				{Name: "everybody", Spec: provisioning.AdvertisementSpec{TaskSequence: "install", Collection: provisioning.AllSystems, Purpose: provisioning.PurposeRequired}},
				{Name: "strangers", Spec: provisioning.AdvertisementSpec{TaskSequence: "install", Collection: provisioning.AllUnknownComputers, Purpose: provisioning.PurposeRequired}},
				{Name: "tools", Spec: provisioning.AdvertisementSpec{TaskSequence: "install", Collection: provisioning.AllSystems, Purpose: provisioning.PurposeAvailable}},
			},
		}
		for i := range 40 {
			s.Computers = append(s.Computers, provisioning.Computer{Name: fmt.Sprint("pc-", i), Spec: provisioning.ComputerSpec{
				MACAddresses: []provisioning.MAC{mac(i)}, SMBIOSGUID: guid(i + 1),
			}})
		}
		b := &simulated{world: w, t: t, seed: seed, history: History{Complete: true}.Indexed()}
		b.policy, _ = Compile(s)
		for now, end := noon, noon.Add(4*time.Hour); now.Before(end); now = now.Add(time.Duration(w.IntN(40)) * time.Second) {
			i := w.IntN(60) // the last 20 are unknown
			b.boots(provisioning.Machine{MAC: mac(i), GUID: guid(i + 1), Arch: provisioning.ArchUEFIx64}, now)
			b.progress(now)
		}
		b.holds(most)
	}
}

// simulated is a branch as far as decisions know one.
type simulated struct {
	world
	t       *testing.T
	seed    uint64
	policy  *Policy
	history History
	wipes   []time.Time
	erased  map[string]int // uncleared, by computer and advertisement
}

// boots lets a machine ask, and begins what it gets.
func (b *simulated) boots(m provisioning.Machine, now time.Time) {
	d := b.policy.Decide(m, b.history, now)
	if d.Action == Silent || d.Resume != "" || d.Action == Offer && b.chance(80) {
		return
	}
	run := provisioning.Run{
		ID: fmt.Sprintf("%032x", len(b.history.Runs)), Computer: d.Computer, Advertisement: d.Advertisement, TaskSequence: d.TaskSequence,
		State: provisioning.RunStarted, Machine: m, StartedAt: now, UpdatedAt: now,
	}
	for _, r := range b.history.Runs {
		if r.Computer == d.Computer && r.Advertisement == d.Advertisement && r.State == provisioning.RunStarted && !r.Spent {
			run.ID, run.StartedAt = r.ID, r.StartedAt // the one that had erased nothing
		}
	}
	b.history = b.history.With(run)
}

// progress lets one of the runs that go on erase, end, or be cleared.
func (b *simulated) progress(now time.Time) {
	if len(b.history.Runs) == 0 {
		return
	}
	run := b.history.Runs[b.IntN(len(b.history.Runs))]
	switch {
	case run.State == provisioning.RunStarted && !run.Spent && now.Sub(run.UpdatedAt) < time.Hour && b.chance(60):
		run.Spent, run.SpentAt, run.UpdatedAt = true, now, now
		b.wipes = append(b.wipes, now)
		b.mayErase(run)
		if _, ok := b.discovered(run.Computer); !ok && run.Advertisement == "strangers" {
			b.history.Discovered = append(slices.Clip(b.history.Discovered), provisioning.Computer{Name: run.Computer, Spec: provisioning.ComputerSpec{
				MACAddresses: []provisioning.MAC{run.Machine.MAC}, SMBIOSGUID: run.Machine.GUID,
			}})
			b.history = b.history.Indexed()
		}
	case run.State == provisioning.RunStarted:
		run.State, run.UpdatedAt = pick(b.world, provisioning.RunSucceeded, provisioning.RunFailed), now
	case b.chance(5):
		run.Cleared = true
		delete(b.erased, run.Computer+" "+run.Advertisement)
	}
	b.history = b.history.With(run)
}

func (b *simulated) discovered(name string) (provisioning.Computer, bool) {
	for _, c := range b.history.Discovered {
		if c.Name == name {
			return c, true
		}
	}
	return provisioning.Computer{}, false
}

// mayErase fails where what is required erases the same computer a second time without a person.
func (b *simulated) mayErase(run provisioning.Run) {
	if b.erased == nil {
		b.erased = map[string]int{}
	}
	key := run.Computer + " " + run.Advertisement
	if b.erased[key]++; run.Advertisement != "tools" && b.erased[key] > 1 {
		b.t.Fatalf("seed %d: %s has erased %s again", b.seed, run.Advertisement, run.Computer)
	}
}

// holds looks at every hour.
func (b *simulated) holds(most int) {
	if len(b.wipes) < most {
		b.t.Fatalf("seed %d: only %d disks were erased", b.seed, len(b.wipes))
	}
	for i := range b.wipes {
		n := 0
		for _, at := range b.wipes[i:] {
			if at.Before(b.wipes[i].Add(time.Hour)) {
				n++
			}
		}
		if n > most {
			b.t.Fatalf("seed %d: %d disks were erased in the hour from %s, %d may", b.seed, n, b.wipes[i], most)
		}
	}
}
