package branch

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// stranger is a machine that no record names.
var stranger = provisioning.Machine{MAC: "52:54:00:00:00:99", GUID: "99999999-1111-4111-8111-111111111111", Arch: provisioning.ArchUEFIx64}

// put puts a changed snapshot in force, with the next number.
func (s *site) put(t *testing.T, change func(*provisioning.Snapshot)) {
	t.Helper()
	now, _ := s.Snapshot()
	if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
		n.Number = now.Number + 1
		change(n)
	})); err != nil {
		t.Fatal(err)
	}
}

// bootOf is what the PXE service point gives a machine that a person has chosen an advertisement at, "" for none.
func (s *site) bootOf(t *testing.T, m provisioning.Machine, choice string) client.Boot {
	t.Helper()
	d := s.Decide(t.Context(), m)
	if choice != "" {
		var ok bool
		if d, ok = chosen(d, choice); !ok {
			t.Fatalf("%s is not among the choices: %+v", choice, d)
		}
	}
	b, err := s.BootConfig(t.Context(), m, d, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	var boot client.Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		t.Fatal(err)
	}
	return boot
}

// registered is an agent that has registered.
func (s *site) registered(t *testing.T, m provisioning.Machine, choice string, f client.Facts) (*client.Client, client.Registration) {
	t.Helper()
	a := agent(t, s.bootOf(t, m, choice))
	r, err := a.Register(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return a, r
}

func assignment(t *testing.T, a *client.Client) *provisioning.Assignment {
	t.Helper()
	out, err := a.Assignment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// report says what happens in a run; it continues the run's messages.
func report(t *testing.T, a *client.Client, as *provisioning.Assignment, code int, action string) {
	t.Helper()
	m := message(as, as.NextStatus, code, action)
	m.ID = newTestID(t)
	as.NextStatus++
	if err := a.Report(t.Context(), []provisioning.StatusMessage{m}); err != nil {
		t.Fatal(err)
	}
}

// TestTextsOfTheSite: a boot is given the texts of the snapshot in force.
func TestTextsOfTheSite(t *testing.T) {
	s := enrolled(t)
	if got := s.boot(t).Texts; got.Organization != "" {
		t.Errorf("got %+v", got)
	}
	err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
		n.Number = 2
		n.Site.Spec.Admins = []string{"Jo"}
		n.Site.Spec.Texts = &provisioning.SiteTexts{Organization: "St Mary's", Welcome: "Hands off.", Help: "Ring 4711."}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.boot(t).Texts; got.Organization != "St Mary's" || got.Welcome != "Hands off." || got.Help != "Ring 4711." || len(got.Admins) != 1 {
		t.Errorf("got %+v", got)
	}
}

// TestConsoleIsTold: what was done at a console reaches central.
func TestConsoleIsTold(t *testing.T) {
	s := enrolled(t)
	s.NoteConsole("a shell was opened at tty1")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { _ = s.Watch(ctx, func() {}); close(ended) }()
	defer func() { cancel(); <-ended }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		reports, err := s.cfg.Store.UndeliveredReports(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range reports {
			if r.Kind != provisioning.ReportConsoleShell {
				continue
			}
			if r.Text != "a shell was opened at tty1" || r.Validate() != nil {
				t.Errorf("%+v: %v", r, r.Validate())
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("central is not told")
		}
	}
}

func newTestID(t *testing.T) string {
	t.Helper()
	id, err := newID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// waiting are the site reports that wait for central.
func (s *site) waiting(t *testing.T, kind provisioning.ReportKind) []provisioning.SiteReport {
	t.Helper()
	all, err := s.cfg.Store.UndeliveredReports(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	var out []provisioning.SiteReport
	for _, r := range all {
		if err := r.Validate(); err != nil {
			t.Errorf("central would refuse %+v: %v", r, err)
		}
		if r.Kind == kind {
			out = append(out, r)
		}
	}
	return out
}

func available(name string, changed uint64) provisioning.Advertisement {
	return provisioning.Advertisement{Name: name, Changed: changed, Spec: provisioning.AdvertisementSpec{
		TaskSequence: "install", Computers: []string{"desk-1"}, Purpose: provisioning.PurposeAvailable,
	}}
}

// TestAvailable: the agent gets what was chosen at the machine, once for each start, and nothing else.
func TestAvailable(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Advertisements = []provisioning.Advertisement{available("old", 1), available("new", 2)}
	})
	d := s.Decide(t.Context(), desk)
	if d.Action != policy.Offer || len(d.Choices) != 2 || d.Choices[0].Advertisement != "new" {
		t.Fatalf("decided %+v", d)
	}
	boot, key := s.bootOf(t, desk, "old"), filepath.Join(t.TempDir(), "key")
	a := agentWith(t, boot, key)
	if _, err := a.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	as := assignment(t, a)
	if as.Run.Advertisement != "old" {
		t.Errorf("chosen was old, given is %s", as.Run.Advertisement)
	}
	if again := assignment(t, a); again.Run.ID != as.Run.ID {
		t.Error("asked again, it gets another run")
	}
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	if d := s.Decide(t.Context(), desk); d.Action != policy.Boot || d.Resume != as.Run.ID {
		t.Errorf("an interrupted one is not gone on with: %+v", d)
	}
	if again := assignment(t, a); again.Run.ID != as.Run.ID {
		t.Error("while it goes on, it gets another run")
	}
	report(t, a, as, provisioning.StatusSequenceDone, "")

	// The agent is started anew before the computer restarts: the choice is used up.
	b := agentWith(t, boot, key)
	if _, err := b.Register(t.Context(), client.Facts{MAC: desk.MAC}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
	// With the next start a person may choose again.
	c, _ := s.registered(t, desk, "old", client.Facts{MAC: desk.MAC})
	if as := assignment(t, c); as.Run.Advertisement != "old" {
		t.Errorf("run %+v", as.Run)
	}
}

// TestAvailableWithoutHistory: what a person chose begins, and goes on with its run within the boot.
func TestAvailableWithoutHistory(t *testing.T) {
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	if err := s.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
		n.Advertisements = append(n.Advertisements, available("new", 1))
	})); err != nil {
		t.Fatal(err)
	}
	if s.HistoryComplete() {
		t.Fatal("a new data disk knows its whole history")
	}
	s.listen(t)
	a, _ := s.registered(t, desk, "new", client.Facts{})
	as := assignment(t, a)
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	if again := assignment(t, a); again.Run.ID != as.Run.ID || !again.Run.Spent {
		t.Errorf("while it goes on, it gets run %+v", again.Run)
	}
}

// TestAChoiceThatIsGone: between menu and agent the advertisement was withdrawn, or something else is required by now.
func TestAChoiceThatIsGone(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, func(n *provisioning.Snapshot) {
		n.Advertisements = []provisioning.Advertisement{available("one", 1), available("two", 2)}
	})
	late := agent(t, s.bootOf(t, desk, "one"))
	a, _ := s.registered(t, desk, "one", client.Facts{})
	s.put(t, func(n *provisioning.Snapshot) { n.Advertisements = []provisioning.Advertisement{available("two", 2)} })
	_, err := late.Register(t.Context(), client.Facts{})
	wantCode(t, err, provisioning.CodeNotFound)
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
	s.put(t, func(n *provisioning.Snapshot) { n.Advertisements = append(n.Advertisements, available("one", 1)) }) // "rollout" is required there
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
	if runs := s.state.Load().past.Runs; len(runs) != 0 {
		t.Errorf("runs %+v", runs)
	}
	// And the other way round: what was required is merely available by now.
	r, _ := s.registered(t, desk, "", client.Facts{})
	s.put(t, func(n *provisioning.Snapshot) {
		n.Advertisements = []provisioning.Advertisement{available("rollout", 3)}
	})
	_, err = r.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeNotFound)
}

