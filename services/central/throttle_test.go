package central

import (
	"fmt"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	var x throttle
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var total time.Duration
	for i := range 12 {
		if wait := x.begin(now, "account jo", "from a"); wait != 0 {
			t.Fatalf("try %d waits %s", i, wait)
		}
		want := min(time.Second<<i, maxDelay)
		if wait := x.begin(now, "account jo", "from b"); wait != want {
			t.Errorf("after %d failures %s, want %s", i+1, wait, want)
		}
		if wait := x.begin(now, "account mo", "from a"); wait != want {
			t.Errorf("after %d failures from there %s, want %s", i+1, wait, want)
		}
		now, total = now.Add(want), total+want
	}
	if total < 10*time.Minute {
		t.Errorf("12 guesses took %s", total)
	}
	if wait := x.begin(now, "account mo", "from b"); wait != 0 {
		t.Errorf("others wait %s", wait)
	}
	// Success clears the account; the address goes on to be watched.
	now = now.Add(time.Hour / 2)
	if wait := x.begin(now, "account jo", "from a"); wait != 0 {
		t.Fatal(wait)
	}
	x.succeeded(now, "account jo", "from a")
	if wait := x.begin(now, "account jo", "from a"); wait != 0 {
		t.Fatal("after a success one waits", wait)
	}
	if s := x.strikes["account jo"]; s.failures != 1 {
		t.Errorf("the account has %d failures", s.failures)
	}
	if s := x.strikes["from a"]; s.failures < 10 {
		t.Errorf("the address has %d failures", s.failures)
	}
	// What is long ago is forgotten.
	now = now.Add(3 * time.Hour)
	x.begin(now, "account jo", "from a")
	if s := x.strikes["from a"]; s.failures != 1 {
		t.Errorf("after hours the address has %d failures", s.failures)
	}
}

func TestThrottleIsBounded(t *testing.T) {
	var x throttle
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for range 10 {
		x.begin(now, "account jo")
		now = now.Add(time.Hour / 2)
	}
	x.begin(now, "account jo")
	for i := range 3 * maxStrikes {
		x.begin(now, fmt.Sprint(i))
	}
	if len(x.strikes) > maxStrikes {
		t.Errorf("%d are remembered", len(x.strikes))
	}
	if x.begin(now, "account jo") == 0 {
		t.Error("who failed often was forgotten for others")
	}
}

// TestFloodsForgetNobody: names that somebody makes up do not make central forget who failed before, also once the wait is over.
func TestFloodsForgetNobody(t *testing.T) {
	var x throttle
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	x.begin(now, "account jo")
	now = now.Add(time.Second)
	x.begin(now, "account jo")
	now = now.Add(2 * time.Second)
	for i := range maxStrikes + 100 {
		x.begin(now, fmt.Sprint(i))
	}
	x.begin(now, "account jo")
	if s := x.strikes["account jo"]; s.failures != 3 {
		t.Errorf("after a flood the account has %d failures", s.failures)
	}
}

// TestUnjudged: a try that nobody has looked at counts for nothing.
func TestUnjudged(t *testing.T) {
	var x throttle
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	x.begin(now, "account jo", "from a")
	x.unjudged(now, "account jo", "from a")
	if len(x.strikes) > 0 {
		t.Errorf("%+v", x.strikes)
	}
	x.begin(now, "account jo", "from a")
	now = now.Add(time.Second)
	x.begin(now, "account jo", "from b")
	x.unjudged(now, "account jo", "from b")
	if wait := x.begin(now, "account jo", "from a"); wait != 0 || x.strikes["account jo"].failures != 2 {
		t.Errorf("wait %s, %+v", wait, x.strikes)
	}
}

// TestNobodyIsLockedOut: whoever guesses an account's password from elsewhere does not keep its owner from where they logged in
// before; nobody guesses faster by that.
func TestNobodyIsLockedOut(t *testing.T) {
	var x throttle
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	own := x.loginKeys(now, "jo", "192.0.2.1")
	if wait := x.begin(now, own...); wait != 0 {
		t.Fatal(wait)
	}
	x.succeeded(now, own...)
	x.loggedIn(now, "jo", "192.0.2.1")
	for i := range 20 {
		x.begin(now, x.loginKeys(now, "jo", fmt.Sprintf("198.51.100.%d", i))...)
		now = now.Add(maxDelay)
	}
	now = now.Add(-time.Second)
	if x.begin(now, x.loginKeys(now, "jo", "198.51.100.99")...) == 0 {
		t.Error("elsewhere nobody waits")
	}
	if wait := x.begin(now, x.loginKeys(now, "jo", "192.0.2.1")...); wait != 0 {
		t.Errorf("the owner waits %s", wait)
	}
	if x.begin(now, x.loginKeys(now, "jo", "192.0.2.1")...) == 0 {
		t.Error("where the owner was, nobody waits after a failure")
	}
	if x.begin(now, x.loginKeys(now, "mo", "198.51.100.98")...) != 0 {
		t.Error("another account waits")
	}
	for i := range maxStrikes + 10 {
		x.loggedIn(now, fmt.Sprint(i), "192.0.2.9")
	}
	if len(x.familiar) > maxStrikes {
		t.Errorf("%d are remembered", len(x.familiar))
	}
	now = now.Add(familiarLife)
	if keys := x.loginKeys(now, "5", "192.0.2.9"); keys[0] != `account "5"` {
		t.Errorf("%q", keys)
	}
}

func TestAddressKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1": "2001:db8::/64",
		"2001:db8:0:1::1": "2001:db8:0:1::/64", "fe80::1%eth0": "fe80::/64", "nonsense": "nonsense",
	} {
		if got := addressKey(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
