package central

import (
	"net/netip"
	"sync"
	"time"
)

// throttle lets those who fail wait, longer after each failure in a row. What failed is named by keys: an account, an address.
// The zero value is ready.
type throttle struct {
	mu      sync.Mutex
	strikes map[string]strike
	// familiar is when an account's password was last given from an address.
	familiar map[string]time.Time
}

type strike struct {
	failures int
	until    time.Time
}

// Bounds of a throttle.
const (
	// maxDelay is the longest wait: whoever guesses passwords of an account gets 288 a day, from however many addresses.
	maxDelay = 5 * time.Minute
	// strikeLife is how long after its wait a failure is remembered.
	strikeLife = time.Hour
	maxStrikes = 10000
)

// begin says how long to wait before a try with these keys. Where that is not at all, the try counts as failed until it has
// succeeded: those that run at the same time must not be free.
func (t *throttle) begin(now time.Time, keys ...string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		if wait := t.strikes[k].until.Sub(now); wait > 0 {
			return wait
		}
	}
	if t.strikes == nil {
		t.strikes = map[string]strike{}
	}
	for _, k := range keys {
		s := t.strikes[k]
		if now.After(s.until.Add(strikeLife)) {
			s = strike{}
		}
		s.failures++
		s.until = now.Add(min(time.Second<<min(s.failures-1, 16), maxDelay))
		t.makeRoom(now, k)
		t.strikes[k] = s
	}
	return 0
}

// succeeded takes back what begin counted, and forgets the first key's failures altogether: it is the account's, while
// whoever has one account must not clear their address by it.
func (t *throttle) succeeded(now time.Time, keys ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.strikes, keys[0])
	t.takeBack(now, keys[1:])
}

// unjudged takes back what begin counted: nobody has looked at whether it was right.
func (t *throttle) unjudged(now time.Time, keys ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeBack(now, keys)
}

// takeBack makes one failure less of each key. t.mu is held.
func (t *throttle) takeBack(now time.Time, keys []string) {
	for _, k := range keys {
		s, ok := t.strikes[k]
		if !ok {
			continue
		}
		if s.failures--; s.failures <= 0 {
			delete(t.strikes, k)
			continue
		}
		s.until = now
		t.strikes[k] = s
	}
}

// familiarLife is for how long an account is known at an address where its password was given.
const familiarLife = 30 * 24 * time.Hour

// loginKeys are the keys of a try to log in to an account, whatever somebody says that it is called, from an address. Where its
// password was given from there before, the account is counted apart: others who guess cannot lock its owner out there.
func (t *throttle) loginKeys(now time.Time, account, from string) []string {
	account, from = "account "+shorten(account), "from "+addressKey(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.familiar[account+" "+from]; ok && now.Sub(at) < familiarLife {
		account += " " + from
	}
	return []string{account, from}
}

// loggedIn makes an account familiar at an address.
func (t *throttle) loggedIn(now time.Time, account, from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.familiar == nil {
		t.familiar = map[string]time.Time{}
	}
	t.familiar["account "+shorten(account)+" from "+addressKey(from)] = now
	if len(t.familiar) <= maxStrikes {
		return
	}
	oldest := ""
	for k, at := range t.familiar {
		if oldest == "" || at.Before(t.familiar[oldest]) {
			oldest = k
		}
	}
	delete(t.familiar, oldest)
}

// makeRoom forgets what is over, or else who failed the least, and of these who waits the shortest, where there are too many:
// names that somebody makes up drive out each other. t.mu is held.
func (t *throttle) makeRoom(now time.Time, key string) {
	if _, ok := t.strikes[key]; ok || len(t.strikes) < maxStrikes {
		return
	}
	var first string
	for k, s := range t.strikes {
		if now.After(s.until.Add(strikeLife)) {
			delete(t.strikes, k)
		} else if f := t.strikes[first]; first == "" || s.failures < f.failures || s.failures == f.failures && s.until.Before(f.until) {
			first = k
		}
	}
	if len(t.strikes) >= maxStrikes {
		delete(t.strikes, first)
	}
}

// addressKey names who asks from an address: an IPv6 network of 64 bits is one customer's.
func addressKey(host string) string {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}
