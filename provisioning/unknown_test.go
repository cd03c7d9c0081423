package provisioning

import (
	"strings"
	"testing"
)

func TestUnknownName(t *testing.T) {
	m := Machine{MAC: "52:54:00:12:34:56", Arch: ArchUEFIx64}
	for _, c := range []struct {
		name, pattern, serial, tag string
		taken                      []string
		want                       string
	}{
		{"default", "", "PF0ABC12", "", nil, "pc-525400123456"},
		{"serial", "LON-%serial%", "PF0ABC12", "", nil, "LON-PF0ABC12"},
		{"asset tag", "%assetTag%", "", " A 17/3 ", nil, "A-17-3"},
		{"no serial", "LON-%serial%", "", "", nil, "LON-525400123456"},
		{"maker's words", "LON-%serial%", "To Be Filled By O.E.M.", "", nil, "LON-525400123456"},
		{"zeros", "LON-%serial%", "0000000", "", nil, "LON-525400123456"},
		{"only signs", "LON-%serial%", "*** / ***", "", nil, "LON-525400123456"},
		{"taken", "LON-%serial%", "PF0", "", []string{"lon-pf0", "lon-pf0-2"}, "LON-PF0-3"},
		{"a placeholder in what firmware says", "%serial%", "%mac%", "", nil, "mac"},
		{"too long", "x-%serial%", strings.Repeat("S", 100), "", nil, "x-" + strings.Repeat("S", 61)},
		{"too long and taken", "%serial%", strings.Repeat("s", 100), "", []string{strings.Repeat("s", 63)}, strings.Repeat("s", 61) + "-2"},
		{"a hyphen where it is cut", "%serial%", strings.Repeat("s", 62) + "-tail", "", nil, strings.Repeat("s", 62)},
	} {
		t.Run(c.name, func(t *testing.T) {
			taken := map[string]bool{}
			for _, n := range c.taken {
				taken[n] = true
			}
			if got := UnknownName(c.pattern, m, c.serial, c.tag, func(s string) bool { return taken[s] }); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzUnknownName: whatever firmware says, the name is a host name that nobody has.
func FuzzUnknownName(f *testing.F) {
	f.Add("LON-%serial%", "PF0", "A1", uint8(0))
	f.Add("", "", "", uint8(3))
	f.Add("%assetTag%%serial%-%mac%", "ü\x00%mac%", "----", uint8(12))
	f.Add("%serial%", strings.Repeat("é-", 500), "", uint8(1))
	f.Add("%%%", "%", "%serial%", uint8(200))
	f.Fuzz(func(t *testing.T, pattern, serial, tag string, before uint8) {
		m := Machine{MAC: "52:54:00:12:34:56"}
		used := map[string]bool{}
		for range int(before) + 1 { // each of them takes a name
			name := UnknownName(pattern, m, serial, tag, func(s string) bool { return used[s] })
			if !ValidHostName(name) || used[strings.ToLower(name)] {
				t.Fatalf("%q", name)
			}
			used[strings.ToLower(name)] = true
		}
	})
}
