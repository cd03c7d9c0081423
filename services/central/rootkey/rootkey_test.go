package rootkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"branchpoint/provisioning"
)

const passphrase = "five words at random here"

func TestSealOpen(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := provisioning.SumSHA256([]byte("CA"))
	sealed, err := seal(key, ca, passphrase, 10) // quick, for the test
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, key.Seed()) || !bytes.HasPrefix(sealed, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
		t.Errorf("the file is %q", sealed)
	}
	got, err := Open(sealed, ca, passphrase)
	if err != nil || !got.Equal(key) {
		t.Fatal(err)
	}
	want := func(what string, err error, code provisioning.Code) {
		t.Helper()
		if provisioning.CodeOf(err) != code {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = Open(sealed, ca, "another passphrase")
	want("a wrong passphrase", err, provisioning.CodeUnauthorized)
	_, err = Open(sealed, ca, "")
	want("no passphrase", err, provisioning.CodeInvalid)
	_, err = Open(sealed, provisioning.SumSHA256([]byte("other")), passphrase)
	want("another central", err, provisioning.CodeConflict)
	_, err = seal(key, ca, "short", 10)
	want("a short passphrase", err, provisioning.CodeInvalid)
	for i := range sealed {
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if got, err := Open(broken, ca, passphrase); err == nil && !got.Equal(key) {
			t.Fatalf("with byte %d changed another key comes out", i)
		}
	}
	for _, b := range [][]byte{nil, []byte("x"), sealed[:len(sealed)/2]} {
		_, err := Open(b, ca, passphrase)
		want("damaged", err, provisioning.CodeCorrupt)
	}

	path := filepath.Join(t.TempDir(), "root.age")
	if err := Create(path, sealed); err != nil {
		t.Fatal(err)
	}
	want("a file that is there", Create(path, []byte("x")), provisioning.CodeConflict)
	if b, err := Read(path); err != nil || !bytes.Equal(b, sealed) {
		t.Error(err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Error(i.Mode(), err)
	}
	_, err = Read(path + "x")
	want("no file", err, provisioning.CodeNotFound)
}

// FuzzOpen: no file makes it panic or take long.
func FuzzOpen(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	sealed, err := seal(key, "", passphrase, 4)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add([]byte("-----BEGIN AGE ENCRYPTED FILE-----\n"))
	f.Add([]byte("age-encryption.org/v1\n-> scrypt AAAA 30\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxFile {
			return
		}
		if got, err := Open(b, "", passphrase); err == nil && !got.Equal(key) {
			t.Error("another key comes out")
		}
	})
}
