package policy

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/goccy/go-yaml"
)

// wakeTable is testdata/wakes.yaml, which says what its fields mean.
type wakeTable struct {
	At       string
	Machines map[string]machineText
	Standard map[string]any
	Cases    []wakeCase
}

type wakeCase struct {
	Given   tableCase `yaml:",inline"`
	Woken   []wokenText
	Clears  map[string]uint64
	NotHere bool `yaml:"notHere"`
	Wakes   []string
	Forgets []string
	Next    string
}

type wokenText struct {
	Computer, Advertisement, Opened, Ago string
	Clear                                uint64
	Tries                                int
}

// remembered is the records of w by what they are of.
func remembered(w ...provisioning.Woken) map[provisioning.WakeKey]provisioning.Woken {
	out := map[provisioning.WakeKey]provisioning.Woken{}
	for _, x := range w {
		out[x.Key()] = x
	}
	return out
}

func (c *wakeCase) remembered(t *testing.T, at time.Time) map[provisioning.WakeKey]provisioning.Woken {
	t.Helper()
	var out []provisioning.Woken
	for _, x := range c.Woken {
		ago, err := time.ParseDuration(x.Ago)
		if err != nil {
			t.Fatal(err)
		}
		w := provisioning.Woken{Computer: x.Computer, Advertisement: x.Advertisement, Clear: x.Clear, Tries: x.Tries, Last: at.Add(-ago)}
		if x.Opened != "" {
			w.Opened = parseTime(t, x.Opened)
		}
		out = append(out, w)
	}
	return remembered(out...)
}

