package branch

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// forUnknown makes the site serve unknown computers.
func forUnknown(n *provisioning.Snapshot) {
	n.Site.Spec.PXE.UnknownComputers = &provisioning.UnknownComputers{NamePattern: "LON-%serial%"}
	n.Advertisements = []provisioning.Advertisement{{Name: "new-machines", Spec: provisioning.AdvertisementSpec{
		TaskSequence: "install", Collection: provisioning.AllUnknownComputers, Purpose: provisioning.PurposeRequired,
	}}}
}

// TestUnknownComputer: named by what its agent finds, known from the first erased disk on, also after a restart, told to
// central once, and no discovery any more once a snapshot has it.
func TestUnknownComputer(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, forUnknown)
	facts := client.Facts{MAC: stranger.MAC, GUID: stranger.GUID, Serial: "PF0/7", UEFI: true, MemoryBytes: 8 << 30}
	a, _ := s.registered(t, stranger, "", facts)
	as := assignment(t, a)
	if as.Computer.Name != "LON-PF0-7" || as.Run.Computer != "LON-PF0-7" || as.Computer.Spec.MACAddresses[0] != stranger.MAC {
		t.Errorf("assignment %+v", as)
	}
	if d := s.Decide(t.Context(), stranger); !d.Unknown {
		t.Errorf("it is known before anything has happened: %+v", d)
	}
	// Started again before that, it keeps its name and its run.
	a, _ = s.registered(t, stranger, "", client.Facts{Serial: "other", MemoryBytes: 8 << 30})
	again := assignment(t, a)
	if again.Run.ID != as.Run.ID || again.Computer.Name != "LON-PF0-7" {
		t.Errorf("started again it is %s, run %s", again.Computer.Name, again.Run.ID)
	}
	// Another machine with the same serial number is another computer.
	twin := stranger
	twin.MAC, twin.GUID = "52:54:00:00:00:98", "99999999-2222-4222-8222-222222222222"
	theirs := facts
	theirs.MAC, theirs.GUID = twin.MAC, twin.GUID
	b, _ := s.registered(t, twin, "", theirs)
	if as := assignment(t, b); as.Computer.Name != "LON-PF0-7-2" {
		t.Errorf("its twin is %s", as.Computer.Name)
	}
	if got := s.waiting(t, provisioning.ReportDiscovered); len(got) != 0 {
		t.Errorf("central is told before anything has happened: %+v", got)
	}
	report(t, a, again, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	report(t, a, again, provisioning.StatusStepStarted, "applyOperatingSystemImage")

	for name, s := range map[string]*site{"at once": s, "after a restart": open(t, s.central, s.path)} {
		d := s.Decide(t.Context(), stranger)
		if d.Unknown || d.Computer != "LON-PF0-7" || d.Resume != as.Run.ID {
			t.Errorf("%s: %+v", name, d)
		}
	}
	got := s.waiting(t, provisioning.ReportDiscovered)
	if len(got) != 1 || got[0].Discovered.Name != "LON-PF0-7" || got[0].Discovered.Spec.SMBIOSGUID != stranger.GUID || got[0].Discovered.Spec.Site != "LON" ||
		got[0].Inventory == nil || got[0].Inventory.MemoryMiB != 8<<10 {
		t.Fatalf("central is told %+v", got)
	}
	report(t, a, again, provisioning.StatusSequenceDone, "")
	if d := s.Decide(t.Context(), stranger); d.Action != policy.Silent {
		t.Errorf("what has run begins again: %+v", d)
	}
	s.put(t, func(n *provisioning.Snapshot) {
		forUnknown(n)
		n.Computers = append(n.Computers, *got[0].Discovered)
	})
	again2 := open(t, s.central, s.path)
	for name, s := range map[string]*site{"at once": s, "after a restart": again2} {
		if len(s.state.Load().past.Discovered) != 0 {
			t.Errorf("%s: what the snapshot has is a discovery still", name)
		}
		if d := s.Decide(t.Context(), stranger); d.Action != policy.Silent || d.Computer != "LON-PF0-7" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// Central is restored from a backup of a time before it knew of the computer.
	if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) { n.Epoch, n.Number = 2, 1; forUnknown(n) })); err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(t.Context(), stranger); d.Action != policy.Silent || d.Unknown {
		t.Errorf("a restored central makes it unknown again: %+v", d)
	}
	if got := s.waiting(t, provisioning.ReportDiscovered); len(got) != 2 {
		t.Errorf("a restored central is not told again: %+v", got)
	}
}

