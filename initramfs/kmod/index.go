// Package kmod loads kernel modules by what the kernel says of its devices: it matches modaliases against modules.alias,
// follows dependencies and soft dependencies, and inserts each module once. Matching and planning are pure.
package kmod

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// maxLine bounds one line of an index file. The longest of Debian 13's are the dependencies of a few modules, below 2 KiB.
const maxLine = 1 << 16

// Index is what modules.dep, modules.alias and modules.softdep of one kernel say. It does not change once read.
type Index struct {
	modules map[string]module
	// aliases by their leading literal up to the first character of a pattern or ':', which spares most comparisons.
	aliases map[string][]alias
}

type module struct {
	path      string   // relative to the index's directory
	needs     []string // names, in the order to be inserted
	pre, post []string // soft dependencies: names or aliases
}

type alias struct {
	pattern, module string
}

// ReadIndex reads the three index files in fsys, usually /lib/modules/RELEASE. A missing modules.softdep is no error.
func ReadIndex(fsys fs.FS) (*Index, error) {
	x := &Index{modules: map[string]module{}, aliases: map[string][]alias{}}
	for _, file := range []struct {
		name  string
		parse func(io.Reader) error
		must  bool
	}{{"modules.dep", x.parseDep, true}, {"modules.alias", x.parseAlias, true}, {"modules.softdep", x.parseSoftdep, false}} {
		f, err := fsys.Open(file.name)
		if errors.Is(err, fs.ErrNotExist) && !file.must {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open module index: %w", err)
		}
		err = file.parse(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file.name, err)
		}
	}
	return x, nil
}

// Name returns the kernel's name of a module file or of a name as users write it: no directory, no suffix, '_' for '-'.
func Name(file string) string {
	base := path.Base(file)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

func eachLine(r io.Reader, line func(string) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; s.Scan(); n++ {
		text := strings.TrimSpace(s.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if err := line(text); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}

// parseDep reads lines "PATH: PATH…", where the last path is to be inserted first, as depmod writes them.
func (x *Index) parseDep(r io.Reader) error {
	return eachLine(r, func(line string) error {
		file, deps, ok := strings.Cut(line, ":")
		if !ok || file == "" || strings.HasPrefix(file, "/") || strings.Contains("/"+file+"/", "/../") {
			return fmt.Errorf("not \"path: paths\" below the index: %.80q", line)
		}
		m := x.modules[Name(file)]
		m.path = file
		fields := strings.Fields(deps)
		m.needs = make([]string, 0, len(fields))
		for i := len(fields) - 1; i >= 0; i-- {
			m.needs = append(m.needs, Name(fields[i]))
		}
		x.modules[Name(file)] = m
		return nil
	})
}

// parseAlias reads lines "alias PATTERN MODULE".
func (x *Index) parseAlias(r io.Reader) error {
	return eachLine(r, func(line string) error {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "alias" {
			return fmt.Errorf("not \"alias pattern module\": %.80q", line)
		}
		pattern := normalise(fields[1])
		key := literalKey(pattern)
		x.aliases[key] = append(x.aliases[key], alias{pattern, Name(fields[2])})
		return nil
	})
}

// parseSoftdep reads lines "softdep MODULE pre: NAME… post: NAME…".
func (x *Index) parseSoftdep(r io.Reader) error {
	return eachLine(r, func(line string) error {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "softdep" {
			return fmt.Errorf("not \"softdep module …\": %.80q", line)
		}
		name := Name(fields[1])
		m := x.modules[name]
		list := &m.pre
		for _, f := range fields[2:] {
			switch f {
			case "pre:":
				list = &m.pre
			case "post:":
				list = &m.post
			default:
				*list = append(*list, f)
			}
		}
		x.modules[name] = m
		return nil
	})
}

// literalKey is the part of a pattern or modalias by which aliases are sorted into groups: up to the first ':' ("pci",
// "usb", "virtio"), or "" where a pattern begins before it or there is none. Plain names are their own group.
func literalKey(s string) string {
	i := strings.IndexAny(s, ":*?[")
	if i < 0 {
		return s
	}
	if s[i] != ':' {
		return ""
	}
	return s[:i]
}

// Match returns the names of the modules that claim the modalias, or the module of that very name, sorted, each once.
func (x *Index) Match(modalias string) []string {
	modalias = normalise(strings.TrimSpace(modalias))
	found := map[string]bool{}
	for _, key := range []string{literalKey(modalias), ""} {
		for _, a := range x.aliases[key] {
			if x.modules[a.module].path != "" && !found[a.module] && match(a.pattern, modalias) {
				found[a.module] = true
			}
		}
	}
	if m, ok := x.modules[modalias]; ok && m.path != "" {
		found[modalias] = true
	}
	names := make([]string, 0, len(found))
	for n := range found {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Plan returns the names of all modules to insert for the named one, in order: soft dependencies before it, dependencies,
// itself, soft dependencies after it. Soft dependencies that are not among the modules are left out.
func (x *Index) Plan(name string) ([]string, error) {
	name = Name(name)
	if x.modules[name].path == "" {
		return nil, fmt.Errorf("module %s: %w", name, fs.ErrNotExist)
	}
	var plan []string
	visited := map[string]bool{}
	var visit func(string) error
	visit = func(name string) error {
		if visited[name] {
			return nil
		}
		visited[name] = true
		m := x.modules[name]
		if m.path == "" {
			return fmt.Errorf("dependency %s: %w", name, fs.ErrNotExist)
		}
		for _, s := range m.pre {
			for _, n := range x.Match(s) {
				// A soft dependency that cannot be had must not keep the module from loading.
				_ = visit(n)
			}
		}
		for _, n := range m.needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		plan = append(plan, name)
		for _, s := range m.post {
			for _, n := range x.Match(s) {
				_ = visit(n)
			}
		}
		return nil
	}
	if err := visit(name); err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	return plan, nil
}

// Path returns the module's file relative to the index's directory, "" if there is none.
func (x *Index) Path(name string) string { return x.modules[name].path }
