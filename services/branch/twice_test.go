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

// TestClearBeforeItErases: an order to let a computer run again is about what has run. A run that had erased nothing when it
// was given, and erases after that, has run: also at an appliance that hears of both from central.
func TestClearBeforeItErases(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	a, _ := s.registered(t, desk, "", client.Facts{})
	as := assignment(t, a)
	order := func(n *provisioning.Snapshot) {
		n.Clears = []provisioning.Clear{{Number: 1, Computer: "desk-1", At: time.Now().UTC(), By: "jo"}}
	}
	s.put(t, order)
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	report(t, a, as, provisioning.StatusSequenceDone, "")
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("its disk would be erased a second time: %+v", d)
	}

	run := s.state.Load().past.Runs[0]
	for name, c := range map[string]struct {
		run  provisioning.Run
		want bool
	}{
		"erased before":               {provisioning.Run{State: provisioning.RunSucceeded, Spent: true, SpentAt: noon.Add(-time.Minute), StartedAt: noon.Add(-time.Hour)}, true},
		"erased after":                {provisioning.Run{State: provisioning.RunSucceeded, Spent: true, SpentAt: noon.Add(time.Minute), StartedAt: noon.Add(-time.Hour)}, false},
		"began after":                 {provisioning.Run{State: provisioning.RunFailed, StartedAt: noon.Add(time.Minute)}, false},
		"is about to":                 {provisioning.Run{State: provisioning.RunStarted, StartedAt: noon.Add(-time.Hour)}, false},
		"interrupted before":          {provisioning.Run{State: provisioning.RunStarted, Spent: true, SpentAt: noon.Add(-time.Minute), StartedAt: noon.Add(-time.Hour)}, true},
		"ended without having erased": {provisioning.Run{State: provisioning.RunSucceeded, StartedAt: noon.Add(-time.Hour)}, true},
	} {
		order := provisioning.Clear{Computer: "desk-1", At: noon}
		if got := order.Covers(&c.run); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	replaced := open(t, newCentral(t), t.TempDir()+"/branch.db")
	replaced.central.runs = []provisioning.Run{run}
	if err := replaced.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if err := replaced.apply(t.Context(), replaced.central.sign(t, func(n *provisioning.Snapshot) { *n = *s.state.Load().snapshot })); err != nil {
		t.Fatal(err)
	}
	if err := replaced.fetchHistory(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := replaced.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("a replaced appliance erases it a second time: %+v", d)
	}
}

