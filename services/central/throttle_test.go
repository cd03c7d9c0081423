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
