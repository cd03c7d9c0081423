package debian

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Mirrors are the addresses packages come from, in apt's URI notation (http:, https:, file:, mirror+file: …).
type Mirrors struct {
	// Main serves the release itself and its updates. Never empty.
	Main string
	// Security serves the release's security updates; empty when the host names none.
	Security string
}

// entry is one (URI, suite) pair of apt's sources, whichever format it was written in.
type entry struct {
	uri, suite string
	components []string
	signedBy   string
}

// hostReleases are the suites by which a host's sources show that they point at a Debian archive, which then serves the
// release wanted here as well.
var hostReleases = map[string]bool{
	"bullseye": true, "bookworm": true, "trixie": true, "forky": true, "sid": true,
	"oldstable": true, "stable": true, "testing": true, "unstable": true,
}

// FindMirrors decides where packages come from: env("DEBIAN_MIRROR") and env("DEBIAN_SECURITY_MIRROR") where set, otherwise
// the first Debian archive in the apt sources below etcApt (usually /etc/apt), in one-line or deb822 notation.
func FindMirrors(etcApt string, env func(string) string) (Mirrors, error) {
	m := Mirrors{Main: strings.TrimSuffix(env("DEBIAN_MIRROR"), "/"), Security: strings.TrimSuffix(env("DEBIAN_SECURITY_MIRROR"), "/")}
	if m.Main != "" && m.Security != "" {
		return m, nil
	}
	entries, err := readSources(etcApt)
	if err != nil && m.Main == "" {
		return Mirrors{}, err
	}
	host := chooseMirrors(entries)
	if m.Main == "" {
		m.Main = host.Main
	}
	if m.Security == "" {
		m.Security = host.Security
	}
	if m.Main == "" {
		return Mirrors{}, fmt.Errorf("no Debian archive among the apt sources in %s: set DEBIAN_MIRROR to a mirror's address, the part before /dists", etcApt)
	}
	return m, nil
}

// chooseMirrors picks the likeliest Debian archive: other vendors use Debian's suite names too, so an address that says
// "debian" and a keyring of Debian's count more than the order.
func chooseMirrors(entries []entry) Mirrors {
	var m Mirrors
	best, bestSecurity := 0, 0
	for _, e := range entries {
		if strings.HasPrefix(e.uri, "cdrom:") {
			continue
		}
		score := 1
		if strings.Contains(e.uri, "debian") {
			score += 2
		}
		if e.signedBy == "" || strings.Contains(e.signedBy, "debian-archive") {
			score += 2
		}
		hasMain := false
		for _, c := range e.components {
			hasMain = hasMain || c == "main"
		}
		if !hasMain {
			continue
		}
		uri := strings.TrimSuffix(e.uri, "/")
		release, isSecurity := strings.CutSuffix(e.suite, "-security")
		if !isSecurity {
			// Before Debian 11 the suite was written bullseye/updates.
			release, isSecurity = strings.CutSuffix(e.suite, "/updates")
		}
		if !isSecurity {
			release = strings.TrimSuffix(release, "-updates")
		}
		if !hostReleases[release] {
			continue
		}
		if isSecurity && score > bestSecurity {
			bestSecurity, m.Security = score, uri
		}
		if !isSecurity && score > best {
			best, m.Main = score, uri
		}
	}
	return m
}

// readSources reads etcApt/sources.list and everything apt would read in sources.list.d.
func readSources(etcApt string) ([]entry, error) {
	files := []string{filepath.Join(etcApt, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		found, err := filepath.Glob(filepath.Join(etcApt, "sources.list.d", pattern))
		if err != nil {
			return nil, fmt.Errorf("list apt sources in %s: %w", etcApt, err)
		}
		files = append(files, found...)
	}
	sort.Strings(files[1:])
	var entries []entry
	for _, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read apt source: %w", err)
		}
		if strings.HasSuffix(file, ".sources") {
			entries = append(entries, parseDeb822(string(text))...)
		} else {
			entries = append(entries, parseOneLine(string(text))...)
		}
	}
	return entries, nil
}

// parseOneLine reads the notation of sources.list(5): deb [option=value …] URI SUITE COMPONENT…
func parseOneLine(text string) []entry {
	var entries []entry
	for _, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		rest, isDeb := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !isDeb || rest == "" || (rest[0] != ' ' && rest[0] != '\t' && rest[0] != '[') {
			continue
		}
		rest = strings.TrimSpace(rest)
		signedBy := ""
		if strings.HasPrefix(rest, "[") {
			options, after, closed := strings.Cut(rest[1:], "]")
			if !closed {
				continue
			}
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					signedBy = v
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 3 {
			continue
		}
		entries = append(entries, entry{uri: fields[0], suite: fields[1], components: fields[2:], signedBy: signedBy})
	}
	return entries
}

// parseDeb822 reads the stanzas of a .sources file; every URI is paired with every suite.
func parseDeb822(text string) []entry {
	var entries []entry
	for _, stanza := range parseStanzas(text) {
		types := strings.Fields(stanza["types"])
		binary := false
		for _, t := range types {
			binary = binary || t == "deb"
		}
		if !binary || strings.EqualFold(stanza["enabled"], "no") || strings.EqualFold(stanza["enabled"], "false") {
			continue
		}
		for _, uri := range strings.Fields(stanza["uris"]) {
			for _, suite := range strings.Fields(stanza["suites"]) {
				entries = append(entries, entry{
					uri: uri, suite: suite,
					components: strings.Fields(stanza["components"]), signedBy: stanza["signed-by"],
				})
			}
		}
	}
	return entries
}

// parseStanzas reads Debian control syntax: fields in lower case, continuation lines joined by newlines, comments left out.
func parseStanzas(text string) []map[string]string {
	var stanzas []map[string]string
	current := map[string]string{}
	last := ""
	end := func() {
		if len(current) > 0 {
			stanzas = append(stanzas, current)
		}
		current, last = map[string]string{}, ""
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				current[last] += "\n" + strings.TrimSpace(line)
			}
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			last = strings.ToLower(strings.TrimSpace(name))
			current[last] = strings.TrimSpace(value)
		}
	}
	end()
	return stanzas
}