// TestRestoredCentralKnowsLess: what a central that was restored from an older backup does not know of is not unknown, and
// keeps what keeps it from being erased. Central is told of no computer of which its record would say less.
func TestRestoredCentralKnowsLess(t *testing.T) {
	s := enrolled(t)
	everybody := func(n *provisioning.Snapshot) {
		forUnknown(n)
		n.Advertisements = append(n.Advertisements, provisioning.Advertisement{Name: "everybody", Spec: provisioning.AdvertisementSpec{
			TaskSequence: "install", Collection: provisioning.AllSystems, Purpose: provisioning.PurposeRequired,
		}})
	}
	machine := func(i int) provisioning.Machine {
		return provisioning.Machine{MAC: deskNumber(i).MAC, GUID: provisioning.GUID(fmt.Sprintf("%08d-1111-4111-8111-111111111111", i)), Arch: desk.Arch}
	}
	computer := func(name, site string, infrastructure bool, numbers ...int) provisioning.Computer {
		c := provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{Site: site, Infrastructure: infrastructure}}
		for _, i := range numbers {
			c.Spec.MACAddresses = append(c.Spec.MACAddresses, machine(i).MAC)
		}
		return c
	}
	s.put(t, func(n *provisioning.Snapshot) {
		everybody(n)
		n.Computers = append(n.Computers, computer("desk-9", "", false, 1, 2), computer("server", "LON", true, 3), computer("renamed-since", "", false, 5), computer("single", "", false, 7),
			computer("desk-20", "", false, 20, 21), computer("desk-22", "", true, 22))
		n.Elsewhere = []provisioning.Computer{computer("visitor", "PAR", false, 4)}
	})
	if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
		n.Epoch, n.Number = 2, 1
		everybody(n)
		n.Computers = append(n.Computers, computer("older-name", "", false, 5), computer("desk-20", "", false, 20), computer("desk-22", "", false, 23))
	})); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*site{"at once": s, "after a restart": open(t, s.central, s.path)} {
		for i, rule := range []string{policy.RuleNothing, policy.RuleNothing, policy.RuleInfrastructure, policy.RuleSite} {
			if d := s.Decide(t.Context(), machine(i+1)); d.Action != policy.Silent || d.Rule() != rule || d.Unknown {
				t.Errorf("%s: machine %d gets %+v", name, i+1, d)
			}
		}
		for i, rule := range map[int]string{20: policy.RuleRequired, 21: policy.RuleNothing, 22: policy.RuleInfrastructure, 23: policy.RuleRequired} {
			if d := s.Decide(t.Context(), machine(i)); d.Rule() != rule || d.Unknown {
				t.Errorf("%s: machine %d of a computer that is described otherwise gets %+v", name, i, d)
			}
		}
		if d := s.Decide(t.Context(), machine(5)); d.Action != policy.Boot || d.Computer != "older-name" {
			t.Errorf("%s: what central knows under another name gets %+v", name, d)
		}
		if d := s.Decide(t.Context(), machine(7)); d.Action != policy.Silent || d.Computer != "single" {
			t.Errorf("%s: a computer that was never deployed gets %+v", name, d)
		}
		if d := s.Decide(t.Context(), machine(6)); d.Action != policy.Boot || !d.Unknown {
			t.Errorf("%s: a machine that nobody knows gets %+v", name, d)
		}
	}
	if got := s.waiting(t, provisioning.ReportDiscovered); len(got) != 0 {
		t.Errorf("central is told %+v", got)
	}
	// When central knows them again, they are what it says.
	s.put(t, func(n *provisioning.Snapshot) {
		n.Epoch, n.Number = 2, 2
		everybody(n)
		n.Computers = append(n.Computers, computer("desk-9", "", false, 1, 2), computer("server", "LON", true, 3), computer("visitor", "PAR", false, 4), computer("single", "", false, 7),
			computer("desk-20", "", false, 20, 21), computer("desk-22", "", false, 22))
	})
	if left := s.state.Load().past.Discovered; len(left) != 0 {
		t.Errorf("kept are %+v", left)
	}
}

