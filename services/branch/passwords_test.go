package branch

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"
	"branchpoint/services/branch/client"
)

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
	deadline := time.Now().Add(time.Minute)
	for len(q.waiting) < 2 { // until it waits
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatal("it does not wait")
		}
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
