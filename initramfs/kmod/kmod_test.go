package kmod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

func testIndex(t *testing.T) *Index {
	t.Helper()
	x, err := ReadIndex(fstest.MapFS{
		"modules.dep": {Data: []byte(`kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/fs/mbcache.ko:
kernel/lib/crc16.ko:
kernel/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/net/e1000.ko:
kernel/net/8139cp.ko: kernel/net/mii.ko
kernel/net/mii.ko:
kernel/a.ko:
kernel/b.ko:
kernel/broken.ko: kernel/missing.ko
`)},
		"modules.alias": {Data: []byte(`# Aliases
alias fs-ext4 ext4
alias crypto-crc32c crc32c_generic
alias crypto-crc32c crc32c-intel
alias pci:v00008086d0000100Esv*sd*bc*sc*i* e1000
alias pci:v000010ECd00008139sv*sd*bc*sc*i* 8139cp
alias pci:v*d*sv*sd*bc02sc*i* a
alias usb:v0BDAp815[2-3]d*dc*dsc*dp*ic*isc*ip*in* b
alias gone-alias gone
alias *odd b
`)},
		"modules.softdep": {Data: []byte("softdep ext4 pre: crypto-crc32c not-there\nsoftdep a post: b\nsoftdep b pre: a\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"pci:v*d*", "pci:v1d2", true},
		{"a[0-9]c", "a5c", true},
		{"a[0-9]c", "axc", false},
		{"a[!0-9]c", "axc", true},
		{"a[!0-9]c", "a5c", false},
		{"a[0-9A-F]*", "aF", true},
		{"a[]x]c", "a]c", true},
		{"a[-x]c", "a-c", true},
		{"a[x", "a[x", true},
		{"a[x", "ax", false},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"a?c", "ac", false},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"*a", "baba", true},
	} {
		if got := match(c.pattern, c.s); got != c.want {
			t.Errorf("match(%q, %q) is %v", c.pattern, c.s, got)
		}
	}
	// Exponential matchers hang here.
	if match(strings.Repeat("*a", 200)+"b", strings.Repeat("a", 4000)) {
		t.Error("matched what does not match")
	}
}

func TestIndexMatch(t *testing.T) {
	x := testIndex(t)
	for alias, want := range map[string][]string{
		"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00\n": {"a", "e1000"},
		"pci:v00008086d0000FFFFsv00001AF4sd00001100bc03sc00i00":   {},
		"usb:v0BDAp8153d3000dc00dsc00dp00icFFiscFFip00in00":       {"b"},
		"usb:v0BDAp8154d3000dc00dsc00dp00icFFiscFFip00in00":       {},
		"fs-ext4":       {"ext4"},
		"fs_ext4":       {"ext4"},
		"ext4":          {"ext4"},
		"crypto-crc32c": {"crc32c_generic", "crc32c_intel"},
		"crc32c-intel":  {"crc32c_intel"},
		"very:odd":      {"b"},
		"gone-alias":    {},
		"":              {},
	} {
		if got := x.Match(alias); !slices.Equal(got, want) {
			t.Errorf("Match(%q) is %v, want %v", alias, got, want)
		}
	}
}

func TestPlan(t *testing.T) {
	x := testIndex(t)
	for name, want := range map[string]string{
		"ext4":   "crc32c_generic crc32c_intel crc16 mbcache jbd2 ext4",
		"8139cp": "mii 8139cp",
		"a":      "a b",
		"b":      "a b",
	} {
		got, err := x.Plan(name)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Plan(%s) is %v, %v; want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"broken", "nothing", ""} {
		if got, err := x.Plan(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Plan(%q) is %v, %v", name, got, err)
		}
	}
}

func TestReadIndexRefusesDamage(t *testing.T) {
	for file, text := range map[string]string{
		"modules.dep":     "kernel/a.ko kernel/b.ko\n",
		"modules.alias":   "alias half\n",
		"modules.softdep": "soft x\n",
	} {
		fsys := fstest.MapFS{"modules.dep": {}, "modules.alias": {}}
		fsys[file] = &fstest.MapFile{Data: []byte(text)}
		if _, err := ReadIndex(fsys); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("damaged %s: %v", file, err)
		}
	}
	for _, path := range []string{"/etc/x.ko:", "../x.ko:", "a/../../x.ko:"} {
		if _, err := ReadIndex(fstest.MapFS{"modules.dep": {Data: []byte(path)}, "modules.alias": {}}); err == nil {
			t.Errorf("path %s was accepted", path)
		}
	}
	if _, err := ReadIndex(fstest.MapFS{"modules.alias": {}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing modules.dep: %v", err)
	}
}

// recorder stands for the kernel.
type recorder struct {
	mu       sync.Mutex
	inserted []string
	fail     map[string]error
}

func (r *recorder) insert(name, path, params string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail[name] != nil {
		return r.fail[name]
	}
	r.inserted = append(r.inserted, strings.TrimSpace(name+" "+params))
	return nil
}

func TestLoaderInsertsOnceInOrder(t *testing.T) {
	r := &recorder{fail: map[string]error{"crc32c_intel": unix.ENODEV, "mbcache": unix.EEXIST}}
	l := newLoader(testIndex(t), "quiet ext4.debug=1 ext4.x modprobe.blacklist=e1000,foo console=ttyS0", 4, r.insert)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := l.Load(context.Background(), "ext4"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, want := fmt.Sprint(r.inserted), "[crc32c_generic crc16 jbd2 ext4 debug=1 x]"; got != want {
		t.Fatalf("inserted %s, want %s", got, want)
	}
	if err := l.Load(context.Background(), "e1000"); err != nil || len(r.inserted) != 4 {
		t.Fatalf("a denied module was inserted: %v %v", r.inserted, err)
	}
}

func TestLoaderReportsFailure(t *testing.T) {
	r := &recorder{fail: map[string]error{"mii": unix.ENOEXEC, "8139cp": unix.ENOENT}}
	l := newLoader(testIndex(t), "", 2, r.insert)
	if err := l.Load(context.Background(), "8139cp"); !errors.Is(err, unix.ENOEXEC) || !errors.Is(err, unix.ENOENT) {
		t.Fatalf("got %v", err)
	}
	if known, err := l.LoadAlias(context.Background(), "nothing:at:all"); known || err != nil {
		t.Fatalf("got %v, %v", known, err)
	}
}

func TestColdplug(t *testing.T) {
	sysfs := t.TempDir()
	for dir, alias := range map[string]string{
		"devices/pci0000:00/0000:00:03.0":          "pci:v00008086d0000100Esv00001AF4sd00001100bc05sc00i00\n",
		"devices/pci0000:00/0000:00:04.0":          "pci:v000010ECd00008139sv00001AF4sd00001100bc05sc00i00\n",
		"devices/pci0000:00/0000:00:04.0/usb1/1-1": "\n",
	} {
		if err := os.MkdirAll(filepath.Join(sysfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sysfs, dir, "modalias"), []byte(alias), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &recorder{fail: map[string]error{"e1000": unix.EINVAL}}
	var log strings.Builder
	if err := Coldplug(context.Background(), sysfs, newLoader(testIndex(t), "", 1, r.insert), slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(r.inserted) != "[mii 8139cp]" || !strings.Contains(log.String(), "e1000") {
		t.Fatalf("inserted %v, log %s", r.inserted, &log)
	}
}

func TestParseUevent(t *testing.T) {
	u, err := ParseUevent([]byte("add@/devices/x\x00ACTION=add\x00MODALIAS=usb:v1=2\x00broken\x00"))
	if err != nil || u.Action != "add" || u.Path != "/devices/x" || u.Env["MODALIAS"] != "usb:v1=2" || len(u.Env) != 2 {
		t.Fatalf("got %+v, %v", u, err)
	}
	for _, bad := range []string{"", "libudev\x00x", "add", "@/x", "add@x"} {
		if _, err := ParseUevent([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("a.ko: b.ko\nb.ko:\n", "alias fs-a a\nalias pci:v*[0-9] b\n", "softdep a pre: b post: fs-a\n", "pci:v12")
	f.Add("a.ko: a.ko\n", "alias [ a\n", "softdep a pre: a\n", "[")
	f.Fuzz(func(t *testing.T, dep, alias, soft, query string) {
		x, err := ReadIndex(fstest.MapFS{"modules.dep": {Data: []byte(dep)}, "modules.alias": {Data: []byte(alias)}, "modules.softdep": {Data: []byte(soft)}})
		if err != nil {
			return
		}
		for _, name := range x.Match(query) {
			plan, err := x.Plan(name)
			if err == nil && !slices.Contains(plan, name) {
				t.Fatalf("plan %v of %s lacks it", plan, name)
			}
		}
	})
}

func FuzzParseUevent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00MODALIAS=y\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := ParseUevent(b); err == nil && (u.Action == "" || u.Path == "") {
			t.Fatalf("half a message: %+v", u)
		}
	})
}
