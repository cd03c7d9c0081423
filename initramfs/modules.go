package initramfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"

	"branchpoint/initramfs/kmod"
)

// kernelModule is one unpacked module with what its .modinfo section says.
type kernelModule struct {
	path     string // below lib/modules/RELEASE, such as kernel/fs/ext4/ext4.ko
	name     string
	content  []byte
	depends  []string
	aliases  []string
	softdeps []string // "pre: a b post: c"
	firmware []string
}

// parseModinfo reads the .modinfo section of a module, zero-ended NAME=VALUE strings.
func parseModinfo(path string, content []byte) (kernelModule, error) {
	m := kernelModule{path: path, name: kmod.Name(path), content: content}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return m, fmt.Errorf("module %s: %w", path, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return m, fmt.Errorf("module %s has no .modinfo section", path)
	}
	info, err := section.Data()
	if err != nil {
		return m, fmt.Errorf("module %s: %w", path, err)
	}
	for _, entry := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.depends = append(m.depends, kmod.Name(d))
				}
			}
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			m.softdeps = append(m.softdeps, value)
		case "firmware":
			m.firmware = append(m.firmware, value)
		}
	}
	return m, nil
}

// moduleTree knows all modules of a kernel package by name and unpacks those that are asked for, once.
type moduleTree struct {
	dir   string // …/lib/modules/RELEASE
	files map[string]string
	mu    sync.Mutex
	read  map[string]kernelModule
}

func openModuleTree(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, files: map[string]string{}, read: map[string]kernelModule{}}
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base, _, ok := strings.Cut(d.Name(), ".ko"); ok && !d.IsDir() {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			t.files[kmod.Name(base)] = rel
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	if len(t.files) == 0 {
		return nil, fmt.Errorf("no kernel modules in %s", dir)
	}
	return t, nil
}

// module returns the unpacked module.
func (t *moduleTree) module(name string) (kernelModule, error) {
	t.mu.Lock()
	m, ok := t.read[name]
	t.mu.Unlock()
	if ok {
		return m, nil
	}
	file := t.files[name]
	raw, err := os.Open(filepath.Join(t.dir, file))
	if err != nil {
		return m, fmt.Errorf("open module %s: %w", name, err)
	}
	defer func() { _ = raw.Close() }()
	var content bytes.Buffer
	if strings.HasSuffix(file, ".xz") {
		r, err := xz.NewReader(raw)
		if err != nil {
			return m, fmt.Errorf("unpack module %s: %w", file, err)
		}
		if _, err := content.ReadFrom(r); err != nil {
			return m, fmt.Errorf("unpack module %s: %w", file, err)
		}
	} else if _, err := content.ReadFrom(raw); err != nil {
		return m, fmt.Errorf("read module %s: %w", file, err)
	}
	m, err = parseModinfo(strings.TrimSuffix(file, ".xz"), content.Bytes())
	if err != nil {
		return m, err
	}
	t.mu.Lock()
	t.read[name] = m
	t.mu.Unlock()
	return m, nil
}

// matchPattern reports whether path (without suffix, below kernel/) is chosen by pattern.
func matchPattern(pattern, file string) bool {
	if dir, ok := strings.CutSuffix(pattern, "**"); ok {
		return strings.HasPrefix(file, dir)
	}
	ok, err := path.Match(pattern, file)
	return err == nil && ok
}

// names returns the modules chosen by the patterns, sorted. A pattern that chooses nothing is an error: the kernel has
// changed and somebody must look.
func (t *moduleTree) names(patterns []string) ([]string, error) {
	found := map[string]bool{}
	var idle []string
	for _, pattern := range patterns {
		any := false
		for name, file := range t.files {
			short, _, _ := strings.Cut(strings.TrimPrefix(file, "kernel/"), ".ko")
			if !matchPattern(pattern, short) {
				continue
			}
			any = true
			unwanted := false
			for _, u := range unwantedModules {
				unwanted = unwanted || matchPattern(u, short)
			}
			if !unwanted {
				found[name] = true
			}
		}
		if !any {
			idle = append(idle, pattern)
		}
	}
	if len(idle) > 0 {
		return nil, fmt.Errorf("this kernel has no modules %s: adapt the selection", strings.Join(idle, ", "))
	}
	return sortedKeys(found), nil
}

// closure reads the named modules and all they depend on. Soft dependencies come along where they name a module.
func (t *moduleTree) closure(names []string) (map[string]kernelModule, error) {
	chosen := map[string]kernelModule{}
	for todo := names; len(todo) > 0; {
		var mu sync.Mutex
		next := map[string]bool{}
		var g errgroup.Group
		g.SetLimit(4)
		for _, name := range todo {
			g.Go(func() error {
				m, err := t.module(name)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				chosen[name] = m
				for _, d := range m.depends {
					if t.files[d] == "" {
						return fmt.Errorf("module %s depends on %s, which the kernel package lacks", name, d)
					}
					next[d] = true
				}
				for _, soft := range m.softdeps {
					for _, s := range strings.Fields(soft) {
						if t.files[kmod.Name(s)] != "" {
							next[kmod.Name(s)] = true
						}
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		todo = todo[:0:0]
		for _, n := range sortedKeys(next) {
			if _, ok := chosen[n]; !ok {
				todo = append(todo, n)
			}
		}
	}
	return chosen, nil
}

// indexFiles writes modules.dep, modules.alias and modules.softdep for a set that is closed under dependencies, in
// depmod's formats.
func indexFiles(modules map[string]kernelModule) map[string][]byte {
	names := sortedKeys(modules)
	var dep, alias, soft bytes.Buffer
	for _, name := range names {
		m := modules[name]
		var order []string
		visited := map[string]bool{}
		var visit func(string)
		visit = func(n string) {
			if visited[n] {
				return
			}
			visited[n] = true
			for _, d := range modules[n].depends {
				visit(d)
			}
			order = append(order, modules[n].path)
		}
		visit(name)
		// depmod's order: what is inserted first stands last.
		fmt.Fprintf(&dep, "%s:", m.path)
		for i := len(order) - 2; i >= 0; i-- {
			dep.WriteString(" " + order[i])
		}
		dep.WriteByte('\n')
		for _, a := range m.aliases {
			fmt.Fprintf(&alias, "alias %s %s\n", a, name)
		}
		for _, s := range m.softdeps {
			fmt.Fprintf(&soft, "softdep %s %s\n", name, s)
		}
	}
	return map[string][]byte{"modules.dep": dep.Bytes(), "modules.alias": alias.Bytes(), "modules.softdep": soft.Bytes()}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
