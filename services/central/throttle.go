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
	for i, k := range keys {
		s, ok := t.strikes[k]
		if !ok {
			continue
		}
		if s.failures--; i == 0 || s.failures <= 0 {
			delete(t.strikes, k)
			continue
		}
		s.until = now
		t.strikes[k] = s
	}
}

// makeRoom forgets what is over, or else who waits the shortest, where there are too many. t.mu is held.
func (t *throttle) makeRoom(now time.Time, key string) {
	if _, ok := t.strikes[key]; ok || len(t.strikes) < maxStrikes {
		return
	}
	var first string
	for k, s := range t.strikes {
		if now.After(s.until.Add(strikeLife)) {
			delete(t.strikes, k)
		} else if first == "" || s.until.Before(t.strikes[first].until) {
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
