package branch

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestWrongPasswordsSlowDown(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000, 0)
	one := []string{"mac 1", "key 1"}
	var delays []time.Duration
	for i := range 12 {
		count, wait := a.begin(one, now)
		if wait != 0 || count != i+1 {
			t.Fatalf("try %d: count %d, wait %s", i, count, wait)
		}
		d := a.wait(one, now)
		delays = append(delays, d)
		if _, wait := a.begin(one, now.Add(d-time.Millisecond)); wait <= 0 {
			t.Fatalf("after %d wrong ones nobody waits", i+1)
		}
		// Another key, and another card, of the same machine.
		if a.wait([]string{"mac 1", "key 2"}, now) != d || a.wait([]string{"mac 2", "key 1"}, now) != d {
			t.Error("a machine is taken for another one as half of it changed")
		}
		now = now.Add(d)
	}
	if fmt.Sprint(delays[:4]) != "[1s 2s 4s 8s]" || delays[11] != lastDelay {
		t.Errorf("delays %v", delays)
	}
	if w := a.wait([]string{"mac 3", "key 3"}, now); w != 0 {
		t.Errorf("another machine waits %s", w)
	}
	if count, wait := a.begin(one, now.Add(forgetAfter)); wait != 0 || count != 1 {
		t.Errorf("after an hour: count %d, wait %s", count, wait)
	}
}

func TestARightPasswordForgets(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000, 0)
	one := []string{"mac 1", "key 1"}
	for range 5 {
		a.begin(one, now)
		now = now.Add(lastDelay)
	}
	if _, wait := a.begin(one, now); wait != 0 {
		t.Fatal(wait)
	}
	a.right(one)
	if count, wait := a.begin(one, now); wait != 0 || count != 1 {
		t.Errorf("count %d, wait %s", count, wait)
	}
	a.unknown(one)
	if count, wait := a.begin(one, now); wait != 0 || count != 1 {
		t.Errorf("what could not be looked at counts: %d, %s", count, wait)
	}
}

// TestManyAtOnceAreNoWayAround: a password that is being looked at counts already.
func TestManyAtOnceAreNoWayAround(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000, 0)
	if _, wait := a.begin([]string{"mac 1"}, now); wait != 0 {
		t.Fatal(wait)
	}
	if _, wait := a.begin([]string{"mac 1"}, now); wait == 0 {
		t.Error("a second password is looked at beside the first")
	}
}

func TestTheSitesBudget(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000, 0)
	taken := 0
	for i := range 10 * siteBurst {
		if _, wait := a.begin([]string{fmt.Sprint("mac ", i)}, now); wait == 0 {
			taken++
		}
	}
	if taken != siteBurst {
		t.Errorf("%d made-up machines were listened to", taken)
	}
	if _, wait := a.begin([]string{"mac x"}, now.Add(siteInterval)); wait != 0 {
		t.Errorf("after %s one more has to wait %s", siteInterval, wait)
	}
	// Years of guesses, each under a name of its own, stay bounded.
	for i := range 3 * maxAccounts {
		now = now.Add(siteInterval)
		a.begin([]string{fmt.Sprint("a ", i), fmt.Sprint("b ", i), fmt.Sprint("c ", i), fmt.Sprint("d ", i), fmt.Sprint("e ", i), fmt.Sprint("f ", i)}, now)
	}
	if len(a.wrong) > maxAccounts {
		t.Errorf("%d accounts are kept", len(a.wrong))
	}
}

// TestAClockSetBack leaves nobody waiting for years, neither a machine nor the site.
func TestAClockSetBack(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000_000, 0)
	for i := range siteBurst {
		a.begin([]string{fmt.Sprint("mac ", i)}, now)
	}
	now = now.AddDate(-1, 0, 0)
	if w := a.wait([]string{"mac 1"}, now); w <= 0 || w > lastDelay {
		t.Errorf("wait %s", w)
	}
	if w := a.wait([]string{"mac 1"}, now.Add(2*siteInterval)); w != 0 {
		t.Errorf("a while later it waits %s", w)
	}
}

// TestAttemptsAreKept: a restart of the appliance forgets no wrong password.
func TestAttemptsAreKept(t *testing.T) {
	a, now := newAttempts(), time.Unix(1_000_000, 0)
	one := []string{"mac 1", "key 1"}
	for range 3 {
		a.begin(one, now)
		now = now.Add(a.wait(one, now))
	}
	kept, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	b := newAttempts()
	if err := b.load(kept); err != nil {
		t.Fatal(err)
	}
	if count, wait := b.begin(one, now); count != 4 || wait != 0 {
		t.Errorf("count %d, wait %s", count, wait)
	}
	if b.spent <= 3 { // four of them, and a little time
		t.Errorf("the site's budget is %f", b.spent)
	}
	if w := b.wait(one, now); w != 8*time.Second {
		t.Errorf("wait %s", w)
	}
	if err := errors.Join(newAttempts().load(nil), b.load([]byte("{}"))); err != nil {
		t.Error(err)
	}
	if b.load([]byte("x")) == nil {
		t.Error("what is damaged was taken")
	}
	b.begin(one, now) // and it can be counted on
}
