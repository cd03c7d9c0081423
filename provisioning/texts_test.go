package provisioning

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestShownTexts(t *testing.T) {
	var none *SiteSpec
	if got := none.Shown(); got.Head(79) != nil && len(got.Head(79)) > 0 || len(got.Contacts(79)) > 0 {
		t.Errorf("a site that there is none of shows %+v", got)
	}
	s := &SiteSpec{
		Admins: []string{"Jo Miller, +44 20 7946 0000", " ", "Sam"},
		Texts:  &SiteTexts{Organization: "St Mary's Hospital", Welcome: "Choose what is to be installed.", Help: "Ring 4711."},
	}
	if got, want := s.Shown().Head(20), []string{"St Mary's Hospital", "Choose what is to be", "installed."}; !slices.Equal(got, want) {
		t.Errorf("head %q, want %q", got, want)
	}
	if got, want := s.Shown().Contacts(79), []string{"Ring 4711.", "Contact: Jo Miller, +44 20 7946 0000", "Contact: Sam"}; !slices.Equal(got, want) {
		t.Errorf("contacts %q, want %q", got, want)
	}
}

func TestWrapLine(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 10, nil},
		{" \u00a0\n ", 10, nil},
		{"one two three", 7, []string{"one two", "three"}},
		{"abcdefgh ij", 3, []string{"abc", "def", "gh", "ij"}},
		{"a\x1b[2Jb\r\nc\u202edef\u2028g", 40, []string{"a[2Jb cdef g"}},
		{"Krankenhaus Köln", 11, []string{"Krankenhaus", "Köln"}},
	} {
		if got := WrapLine(c.text, c.width); !slices.Equal(got, c.want) {
			t.Errorf("%q in %d: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

// FuzzWrapLine: lines fit, print, and have every character that prints, in order.
func FuzzWrapLine(f *testing.F) {
	f.Add("St Mary's Hospital", 10)
	f.Add(strings.Repeat("x", 200), 79)
	f.Add(strings.Repeat("Ünïcödé 病院 ", 20), 79)
	f.Add("a\x1b]0;title\x07\x9b2J\u202e\u2066\x00\xff\xfe\n\r\t\v", 5)
	f.Fuzz(func(t *testing.T, text string, width int) {
		width = 1 + min(max(width, 0), 500)
		lines := WrapLine(text, width)
		for _, l := range lines {
			if l == "" || utf8.RuneCountInString(l) > width || strings.ContainsFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Fatalf("line %q of %q, %d wide", l, text, width)
			}
		}
		bare := func(s string) string { return strings.ReplaceAll(strings.Map(printing, s), " ", "") }
		if got, want := bare(strings.Join(lines, "")), bare(text); got != want {
			t.Fatalf("%q became %q", want, got)
		}
	})
}
