package main

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

func TestMeter(t *testing.T) {
	var m Meter
	at := time.Unix(1000, 0)
	if m.Rate() != 0 {
		t.Error("a rate of nothing")
	}
	for i := range 1000 { // 100 s at 10 MB/s
		m.Add(at.Add(time.Duration(i)*100*time.Millisecond), int64(i)*1e6)
	}
	if r := m.Rate(); r < 9.9e6 || r > 10.1e6 {
		t.Errorf("rate %f", r)
	}
	if n := len(m.samples); n > 100 {
		t.Errorf("%d samples are kept", n)
	}
	for i := range 300 { // then 30 s at 1 MB/s
		m.Add(at.Add(100*time.Second+time.Duration(i)*100*time.Millisecond), 1e9+int64(i)*1e5)
	}
	if r := m.Rate(); r < 0.9e6 || r > 1.1e6 {
		t.Errorf("rate %f after it changed", r)
	}
}

func TestRenderProgress(t *testing.T) {
	m := Meter{samples: []sample{{time.Unix(0, 0), 0}, {time.Unix(10, 0), 500e6}}}
	for name, c := range map[string]struct {
		p    sequence.Progress
		want string
	}{
		"text alone": {sequence.Progress{Text: "Formatting"}, "      Formatting"},
		"half":       {sequence.Progress{Text: "Writing debian", Done: 500e6, Total: 1000e6}, "      [##########..........]  50%  50.0 MB/s  0:10 left  Writing debian"},
		"done":       {sequence.Progress{Text: "W", Done: 1000e6, Total: 1000e6}, "      [####################] 100%  50.0 MB/s  W"},
		"too much":   {sequence.Progress{Text: "W", Done: 2000e6, Total: 1000e6}, "      [####################] 100%  50.0 MB/s  W"},
		"negative":   {sequence.Progress{Text: "W", Done: -1, Total: 500e6}, "      [....................]   0%  50.0 MB/s  0:10 left  W"},
	} {
		if got := renderProgress(c.p, m); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	long := renderProgress(sequence.Progress{Text: strings.Repeat("ü\x1b", 200), Done: 1, Total: 3}, m)
	if utf8.RuneCountInString(long) > 79 || strings.ContainsRune(long, 0x1b) {
		t.Errorf("%q", long)
	}
}

func TestRenderFailure(t *testing.T) {
	got := renderFailure("It failed.", provisioning.Errorf(provisioning.CodeInvalid, "Do that.", "because"), provisioning.ShownTexts{})
	if !strings.Contains(got, "What happened:  because\n") || !strings.Contains(got, "What to do:     Do that.\n") {
		t.Error(got)
	}
	if got := renderFailure("x", strings.NewReader("").UnreadByte(), provisioning.ShownTexts{}); !strings.Contains(got, "Tell your administrator") {
		t.Error(got)
	}
}

// TestFailureNamesHelp: who stands before a failure reads whose computer it is, and whom to turn to.
func TestFailureNamesHelp(t *testing.T) {
	got := renderFailure("It failed.", provisioning.Errorf(provisioning.CodeInvalid, "Do that.", "because"), provisioning.ShownTexts{
		Organization: "St Mary's Hospital", Welcome: "Welcome", Help: "Ring 4711.", Admins: []string{"Jo Miller, +44", strings.Repeat("Sam ", 40)},
	})
	for _, want := range []string{"\nSt Mary's Hospital\nIt failed.\n", "\nWho can help:   Ring 4711.\n                Contact: Jo Miller, +44\n                Contact: Sam Sam"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	for l := range strings.Lines(got) {
		if utf8.RuneCountInString(l) > screenWidth+1 {
			t.Errorf("line %q is too wide", l)
		}
	}
}

// FuzzTexts: whatever a site's texts are, they change no terminal's state, and fit it.
func FuzzTexts(f *testing.F) {
	f.Add("St Mary's Hospital", "Welcome", "Ring 4711", "Jo")
	f.Add("\x1b[2J\x1b]0;x\x07", "\x9b31m\r\n\r", "\x1bc\x00\x7f", "\u202e\u2066\ufeff")
	f.Add(strings.Repeat("病院 ", 100), strings.Repeat("x", 200), strings.Repeat("é ", 100), "\xff\xfe")
	f.Fuzz(func(t *testing.T, organization, welcome, help, admin string) {
		screen, serial := &buffer{}, &buffer{}
		s := NewScreen(time.Now, Console{screen, false}, Console{serial, true})
		s.Greet(provisioning.ShownTexts{Organization: organization, Welcome: welcome, Help: help, Admins: []string{admin}})
		s.Show(sequence.Event{Kind: sequence.EventSequenceStarted, Title: "t"}, &provisioning.Assignment{})
		s.Help()
		s.Fail("It failed.", provisioning.Errorf(provisioning.CodeInvalid, "Do that.", "because"))
		s.Done("Done.")
		s.Close()
		if over := strings.ReplaceAll(screen.String(), "\r\x1b[K", ""); over != serial.String() {
			t.Errorf("the screen shows %q, the serial line %q", over, serial)
		}
		for l := range strings.SplitSeq(serial.String(), "\r\n") {
			if utf8.RuneCountInString(l) > screenWidth || strings.ContainsFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("line %q", l)
			}
		}
	})
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0:00", 7 * time.Second: "0:07", 62*time.Second + 600*time.Millisecond: "1:03", 3723 * time.Second: "1:02:03"} {
		if got := clock(d); got != want {
			t.Errorf("%s: %s", d, got)
		}
	}
}

// TestScreenThrottles shows progress a thousand times: the screen overwrites it now and then, a serial line shows it
// rarely.
func TestScreenThrottles(t *testing.T) {
	screen, serial := &buffer{}, &buffer{}
	now := time.Unix(1000, 0)
	s := NewScreen(func() time.Time { return now }, Console{screen, false}, Console{serial, true})
	a := &provisioning.Assignment{}
	s.Show(sequence.Event{Kind: sequence.EventStepStarted, Step: 1, Steps: 2, Title: "Write"}, a)
	for i := range 1000 { // 20 s
		now = now.Add(20 * time.Millisecond)
		s.Show(sequence.Event{Kind: sequence.EventProgress, Progress: sequence.Progress{Text: "w", Done: int64(i), Total: 1000}}, a)
	}
	s.Show(sequence.Event{Kind: sequence.EventStepEnded, Step: 1, Steps: 2, Title: "Write"}, a)
	s.Close()
	if n := strings.Count(screen.String(), "%"); n < 50 || n > 100 {
		t.Errorf("%d times on the screen", n)
	}
	if n := strings.Count(serial.String(), "%"); n < 3 || n > 6 {
		t.Errorf("%d times on the serial line", n)
	}
	if strings.Contains(serial.String(), "\x1b") || !strings.Contains(serial.String(), "[1/2] Write: done, 0:20\r\n") {
		t.Errorf("%q", serial)
	}
}
