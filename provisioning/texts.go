package provisioning

import (
	"strings"
	"unicode"
)

// ShownTexts are a site's texts as they go to the screens of its appliance and its clients. They are no secret: whoever can
// reach the appliance by HTTP can read them.
type ShownTexts struct {
	// Organization, Welcome and Help are those of SiteTexts.
	Organization string `json:"organization,omitempty"`
	Welcome      string `json:"welcome,omitempty"`
	Help         string `json:"help,omitempty"`
	// Admins are those of SiteSpec.
	Admins []string `json:"admins,omitempty"`
}

// Shown are the texts of the site, nothing where s is nil.
func (s *SiteSpec) Shown() ShownTexts {
	if s == nil {
		return ShownTexts{}
	}
	t := ShownTexts{Admins: s.Admins}
	if s.Texts != nil {
		t.Organization, t.Welcome, t.Help = s.Texts.Organization, s.Texts.Welcome, s.Texts.Help
	}
	return t
}

// Head is what stands at the head of a client's screen: organisation and welcome, in lines of at most width characters
// without anything that could change a terminal's state. No text gives no line.
func (t ShownTexts) Head(width int) []string {
	return append(WrapLine(t.Organization, width), WrapLine(t.Welcome, width)...)
}

// Contacts say whom to turn to when something has failed: the help, and each admin, in lines as those of Head.
func (t ShownTexts) Contacts(width int) []string {
	out := WrapLine(t.Help, width)
	for _, a := range t.Admins {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, WrapLine("Contact: "+a, width)...)
		}
	}
	return out
}

// WrapLine breaks a text between words into lines of at most width characters, width being at least 1; a word that is longer
// is cut. What does not print, such as control characters and marks that turn the direction of writing, is left out, and
// blanks in a row are one. A text without words gives no line.
func WrapLine(text string, width int) []string {
	var lines [][]rune
	for _, word := range strings.Fields(strings.Map(printing, text)) {
		w := []rune(word)
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(w) <= width {
			lines[n-1] = append(append(lines[n-1], ' '), w...)
			continue
		}
		for len(w) > width {
			lines = append(lines, w[:width:width])
			w = w[width:]
		}
		lines = append(lines, w)
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = string(l)
	}
	return out
}

// printing makes every kind of space a blank, and leaves out what does not print.
func printing(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case unicode.IsPrint(r):
		return r
	}
	return -1
}
