package branch

import (
	"errors"
	"slices"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// wakers is a site whose advertisement "rollout" wakes desk-1, and the clock that it goes by.
func wakers(t *testing.T) (*site, *time.Time) {
	t.Helper()
	s := enrolled(t)
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	s.put(t, func(n *provisioning.Snapshot) { n.Advertisements[0].Spec.WakeOnLAN = true })
	return s, &now
}

// wantWoken asks whom to wake.
func (s *site) wantWoken(t *testing.T, step string, want ...string) {
	t.Helper()
	got, err := s.Wake(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range got {
		names = append(names, w.Computer)
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s: woken are %v, want %v", step, names, want)
	}
}

// TestWake: a computer is woken when something becomes due on it, again while nothing is heard, and not once it has begun; a
// restart of the appliance wakes nobody.
func TestWake(t *testing.T) {
	s, now := wakers(t)
	s.wantWoken(t, "at first", "desk-1")
	s.wantWoken(t, "at once")
	s.put(t, func(n *provisioning.Snapshot) { n.Advertisements[0].Spec.WakeOnLAN = true })
	s.wantWoken(t, "with another configuration")
	restarted := open(t, s.central, s.path)
	restarted.cfg.Now = s.cfg.Now
	restarted.wantWoken(t, "after a restart")
	*now = now.Add(5 * time.Minute)
	restarted.wantWoken(t, "five minutes after it", "desk-1")

	s = restarted
	s.listen(t)
	a, _ := s.registered(t, desk, "", client.Facts{MAC: desk.MAC})
	as := assignment(t, a)
	*now = now.Add(10 * time.Minute)
	s.wantWoken(t, "it has begun")
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	report(t, a, as, provisioning.StatusSequenceDone, "")
	*now = now.Add(24 * time.Hour)
	s.wantWoken(t, "it has run")

	s.put(t, func(n *provisioning.Snapshot) {
		n.Advertisements[0].Spec.WakeOnLAN = true
		n.Clears = []provisioning.Clear{{Number: 1, Computer: "desk-1", At: now.Add(-time.Minute), By: "jo"}}
	})
	s.wantWoken(t, "it was cleared", "desk-1")
	s.put(t, func(n *provisioning.Snapshot) {})
	s.wantWoken(t, "the advertisement wakes nobody any more")
	if r, err := s.cfg.Store.Records(t.Context()); err != nil || len(r.Woken)+len(s.wakes.woken) != 0 {
		t.Errorf("remembered are %+v, stored %+v, %v", s.wakes.woken, r.Woken, err)
	}
}

// TestWakeLooksWhenThereIsSomethingNew: as long as nothing has changed it is not decided again, and it is when its time comes, or
// the clock is set back.
func TestWakeLooksWhenThereIsSomethingNew(t *testing.T) {
	s, now := wakers(t)
	start := now.Add(time.Hour)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Advertisements[0].Spec.WakeOnLAN, n.Advertisements[0].Spec.Start = true, provisioning.Time{Time: start}
	})
	s.wantWoken(t, "before it starts")
	asked := s.wakes.at
	*now = now.Add(59 * time.Minute)
	s.wantWoken(t, "a minute before it starts")
	if !s.wakes.at.Equal(asked) {
		t.Error("it was decided again although nothing had changed")
	}
	*now = asked.Add(-time.Minute)
	s.wantWoken(t, "after the clock was set back")
	if s.wakes.at.Equal(asked) {
		t.Error("it was not decided again although the clock was set back")
	}
	*now = start
	s.wantWoken(t, "when it starts", "desk-1")
}

// TestWakeThatCannotBeNoted: who is not remembered is not woken.
func TestWakeThatCannotBeNoted(t *testing.T) {
	s, now := wakers(t)
	disk, full := &breaking{Store: s.cfg.Store}, errors.New("the disk is full")
	disk.err.Store(&full)
	s.cfg.Store = disk
	if got, err := s.Wake(t.Context()); len(got) > 0 || !errors.Is(err, full) {
		t.Errorf("woken are %+v, %v", got, err)
	}
	s.wantWoken(t, "at once")
	disk.err.Store(nil)
	*now = now.Add(wakeRetry)
	s.wantWoken(t, "when there is room", "desk-1")
}

// TestBoundaries: those that can be read.
func TestBoundaries(t *testing.T) {
	s := enrolled(t)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Site.Spec.Boundaries = []string{"10.1.2.3/24", "what?", "2001:db8::/64"}
	})
	got := s.Boundaries()
	if len(got) != 2 || got[0].String() != "10.1.2.0/24" || got[1].String() != "2001:db8::/64" {
		t.Errorf("boundaries %v", got)
	}
}
