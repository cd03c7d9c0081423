package branch

import (
	"fmt"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// wipe deploys the computers desk-1 to desk-n as far as their first erased disk, and returns how many that were.
func (s *site) wipe(t *testing.T, from, to int) (begun int) {
	t.Helper()
	for i := from; i <= to; i++ {
		m := deskNumber(i)
		if d := s.Decide(t.Context(), m); d.Action != policy.Boot {
			if d.Rule() != policy.RuleWipeCap {
				t.Fatalf("desk %d: %+v", i, d)
			}
			continue
		}
		a, _ := s.registered(t, m, "", client.Facts{})
		as := assignment(t, a)
		begun++
		if i%2 == 0 { // the others are about to
			report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
		}
	}
	return begun
}

func deskNumber(i int) provisioning.Machine {
	return provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:01:%02x", i)), Arch: provisioning.ArchUEFIx64}
}

// room has 20 computers, a cap of 3, and the orders given.
func room(orders func(*provisioning.Snapshot)) func(*provisioning.Snapshot) {
	return func(n *provisioning.Snapshot) {
		n.Site.Spec.PXE.WipesPerHour = 3
		n.Computers = nil
		n.Advertisements[0].Spec.Computers = nil
		for i := range 20 {
			name := fmt.Sprintf("desk-%d", i+1)
			n.Computers = append(n.Computers, provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{deskNumber(i + 1).MAC}}})
			n.Advertisements[0].Spec.Computers = append(n.Advertisements[0].Spec.Computers, name)
		}
		if orders != nil {
			orders(n)
		}
	}
}

// TestWipeCap: no more than the cap begin in an hour, approvals let exactly as many more, from the console and from central,
// each order once, also after a restart.
func TestWipeCap(t *testing.T) {
	s := enrolled(t)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	s.listen(t)
	s.put(t, room(nil))
	if n := s.wipe(t, 1, 6); n != 3 {
		t.Fatalf("%d deployments began", n)
	}
	if _, waiting := s.Notices(); len(waiting) != 3 || waiting[0].Computer == "" {
		t.Errorf("waiting are %+v", waiting)
	}
	_, err := s.ApproveWipes(t.Context(), 0)
	wantCode(t, err, provisioning.CodeInvalid)
	if n, err := s.ApproveWipes(t.Context(), 2); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	if n := s.wipe(t, 4, 9); n != 2 {
		t.Errorf("2 were approved, %d began", n)
	}
	if _, waiting := s.Notices(); len(waiting) != 4 {
		t.Errorf("4 of 6 wait still, shown are %+v", waiting)
	}
	order := room(func(n *provisioning.Snapshot) {
		n.Approvals = []provisioning.Approval{{Number: 1, Wipes: 3, Expires: now.Add(2 * time.Hour).UTC(), By: "jo"}}
	})
	s.put(t, order)
	if n := s.wipe(t, 6, 7); n != 2 {
		t.Errorf("3 were approved, %d began", n)
	}
	again := open(t, s.central, s.path)
	again.cfg.Now = s.cfg.Now
	again.listen(t)
	again.put(t, order) // the same order
	if n := again.wipe(t, 8, 12); n != 1 {
		t.Errorf("1 was left of an approval, %d began after a restart", n)
	}
	now = now.Add(time.Hour)
	if n := again.wipe(t, 9, 20); n != 3 {
		t.Errorf("an hour later %d began", n)
	}
}

// TestWipeCapWhileAnAgentAsks: what is beyond the cap when the agent asks waits, and goes on when it is approved.
func TestWipeCapWhileAnAgentAsks(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, room(nil))
	var agents []*client.Client
	for i := range 5 { // all at once, as after a power cut
		a, _ := s.registered(t, deskNumber(i+1), "", client.Facts{})
		agents = append(agents, a)
	}
	for i, a := range agents {
		_, err := a.Assignment(t.Context())
		if i < 3 && err != nil {
			t.Fatal(err)
		} else if i >= 3 {
			wantCode(t, err, provisioning.CodeUnavailable)
		}
	}
	assignment(t, agents[0]) // its own run does not count against it
	if _, err := s.ApproveWipes(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	assignment(t, agents[3])
	assignment(t, agents[3])
	_, err := agents[4].Assignment(t.Context())
	wantCode(t, err, provisioning.CodeUnavailable)
}
