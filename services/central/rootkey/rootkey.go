// Package rootkey keeps a central site's root key in a file that only a passphrase opens. The file is for a safe: central
// never has the key, and whoever has both the file and the passphrase decides what every branch trusts.
package rootkey

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"branchpoint/provisioning"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// MinPassphrase is the shortest passphrase in bytes.
const MinPassphrase = 12

// workFactor is scrypt's (log2 N): about a second for each guess. maxWorkFactor is what Open takes of other files.
const (
	workFactor    = 18
	maxWorkFactor = 20
)

// maxFile bounds a root key's file in bytes.
const maxFile = 64 << 10

// kind is what the file says it is.
const kind = "branchpoint root key v1"

// content is what is encrypted.
type content struct {
	Kind string `json:"kind"`
	// Seed is the ed25519 seed (RFC 8032 section 5.1.5).
	Seed []byte `json:"seed"`
	// CASHA256 is the sum of the CA of the central that it was made for.
	CASHA256 provisioning.SHA256 `json:"caSHA256"`
}

// Seal encrypts a root key for a central with that CA: age (age-encryption.org/v1) with a passphrase, in ASCII, so that the age
// program opens it, too.
func Seal(key ed25519.PrivateKey, ca provisioning.SHA256, passphrase string) ([]byte, error) {
	return seal(key, ca, passphrase, workFactor)
}

func seal(key ed25519.PrivateKey, ca provisioning.SHA256, passphrase string, factor int) ([]byte, error) {
	if len(passphrase) < MinPassphrase {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "Choose a longer one, such as five words at random.", "the passphrase is shorter than %d characters", MinPassphrase)
	}
	plain, err := json.Marshal(content{kind, key.Seed(), ca})
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encode the root key: %w", err)
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encrypt the root key: %w", err)
	}
	recipient.SetWorkFactor(factor)
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, recipient)
	if err == nil {
		_, err = w.Write(plain)
		err = errors.Join(err, w.Close(), a.Close())
	}
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encrypt the root key: %w", err)
	}
	return out.Bytes(), nil
}

// Open decrypts what Seal made. It fails with CodeUnauthorized where the passphrase is wrong, with CodeCorrupt where any byte
// was changed, and with CodeConflict where the key is another central's.
func Open(sealed []byte, ca provisioning.SHA256, passphrase string) (ed25519.PrivateKey, error) {
	damaged := func(err error) error {
		return provisioning.Errorf(provisioning.CodeCorrupt, "Take another copy of the root key's file.", "the root key's file cannot be read: %w", err)
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "read the passphrase: %w", err)
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), identity)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, provisioning.Errorf(provisioning.CodeUnauthorized, "Try again.", "the passphrase is wrong")
	}
	if err != nil {
		return nil, damaged(err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, damaged(err)
	}
	var c content
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, damaged(err)
	}
	if c.Kind != kind || len(c.Seed) != ed25519.SeedSize {
		return nil, damaged(fmt.Errorf("it is no %s", kind))
	}
	if c.CASHA256 != ca {
		return nil, provisioning.Errorf(provisioning.CodeConflict, "Take the file that was made for this central.", "the root key is another central's, with CA %s", c.CASHA256)
	}
	return ed25519.NewKeyFromSeed(c.Seed), nil
}

// Read reads a root key's file.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "Name the root key's file with --root.", "open the root key's file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "read the root key's file: %w", err)
	}
	return b, nil
}

// Create writes a root key's file (mode 0600). It never overwrites one: that would be the end of every key in it.
func Create(path string, sealed []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeConflict, "Choose a file that does not exist yet.", "make the root key's file: %w", err)
	}
	_, err = io.Copy(f, strings.NewReader(string(sealed)))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		_ = os.Remove(path)
		return provisioning.Errorf(provisioning.CodeUnavailable, "Check the disk.", "write the root key's file: %w", err)
	}
	return nil
}

// syncFolder puts a folder's names on the disk: a new file's could be gone after a power failure, though its content is there.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