// TestChoicesWithoutContent are left out.
func TestChoicesWithoutContent(t *testing.T) {
	s := enrolled(t)
	s.put(t, func(n *provisioning.Snapshot) {
		look := available("look", 1)
		look.Spec.TaskSequence = "look"
		n.TaskSequences = append(n.TaskSequences, provisioning.TaskSequence{Name: "look"})
		n.Advertisements = []provisioning.Advertisement{available("install", 2), look}
	})
	s.installed = false
	if d := s.Decide(t.Context(), desk); d.Action != policy.Offer || len(d.Choices) != 1 || d.Choices[0].Advertisement != "look" || d.TaskSequence != "look" {
		t.Errorf("decided %+v", d)
	}
}

// TestClear: what has run may run again, once for each order, also where the order came before a restart.
func TestClear(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	deploy := func(s *site) {
		t.Helper()
		a, _ := s.registered(t, desk, "", client.Facts{})
		as := assignment(t, a)
		report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
		report(t, a, as, provisioning.StatusSequenceDone, "")
	}
	deploy(s)
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Fatalf("decided %+v", d)
	}
	clear := func(number uint64, at time.Time) func(*provisioning.Snapshot) {
		return func(n *provisioning.Snapshot) {
			n.Clears = []provisioning.Clear{{Number: number, Computer: "desk-1", At: at.UTC(), By: "jo"}}
		}
	}
	s.put(t, clear(1, time.Now().Add(-time.Hour))) // it was given before that run, and is heard of now
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("an order of before the run: %+v", d)
	}
	order := clear(2, time.Now())
	s.put(t, order)
	again := open(t, s.central, s.path)
	for name, s := range map[string]*site{"at once": s, "after a restart": again} {
		if d := s.Decide(t.Context(), desk); d.Action != policy.Boot || d.Resume != "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	again.listen(t)
	deploy(again)
	again.put(t, order)
	if d := again.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("one order is obeyed twice: %+v", d)
	}
}

