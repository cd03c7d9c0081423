package lab

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Lab is what one test has built: machines, switches, links, disks. It ends with its test.
type Lab struct {
	t      testing.TB
	dir    string
	run    string
	factor float64

	mu       sync.Mutex
	ended    bool
	machines []*Machine
	switches []*Switch
	closers  []func()
}

// New makes the lab of a test. Its directory build/e2e/<test> is emptied first, and removed at the end if the test passed.
//
// The environment variable LAB_TIMEOUT_FACTOR (a number, 1 by default) stretches every time limit, for slow hosts.
func New(t testing.TB) *Lab {
	t.Helper()
	root, err := RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "build", "e2e", safeName(t.Name()))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatalf("empty the artifact directory: %v", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("make the artifact directory: %v", err)
	}
	// Paths of Unix sockets are limited to 107 bytes, and test names are long: sockets get a short directory of their own.
	run, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatalf("make the socket directory: %v", err)
	}
	l := &Lab{t: t, dir: dir, run: run, factor: 1}
	if s := os.Getenv("LAB_TIMEOUT_FACTOR"); s != "" {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f <= 0 || f > 100 {
			t.Fatalf("LAB_TIMEOUT_FACTOR=%q is not a number between 0 and 100", s)
		}
		l.factor = f
	}
	t.Cleanup(l.close)
	return l
}

// Dir returns the directory that is kept when the test fails. Files that help to understand a failure belong there.
func (l *Lab) Dir() string { return l.dir }

// Path returns a path in the lab's directory, whose parent directories exist.
func (l *Lab) Path(elem ...string) string {
	p := filepath.Join(append([]string{l.dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatalf("make the directory of %s: %v", p, err)
	}
	return p
}

// onClose registers something that ends with the lab, last in first out, after the machines have ended.
func (l *Lab) onClose(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

func (l *Lab) close() {
	l.mu.Lock()
	machines, switches, closers := l.machines, l.switches, l.closers
	l.mu.Unlock()
	failed := l.t.Failed()
	if failed {
		for _, m := range machines {
			m.saveScreenshot()
		}
	}
	for _, m := range machines {
		m.end()
	}
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	for _, s := range switches {
		s.close()
	}
	os.RemoveAll(l.run)
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	if !failed {
		if err := os.RemoveAll(l.dir); err != nil {
			l.t.Logf("remove artifacts: %v", err)
		}
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "artifacts are kept in %s\n", l.dir)
	fmt.Fprintf(&b, "this test again: go test -count=1 -run '%s' <package>\n", runPattern(l.t.Name()))
	for _, m := range machines {
		if m.command != nil {
			fmt.Fprintf(&b, "machine %s alone: %s\n  it was started as: %s\n", m.name, filepath.Join(m.dir, "run.sh"), shellJoin(m.command))
		}
	}
	l.t.Log(b.String())
}

// logf logs for goroutines that may see the test end: logging after that would be a panic.
func (l *Lab) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.t.Logf(format, args...)
	}
}

// limit stretches a time limit by LAB_TIMEOUT_FACTOR, and makes it end before the test binary's own deadline: a failed wait
// must be able to say what was missing.
func (l *Lab) limit(d time.Duration) (context.Context, context.CancelFunc) {
	d = time.Duration(float64(d) * l.factor)
	if t, ok := l.t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, ok := t.Deadline(); ok {
			const spare = 15 * time.Second
			if left := time.Until(end) - spare; left < d {
				d = max(left, time.Second)
			}
		}
	}
	return context.WithTimeout(context.Background(), d)
}

// safeName makes a file name of a test's or machine's name.
func safeName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '/':
			return r
		}
		return '_'
	}, s)
	s = strings.ReplaceAll(s, "/", ".")
	if s == "" {
		return "_"
	}
	return s
}

func runPattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return strings.Join(parts, "/")
}

// derive makes stable pseudo-random bytes from names, so that a machine has the same MAC and UUID in each run.
func derive(parts ...string) [32]byte {
	return sha256.Sum256([]byte(strings.Join(parts, "\x00")))
}