// TestRefusedByCentral: an appliance whose certificate central refuses has perhaps been replaced: it requires nothing until it
// has enrolled again and heard what has run meanwhile.
func TestRefusedByCentral(t *testing.T) {
	s := enrolled(t)
	ctx, c := t.Context(), s.central
	s.listen(t)
	a, _ := s.registered(t, desk, "", client.Facts{})
	as := assignment(t, a)
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	if d := s.Decide(ctx, desk); d.Resume != as.Run.ID {
		t.Fatalf("%+v", d)
	}
	c.refused = true
	follow, stop := context.WithCancel(ctx)
	s.cfg.Contact = func(err error) {
		wantCode(t, err, provisioning.CodeUnauthorized)
		stop()
	}
	_ = s.Follow(follow)
	for name, s := range map[string]*site{"at once": s, "after a restart": openWith(t, s)} {
		if d := s.Decide(ctx, desk); d.Action != policy.Silent {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// A person who knows better may say so, until the appliance starts again.
	if err := s.AcceptHistory(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.unsettle(ctx); err != nil || !s.HistoryComplete() {
		t.Error("what a person said does not hold:", err)
	}
	// The appliance that took its place has ended the run.
	s = openWith(t, s)
	if err := s.unsettle(ctx); err != nil || s.HistoryComplete() {
		t.Fatal(err)
	}
	ended := as.Run
	ended.Spent, ended.State, ended.UpdatedAt = true, provisioning.RunSucceeded, time.Now().UTC()
	c.refused, c.runs = false, []provisioning.Run{ended}
	s.cfg.EnrolmentToken = "good"
	if err := s.enrolAgain(ctx, nil); err != nil {
		t.Fatal(err)
	}
	s.keepUp(ctx)
	if !s.HistoryComplete() {
		t.Fatal("the history was not fetched")
	}
	for name, s := range map[string]*site{"at once": s, "after a restart": openWith(t, s)} {
		if d := s.Decide(ctx, desk); d.Action != policy.Silent {
			t.Errorf("%s: what has ended elsewhere goes on: %+v", name, d)
		}
	}
}

// TestAnOlderDataDisk: once after each start the branch hears from central what its own data disk does not say.
func TestAnOlderDataDisk(t *testing.T) {
	s := enrolled(t)
	ctx := t.Context()
	if d := s.Decide(ctx, desk); d.Action != policy.Boot {
		t.Fatalf("%+v", d)
	}
	s.central.runs = []provisioning.Run{{
		ID: strings.Repeat("a", 32), Computer: "desk-1", Advertisement: "rollout", TaskSequence: "install", State: provisioning.RunSucceeded, Spent: true,
		SpentAt: time.Now().UTC(), StartedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC(),
	}}
	again := openWith(t, s)
	again.keepUp(ctx)
	if d := again.Decide(ctx, desk); d.Action != policy.Silent {
		t.Errorf("what has run runs again: %+v", d)
	}
}

// TestWipeCapWhereAgentsLinger: agents that were about to erase for longer than the wipe cap looks back wait with their first
// step that erases, until the cap lets them or a person does.
func TestWipeCapWhereAgentsLinger(t *testing.T) {
	s := enrolled(t)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	s.listen(t)
	s.put(t, room(nil)) // a cap of 3
	type one struct {
		agent      *client.Client
		assignment *provisioning.Assignment
	}
	var all []one
	begin := func(from, to int) {
		for i := from; i <= to; i++ {
			a, _ := s.registered(t, deskNumber(i), "", client.Facts{})
			all = append(all, one{a, assignment(t, a)})
		}
	}
	begin(1, 3)
	now = now.Add(61 * time.Minute)
	begin(4, 6)
	erase := func(x one) error {
		m := message(x.assignment, x.assignment.NextStatus, provisioning.StatusStepStarted, "applyOperatingSystemImage")
		m.ID = newTestID(t)
		return x.agent.Report(t.Context(), []provisioning.StatusMessage{m})
	}
	for _, x := range all[:3] {
		if err := erase(x); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range all[3:] {
		wantCode(t, erase(x), provisioning.CodeUnavailable)
	}
	if _, waiting := s.Notices(); len(waiting) != 3 {
		t.Errorf("waiting are %+v", waiting)
	}
	if n := len(s.state.Load().past.Runs); n != 6 {
		t.Fatalf("%d runs", n)
	}
	if _, err := s.ApproveWipes(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := erase(all[3]); err != nil {
		t.Error("after an approval:", err)
	}
	wantCode(t, erase(all[4]), provisioning.CodeUnavailable)
	now = now.Add(time.Hour)
	for _, x := range all[4:] {
		if err := erase(x); err != nil {
			t.Error("an hour later:", err)
		}
	}
	again := open(t, s.central, s.path)
	if n := left(again.state.Load().allowances, now); n != 0 {
		t.Errorf("%d are left of the approval after a restart", n)
	}
}

// TestStoppedBeforeItErases: what was given to a machine is held up before its first step that erases, where the machine may
// get nothing by then.
func TestStoppedBeforeItErases(t *testing.T) {
	for name, change := range map[string]func(*provisioning.Snapshot){
		"ignored":         func(n *provisioning.Snapshot) { n.Site.Spec.PXE.Ignore = []provisioning.MAC{desk.MAC} },
		"the role is off": func(n *provisioning.Snapshot) { n.Site.Spec.PXE = nil },
		"infrastructure":  func(n *provisioning.Snapshot) { n.Computers[0].Spec.Infrastructure = true },
		"an appliance's machine": func(n *provisioning.Snapshot) {
			n.Infrastructure = []provisioning.Host{{Site: "PAR", Hardware: provisioning.Hardware{MACAddresses: []provisioning.MAC{desk.MAC}}}}
		},
		"of another site":          func(n *provisioning.Snapshot) { n.Computers[0].Spec.Site = "PAR" },
		"its record was deleted":   func(n *provisioning.Snapshot) { n.Computers = nil },
		"another's record":         func(n *provisioning.Snapshot) { n.Computers[0].Spec.SMBIOSGUID = stranger.GUID },
		"advertisement is deleted": func(n *provisioning.Snapshot) { n.Advertisements = nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := enrolled(t)
			s.listen(t)
			a, _ := s.registered(t, desk, "", client.Facts{})
			as := assignment(t, a)
			s.put(t, change)
			m := message(as, as.NextStatus, provisioning.StatusStepStarted, "applyOperatingSystemImage")
			wantCode(t, a.Report(t.Context(), []provisioning.StatusMessage{m}), provisioning.CodeConflict)
			s.put(t, func(*provisioning.Snapshot) {})
			if run := s.state.Load().past.Runs[0]; run.Spent {
				t.Errorf("it may erase: %+v", run)
			}
			if err := a.Report(t.Context(), []provisioning.StatusMessage{m}); err != nil { // where it was changed back
				t.Error(err)
			}
			s.put(t, change) // what has begun goes on
			report(t, a, as, provisioning.StatusStepStarted, "partitionDisk")
		})
	}
}

// TestApprovalsByAClockThatWasSetBack: what has ended has ended; what is approved by such a clock holds.
func TestApprovalsByAClockThatWasSetBack(t *testing.T) {
	s := enrolled(t)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Site.Spec.PXE.WipesPerHour = 1
		n.Approvals = []provisioning.Approval{{Number: 1, Wipes: 5, Expires: time.Now().Add(-time.Minute).UTC(), By: "jo"}}
	})
	s.cfg.Now = func() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
	if n := s.state.Load().history(s.cfg.Now()).Approved; n != 0 {
		t.Errorf("%d are approved by what has ended", n)
	}
	if n, err := s.ApproveWipes(t.Context(), 2); err != nil || n != 2 || s.state.Load().history(s.cfg.Now()).Approved != 2 {
		t.Errorf("%d are approved: %v", n, err)
	}
}

// TestFoundGUID: what the agent finds counts where the firmware has said nothing; an SMBIOS GUID that was read in the other
// order of bytes is the same.
func TestFoundGUID(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Computers = append(n.Computers, provisioning.Computer{Name: "desk-2", Spec: provisioning.ComputerSpec{SMBIOSGUID: stranger.GUID}})
	})
	silent := provisioning.Machine{MAC: desk.MAC, Arch: desk.Arch}
	for name, c := range map[string]struct {
		boots provisioning.Machine
		finds provisioning.GUID
		want  provisioning.Code
	}{
		"the same":                       {desk, desk.GUID, ""},
		"nothing":                        {desk, "", ""},
		"what many have":                 {desk, "03000200-0400-0500-0006-000700080009", ""},
		"nonsense":                       {desk, "nonsense", ""},
		"in the other order":             {desk, desk.GUID.Swapped(), ""},
		"another one":                    {desk, stranger.GUID, provisioning.CodeForbidden},
		"its own, which PXE kept back":   {silent, desk.GUID, ""},
		"another's, which PXE kept back": {silent, stranger.GUID, provisioning.CodeNotFound},
	} {
		a := agent(t, s.bootOf(t, c.boots, ""))
		_, err := a.Register(t.Context(), client.Facts{GUID: c.finds})
		if provisioning.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" {
			continue
		}
		if as := assignment(t, a); as.Run.Machine.GUID != desk.GUID && as.Run.Machine.GUID != c.boots.GUID {
			t.Errorf("%s: the run is of %+v", name, as.Run.Machine)
		}
	}
}

// TestMachineOfRuns: central is told which machine a run was given to when it erases, by the branch and by nobody else: so a
// replaced appliance knows it.
func TestMachineOfRuns(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	a, _ := s.registered(t, desk, "", client.Facts{})
	as := assignment(t, a)
	for _, action := range []string{"runCommandLine", "applyOperatingSystemImage"} {
		m := message(as, as.NextStatus, provisioning.StatusStepStarted, action)
		m.ID, m.Machine = newTestID(t), stranger
		as.NextStatus++
		if err := a.Report(t.Context(), []provisioning.StatusMessage{m}); err != nil {
			t.Fatal(err)
		}
	}
	told, err := s.cfg.Store.Undelivered(t.Context(), 10)
	if err != nil || len(told) != 2 || told[0].Machine != (provisioning.Machine{}) || told[1].Machine != desk {
		t.Errorf("%+v %v", told, err)
	}
	var run provisioning.Run
	var record provisioning.RunRecord
	for _, m := range told {
		run.Note(m)
		record.Note(&m)
	}
	if run.Machine != desk || record.Run.Machine != desk {
		t.Errorf("%+v, %+v", run, record)
	}
}