// TestUnknownIsSwitchedOff between the boot and its run.
func TestUnknownIsSwitchedOff(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, forUnknown)
	a, _ := s.registered(t, stranger, "", client.Facts{})
	s.put(t, func(*provisioning.Snapshot) {})
	_, err := a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
	// Or it was given a record under another name.
	s.put(t, forUnknown)
	b, _ := s.registered(t, stranger, "", client.Facts{})
	s.put(t, func(n *provisioning.Snapshot) {
		n.Computers = append(n.Computers, provisioning.Computer{Name: "desk-9", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{stranger.MAC}}})
		n.Advertisements[0].Spec.Computers = []string{"desk-9"}
	})
	_, err = b.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
	if runs := s.state.Load().past.Runs; len(runs) != 0 {
		t.Errorf("runs %+v", runs)
	}
}

// TestInventories are used for decisions at once, survive a restart, and reach central when they are news.
func TestInventories(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	facts := client.Facts{Serial: "S1", Product: strings.Repeat("ü", 500), MemoryBytes: -1}
	s.registered(t, desk, "", facts)
	s.registered(t, desk, "", facts)
	if got := s.waiting(t, provisioning.ReportInventory); len(got) != 1 || got[0].Computer != "desk-1" || got[0].Inventory.Serial != "S1" {
		t.Errorf("central is told %+v", got)
	}
	facts.Serial = "S2"
	s.registered(t, desk, "", facts)
	if got := s.waiting(t, provisioning.ReportInventory); len(got) != 2 {
		t.Errorf("central is told %+v", got)
	}
	again := open(t, s.central, s.path)
	if got := again.state.Load().past.Inventories["desk-1"].Serial; got != "S2" {
		t.Errorf("after a restart the serial number is %q", got)
	}
}

// TestConflicts are raised once for each machine, told to central, shown, and gone when they are resolved.
func TestConflicts(t *testing.T) {
	s := enrolled(t)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	clash := func(n *provisioning.Snapshot) {
		n.Computers = append(n.Computers, provisioning.Computer{Name: "desk-2", Spec: provisioning.ComputerSpec{SMBIOSGUID: desk.GUID}})
	}
	s.put(t, clash)
	s.Explain(desk)
	if c, _ := s.Notices(); len(c) != 0 {
		t.Error("explaining raises a conflict")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = s.Watch(ctx, func() {}); close(done) }()
	for range 100 {
		if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || d.Conflict == nil {
			t.Fatalf("decided %+v", d)
		}
	}
	for deadline := time.Now().Add(time.Minute); len(s.waiting(t, provisioning.ReportConflict)) == 0; {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatal("central is not told")
		}
	}
	if c, w := s.Notices(); len(c) != 1 || len(w) != 0 || c[0].Machine != desk || c[0].Conflict.ByMAC[0] != "desk-1" || c[0].Conflict.ByGUID[0] != "desk-2" {
		t.Errorf("shown are %+v, %+v", c, w)
	}
	s.put(t, func(*provisioning.Snapshot) {})
	if c, _ := s.Notices(); len(c) != 0 {
		t.Errorf("resolved, and shown still: %+v", c)
	}
	s.put(t, clash)
	s.Decide(t.Context(), desk)
	now = now.Add(noticeTime)
	if c, _ := s.Notices(); len(c) != 0 {
		t.Error("a machine that has been away for an hour is shown")
	}
	cancel()
	<-done
	if got := s.waiting(t, provisioning.ReportConflict); len(got) == 0 || len(got) > 2 {
		t.Errorf("central is told %d times", len(got))
	}
}

// TestManyConflicts: made-up addresses take no more than their room.
func TestManyConflicts(t *testing.T) {
	n := newNotices()
	for i := range 10 * maxNotices {
		m := provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255))}
		d := policy.Decision{Action: policy.Silent, Conflict: &provisioning.Conflict{Machine: m}}
		n.note("LON", m, &d, time.Unix(int64(i), 0))
	}
	if len(n.byKey) != maxNotices || len(n.take()) != maxUnsaid {
		t.Errorf("%d are remembered, %d wait", len(n.byKey), len(n.unsaid))
	}
}