// TestProtected: who is outside of the boundaries is refused, and told so.
func TestProtected(t *testing.T) {
	snapshot := func(protected bool, boundaries ...string) *provisioning.Snapshot {
		return &provisioning.Snapshot{Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{
			Boundaries: boundaries, DistributionPoint: &provisioning.DistributionPointRole{Protected: protected},
		}}}
	}
	for _, c := range []struct {
		name, remote string
		s            *provisioning.Snapshot
		code         provisioning.Code
	}{
		{"no snapshot", "192.0.2.1:1", nil, ""},
		{"not protected", "192.0.2.1:1", snapshot(false, "10.0.0.0/8"), ""},
		{"no boundaries", "192.0.2.1:1", snapshot(true), ""},
		{"inside", "10.1.2.3:1", snapshot(true, "192.0.2.0/24", "10.0.0.0/8"), ""},
		{"inside, as IPv6 writes it", "[::ffff:10.1.2.3]:1", snapshot(true, "10.0.0.0/8"), ""},
		{"inside, with a zone", "[fe80::1%eth0]:1", snapshot(true, "fe80::/10"), ""},
		{"host bits set", "10.1.2.3:1", snapshot(true, "10.1.2.99/24"), ""},
		{"outside", "192.0.2.1:1", snapshot(true, "10.0.0.0/8", "nonsense"), provisioning.CodeForbidden},
		{"outside, IPv6", "[2001:db8::1]:1", snapshot(true, "10.0.0.0/8"), provisioning.CodeForbidden},
		{"no address", "somewhere", snapshot(true, "10.0.0.0/8"), provisioning.CodeInternal},
	} {
		if err := mayRead(c.s, c.remote); provisioning.CodeOf(err) != c.code {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestReportsReachCentral, although the first attempt fails, and then wait no longer.
func TestReportsReachCentral(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.registered(t, desk, "", client.Facts{Serial: "S1"})
	s.central.down = true
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = s.DeliverReports(ctx); close(done) }()
	<-s.central.got
	<-s.central.got
	deadline := time.Now().Add(time.Minute)
	for len(s.waiting(t, provisioning.ReportInventory)) > 0 {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatal("the report waits still")
		}
	}
	facts := client.Facts{Serial: "S2"}
	s.registered(t, desk, "", facts)
	<-s.central.got
	cancel()
	<-done
	if len(s.central.reports) != 2 || s.central.reports[1].Inventory.Serial != "S2" {
		t.Errorf("central has %+v", s.central.reports)
	}
}
