package branch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"
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

const rightPassword = "correct horse battery"

var passwordHash = sync.OnceValue(func() string {
	h, err := password.Hash(rand.Reader, rightPassword)
	if err != nil {
		panic(err)
	}
	return h
})

// TestPassword: wrong ones slow down, through starts of client and agent; nothing happens before the right one; and what was
// typed stands nowhere.
func TestPassword(t *testing.T) {
	s := enrolled(t)
	var log bytes.Buffer
	s.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	now := time.Now()
	s.cfg.Now = func() time.Time { return now }
	s.listen(t)
	s.put(t, func(n *provisioning.Snapshot) { n.Site.Spec.PXE.PasswordHash = passwordHash() })
	a, r := s.registered(t, desk, "", client.Facts{})
	if !r.PasswordWanted || r.WaitSeconds != 0 {
		t.Fatalf("registration %+v", r)
	}
	_, err := a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	wantCode(t, a.Report(t.Context(), nil), provisioning.CodeForbidden)
	const wrong = "hunter2-wrong"
	give := func(a *client.Client, p string) client.PasswordAnswer {
		t.Helper()
		out, err := a.Password(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i := range 3 {
		if got := give(a, wrong); got.Right || !got.Checked || got.WaitSeconds != 1<<i {
			t.Fatalf("wrong password %d: %+v", i, got)
		}
		if got := give(a, rightPassword); got.Right || got.Checked || got.WaitSeconds != 1<<i {
			t.Fatalf("the right one, too early: %+v", got)
		}
		if i < 2 {
			now = now.Add(time.Duration(1<<i) * time.Second)
		}
	}
	// The client starts anew: it is told to wait on.
	a, r = s.registered(t, desk, "", client.Facts{})
	if r.WaitSeconds != 4 {
		t.Errorf("after a new start it may try again in %d s", r.WaitSeconds)
	}
	// Another card in the same machine changes nothing, nor does a restart of the appliance.
	other := desk
	other.MAC = "52:54:00:00:00:aa"
	if w := s.attempts.wait((&claims{Machine: other, Key: "another"}).accounts(), now); w != 4*time.Second {
		t.Errorf("with another card it may try again in %s", w)
	}
	again := open(t, s.central, s.path)
	if w := again.attempts.wait((&claims{Machine: desk}).accounts(), now); w != 4*time.Second {
		t.Errorf("after a restart of the appliance it may try again in %s", w)
	}
	now = now.Add(4 * time.Second)
	if got := give(a, rightPassword); !got.Right || !got.Checked {
		t.Fatalf("the right one: %+v", got)
	}
	if again := open(t, s.central, s.path); again.attempts.wait((&claims{Machine: desk}).accounts(), now) != 0 {
		t.Error("a restart of the appliance takes the right password back")
	}
	as := assignment(t, a)
	report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
	// Success forgets; and a run that goes on asks for none.
	if _, r := s.registered(t, desk, "", client.Facts{}); r.PasswordWanted {
		t.Error("an interrupted run asks for the password again")
	}
	if w := s.attempts.wait([]string{"mac " + string(desk.MAC)}, now); w != 0 {
		t.Errorf("after success one waits %s", w)
	}
	if got := s.waiting(t, provisioning.ReportPasswordRefused); len(got) != 3 || got[2].Machine.MAC != desk.MAC || got[2].Computer != "desk-1" {
		t.Errorf("central is told %+v", got)
	}
	if n := strings.Count(log.String(), "wrong password"); n != 3 {
		t.Errorf("%d lines in the log:\n%s", n, log.String())
	}
	reports, err := json.Marshal(s.waiting(t, provisioning.ReportPasswordRefused))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{wrong, rightPassword, "hunter2"} {
		if strings.Contains(log.String()+string(reports), secret) {
			t.Errorf("%q stands in the log or in a report", secret)
		}
	}
}

// TestPasswordOfAnAgentStartedAgain: within one start it is asked for once.
func TestPasswordOfAnAgentStartedAgain(t *testing.T) {
	s := enrolled(t)
	s.listen(t)
	s.put(t, func(n *provisioning.Snapshot) { n.Site.Spec.PXE.PasswordHash = passwordHash() })
	boot, key := s.bootOf(t, desk, ""), filepath.Join(t.TempDir(), "key")
	a := agentWith(t, boot, key)
	if _, err := a.Register(t.Context(), client.Facts{}); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Password(t.Context(), rightPassword); err != nil || !got.Right {
		t.Fatal(got, err)
	}
	b := agentWith(t, boot, key)
	if r, err := b.Register(t.Context(), client.Facts{}); err != nil || r.PasswordWanted {
		t.Errorf("asked again: %+v, %v", r, err)
	}
	assignment(t, b)
	// Another agent's token does not open by it.
	c, r := s.registered(t, desk, "", client.Facts{})
	if !r.PasswordWanted {
		t.Error("the next start asks for none")
	}
	_, err := c.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
}

// TestPasswordsWaitInLine: no more than a few wait, and who gives up leaves his place.
func TestPasswordsWaitInLine(t *testing.T) {
	q := newQueue(2)
	leave, err := q.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.enter(gone); err == nil {
		t.Error("it did not wait")
	}
	entered := make(chan func())
	go func() {
		leave, err := q.enter(context.Background())
		if err != nil {
			t.Error(err)
			leave = func() {}
		}
		entered <- leave
	}()
	for len(q.waiting) < 2 { // until it waits
		time.Sleep(time.Millisecond)
	}
	_, err = q.enter(t.Context())
	wantCode(t, err, provisioning.CodeUnavailable)
	leave()
	(<-entered)()
	if leave, err := q.enter(t.Context()); err != nil {
		t.Error(err)
	} else {
		leave()
	}
}

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
	for len(s.waiting(t, provisioning.ReportInventory)) > 0 {
		time.Sleep(time.Millisecond)
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
