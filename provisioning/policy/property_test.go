package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"branchpoint/provisioning"
)

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
			Runs: carried(t, h.Runs), Discovered: carried(t, h.Discovered), Inventories: carried(t, h.Inventories), Complete: h.Complete, Approved: h.Approved, Own: h.Own,
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
	case hosts(s, h, m, all, d):
		return "it is an appliance's machine, or central's"
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
			if r.Spent && r.Allowance == "" && r.SpentAt.After(now.Add(-time.Hour)) {
				begun++
			}
		}
		most := role.WipesPerHour
		if most == 0 {
			most = provisioning.DefaultWipesPerHour
		}
		if begun >= most && (h.Approved <= 0 || !d.Approved) {
			return "it is beyond the wipe cap"
		}
	}
	return ""
}

// hosts reports whether the machine, or the computer that it is taken for, is one that an appliance or central runs on: the
// snapshot's, or number 13, which the one that decides runs on where it has any.
func hosts(s *provisioning.Snapshot, h *History, m provisioning.Machine, all []provisioning.Computer, d *Decision) bool {
	list := slices.Clone(s.Infrastructure)
	if h.Own.Find(mac(13), "") != nil {
		list = append(list, provisioning.Host{Hardware: provisioning.Hardware{MACAddresses: []provisioning.MAC{mac(13)}, SMBIOSGUID: guid(14)}})
	}
	is := func(a provisioning.MAC, g provisioning.GUID) bool {
		return slices.ContainsFunc(list, func(x provisioning.Host) bool {
			return g != "" && (g == x.SMBIOSGUID || g.Swapped() == x.SMBIOSGUID) ||
				slices.Contains(x.MACAddresses, a) && !slices.Contains(s.Site.Spec.PXE.SharedAdapters, a)
		})
	}
	for _, c := range all {
		if c.Name == d.Computer && (is("", c.Spec.SMBIOSGUID) || slices.ContainsFunc(c.Spec.MACAddresses, func(a provisioning.MAC) bool { return is(a, "") })) {
			return true
		}
	}
	return is(m.MAC, m.GUID)
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
		b := &simulated{world: w, t: t, seed: seed, history: History{Complete: true, Approved: w.IntN(4)}.Indexed()}
		approved := b.history.Approved
		b.policy, _ = Compile(s)
		for now, end := noon, noon.Add(4*time.Hour); now.Before(end); now = now.Add(time.Duration(w.IntN(40)) * time.Second) {
			i := w.IntN(60) // the last 20 are unknown
			b.boots(provisioning.Machine{MAC: mac(i), GUID: guid(i + 1), Arch: provisioning.ArchUEFIx64}, now)
			b.progress(now)
		}
		b.holds(most + approved)
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
			run.ID, run.StartedAt, run.Allowance = r.ID, r.StartedAt, r.Allowance // the one that had erased nothing
		}
	}
	if d.Approved && run.Allowance == "" {
		run.Allowance = "1"
		b.history.Approved--
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
