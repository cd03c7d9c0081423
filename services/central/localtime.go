package central

import (
	"time"
	_ "time/tzdata" // a site's time means the same on every machine

	"branchpoint/provisioning"
)

// localForms are how a time of a site's time zone may be written, beside RFC 3339.
var localForms = []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"}

// timeAt reads a time that a person means at a site; empty is now. A time of day alone is today's there. What the clocks on the
// wall there skip, or show twice, is refused.
func timeAt(s string, site *provisioning.SiteSpec, now time.Time) (time.Time, error) {
	if s == "" {
		return now.UTC(), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.UTC(), nil
	}
	zone, err := site.Location()
	if err != nil {
		return time.Time{}, err
	}
	if _, err := provisioning.ParseTimeOfDay(s); err == nil {
		s = now.In(zone).Format("2006-01-02 ") + s
	}
	for _, form := range localForms {
		if t, err := time.ParseInLocation(form, s, zone); err == nil {
			return onWall(t, form, s)
		}
	}
	return time.Time{}, provisioning.Errorf(provisioning.CodeInvalid, "", "%.64q is no time: write 2026-11-20T22:00:00Z, or, in the site's time zone, 2026-11-20 22:00 or 22:00", s)
}

// onWall returns t if it is the one time at which the clock on the wall shows s.
func onWall(t time.Time, form, s string) (time.Time, error) {
	if t.Format(form) != s {
		return time.Time{}, provisioning.Errorf(provisioning.CodeInvalid, "", "there is no %s at the site: the clocks skip it", s)
	}
	// Nowhere are clocks set by more than two hours, or by less than half of one.
	for d := -2 * time.Hour; d <= 2*time.Hour; d += 30 * time.Minute {
		if other := t.Add(d); d != 0 && other.Format(form) == s {
			return time.Time{}, provisioning.Errorf(provisioning.CodeInvalid, "Write which one is meant.", "%s comes twice at the site: %s and %s",
				s, t.Format(time.RFC3339), other.Format(time.RFC3339))
		}
	}
	return t.UTC(), nil
}
