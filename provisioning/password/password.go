// Package password keeps passwords as Argon2id hashes (RFC 9106) in PHC string form, as accounts and PXE service points
// have them.
package password

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"unicode/utf8"

	"branchpoint/provisioning"

	"golang.org/x/crypto/argon2"
)

// The second recommended parameters of RFC 9106 section 4: 3 passes over 64 MiB in 4 lanes, a salt of 128 bits and a tag of
// 256. A hash takes about a tenth of a second and 64 MiB: whoever makes them for others bounds how many at once.
const (
	passes  = 3
	memory  = 64 << 10 // KiB
	lanes   = 4
	saltLen = 16
	tagLen  = 32
)

// MinLength and MaxLength bound a password that people choose, in characters and in bytes.
const (
	MinLength = 8
	MaxLength = 512
)

// Hash makes the hash of a new password under a random salt. It fails with CodeInvalid where the password is too short, too
// long or no UTF-8.
func Hash(rand io.Reader, password string) (string, error) {
	if !utf8.ValidString(password) || utf8.RuneCountInString(password) < MinLength || len(password) > MaxLength {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Choose another one.", "a password has %d characters or more, and at most %d bytes", MinLength, MaxLength)
	}
	salt := make([]byte, saltLen)
	if _, err := io.ReadFull(rand, salt); err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "make a salt: %w", err)
	}
	tag := argon2.IDKey([]byte(password), salt, passes, memory, lanes, tagLen)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memory, passes, lanes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(tag)), nil
}

// Check says why s is no hash that Verify takes, nil if it is one.
func Check(s string) error {
	_, err := provisioning.ParsePasswordHash(s)
	return err
}

// Verify reports whether password is the one that the hash was made of. It fails with CodeInvalid where the hash is none.
func Verify(hashed, password string) (bool, error) {
	h, err := provisioning.ParsePasswordHash(hashed)
	if err != nil {
		return false, err
	}
	if len(password) > MaxLength {
		return false, nil
	}
	tag := argon2.IDKey([]byte(password), h.Salt, h.Passes, h.Memory, h.Lanes, uint32(len(h.Tag)))
	return subtle.ConstantTimeCompare(tag, h.Tag) == 1, nil
}
