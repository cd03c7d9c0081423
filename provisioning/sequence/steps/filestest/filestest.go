// Package filestest is the test that every implementation of steps.Files passes.
package filestest

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"branchpoint/provisioning/sequence/steps"
)

// Run tests trees that empty makes.
func Run(t *testing.T, empty func(t *testing.T) steps.Files) {
	t.Helper()
	no := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("write makes directories and replaces", func(t *testing.T) {
		f := empty(t)
		no(t, f.WriteFile("/a/b/c", []byte("one"), 0o600))
		no(t, f.WriteFile("/a/b/c", []byte("two"), 0o644))
		b, err := f.ReadFile("/a/b/c")
		no(t, err)
		if string(b) != "two" {
			t.Fatalf("read %q", b)
		}
		fi, err := f.Stat("/a/b/c")
		no(t, err)
		if fi.Mode() != 0o644 {
			t.Fatalf("mode %v", fi.Mode())
		}
		if fi, err := f.Stat("/a"); err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o755 {
			t.Fatalf("directory: %v %v", fi, err)
		}
		names, err := f.ReadDir("/a/b")
		no(t, err)
		if !slices.Equal(names, []string{"c"}) {
			t.Fatalf("leftovers: %v", names)
		}
	})
	t.Run("missing is ErrNotExist", func(t *testing.T) {
		f := empty(t)
		for name, err := range map[string]error{
			"ReadFile": second(f.ReadFile("/x")), "Stat": second(f.Stat("/x")), "Lstat": second(f.Lstat("/x")), "ReadDir": second(f.ReadDir("/x")),
			"Remove": f.Remove("/x"), "Rename": f.Rename("/x", "/y"), "Chmod": f.Chmod("/x", 0o600), "Chown": f.Chown("/x", 0, 0),
			"Readlink": second(f.Readlink("/x")), "below": second(f.ReadFile("/x/y")),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("links stay inside", func(t *testing.T) {
		f := empty(t)
		no(t, f.WriteFile("/etc/hostname", []byte("inside"), 0o644))
		no(t, f.Symlink("/etc", "/absolute"))
		no(t, f.Symlink("../../../../etc", "/up"))
		for _, name := range []string{"/absolute/hostname", "/up/hostname", "/../../etc/hostname"} {
			b, err := f.ReadFile(name)
			if err != nil || !bytes.Equal(b, []byte("inside")) {
				t.Errorf("%s: %q %v", name, b, err)
			}
		}
		no(t, f.WriteFile("/absolute/new", []byte("x"), 0o644))
		if _, err := f.Stat("/etc/new"); err != nil {
			t.Error("a file written through a link is elsewhere:", err)
		}
	})
	t.Run("write replaces a link, not what it points to", func(t *testing.T) {
		f := empty(t)
		no(t, f.WriteFile("/real", []byte("kept"), 0o644))
		no(t, f.Symlink("real", "/link"))
		no(t, f.WriteFile("/link", []byte("new"), 0o644))
		if b, _ := f.ReadFile("/real"); string(b) != "kept" {
			t.Errorf("the link's target was written: %q", b)
		}
		if fi, err := f.Lstat("/link"); err != nil || !fi.Mode().IsRegular() {
			t.Errorf("%v %v", fi, err)
		}
	})
	t.Run("symlink replaces", func(t *testing.T) {
		f := empty(t)
		no(t, f.WriteFile("/l", []byte("file"), 0o644))
		no(t, f.Symlink("one", "/l"))
		no(t, f.Symlink("two", "/l"))
		to, err := f.Readlink("/l")
		if err != nil || to != "two" {
			t.Errorf("%q %v", to, err)
		}
	})
	t.Run("a loop of links ends", func(t *testing.T) {
		f := empty(t)
		no(t, f.Symlink("b", "/a"))
		no(t, f.Symlink("a", "/b"))
		if _, err := f.ReadFile("/a"); err == nil {
			t.Error("read a loop")
		}
	})
	t.Run("remove, rename, chmod, mkdir", func(t *testing.T) {
		f := empty(t)
		no(t, f.Mkdir("/d/e", 0o700))
		no(t, f.Mkdir("/d/e", 0o755))
		if fi, err := f.Stat("/d/e"); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("an existing directory's mode changed: %v %v", fi, err)
		}
		no(t, f.WriteFile("/d/e/f", []byte("x"), 0o644))
		if err := f.Remove("/d/e"); err == nil {
			t.Error("removed a directory that is not empty")
		}
		no(t, f.Rename("/d/e/f", "/d/g"))
		no(t, f.Remove("/d/e"))
		no(t, f.Chmod("/d/g", 0o600))
		if fi, err := f.Lstat("/d/g"); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%v %v", fi, err)
		}
		if err := f.Mkdir("/d/g/h", 0o755); err == nil {
			t.Error("made a directory in a file")
		}
		if err := f.WriteFile("/d", nil, 0o644); err == nil {
			t.Error("replaced a directory by a file")
		}
		if _, err := f.ReadFile("/d"); err == nil {
			t.Error("read a directory")
		}
	})
}

func second[T any](_ T, err error) error { return err }
