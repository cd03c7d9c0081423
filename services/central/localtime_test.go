package central

import (
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

func TestTimeAtASite(t *testing.T) {
	now := time.Date(2026, 11, 20, 23, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		zone, text string
		want       string // or a part of the error
	}{
		{"", "", "2026-11-20T23:30:00Z"},
		{"", "2026-11-21T10:00:00+02:00", "2026-11-21T08:00:00Z"},
		{"", "2026-11-21 10:00", "2026-11-21T10:00:00Z"},
		{"Europe/Berlin", "2026-11-21 10:00", "2026-11-21T09:00:00Z"},
		{"Europe/Berlin", "2026-07-01T10:00:30", "2026-07-01T08:00:30Z"},
		{"Europe/Berlin", "22:00", "2026-11-21T21:00:00Z"}, // it is the next day there already
		{"America/New_York", "22:00", "2026-11-21T03:00:00Z"},
		{"Europe/Berlin", "2026-03-29 02:30", "the clocks skip it"},
		{"Europe/Berlin", "2026-10-25 02:30", "comes twice"},
		{"Europe/Berlin", "2026-10-25 03:30", "2026-10-25T02:30:00Z"},
		{"Europe/Berlin", "2026-10-25 01:30", "2026-10-24T23:30:00Z"},
		{"Australia/Lord_Howe", "2026-04-05 01:45", "comes twice"},
		{"Europe/Berlin", "tomorrow", "is no time"},
		{"Europe/Berlin", "2026-02-30 10:00", "is no time"},
		{"No/Where", "22:00", "no time zone"},
	} {
		got, err := timeAt(c.text, &provisioning.SiteSpec{TimeZone: c.zone}, now)
		text := got.Format(time.RFC3339)
		if err != nil {
			text = err.Error()
			if provisioning.CodeOf(err) != provisioning.CodeInvalid {
				t.Errorf("%s %q: %v", c.zone, c.text, err)
			}
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%s %q: %s, want %s", c.zone, c.text, text, c.want)
		}
	}
}
