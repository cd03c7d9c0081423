package initramfs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/u-root/u-root/pkg/cpio"

	"branchpoint/initramfs/kmod"
)

func TestCPIOIsReadableAndStable(t *testing.T) {
	make := func() []byte {
		l := newLayer("x")
		l.file("usr/bin/tool", 0o755, []byte("12345"), "")
		l.link("bin", "usr/bin")
		l.dir("tmp", 0o1777)
		l.add("dev/console", entry{mode: typeDevice | 0o600, major: 5, minor: 1}, "")
		var b bytes.Buffer
		if err := l.writeCPIO(&b, 77); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	first := make()
	for range 5 {
		if !bytes.Equal(first, make()) {
			t.Fatal("equal layers gave different bytes")
		}
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(first)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
		if r.MTime != 77 || r.UID != 0 {
			t.Errorf("%s: time %d, owner %d", r.Name, r.MTime, r.UID)
		}
		switch r.Name {
		case "usr/bin/tool":
			b := bytes.Buffer{}
			if _, err := b.ReadFrom(io.NewSectionReader(r, 0, int64(r.FileSize))); err != nil || b.String() != "12345" || r.Mode != 0o100755 {
				t.Errorf("tool: %q, mode %o, %v", b.String(), r.Mode, err)
			}
		case "dev/console":
			if r.Rmajor != 5 || r.Rminor != 1 || r.Mode != 0o020600 {
				t.Errorf("console: %+v", r.Info)
			}
		case "tmp":
			if r.Mode != 0o041777 {
				t.Errorf("tmp: %o", r.Mode)
			}
		}
	}
	if got := strings.Join(names, " "); got != "bin dev dev/console tmp usr usr/bin usr/bin/tool" {
		t.Errorf("names %s", got)
	}
	if len(first)%4 != 0 {
		t.Errorf("%d bytes: the next layer would not start on a four-byte boundary", len(first))
	}
}

func TestIndexFilesAreReadByLoader(t *testing.T) {
	modules := map[string]kernelModule{
		"a": {path: "kernel/a.ko", name: "a", depends: []string{"b", "c"}, aliases: []string{"pci:v1d*", "fs-a"}, softdeps: []string{"pre: d"}},
		"b": {path: "kernel/b.ko", name: "b", depends: []string{"c"}},
		"c": {path: "kernel/x/c.ko", name: "c"},
		"d": {path: "kernel/d.ko", name: "d"},
	}
	files := fstest.MapFS{}
	for name, content := range indexFiles(modules) {
		files[name] = &fstest.MapFile{Data: content}
	}
	if got := string(files["modules.dep"].Data); !strings.HasPrefix(got, "kernel/a.ko: kernel/b.ko kernel/x/c.ko\n") {
		t.Errorf("modules.dep is %s", got)
	}
	x, err := kmod.ReadIndex(files)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := x.Plan(x.Match("pci:v1d7")[0])
	if err != nil || strings.Join(plan, " ") != "d c b a" || x.Match("fs-a")[0] != "a" {
		t.Errorf("plan %v, %v", plan, err)
	}
}

func TestLinkageAndMissingLibrary(t *testing.T) {
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	needed, interpreter, err := linkage(sh)
	if err != nil || len(needed) == 0 || !strings.Contains(interpreter, "ld-linux") {
		t.Fatalf("linkage of /bin/sh: %v, %q, %v", needed, interpreter, err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"usr/bin/sh": sh, "usr/lib64/" + filepath.Base(interpreter): []byte("linker"), "usr/bin/text": []byte("#!/bin/sh")} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	packages := trees{"dash": dir}
	if err := packages.addProgram(newLayer("x"), "usr/bin/sh"); err == nil || !strings.Contains(err.Error(), needed[0]) {
		t.Errorf("a missing library: %v", err)
	}
	if err := packages.addProgram(newLayer("x"), "usr/bin/nonesuch"); err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("a missing program: %v", err)
	}
	if err := packages.addProgram(newLayer("x"), "usr/bin/text"); err == nil {
		t.Error("a script was taken for a program")
	}
	if err := os.Symlink("/usr/bin/loop", filepath.Join(dir, "usr/bin/loop")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := packages.read("usr/bin/loop"); err == nil || !strings.Contains(err.Error(), "links") {
		t.Errorf("a loop of links: %v", err)
	}
}

func TestParseModinfoRefusesGarbage(t *testing.T) {
	if _, err := parseModinfo("kernel/a.ko", []byte("not a module")); err == nil {
		t.Error("garbage was taken for a module")
	}
	self, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseModinfo("kernel/a.ko", self); err == nil || !strings.Contains(err.Error(), ".modinfo") {
		t.Errorf("a program was taken for a module: %v", err)
	}
}

// TestToolsFollowCommands keeps the list of commands and the imports that pin them together.
func TestToolsFollowCommands(t *testing.T) {
	tools, err := os.ReadFile("tools.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if !strings.Contains(string(tools), "cmds/core/"+c+`"`) {
			t.Errorf("command %s is not imported in tools.go", c)
		}
	}
	if n := strings.Count(string(tools), "cmds/core/"); n != len(commands) {
		t.Errorf("tools.go imports %d commands, the layer has %d", n, len(commands))
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, file string
		want          bool
	}{
		{"fs/ext4/*", "fs/ext4/ext4", true},
		{"fs/ext4/*", "fs/ext4/sub/x", false},
		{"drivers/net/ethernet/**", "drivers/net/ethernet/intel/e1000/e1000", true},
		{"drivers/net/ethernet/**", "drivers/net/x", false},
		{"drivers/ata/sata_*", "drivers/ata/sata_nv", true},
	} {
		if matchPattern(c.pattern, c.file) != c.want {
			t.Errorf("%s, %s", c.pattern, c.file)
		}
	}
}
