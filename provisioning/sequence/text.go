package sequence

import (
	"strings"
	"unicode/utf8"

	"branchpoint/provisioning"
)

// head returns at most n bytes of the beginning of s, as valid UTF-8.
func head(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Tail returns the last n bytes of s at most, as valid UTF-8 that begins with a whole character.
func Tail(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for len(s) > 0 && !utf8.RuneStart(s[0]) {
		s = s[1:]
	}
	return s
}

// bound makes a status message's texts fit what StatusMessage.Validate allows.
func bound(m provisioning.StatusMessage) provisioning.StatusMessage {
	m.Text = head(m.Text, provisioning.MaxStatusOutput)
	m.Output = Tail(m.Output, provisioning.MaxStatusOutput)
	m.Title = head(m.Title, 256)
	m.Action = head(m.Action, 64)
	return m
}
