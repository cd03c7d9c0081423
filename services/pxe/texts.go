package pxe

import (
	"strings"
	"unicode"

	"branchpoint/provisioning"

	"golang.org/x/text/unicode/norm"
)

// textWidth is how wide a site's texts are on the screens of GRUB and iPXE, in characters: what fits their menus, on 80
// columns.
const textWidth = 70

// A site's texts become parts of scripts here. What is left of them means nothing to GRUB and iPXE, whatever they were:
// firmwareLine takes out what their lexers know.
//
// GRUB (grub-core/script/yylex.l): within double quotes, $, \ and " are special, and a line ends the command.
// iPXE (src/core/exec.c, src/core/settings.c): there are no quotes; ${…} is expanded, # at the beginning of a word begins a
// comment, and the words ||, && and ; end a command. In both a word that begins with - may be an option.

// firmwareSigns are the signs that a text keeps beside letters, digits and blanks.
const firmwareSigns = ".,:()/+-'@?!*=_"

// spelt is how letters are written that have no form without marks.
var spelt = strings.NewReplacer(
	"ß", "ss", "ẞ", "SS", "æ", "ae", "Æ", "AE", "œ", "oe", "Œ", "OE", "ø", "o", "Ø", "O", "ł", "l", "Ł", "L", "đ", "d", "Đ", "D",
	"ð", "d", "Ð", "D", "þ", "th", "Þ", "Th", "ı", "i", "&", "+", "’", "'", "‘", "'", "“", "'", "”", "'", "„", "'", "\"", "'", "–", "-", "—", "-", ";", ",",
)

// firmwareLine is a line of text as firmware's screens can show it: ASCII alone, letters without their marks, and _ for what
// has no such form. It does not begin with a sign that could make an option of it. A line without a letter or digit is "".
func firmwareLine(s string) string {
	some := false
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			some = true
			return r
		case r == ' ' || strings.ContainsRune(firmwareSigns, r):
			return r
		case unicode.Is(unicode.Mn, r):
			return -1
		}
		return '_'
	}, norm.NFKD.String(spelt.Replace(s)))
	if !some {
		return ""
	}
	return strings.TrimLeft(s, " -+")
}

// firmwareTexts are a site's texts as firmware's screens can show them, before they are broken into lines: some characters
// become several.
func firmwareTexts(t provisioning.ShownTexts) provisioning.ShownTexts {
	out := provisioning.ShownTexts{Organization: firmwareLine(t.Organization), Welcome: firmwareLine(t.Welcome), Help: firmwareLine(t.Help)}
	for _, a := range t.Admins {
		out.Admins = append(out.Admins, firmwareLine(a))
	}
	return out
}

// firmwareHead and firmwareContacts are the lines of which something is left.
func firmwareHead(t provisioning.ShownTexts) []string {
	return firmwareLines(firmwareTexts(t).Head(textWidth))
}

func firmwareContacts(t provisioning.ShownTexts) []string {
	return firmwareLines(firmwareTexts(t).Contacts(textWidth))
}

func firmwareLines(lines []string) []string {
	var out []string
	for _, l := range lines {
		if l = firmwareLine(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// grubEcho shows lines of firmwareHead or firmwareContacts on GRUB's screen.
func grubEcho(lines []string) string { return around(`echo "`, lines, `"`) }

// ipxeEcho shows lines on iPXE's screen, and ipxeGaps in its menu, where they cannot be chosen.
func ipxeEcho(lines []string) string { return around("echo ", lines, "") }
func ipxeGaps(lines []string) string { return around("item --gap -- ", lines, "") }

func around(before string, lines []string, after string) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(before + l + after + "\n")
	}
	return b.String()
}
