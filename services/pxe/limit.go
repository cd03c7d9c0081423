package pxe

import (
	"container/list"
	"time"
)

// limiter is a token bucket for each key, for a bounded number of keys: burst at once, then one each interval. The key
// that was not seen for longest is forgotten first. Not safe for concurrent use.
type limiter[K comparable] struct {
	burst    float64
	interval time.Duration
	max      int
	byKey    map[K]*list.Element // of *bucket[K]
	order    *list.List
}

type bucket[K comparable] struct {
	key    K
	tokens float64
	at     time.Time
}

func newLimiter[K comparable](burst int, interval time.Duration, limit int) *limiter[K] {
	return &limiter[K]{float64(burst), interval, limit, map[K]*list.Element{}, list.New()}
}

// allow takes a token of key's bucket, and reports whether there was one.
func (l *limiter[K]) allow(key K, now time.Time) bool {
	el, ok := l.byKey[key]
	if !ok {
		el = l.order.PushBack(&bucket[K]{key, l.burst, now})
		l.byKey[key] = el
		if l.order.Len() > l.max {
			oldest := l.order.Front()
			delete(l.byKey, oldest.Value.(*bucket[K]).key)
			l.order.Remove(oldest)
		}
	} else {
		l.order.MoveToBack(el)
	}
	b := el.Value.(*bucket[K])
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(l.burst, b.tokens+float64(d)/float64(l.interval))
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
