package kmod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Loader inserts modules into the running kernel, each at most once. It may be used by many goroutines.
type Loader struct {
	index *Index
	// insert gives one module file to the kernel. An error that is EEXIST means it is in already.
	insert func(name, path, params string) error
	params map[string][]string
	denied map[string]bool
	slots  chan struct{}

	mu   sync.Mutex
	once map[string]*insertion
}

type insertion struct {
	done chan struct{}
	err  error
}

// NewLoader returns a loader of the modules below dir (/lib/modules/RELEASE). The kernel's command line gives parameters
// (MODULE.NAME=VALUE) and modules never to be loaded (modprobe.blacklist=A,B). At most parallel insertions run at once.
func NewLoader(dir string, cmdline string, parallel int) (*Loader, error) {
	index, err := ReadIndex(os.DirFS(dir))
	if err != nil {
		return nil, err
	}
	return newLoader(index, cmdline, parallel, func(_, path, params string) error {
		f, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return unix.FinitModule(int(f.Fd()), params, 0)
	}), nil
}

func newLoader(index *Index, cmdline string, parallel int, insert func(name, path, params string) error) *Loader {
	l := &Loader{
		index: index, insert: insert, once: map[string]*insertion{}, slots: make(chan struct{}, max(parallel, 1)),
		params: map[string][]string{}, denied: map[string]bool{},
	}
	for _, word := range strings.Fields(cmdline) {
		if list, ok := strings.CutPrefix(word, "modprobe.blacklist="); ok {
			for _, name := range strings.Split(list, ",") {
				l.denied[Name(name)] = true
			}
			continue
		}
		option, _, _ := strings.Cut(word, "=")
		if name, _, ok := strings.Cut(option, "."); ok {
			l.params[Name(name)] = append(l.params[Name(name)], word[len(name)+1:])
		}
	}
	return l
}

// Load inserts the named module and all it needs. It is no error if it is in already or is denied on the command line.
func (l *Loader) Load(ctx context.Context, name string) error {
	if l.denied[Name(name)] {
		return nil
	}
	plan, err := l.index.Plan(name)
	if err != nil {
		return err
	}
	name = Name(name)
	var result error
	// The plan is worked through without holding anything across two modules, so plans that share modules in different
	// orders (soft dependencies may be circular) cannot wait for each other for ever.
	for _, n := range plan {
		if err := l.insertOnce(ctx, n); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			result = errors.Join(result, fmt.Errorf("insert module %s: %w", n, err))
			if n == name {
				return result
			}
		} else if n == name {
			// Failures of soft dependencies are of no account once the module itself is in.
			result = nil
		}
	}
	return result
}

func (l *Loader) insertOnce(ctx context.Context, name string) error {
	l.mu.Lock()
	in, known := l.once[name]
	if !known {
		in = &insertion{done: make(chan struct{})}
		l.once[name] = in
	}
	l.mu.Unlock()
	if known {
		select {
		case <-in.done:
			return in.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(in.done)
	l.slots <- struct{}{}
	defer func() { <-l.slots }()
	err := l.insert(name, l.index.Path(name), strings.Join(l.params[name], " "))
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	in.err = err
	return err
}

// LoadAlias inserts every module that claims the modalias or bears that name. known is false if there is none, which is
// common: most devices need no module, or have one built in.
func (l *Loader) LoadAlias(ctx context.Context, modalias string) (known bool, err error) {
	names := l.index.Match(modalias)
	for _, n := range names {
		err = errors.Join(err, l.Load(ctx, n))
	}
	return len(names) > 0, err
}
