package provisioning

import (
	"testing"
	"time"
	_ "time/tzdata" // the same answers on every machine
)

func TestWindowContains(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	night := Window{From: "22:00", To: "06:00"}
	friday := Window{Days: []Weekday{"fri"}, From: "22:00", To: "06:00"}
	for _, c := range []struct {
		name   string
		window Window
		at     string // UTC
		want   bool
	}{
		{"inside", Window{From: "12:00", To: "14:00"}, "2026-11-20T12:30:00Z", true},
		{"from is inside", Window{From: "12:00", To: "14:00"}, "2026-11-20T11:00:00Z", true},
		{"just before", Window{From: "12:00", To: "14:00"}, "2026-11-20T10:59:59.999999999Z", false},
		{"to is outside", Window{From: "12:00", To: "14:00"}, "2026-11-20T13:00:00Z", false},
		{"the last moment", Window{From: "12:00", To: "14:00"}, "2026-11-20T12:59:59.999999999Z", true},
		{"the zone counts, not UTC", Window{From: "12:00", To: "13:00"}, "2026-11-20T12:30:00Z", false},
		{"night, evening", night, "2026-11-20T21:30:00Z", true},
		{"night, morning", night, "2026-11-21T04:59:59Z", true},
		{"night, over", night, "2026-11-21T05:00:00Z", false},
		{"night, day", night, "2026-11-21T12:00:00Z", false},
		{"friday night, evening", friday, "2026-11-20T21:30:00Z", true},
		{"friday night, on saturday morning", friday, "2026-11-21T04:30:00Z", true},
		{"friday night, on friday morning", friday, "2026-11-20T04:30:00Z", false},
		{"friday night, on saturday evening", friday, "2026-11-21T21:30:00Z", false},
		{"saturday night ends on sunday", Window{Days: []Weekday{"sat"}, From: "22:00", To: "06:00"}, "2026-11-22T04:30:00Z", true},
		{"one of several days", Window{Days: []Weekday{"mon", "fri"}, From: "10:00", To: "12:00"}, "2026-11-20T10:00:00Z", true},
		{"none of several days", Window{Days: []Weekday{"mon", "thu"}, From: "10:00", To: "12:00"}, "2026-11-20T10:00:00Z", false},
		{"from equal to is a whole day", Window{Days: []Weekday{"fri"}, From: "10:00", To: "10:00"}, "2026-11-21T08:59:59Z", true},
		{"a whole day, and no more", Window{Days: []Weekday{"fri"}, From: "10:00", To: "10:00"}, "2026-11-21T09:00:00Z", false},
		// The clocks of Berlin go from 02:00 to 03:00 on 29 March 2026 (01:00 UTC) and from 03:00 to 02:00 on 25 October.
		{"spring: before the change", Window{From: "01:30", To: "03:30"}, "2026-03-29T00:59:59Z", true},
		{"spring: after the change", Window{From: "01:30", To: "03:30"}, "2026-03-29T01:29:59Z", true},
		{"spring: an hour less", Window{From: "01:30", To: "03:30"}, "2026-03-29T01:30:00Z", false},
		{"spring: the skipped hour never comes", Window{From: "02:00", To: "03:00"}, "2026-03-29T01:00:00Z", false},
		{"spring: nor a moment before", Window{From: "02:00", To: "03:00"}, "2026-03-29T00:59:59Z", false},
		{"spring: the night across it", night, "2026-03-29T03:59:59Z", true},
		{"spring: the night ends by the wall clock", night, "2026-03-29T04:00:00Z", false},
		{"autumn: the hour for the first time", Window{From: "02:00", To: "03:00"}, "2026-10-25T00:30:00Z", true},
		{"autumn: the hour again", Window{From: "02:00", To: "03:00"}, "2026-10-25T01:30:00Z", true},
		{"autumn: not a moment longer", Window{From: "02:00", To: "03:00"}, "2026-10-25T02:00:00Z", false},
		{"autumn: between, for the first time", Window{From: "02:00", To: "02:30"}, "2026-10-25T00:45:00Z", false},
		{"autumn: friday's is over long since", friday, "2026-10-25T01:30:00Z", false},
		{"malformed contains nothing", Window{From: "1:00", To: "23:00"}, "2026-11-20T12:00:00Z", false},
		{"malformed end contains nothing", Window{From: "01:00", To: "24:00"}, "2026-11-20T12:00:00Z", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339Nano, c.at)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.window.Contains(at, berlin); got != c.want {
				t.Errorf("%s (%s) in %+v: %v", at.In(berlin).Format("Mon 15:04:05 MST"), c.at, c.window, got)
			}
		})
	}
}

