package content_test

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/services/content"
	"branchpoint/services/content/client"
)

// run runs a real tool. What is missing is named, and ends the test as skipped.
func run(t testing.TB, stdin string, argv ...string) {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if !strings.Contains(os.Getenv("PATH"), dir) {
			t.Setenv("PATH", os.Getenv("PATH")+":"+dir)
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skipf("%s is not installed", argv[0])
	}
	cmd := exec.Command(path, argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// random returns n bytes that do not compress, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text returns n bytes that compress, the same for the same seed.
func text(seed uint64, n int) []byte {
	words := []string{"branch ", "office ", "deploys ", "what ", "central ", "says\n"}
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(seed, 1))
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.Bytes()[:n]
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rootTree makes a directory that passes as a root file system.
func rootTree(t *testing.T) string {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "usr/lib/os-release"), []byte("ID=test\n"))
	write(t, filepath.Join(dir, "usr/lib/systemd/systemd"), random(1, 3<<20))
	write(t, filepath.Join(dir, "usr/share/words"), text(2, 5<<20))
	write(t, filepath.Join(dir, "usr/share/zeros"), make([]byte, 3<<20+5000))
	return dir
}

// rootTar packs rootTree.
func rootTar(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "root.tar")
	run(t, "", "tar", "-C", rootTree(t), "--numeric-owner", "-cf", path, ".")
	return path
}

// diskImage makes a sparse disk image of 96 MiB with a GPT and an ext4 file system with rootTree in it.
func diskImage(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "disk.img")
	write(t, path, nil)
	if err := os.Truncate(path, 96<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "label: gpt\nstart=2048, size=190000, type=linux\n", "sfdisk", "-q", path)
	run(t, "", "mkfs.ext4", "-q", "-F", "-E", "offset=1048576", "-d", rootTree(t), path, "95000k")
	return path
}

// quiet is a log that nobody reads.
var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newStore(t testing.TB) (*content.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := content.Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, dir
}

// add adds a source that must be good.
func add(t testing.TB, s content.Uploads, name, path string) client.Added {
	t.Helper()
	a, err := content.Add(t.Context(), s, name, path, nil)
	if err != nil {
		t.Fatalf("add %s: %v", path, err)
	}
	return a
}

// files lists the files in a directory, with their sizes, without the lock.
func files(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "lock" {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		all[rel] = info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
