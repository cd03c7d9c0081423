// Package password keeps passwords as Argon2id hashes (RFC 9106) in PHC string form, as accounts and PXE service points
// have them.
package password

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
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

// Bounds of the parameters that Verify takes, so that a hash that somebody else made cannot use up the machine.
const (
	maxPasses = 16
	maxMemory = 256 << 10 // KiB
	maxLanes  = 16
	maxHash   = 512 // characters
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

// hash is a hash taken apart.
type hash struct {
	memory, passes uint32
	lanes          uint8
	salt, tag      []byte
}

// Check says why s is no hash that Verify takes, nil if it is one.
func Check(s string) error {
	_, err := parse(s)
	return err
}

func parse(s string) (hash, error) {
	bad := provisioning.Errorf(provisioning.CodeInvalid, "Make it with: branchpoint password",
		"a password's hash has the form $argon2id$v=19$m=65536,t=3,p=4$SALT$TAG")
	parts := strings.Split(s, "$")
	if len(s) > maxHash || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return hash{}, bad
	}
	var h hash
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.lanes); err != nil || n != 3 ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.passes, h.lanes) {
		return hash{}, bad
	}
	if h.passes < 1 || h.passes > maxPasses || h.lanes < 1 || h.lanes > maxLanes || h.memory > maxMemory || h.memory < 8*uint32(h.lanes) {
		return hash{}, bad
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 {
		return hash{}, bad
	}
	if h.tag, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.tag) < 16 {
		return hash{}, bad
	}
	return h, nil
}

// Verify reports whether password is the one that the hash was made of. It fails with CodeInvalid where the hash is none.
func Verify(hashed, password string) (bool, error) {
	h, err := parse(hashed)
	if err != nil {
		return false, err
	}
	if len(password) > MaxLength {
		return false, nil
	}
	tag := argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.lanes, uint32(len(h.tag)))
	return subtle.ConstantTimeCompare(tag, h.tag) == 1, nil
}
