package pxe

import "time"

// limiter is a token bucket for each key, for a bounded number of keys: burst at once, then one each interval. The key
// that was not seen for longest is forgotten first. Not safe for concurrent use.
type limiter[K comparable] struct {
	burst    float64
	interval time.Duration
	*lru[K, bucket]
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter[K comparable](burst int, interval time.Duration, limit int) *limiter[K] {
	return &limiter[K]{float64(burst), interval, newLRU[K, bucket](limit)}
}

// allow takes a token of key's bucket, and reports whether there was one.
func (l *limiter[K]) allow(key K, now time.Time) bool {
	b, ok := l.get(key)
	if !ok {
		b = bucket{l.burst, now}
	}
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(l.burst, b.tokens+float64(d)/float64(l.interval))
		b.at = now
	}
	enough := b.tokens >= 1
	if enough {
		b.tokens--
	}
	l.put(key, b)
	return enough
}
