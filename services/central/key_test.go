package central

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"branchpoint/provisioning"
)

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := LoadKey(path, false, rand.Reader); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	k, err := LoadKey(path, true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := LoadKey(path, true, rand.Reader); err != nil || again != k {
		t.Error("another key at the second start", err)
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Error(i.Mode(), err)
	}
	secret := []byte("a private key, let us say")
	sealed, err := k.seal(rand.Reader, "one", secret)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, secret[:8]) {
		t.Error("it is not encrypted")
	}
	if b, err := k.open("one", sealed); err != nil || !bytes.Equal(b, secret) {
		t.Error(b, err)
	}
	wrong := k
	wrong[0] ^= 1
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, try := range map[string]func() ([]byte, error){
		"another name": func() ([]byte, error) { return k.open("two", sealed) },
		"another key":  func() ([]byte, error) { return wrong.open("one", sealed) },
		"changed":      func() ([]byte, error) { return k.open("one", changed) },
		"cut off":      func() ([]byte, error) { return k.open("one", sealed[:10]) },
		"empty":        func() ([]byte, error) { return k.open("one", nil) },
	} {
		if b, err := try(); provisioning.CodeOf(err) != provisioning.CodeCorrupt || b != nil {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
}
