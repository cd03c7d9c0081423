package pxe

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

func TestFirmwareLine(t *testing.T) {
	for text, want := range map[string]string{
		"St Mary's Hospital, Room 5 (east)": "St Mary's Hospital, Room 5 (east)",
		"Klinik Großhöchstetten":            "Klinik Grosshochstetten",
		"Smith & Søn – IT":                  "Smith + Son - IT",
		"\u00c5land; a && reboot || ${x}":   "Aland, a ++ reboot __ __x_",
		`a"; reboot; "b`:                    "a', reboot, 'b",
		"$(x) `y` \\n #z %s":                "_(x) _y_ _n _z _s",
		"--gap -n hello":                    "gap -n hello",
		"病院":                                "",
		"-- ++":                             "",
		"call ☎ 4711":                       "call _ 4711",
	} {
		if got := firmwareLine(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// someTexts are what an ordinary site shows.
var someTexts = provisioning.ShownTexts{
	Organization: "Krankenhaus Köln", Welcome: "Choose what is to be installed. " + strings.Repeat("What is on the disk is lost. ", 4),
	Help: "Ring 4711 (day and night).", Admins: []string{"Jo Miller, +44 20 7946 0000", "Sam"},
}

// pagesOf are all configurations that texts are part of.
func pagesOf(texts provisioning.ShownTexts) map[string]string {
	server := netip.MustParseAddr("192.0.2.10")
	boot := bootPage{server, 80, []string{FileBaseLayer, FileAgentLayer}, "/boot/secret/NONCE.cpio", known, texts}
	menu := menuPage{server, 80, menuEntry{"Start from the next boot device", "/boot/offer/NONCE/next"}, []menuEntry{{"1  rollout (install)", "/boot/offer/NONCE/1"}}, texts}
	return map[string]string{
		"texts-first-grub": grubFirst(server, 80, texts),
		"texts-boot-grub":  grubBoot(boot), "texts-boot-ipxe": ipxeBoot(boot),
		"texts-menu-grub": grubMenu(menu), "texts-menu-ipxe": ipxeMenu(menu),
	}
}

func TestTextsOnFirmwareScreens(t *testing.T) {
	for name, text := range pagesOf(someTexts) {
		golden(t, name, text)
		if strings.HasSuffix(name, "grub") {
			grubParses(t, text)
		}
		if !strings.Contains(text, "Jo Miller, +44 20 7946 0000") || !strings.Contains(text, "Ring 4711") {
			t.Errorf("%s does not say whom to turn to:\n%s", name, text)
		}
		if (!strings.Contains(text, "Krankenhaus Koln") || !strings.Contains(text, "Choose what")) && name != "texts-first-grub" {
			t.Errorf("%s does not greet anybody:\n%s", name, text)
		}
	}
}

// textLine is every form that a line of a site's text may have, and nothing of it can end the command or be expanded.
var textLine = regexp.MustCompile(`^(?: *echo "[A-Za-z0-9.,:()/'@?!*=_][A-Za-z0-9 .,:()/+'@?!*=_-]*"|(?:echo|item --gap --) [A-Za-z0-9.,:()/'@?!*=_][A-Za-z0-9 .,:()/+'@?!*=_-]*)$`)

// heading is the beginning of an entry of GRUB's menu that stands for a text.
var heading = regexp.MustCompile(`^menuentry "[A-Za-z0-9.,:()/'@?!*=_][A-Za-z0-9 .,:()/+'@?!*=_-]*" \{$`)

// commandsOf is a configuration without what a site's texts may have put there: lines of text, and GRUB's headings, where
// these have nothing in them but lines of text and the wait.
func commandsOf(page string) string {
	var out []string
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		if heading.MatchString(lines[i]) {
			end := i + 1
			for end < len(lines) && textLine.MatchString(lines[end]) {
				end++
			}
			if end+1 < len(lines) && lines[end] == "  sleep --interruptible 60" && lines[end+1] == "}" {
				i = end + 1
				continue
			}
		}
		if !textLine.MatchString(lines[i]) {
			out = append(out, defaultEntry.ReplaceAllString(lines[i], "set default=N"))
		}
	}
	return strings.Join(out, "\n")
}

var defaultEntry = regexp.MustCompile(`^set default=\d+$`)

func TestHostileTexts(t *testing.T) {
	hostile := `"; reboot; ${x} $(y) || && ; # \`
	for name, text := range pagesOf(provisioning.ShownTexts{Organization: hostile, Welcome: "a\"\n}\nreboot\n", Help: "--n", Admins: []string{hostile}}) {
		if strings.HasSuffix(name, "grub") {
			grubParses(t, text)
		}
	}
}

// FuzzFirmwareTexts: whatever a site's texts are, its configurations have the same commands as without them, and no line is
// wider than a screen.
func FuzzFirmwareTexts(f *testing.F) {
	for _, s := range []string{
		"", "Hospital", `"`, `\`, `\"`, `"; reboot #`, "${net0/mac}", "$(reboot)", "`reboot`", "a\nreboot", "a\r\nreboot\r\n", "}\nmenuentry x {", "|| reboot", "&& reboot",
		"; reboot", "# x", "--gap", "-n", "--", "- - -", "\x00\x01\x7f\x9b", "\u2028reboot", "\u202ereboot", "＄｛x｝", "﹩{x}", "＂; reboot", "＼", "；reboot", "｜｜ reboot",
		"＆＆ reboot", "＃", "－－gap", "病院 reboot", strings.Repeat("ﷺ", 200), strings.Repeat("\"$", 100), strings.Repeat("x", 200), "a\u0301\u0301", "\xff\xfe",
		// What becomes longer, and what begins a line once it is broken.
		strings.Repeat("ﬃ", 200), strings.Repeat("ﬃ ", 100), strings.Repeat("x", textWidth-2) + " --gap", strings.Repeat("x", textWidth-2) + " -n # x",
	} {
		f.Add(s, "Welcome", "Help", "Jo")
		f.Add("Hospital", s, s, s)
	}
	plain := map[string]string{}
	for name, text := range pagesOf(provisioning.ShownTexts{}) {
		plain[name] = commandsOf(text)
	}
	f.Fuzz(func(t *testing.T, organization, welcome, help, admin string) {
		for name, text := range pagesOf(provisioning.ShownTexts{Organization: organization, Welcome: welcome, Help: help, Admins: []string{admin}}) {
			if got := commandsOf(text); got != plain[name] {
				t.Fatalf("%s has other commands:\n%s\nwant\n%s", name, got, plain[name])
			}
			for line := range strings.Lines(text) {
				if strings.ContainsFunc(line, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
					t.Fatalf("%s: line %q is not ASCII", name, line)
				}
				if textLine.MatchString(strings.TrimSuffix(line, "\n")) && len(line) > textWidth+len(`item --gap -- `)+1 {
					t.Fatalf("%s: line %q is too wide", name, line)
				}
			}
		}
	})
}

// TestTextsAreThoseOfNow: a configuration has the texts that are in force when it is made.
func TestTextsAreThoseOfNow(t *testing.T) {
	s, p, now, _ := newTestService(t)
	p.offer(idle, "rollout")
	texts := provisioning.ShownTexts{Organization: "First"}
	s.deps.Texts = func() provisioning.ShownTexts { return texts }
	menuOfIdle(t, s, menuCases[1].path)
	for _, want := range []string{"First", "Second"} {
		texts.Organization = want
		*now = now.Add(configInterval)
		menu, _ := menuOfIdle(t, s, menuCases[1].path)
		if !strings.Contains(menu, "item --gap -- "+want+"\n") {
			b, _ := json.Marshal(texts)
			t.Errorf("with %s the menu is\n%s", b, menu)
		}
	}
}
