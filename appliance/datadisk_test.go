package appliance

import (
	"cmp"
	"strings"
	"testing"
)

func TestDecideDataDisk(t *testing.T) {
	blank := Candidate{Path: "/dev/vda", Size: 8 << 30, Serial: "BLANK", Blank: true}
	bigger := Candidate{Path: "/dev/vdb", Size: 16 << 30, Serial: "BIG", Blank: true}
	foreign := Candidate{Path: "/dev/vdc", Size: 8 << 30, Serial: "FOREIGN", Holds: "an ext4 file system"}
	ours := Candidate{Path: "/dev/vdd", Size: 8 << 30, Serial: "OURS", Ours: true}
	with := func(c Candidate, f func(*Candidate)) Candidate { f(&c); return c }
	for _, c := range []struct {
		name       string
		disks      []Candidate
		lost       string
		state      diskState
		use, claim string
		note, next string
	}{
		{name: "no disk", next: "Attach a blank disk"},
		{name: "only the medium", disks: []Candidate{{Path: "/dev/sda", Size: 1 << 30, Medium: true}}, next: "Attach a blank disk"},
		{name: "blank medium is never claimed", disks: []Candidate{with(blank, func(c *Candidate) { c.Medium = true })}, next: "Attach"},
		{name: "blank", disks: []Candidate{blank}, claim: "/dev/vda"},
		{name: "the larger blank", disks: []Candidate{blank, bigger}, claim: "/dev/vdb", note: "BLANK) is blank and left alone"},
		{name: "ours before blank", disks: []Candidate{bigger, ours}, use: "/dev/vdd", note: "BIG) is blank and left alone"},
		{name: "foreign", disks: []Candidate{foreign}, note: "serial FOREIGN) is not used: it is not blank, it holds an ext4 file system", next: "Attach a blank disk"},
		{name: "foreign beside blank", disks: []Candidate{foreign, blank}, claim: "/dev/vda", note: "FOREIGN"},
		{name: "what to do about a foreign one", disks: []Candidate{foreign}, note: "FOREIGN", next: "type: claim SERIAL"},
		{name: "a foreign one without a serial cannot be claimed", disks: []Candidate{with(foreign, func(c *Candidate) { c.Serial = "" })}, note: "not blank", next: "it is found without a restart."},
		{name: "claimed in part", disks: []Candidate{with(foreign, func(c *Candidate) { c.Unfinished = true })}, note: "claiming it was interrupted", next: "type: claim SERIAL"},
		{name: "lost", lost: "/dev/vdd (8.6 GB, serial OURS)", next: "Attach /dev/vdd (8.6 GB, serial OURS) again"},
		{name: "no blank one takes a lost one's place", lost: "/dev/vdd (8.6 GB, serial OURS)", disks: []Candidate{blank}, next: "again"},
		{name: "lost and here again", lost: "/dev/vdd (8.6 GB, serial OURS)", disks: []Candidate{blank, ours}, use: "/dev/vdd", note: "left alone"},
		{name: "lost and unreadable", lost: "/dev/vdd (8.6 GB, serial OURS)", state: diskFailing, disks: []Candidate{with(ours, func(c *Candidate) { c.Ours, c.Err = false, "input/output error" })}, note: "input/output error", next: "Look at the cables of /dev/vdd"},
		{name: "another site's", disks: []Candidate{with(ours, func(c *Candidate) { c.Refused = "it belongs to site PAR" })}, note: "it belongs to site PAR; nothing on it is touched", next: "Attach this site's"},
		{name: "another site's beside this one's", disks: []Candidate{with(ours, func(c *Candidate) { c.Path, c.Refused = "/dev/vde", "it belongs to site PAR" }), ours}, use: "/dev/vdd", note: "PAR"},
		{name: "no blank one beside another site's", disks: []Candidate{with(ours, func(c *Candidate) { c.Refused = "it belongs to site PAR" }), bigger}, note: "PAR", next: "Attach this site's"},
		{name: "two of ours", disks: []Candidate{ours, with(ours, func(c *Candidate) { c.Path = "/dev/vde" })}, note: "several data disks", next: "Detach"},
		{name: "read-only blank", disks: []Candidate{with(blank, func(c *Candidate) { c.ReadOnly = true })}, note: "read-only", next: "Attach"},
		{name: "read-only ours", disks: []Candidate{with(ours, func(c *Candidate) { c.ReadOnly = true })}, state: diskReadOnly, note: "read-only", next: "write protection"},
		{name: "no blank one beside read-only ours", disks: []Candidate{with(ours, func(c *Candidate) { c.ReadOnly = true }), bigger}, state: diskReadOnly, note: "read-only", next: "write protection"},
		{name: "blank stick", disks: []Candidate{with(blank, func(c *Candidate) { c.Removable = true })}, note: "removable", next: "Attach"},
		{name: "too small", disks: []Candidate{with(blank, func(c *Candidate) { c.Size = 1 << 30 })}, note: "at least 2.1 GB", next: "Attach"},
		{name: "none is claimed beside an unreadable one", disks: []Candidate{blank, with(bigger, func(c *Candidate) { c.Blank, c.Err = false, "input/output error" })}, note: "BIG) is not used: input/output error", next: "Repair or detach"},
		{name: "ours beside an unreadable one", disks: []Candidate{ours, with(bigger, func(c *Candidate) { c.Blank, c.Err = false, "input/output error" })}, use: "/dev/vdd", note: "BIG"},
		{name: "unreadable is not blank", disks: []Candidate{with(blank, func(c *Candidate) { c.Err = "input/output error" })}, note: "input/output error", next: "Attach"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := DecideDataDisk(c.disks, c.lost)
			if want := cmp.Or(c.state, diskMissing); d.State != want {
				t.Errorf("state %s, want %s", d.State, want)
			}
			if d.Use != c.use || d.Claim != c.claim {
				t.Errorf("use %q claim %q, want %q %q", d.Use, d.Claim, c.use, c.claim)
			}
			if notes := strings.Join(d.Notes, "\n"); !strings.Contains(notes, c.note) {
				t.Errorf("notes %q lack %q", notes, c.note)
			}
			if !strings.Contains(d.Next, c.next) || (c.next == "") != (d.Next == "") {
				t.Errorf("next step %q, want %q", d.Next, c.next)
			}
		})
	}
}
