package central

import (
	"testing"
	"time"
)

// TestPace: each site once in a pause, for itself; a clock that is set back lets nobody wait for the time that comes again.
func TestPace(t *testing.T) {
	var p pace
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		site  string
		after time.Duration
		may   bool
	}{
		{"LON", 0, true},
		{"LON", 0, false},
		{"PAR", 0, true},
		{"LON", pause - time.Nanosecond, false},
		{"LON", pause, true},
		{"LON", pause + time.Second, false},
		{"LON", -time.Hour, true},
		{"LON", -time.Hour + time.Second, false},
	} {
		if got := p.may(c.site, noon.Add(c.after)); got != c.may {
			t.Errorf("%d: %s after %s: %t", i, c.site, c.after, got)
		}
	}
}
