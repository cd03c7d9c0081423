package main

import (
	"strings"

	"branchpoint/provisioning"
)

// screenWidth is how wide texts are shown, in characters: one less than the screens that every firmware has.
const screenWidth = 79

// Greet shows the site's organisation and welcome, and keeps its texts for the end.
func (s *Screen) Greet(t provisioning.ShownTexts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = t
	if head := t.Head(screenWidth); len(head) > 0 {
		s.put(strings.Join(head, "\n"))
	}
}

// Help shows whom to turn to, where the site says so.
func (s *Screen) Help() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if help := renderHelp(s.texts); help != "" {
		s.put(help)
	}
}

// renderHelp says whom to turn to, "" where the site does not.
func renderHelp(texts provisioning.ShownTexts) string {
	var b strings.Builder
	label := "Who can help:   "
	for _, l := range texts.Contacts(screenWidth - len(label)) {
		b.WriteString(label + l + "\n")
		label = strings.Repeat(" ", len(label))
	}
	return b.String()
}

// organization is the name of the site's organisation as lines of their own, "" where there is none. The caller holds mu.
func (s *Screen) organization() string {
	name := s.texts.Organization
	return strings.Join(append(provisioning.WrapLine(name, screenWidth), ""), "\n")
}
