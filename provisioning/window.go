package provisioning

import (
	"fmt"
	"slices"
	"time"
)

// Contains reports whether t lies in the window, by a clock on the wall in loc. So it is right across changes of the
// clocks: an hour that is repeated is inside both times, one that is skipped is never there, and nothing is ever inside
// that the wall clock would not show between From and To. A window that is malformed contains nothing.
func (w Window) Contains(t time.Time, loc *time.Location) bool {
	from, err1 := ParseTimeOfDay(w.From)
	to, err2 := ParseTimeOfDay(w.To)
	if err1 != nil || err2 != nil {
		return false
	}
	local := t.In(loc)
	now := sinceMidnight(local)
	today := local.Weekday()
	if from < to {
		return w.begins(today) && from <= now && now < to
	}
	yesterday := (today + 6) % 7
	return w.begins(today) && from <= now || w.begins(yesterday) && now < to
}

// Opened is when the window began that t lies in, by a clock on the wall in loc; zero where t does not lie in it.
func (w Window) Opened(t time.Time, loc *time.Location) time.Time {
	if !w.Contains(t, loc) {
		return time.Time{}
	}
	from, _ := ParseTimeOfDay(w.From) // it contains t
	local := t.In(loc)
	if sinceMidnight(local) < from || !w.begins(local.Weekday()) {
		return onDay(local, -1, from)
	}
	return onDay(local, 0, from)
}

// Opens is the next time after t at which the window begins, by a clock on the wall in loc; zero for a window that is malformed.
// Where the clocks are set forward over its beginning, it is at most a quarter of an hour after they are.
func (w Window) Opens(t time.Time, loc *time.Location) time.Time {
	from, err := ParseTimeOfDay(w.From)
	if _, err2 := ParseTimeOfDay(w.To); err != nil || err2 != nil {
		return time.Time{}
	}
	local := t.In(loc)
	for day := range 9 {
		at := onDay(local, day, from)
		if !w.begins((local.Weekday() + time.Weekday(day)) % 7) {
			continue
		}
		if clock := sinceMidnight(at); clock > from { // it is skipped on that day
			at = at.Add(from - clock)
		}
		for range 12 { // no clock is set forward by more than three hours
			if w.Contains(at, loc) {
				break
			}
			at = at.Add(15 * time.Minute)
		}
		if at.After(t) {
			return at
		}
	}
	return time.Time{}
}

// sinceMidnight is what the clock on the wall shows.
func sinceMidnight(local time.Time) time.Duration {
	return time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute +
		time.Duration(local.Second())*time.Second + time.Duration(local.Nanosecond())
}

// onDay is a time of day, days after the day of local.
func onDay(local time.Time, days int, clock time.Duration) time.Time {
	return time.Date(local.Year(), local.Month(), local.Day()+days, int(clock/time.Hour), int(clock%time.Hour/time.Minute), 0, 0, local.Location())
}

// begins reports whether the window begins on a day.
func (w Window) begins(d time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, Weekdays[d])
}

// InWindows reports whether t lies in one of windows, or there are none: none means at any time.
func InWindows(windows []Window, t time.Time, loc *time.Location) bool {
	return len(windows) == 0 || slices.ContainsFunc(windows, func(w Window) bool { return w.Contains(t, loc) })
}

// ParseTimeOfDay reads "HH:MM", 00:00 to 23:59, as the time since midnight by the clock on the wall.
func ParseTimeOfDay(s string) (time.Duration, error) {
	digit := func(i int) int { return int(s[i]) - '0' }
	if len(s) == 5 && s[2] == ':' && allDigits(s[:2]) && allDigits(s[3:]) {
		h, m := 10*digit(0)+digit(1), 10*digit(3)+digit(4)
		if h < 24 && m < 60 {
			return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of day; write hours and minutes such as 22:00, 00:00 to 23:59", clip(s))
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// Location returns the site's time zone, UTC where it has none. It fails with CodeInvalid where no time zone has that
// name. A program that asks embeds time/tzdata, so that the answer does not depend on what the machine has installed.
func (s *SiteSpec) Location() (*time.Location, error) {
	return loadLocation(s.TimeZone)
}

// loadLocation finds a time zone by its IANA name; "Local" is none, since every machine means another one by it.
func loadLocation(name string) (*time.Location, error) {
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, Errorf(CodeInvalid, "", "%q is no time zone; write an IANA name such as Europe/Berlin", clip(name))
	}
	return loc, nil
}