// TestWakes holds whom an appliance wakes against the table.
func TestWakes(t *testing.T) {
	text, err := os.ReadFile("testdata/wakes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all wakeTable
	if err := yaml.UnmarshalWithOptions(text, &all, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range all.Cases {
		c := &all.Cases[i]
		if seen[c.Given.Case] {
			t.Errorf("case %q stands twice", c.Given.Case)
		}
		seen[c.Given.Case] = true
		t.Run(fmt.Sprint(i+1, " ", c.Given.Case), func(t *testing.T) {
			if c.Given.At == "" {
				c.Given.At = all.At
			}
			at := parseTime(t, c.Given.At)
			s := c.Given.snapshot(t, &table{Machines: all.Machines, Standard: all.Standard}, at)
			for name, n := range c.Clears {
				s.Clears = append(s.Clears, provisioning.Clear{Computer: name, Number: n})
			}
			if c.NotHere {
				needImage(s, "install")
			}
			p, err := Compile(s)
			if err != nil {
				t.Fatal(err)
			}
			h, woken := c.Given.history(t, all.Machines, at), c.remembered(t, at)
			has := Appliance{Installed: func(provisioning.ContentRef) bool { return !c.NotHere }}
			got := p.Wake(h, at, woken, has)
			if indexed := p.Wake(h.Indexed(), at, woken, has); !reflect.DeepEqual(got, indexed) {
				t.Errorf("with an index it is\n%+v\nnot\n%+v", indexed, got)
			}
			c.checkWaking(t, &got, woken, at)
		})
	}
}

// needImage lets a task sequence apply an image.
func needImage(s *provisioning.Snapshot, sequence string) {
	s.Images = []provisioning.OperatingSystemImage{{Name: "debian", Spec: provisioning.OperatingSystemImageSpec{Package: "debian-13", Version: 1}}}
	s.Content = []provisioning.ContentRef{{Package: "debian-13", Version: 1, Format: provisioning.FormatDiskImage, Manifest: provisioning.SumSHA256([]byte("m")), Size: 1}}
	ts := s.TaskSequence(sequence)
	ts.Spec.Steps = append(slices.Clip(ts.Spec.Steps), provisioning.Step{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{Image: "debian"}})
}

func (c *wakeCase) checkWaking(t *testing.T, got *Waking, woken map[provisioning.WakeKey]provisioning.Woken, at time.Time) {
	t.Helper()
	var wakes, forgets []string
	for _, w := range got.Wakes {
		line := w.Computer
		for _, m := range w.MACs {
			line += " " + string(m)
		}
		wakes = append(wakes, line)
		was := woken[w.Key()]
		again := was.Opened.Equal(w.Opened) && was.Clear == w.Clear
		if w.Advertisement != "rollout" || !w.Last.Equal(at) || again && w.Tries != was.Tries+1 || !again && w.Tries != 1 || w.Clear != c.Clears[w.Computer] {
			t.Errorf("of %+v it is remembered: %+v", was, w.Woken)
		}
	}
	for _, k := range got.Forget {
		forgets = append(forgets, k.Computer+" "+k.Advertisement)
	}
	if !slices.Equal(wakes, c.Wakes) {
		t.Errorf("it wakes %q, want %q", wakes, c.Wakes)
	}
	if !slices.Equal(forgets, c.Forgets) {
		t.Errorf("it forgets %q, want %q", forgets, c.Forgets)
	}
	next := ""
	if !got.Next.IsZero() {
		next = got.Next.UTC().Format(time.RFC3339)
	}
	if next != c.Next {
		t.Errorf("it looks again at %q, want %q", next, c.Next)
	}
}

// TestWhoeverIsWoken makes many sites, and holds what must always be true of whom they wake: a machine with the address that is
// woken is, at that moment, given what is required, without a person; and there are no more than may begin to erase.
func TestWhoeverIsWoken(t *testing.T) {
	woken, capped := 0, 0
	for seed := range uint64(4000) {
		w := newWorld(seed)
		s, h, now := w.snapshot(), w.history(), w.time()
		s.Site.Spec.DistributionPoint = &provisioning.DistributionPointRole{}
		for i := range s.Advertisements {
			s.Advertisements[i].Spec.WakeOnLAN = w.chance(70)
		}
		p, _ := Compile(s)
		before := asJSON(t, h.Runs)
		got := p.Wake(h, now, nil, Appliance{})
		if !reflect.DeepEqual(before, asJSON(t, h.Runs)) {
			t.Fatalf("seed %d: it changed the history", seed)
		}
		erasing := 0
		seen := map[string]bool{}
		for _, x := range got.Wakes {
			if seen[x.Computer] || len(x.MACs) == 0 {
				t.Fatalf("seed %d: %+v", seed, x)
			}
			seen[x.Computer] = true
			for _, m := range x.MACs {
				d := p.Decide(p.likely(s.Computer(x.Computer), m, &h), h, now)
				if d.Action != Boot || d.Advertisement != x.Advertisement || d.Computer != x.Computer || d.Password || d.Resume != "" || d.Unknown {
					t.Fatalf("seed %d: %s is woken at %s for %s and gets\n%s", seed, x.Computer, m, x.Advertisement, strings.Join(d.Lines(), "\n"))
				}
				if slices.Contains(s.Site.Spec.PXE.SharedAdapters, m) || slices.Contains(s.Site.Spec.PXE.Ignore, m) {
					t.Fatalf("seed %d: %s is woken at %s, which is shared or ignored", seed, x.Computer, m)
				}
				i := slices.IndexFunc(s.Advertisements, func(a provisioning.Advertisement) bool { return a.Name == x.Advertisement })
				if !s.Advertisements[i].Spec.WakeOnLAN {
					t.Fatalf("seed %d: %s wakes nobody", seed, x.Advertisement)
				}
				if !slices.ContainsFunc(d.Reasons, func(r Reason) bool { return r.Rule == RuleWake && strings.Contains(r.Text, " wakes "+x.Computer) }) {
					t.Fatalf("seed %d: %s is woken, and the reasons say\n%s", seed, x.Computer, strings.Join(d.Lines(), "\n"))
				}
			}
			if p.destructive(s.Advertisements[slices.IndexFunc(s.Advertisements, func(a provisioning.Advertisement) bool { return a.Name == x.Advertisement })].Spec.TaskSequence) {
				erasing++
			}
		}
		woken += len(got.Wakes)
		if erasing > 0 {
			begun := h.wipes(now, p.destructive, func(*provisioning.Run) bool { return false })
			if most := max(p.wipeCap()-begun, 0) + max(h.Approved, 0); erasing > most {
				t.Fatalf("seed %d: %d are woken that erase, %d may", seed, erasing, most)
			} else if erasing == most {
				capped++
			}
		}
		if !got.Next.IsZero() && got.Next.Before(now) {
			t.Fatalf("seed %d: it would have looked again at %s, which is over", seed, got.Next)
		}
		// Remembered, nobody is woken a second time at once, and nobody else beyond the cap.
		var records []provisioning.Woken
		for _, x := range got.Wakes {
			records = append(records, x.Woken)
		}
		for _, x := range p.Wake(h, now, remembered(records...), Appliance{}).Wakes {
			t.Fatalf("seed %d: at once %s is woken, too", seed, x.Computer)
		}
	}
	t.Log(woken, "woken,", capped, "times as many as the cap lets")
	if woken < 300 || capped < 50 {
		t.Errorf("%d woken, %d times as many as the cap lets: the worlds are too poor to show anything", woken, capped)
	}
}

// TestNobodyIsWokenForEver lets a site that nobody of starts go on for a day: each computer is woken four times, and no more are
// expected at one time than the wipe cap lets.
func TestNobodyIsWokenForEver(t *testing.T) {
	s, h := large()
	s.Computers = s.Computers[:40]
	s.Site.Spec.DistributionPoint, s.Site.Spec.PXE.WipesPerHour = &provisioning.DistributionPointRole{}, 7
	s.Advertisements = []provisioning.Advertisement{{Name: "rollout", Spec: provisioning.AdvertisementSpec{
		TaskSequence: "install", Collection: provisioning.AllSystems, Purpose: provisioning.PurposeRequired, WakeOnLAN: true,
	}}}
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	h.Runs = nil
	records := map[provisioning.WakeKey]provisioning.Woken{}
	tries := map[string]int{}
	for now, end := noon, noon.Add(24*time.Hour); now.Before(end); {
		got := p.Wake(h, now, records, Appliance{})
		for _, w := range got.Wakes {
			records[w.Key()] = w.Woken
			tries[w.Computer]++
		}
		expected := 0
		for _, w := range records {
			if now.Sub(w.Last) < wakeInterval {
				expected++
			}
		}
		if expected > 7 || len(got.Forget) > 0 {
			t.Fatalf("%s: %d computers are expected, forgotten are %v", now, expected, got.Forget)
		}
		if got.Next.IsZero() {
			break
		}
		if !got.Next.After(now) {
			t.Fatalf("%s: it would look again at once", now)
		}
		now = got.Next
	}
	for _, c := range s.Computers {
		if tries[c.Name] != wakeTries {
			t.Errorf("%s was woken %d times", c.Name, tries[c.Name])
		}
	}
}

// TestManyAreWokenByAndBy: one answer is bounded, and the next one comes at once.
func TestManyAreWokenByAndBy(t *testing.T) {
	p, h := sleepers(t, "check")
	got := p.Wake(h, noon, nil, Appliance{})
	if len(got.Wakes) != maxWakes || !got.Next.Equal(noon) {
		t.Errorf("%d are woken, the next ones at %s", len(got.Wakes), got.Next)
	}
}

// sleepers is the large site, where an advertisement wakes all its computers for a sequence.
func sleepers(t testing.TB, sequence string) (*Policy, History) {
	t.Helper()
	s, h := large()
	s.Site.Spec.DistributionPoint = &provisioning.DistributionPointRole{}
	s.TaskSequences = append(s.TaskSequences, provisioning.TaskSequence{Name: "check"})
	s.Advertisements = append(s.Advertisements, provisioning.Advertisement{Name: "rollout", Spec: provisioning.AdvertisementSpec{
		TaskSequence: sequence, Collection: provisioning.AllSystems, Purpose: provisioning.PurposeRequired, WakeOnLAN: true, Priority: 1,
	}})
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p, h.Indexed()
}

// BenchmarkWake is one look at a site of 20,000 computers: "nobody" is the worst, where all have to be looked at and none is due;
// "first" is an answer of maxWakes computers; "capped" is while the wipe cap is full, as it is in most of a rollout.
func BenchmarkWake(b *testing.B) {
	for name, sequence := range map[string]string{"nobody": "check", "first": "check", "capped": "install"} {
		b.Run(name, func(b *testing.B) {
			p, h := sleepers(b, sequence)
			records := map[provisioning.WakeKey]provisioning.Woken{}
			switch name {
			case "nobody": // each was woken for the last time, and would still be given it
				for _, c := range p.snapshot.Computers {
					w := provisioning.Woken{Computer: c.Name, Advertisement: "rollout", Tries: wakeTries, Last: noon.Add(-time.Hour)}
					records[w.Key()] = w
				}
			case "capped":
				for i := range provisioning.DefaultWipesPerHour {
					h.Runs[i].SpentAt = noon
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if got := p.Wake(h, noon, records, Appliance{}); (len(got.Wakes) > 0) != (name == "first") {
					b.Fatal(len(got.Wakes))
				}
			}
		})
	}
}
