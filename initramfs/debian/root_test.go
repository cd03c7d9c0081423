package debian

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	//lint:ignore SA1019 only a test signs, and apt verifies; no maintained package is among the dependencies
	"golang.org/x/crypto/openpgp"
	//lint:ignore SA1019 as above
	"golang.org/x/crypto/openpgp/clearsign"
	//lint:ignore SA1019 as above
	"golang.org/x/crypto/openpgp/packet"
)

// archive is a small signed Debian archive in a directory.
type archive struct {
	dir     string
	signer  *openpgp.Entity
	keyring string
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	// apt's download user must reach it, t.TempDir is closed to others.
	dir, err := os.MkdirTemp("", "archive")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &archive{dir: dir, keyring: filepath.Join(dir, "key.gpg")}
	a.signer, err = openpgp.NewEntity("Test Archive", "", "archive@example.org", &packet.Config{DefaultHash: crypto.SHA256, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range a.signer.Identities {
		if err := id.SelfSignature.SignUserId(id.UserId.Id, a.signer.PrimaryKey, a.signer.PrivateKey, &packet.Config{DefaultHash: crypto.SHA256}); err != nil {
			t.Fatal(err)
		}
	}
	var key bytes.Buffer
	if err := a.signer.Serialize(&key); err != nil {
		t.Fatal(err)
	}
	write(t, a.keyring, key.String())
	return a
}

// add builds a package with one file and a copyright.
func (a *archive) add(t *testing.T, name, version, depends string) {
	t.Helper()
	tree := t.TempDir()
	write(t, filepath.Join(tree, "usr/share", name), name+" "+version)
	write(t, filepath.Join(tree, "usr/share/doc", name, "copyright"), "Apache-2.0")
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Test <t@example.org>\nSource: src-%s (9)\n", name, version, name)
	if depends != "" {
		control += "Depends: " + depends + "\n"
	}
	write(t, filepath.Join(tree, "DEBIAN/control"), control+"Description: test\n")
	if err := os.MkdirAll(filepath.Join(a.dir, "pool"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", tree, filepath.Join(a.dir, "pool", name+"_"+version+"_all.deb")).CombinedOutput()
	if err != nil {
		t.Fatalf("build package: %v: %s", err, out)
	}
}

// publish writes and signs the index of what lies in the pool.
func (a *archive) publish(t *testing.T) {
	t.Helper()
	debs, err := filepath.Glob(filepath.Join(a.dir, "pool/*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	var index strings.Builder
	for _, deb := range debs {
		control, err := exec.Command("dpkg-deb", "--field", deb).Output()
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(&index, "%sFilename: pool/%s\nSize: %d\nSHA256: %x\n\n", control, filepath.Base(deb), len(content), sum)
	}
	var files strings.Builder
	for _, component := range []string{"main", "non-free-firmware"} {
		text := ""
		if component == "main" {
			text = index.String()
		}
		path := component + "/binary-amd64/Packages"
		write(t, filepath.Join(a.dir, "dists/trixie", path), text)
		fmt.Fprintf(&files, " %x %d %s\n", sha256.Sum256([]byte(text)), len(text), path)
	}
	release := fmt.Sprintf("Origin: Test\nSuite: stable\nCodename: trixie\nDate: %s\nArchitectures: amd64\nComponents: main non-free-firmware\nSHA256:\n%s",
		time.Now().UTC().Add(-time.Minute).Format(time.RFC1123), files.String())
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, a.signer.PrivateKey, &packet.Config{DefaultHash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(release)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(a.dir, "dists/trixie/InRelease"), signed.String())
}

func (a *archive) open(t *testing.T, cache string, now time.Time) (*Root, *bytes.Buffer, error) {
	t.Helper()
	var log bytes.Buffer
	r, err := OpenWith(context.Background(), cache, slog.New(slog.NewTextHandler(&log, nil)), Options{
		Mirrors: Mirrors{Main: "file:" + a.dir}, Keyring: a.keyring, EtcApt: t.TempDir(), Now: func() time.Time { return now },
	})
	return r, &log, err
}

func TestFetchClosureAndOffline(t *testing.T) {
	ctx := context.Background()
	a := newArchive(t)
	a.add(t, "tool", "1.0-1", "libtool-x (>= 1)")
	a.add(t, "libtool-x", "2:1.5", "")
	a.add(t, "unrelated", "1", "")
	a.publish(t)
	cache := t.TempDir()
	now := time.Now()
	r, _, err := a.open(t, cache, now)
	if err != nil {
		t.Fatal(err)
	}
	names, err := r.Closure(ctx, "tool")
	if err != nil || !slices.Equal(names, []string{"libtool-x", "tool"}) {
		t.Fatalf("closure is %v, %v", names, err)
	}
	packages, err := r.Fetch(ctx, names...)
	if err != nil {
		t.Fatal(err)
	}
	p := packages[0]
	if p.Name != "libtool-x" || p.Version != "2:1.5" || p.Arch != "all" || p.Source != "src-libtool-x" || p.SourceVersion != "9" {
		t.Fatalf("wrong record: %+v", p)
	}
	tree, err := r.Tree(ctx, &p)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(tree, "usr/share/libtool-x")); err != nil || string(b) != "libtool-x 2:1.5" {
		t.Fatalf("unpacked %q, %v", b, err)
	}
	if p.Licence != "/usr/share/doc/libtool-x/copyright" {
		t.Fatalf("licence at %q", p.Licence)
	}

	// The archive is gone: a fresh index and cached packages are enough, and so is an old index.
	if err := os.Rename(a.dir+"/dists", a.dir+"/gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(a.dir + "/pool"); err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{23 * time.Hour, 30 * time.Hour} {
		r, log, err := a.open(t, cache, now.Add(later))
		if err != nil {
			t.Fatalf("%v later: %v", later, err)
		}
		if warned := strings.Contains(log.String(), "not refreshed"); warned != (later > indexAge) {
			t.Fatalf("%v later the log says: %s", later, log)
		}
		if _, err := r.Fetch(ctx, "tool", "libtool-x"); err != nil {
			t.Fatalf("%v later: %v", later, err)
		}
		if _, err := r.Fetch(ctx, "unrelated"); err == nil {
			t.Fatal("a package came out of nowhere")
		}
	}
	if _, err := r.Fetch(ctx, "no-such-package"); err == nil || !strings.Contains(err.Error(), "no-such-package") {
		t.Fatalf("unknown package: %v", err)
	}
}

func TestDamagedCacheIsFetchedAnew(t *testing.T) {
	ctx := context.Background()
	a := newArchive(t)
	a.add(t, "tool", "1", "")
	a.publish(t)
	r, _, err := a.open(t, t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	packages, err := r.Fetch(ctx, "tool")
	if err != nil {
		t.Fatal(err)
	}
	write(t, packages[0].Path, "garbage")
	packages, err = r.Fetch(ctx, "tool")
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(packages[0].Path, packages[0].SHA256); err != nil {
		t.Fatal(err)
	}
}

func TestNewVersionIsFoundAfterADay(t *testing.T) {
	ctx := context.Background()
	a := newArchive(t)
	a.add(t, "tool", "1", "")
	a.publish(t)
	cache, now := t.TempDir(), time.Now()
	if _, _, err := a.open(t, cache, now); err != nil {
		t.Fatal(err)
	}
	a.add(t, "tool", "2", "")
	a.publish(t)
	r, _, err := a.open(t, cache, now.Add(25*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	packages, err := r.Fetch(ctx, "tool")
	if err != nil || packages[0].Version != "2" {
		t.Fatalf("a day later: %+v, %v", packages, err)
	}
}

func TestForeignSignatureIsRefused(t *testing.T) {
	a, other := newArchive(t), newArchive(t)
	a.add(t, "tool", "1", "")
	a.publish(t)
	a.keyring = other.keyring
	if _, _, err := a.open(t, t.TempDir(), time.Now()); err == nil {
		t.Fatal("an archive signed by an unknown key was accepted")
	}
}

func TestUnsignedIndexIsRefused(t *testing.T) {
	a := newArchive(t)
	a.add(t, "tool", "1", "")
	a.publish(t)
	index := filepath.Join(a.dir, "dists/trixie/main/binary-amd64/Packages")
	b, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	write(t, index, strings.Replace(string(b), "Version: 1", "Version: 7", 1))
	if _, _, err := a.open(t, t.TempDir(), time.Now()); err == nil {
		t.Fatal("an index that is not the signed one was accepted")
	}
}

func TestRecordPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "manifest.json")
	sum := hex.EncodeToString(make([]byte, 32))
	for _, part := range []string{"boot/base", "boot/agent", "boot/base"} {
		if err := RecordPart(path, part, []Package{{Name: "z", SHA256: sum}, {Name: "a", Version: part}}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(b), `"boot/base": [`) != 1 || strings.Index(string(b), `"name": "a"`) > strings.Index(string(b), `"name": "z"`) {
		t.Fatalf("manifest is %s", b)
	}
	write(t, path, "{")
	if err := RecordPart(path, "x", nil); err == nil {
		t.Fatal("a damaged manifest was overwritten")
	}
}