func TestInWindows(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	morning, day := Window{From: "06:00", To: "10:00"}, Window{From: "11:00", To: "18:00"}
	if !InWindows(nil, noon, time.UTC) || InWindows([]Window{morning}, noon, time.UTC) || !InWindows([]Window{morning, day}, noon, time.UTC) {
		t.Error("none means any time, some mean one of them")
	}
}

func TestParseTimeOfDay(t *testing.T) {
	for text, want := range map[string]time.Duration{"00:00": 0, "23:59": 24*time.Hour - time.Minute, "07:30": 450 * time.Minute} {
		if got, err := ParseTimeOfDay(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "24:00", "12:60", "7:30", "12:5", "12-30", "-1:30", "1 :30", "12:30:00", "٠٠:٠٠"} {
		if got, err := ParseTimeOfDay(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

func TestSiteLocation(t *testing.T) {
	for name, want := range map[string]string{"": "UTC", "UTC": "UTC", "Europe/Berlin": "Europe/Berlin"} {
		if loc, err := (&SiteSpec{TimeZone: name}).Location(); err != nil || loc.String() != want {
			t.Errorf("%q: %s, %v", name, loc, err)
		}
	}
	for _, name := range []string{"Local", "Europe/Nowhere", "../../etc/passwd", "/etc/localtime", "europe/berlin\n"} {
		if loc, err := (&SiteSpec{TimeZone: name}).Location(); CodeOf(err) != CodeInvalid {
			t.Errorf("%q: %v, %v", name, loc, err)
		}
	}
}

// TestWindowOpens: when a window began, and when it begins next, also where the clocks are changed.
func TestWindowOpens(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	night := Window{From: "22:00", To: "06:00"}
	friday := Window{Days: []Weekday{"fri"}, From: "22:00", To: "06:00"}
	skipped := Window{From: "02:30", To: "05:00"}
	for _, c := range []struct {
		name              string
		window            Window
		at, opened, opens string // UTC; opened "" where it lies outside
	}{
		{"in the evening", night, "2026-11-20T21:30:00Z", "2026-11-20T21:00:00Z", "2026-11-21T21:00:00Z"},
		{"in the morning", night, "2026-11-21T04:30:00Z", "2026-11-20T21:00:00Z", "2026-11-21T21:00:00Z"},
		{"at its beginning", night, "2026-11-20T21:00:00Z", "2026-11-20T21:00:00Z", "2026-11-21T21:00:00Z"},
		{"before it", night, "2026-11-20T20:59:59Z", "", "2026-11-20T21:00:00Z"},
		{"once a week", friday, "2026-11-21T04:30:00Z", "2026-11-20T21:00:00Z", "2026-11-27T21:00:00Z"},
		{"once a week, on the day before", friday, "2026-11-19T12:00:00Z", "", "2026-11-20T21:00:00Z"},
		{"a whole day", Window{From: "10:00", To: "10:00"}, "2026-11-20T08:00:00Z", "2026-11-19T09:00:00Z", "2026-11-20T09:00:00Z"},
		{"over the hour that is skipped", night, "2026-03-29T01:30:00Z", "2026-03-28T21:00:00Z", "2026-03-29T20:00:00Z"},
		{"its beginning is skipped", skipped, "2026-03-29T00:00:00Z", "", "2026-03-29T01:00:00Z"},
		{"over the hour that is repeated", night, "2026-10-25T01:30:00Z", "2026-10-24T20:00:00Z", "2026-10-25T21:00:00Z"},
		{"malformed", Window{From: "x", To: "06:00"}, "2026-11-20T21:30:00Z", "", ""},
		{"malformed end", Window{From: "06:00", To: "x"}, "2026-11-20T21:30:00Z", "", ""},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		show := func(x time.Time) string {
			if x.IsZero() {
				return ""
			}
			return x.UTC().Format(time.RFC3339)
		}
		if got := show(c.window.Opened(at, berlin)); got != c.opened {
			t.Errorf("%s: opened at %q, want %q", c.name, got, c.opened)
		}
		if got := show(c.window.Opens(at, berlin)); got != c.opens {
			t.Errorf("%s: opens at %q, want %q", c.name, got, c.opens)
		}
	}
}
