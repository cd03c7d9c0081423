package central

import (
	"sync"
	"time"
)

// pause is how long what a site has changed stands before it may change it again, where each time is dear.
const pause = 5 * time.Minute

// pace lets each site do something once in a pause. It knows no more sites than have enrolled. The zero value is ready.
type pace struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// may reports whether a site may do it now, and counts that as done.
func (p *pace) may(site string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := now.Sub(p.last[site]); since >= 0 && since < pause {
		return false
	}
	if p.last == nil {
		p.last = map[string]time.Time{}
	}
	p.last[site] = now
	return true
}
