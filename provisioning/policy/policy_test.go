package policy

import (
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

var (
	now     = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	desk1   = provisioning.Machine{MAC: "52:54:00:00:00:01", GUID: "11111111-1111-4111-8111-111111111111", Arch: provisioning.ArchUEFIx64}
	unknown = provisioning.Machine{MAC: "52:54:00:00:00:99", GUID: "99999999-9999-4999-8999-999999999999", Arch: provisioning.ArchUEFIx64}
)

// site is a configuration with two computers, of which desk-1 has two advertisements.
func site(change func(*provisioning.Snapshot)) *provisioning.Snapshot {
	s := &provisioning.Snapshot{
		Epoch: 1, Number: 1,
		Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: &provisioning.PXERole{Mode: provisioning.PXEModeProxy}}},
		Computers: []provisioning.Computer{
			{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{desk1.MAC}, SMBIOSGUID: desk1.GUID}},
			{Name: "desk-2", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{"52:54:00:00:00:02"}}},
			{Name: "desk-3", Spec: provisioning.ComputerSpec{SMBIOSGUID: "33333333-3333-4333-8333-333333333333"}},
		},
		TaskSequences: []provisioning.TaskSequence{{Name: "install"}},
		Advertisements: []provisioning.Advertisement{
			{Name: "a-first", Spec: provisioning.AdvertisementSpec{TaskSequence: "install", Computers: []string{"desk-1"}, Purpose: provisioning.PurposeRequired}},
			{Name: "b-second", Spec: provisioning.AdvertisementSpec{TaskSequence: "install", Computers: []string{"desk-1", "desk-3"}, Purpose: provisioning.PurposeRequired}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func run(ad string, state provisioning.RunState, spent bool, age time.Duration) provisioning.Run {
	return provisioning.Run{ID: ad + string(state), Computer: "desk-1", Advertisement: ad, State: state, Spent: spent, StartedAt: now.Add(-age), UpdatedAt: now.Add(-age)}
}

func TestDecide(t *testing.T) {
	type history = []provisioning.Run
	at := func(h int) provisioning.Time { return provisioning.Time{Time: now.Add(time.Duration(h) * time.Hour)} }
	with := func(m provisioning.Machine, f func(*provisioning.Machine)) provisioning.Machine { f(&m); return m }
	for _, c := range []struct {
		name     string
		snapshot *provisioning.Snapshot
		machine  provisioning.Machine
		history  history
		action   Action
		ad       string
		resume   string
		why      string
	}{
		{name: "no configuration yet", snapshot: nil, machine: desk1, action: Silent, why: "no configuration"},
		{name: "role off", snapshot: site(func(s *provisioning.Snapshot) { s.Site.Spec.PXE = nil }), machine: desk1, action: Silent, why: "is off"},
		{name: "unknown machine", snapshot: site(nil), machine: unknown, action: Silent, why: "no computer has MAC address"},
		{name: "unknown machine without a GUID", snapshot: site(nil), machine: with(unknown, func(m *provisioning.Machine) { m.GUID = "" }), action: Silent, why: "no computer has"},
		{name: "known by both", snapshot: site(nil), machine: desk1, action: Boot, ad: "a-first", why: "requires task sequence install"},
		{name: "known by GUID with a changed card", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.MAC = unknown.MAC }), action: Boot, ad: "a-first", why: "requires"},
		{name: "known by MAC, firmware without GUID", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.GUID = "" }), action: Boot, ad: "a-first", why: "requires"},
		{name: "known by GUID alone", snapshot: site(nil), machine: provisioning.Machine{MAC: unknown.MAC, GUID: "33333333-3333-4333-8333-333333333333"}, action: Boot, ad: "b-second", why: "requires"},
		{name: "MAC and GUID of two computers", snapshot: site(nil), machine: provisioning.Machine{MAC: "52:54:00:00:00:02", GUID: desk1.GUID}, action: Silent, why: "conflicting record"},
		{name: "known MAC in another board", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.GUID = unknown.GUID }), action: Silent, why: "conflicting record"},
		{name: "MAC of two computers", snapshot: site(func(s *provisioning.Snapshot) {
			s.Computers[1].Spec.MACAddresses = append(s.Computers[1].Spec.MACAddresses, desk1.MAC)
		}), machine: desk1, action: Silent, why: "more than one computer"},
		{name: "32-bit firmware", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.Arch = provisioning.ArchUEFIIA32 }), action: Silent, why: "no boot image for UEFI IA32"},
		{name: "arm64", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.Arch = provisioning.ArchUEFIARM64 }), action: Silent, why: "no boot image for UEFI arm64"},
		{name: "BIOS", snapshot: site(nil), machine: with(desk1, func(m *provisioning.Machine) { m.Arch = provisioning.ArchBIOS }), action: Boot, ad: "a-first"},
		{name: "known with nothing to do", snapshot: site(nil), machine: provisioning.Machine{MAC: "52:54:00:00:00:02"}, action: Silent, why: "no advertisement asks anything of desk-2"},
		{name: "done once, the second is due", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunSucceeded, true, time.Hour)}, action: Boot, ad: "b-second"},
		{name: "both done", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunSucceeded, true, time.Hour), run("b-second", provisioning.RunSucceeded, true, time.Hour)}, action: Silent, why: "no advertisement asks"},
		{name: "failed after writing waits for a person", snapshot: site(nil), machine: provisioning.Machine{MAC: desk1.MAC}, history: history{run("a-first", provisioning.RunFailed, true, time.Hour), run("b-second", provisioning.RunSucceeded, true, time.Hour)}, action: Silent, why: "no advertisement asks"},
		{name: "failed before writing is tried again", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunFailed, false, time.Hour)}, action: Boot, ad: "a-first"},
		{name: "started but nothing written begins again", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunStarted, false, time.Hour)}, action: Boot, ad: "a-first"},
		{name: "interrupted after writing goes on", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunStarted, true, time.Hour)}, action: Boot, ad: "a-first", resume: "a-firststarted"},
		{name: "interrupted run before one that is due", snapshot: site(nil), machine: desk1, history: history{run("b-second", provisioning.RunStarted, true, time.Hour)}, action: Boot, ad: "b-second", resume: "b-secondstarted"},
		{name: "interrupted run goes on after expiry", snapshot: site(func(s *provisioning.Snapshot) { s.Advertisements[0].Spec.Expires = at(-1) }), machine: desk1, history: history{run("a-first", provisioning.RunStarted, true, 2*time.Hour)}, action: Boot, ad: "a-first", resume: "a-firststarted"},
		{name: "the newest run counts", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunSucceeded, true, time.Hour), run("a-first", provisioning.RunStarted, true, 2*time.Hour)}, action: Boot, ad: "b-second"},
		{name: "succeeded by a clock that was behind", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunFailed, false, time.Hour), run("a-first", provisioning.RunSucceeded, true, 9000*time.Hour)}, action: Boot, ad: "b-second"},
		{name: "failed after writing, by a clock that was behind", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunStarted, false, time.Hour), run("a-first", provisioning.RunFailed, true, 9000*time.Hour)}, action: Boot, ad: "b-second"},
		{name: "interrupted by a clock that was behind", snapshot: site(nil), machine: desk1, history: history{run("a-first", provisioning.RunFailed, false, time.Hour), run("a-first", provisioning.RunStarted, true, 9000*time.Hour)}, action: Boot, ad: "a-first", resume: "a-firststarted"},
		{name: "another computer's history is not ours", snapshot: site(nil), machine: provisioning.Machine{MAC: unknown.MAC, GUID: "33333333-3333-4333-8333-333333333333"}, history: history{run("b-second", provisioning.RunSucceeded, true, time.Hour)}, action: Boot, ad: "b-second"},
		{name: "not started yet", snapshot: site(func(s *provisioning.Snapshot) {
			s.Advertisements = s.Advertisements[:1]
			s.Advertisements[0].Spec.Start = at(1)
		}), machine: desk1, action: Silent, why: "no advertisement asks"},
		{name: "starts this moment", snapshot: site(func(s *provisioning.Snapshot) { s.Advertisements[0].Spec.Start = at(0) }), machine: desk1, action: Boot, ad: "a-first"},
		{name: "expires this moment", snapshot: site(func(s *provisioning.Snapshot) { s.Advertisements[0].Spec.Expires = at(0) }), machine: desk1, action: Boot, ad: "b-second"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decide(c.snapshot, c.machine, c.history, now)
			if d.Action != c.action || d.Advertisement != c.ad || d.Resume != c.resume {
				t.Errorf("got %s advertisement %q resume %q, want %s %q %q\n%v", d.Action, d.Advertisement, d.Resume, c.action, c.ad, c.resume, d.Reasons)
			}
			if !strings.Contains(d.Why(), c.why) || d.Why() == "" {
				t.Errorf("reason %q, want %q", d.Why(), c.why)
			}
		})
	}
}
