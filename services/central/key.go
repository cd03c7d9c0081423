package central

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"branchpoint/provisioning"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Key encrypts central's private keys in the store. It stands in a file of its own, so that the database alone, or a
// backup of it, gives no key away.
type Key [chacha20poly1305.KeySize]byte

// LoadKey reads the key file, or makes it (mode 0600) where there is none and create is set.
func LoadKey(path string, create bool, rand io.Reader) (Key, error) {
	var k Key
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && create:
		if _, err := io.ReadFull(rand, k[:]); err != nil {
			return k, fmt.Errorf("make key: %w", err)
		}
		if err := renameio.WriteFile(path, k[:], 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
			return k, provisioning.Errorf(provisioning.CodeUnavailable, "Check that the folder is writable and not full.", "write key file %s: %w", path, err)
		}
		return k, nil
	case errors.Is(err, os.ErrNotExist):
		return k, provisioning.Errorf(provisioning.CodeNotFound, "Put the key file back from a backup: without it central's keys cannot be read.", "the key file %s is missing", path)
	case err != nil:
		return k, provisioning.Errorf(provisioning.CodeForbidden, "", "read key file: %w", err)
	case len(b) != len(k):
		return k, provisioning.Errorf(provisioning.CodeCorrupt, "Put the key file back from a backup.", "the key file %s has %d bytes instead of %d", path, len(b), len(k))
	}
	copy(k[:], b)
	return k, nil
}

// seal encrypts b with XChaCha20-Poly1305 under a random nonce, which stands before the result; name is authenticated.
func (k Key) seal(rand io.Reader, name string, b []byte) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(b)+aead.Overhead())
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("encrypt %s: %w", name, err)
	}
	return aead.Seal(nonce, nonce, b, []byte(name)), nil
}

// open decrypts what seal made under the same name.
func (k Key) open(name string, sealed []byte) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	if len(sealed) >= aead.NonceSize() {
		n := aead.NonceSize()
		if b, err := aead.Open(nil, sealed[:n], sealed[n:], []byte(name)); err == nil {
			return b, nil
		}
	}
	return nil, provisioning.Errorf(provisioning.CodeCorrupt, "Check that the key file belongs to this database.", "cannot decrypt %s", name)
}

// sum is a sum of b that only this key gives (HMAC-SHA256, under a key of its own for each name).
func (k Key) sum(name string, b []byte) (provisioning.SHA256, error) {
	own, err := hkdf.Key(sha256.New, k[:], nil, "branchpoint "+name, sha256.Size)
	if err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "derive the key of %s: %w", name, err)
	}
	h := hmac.New(sha256.New, own)
	h.Write(b)
	return provisioning.SHA256(hex.EncodeToString(h.Sum(nil))), nil
}

func (k Key) aead() (cipher.AEAD, error) { return chacha20poly1305.NewX(k[:]) }
