package provisioning

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// PasswordHash is an Argon2id hash (RFC 9106) taken apart.
type PasswordHash struct {
	// Memory is in KiB, Passes and Lanes count.
	Memory, Passes uint32
	Lanes          uint8
	Salt, Tag      []byte
}

// Bounds of a hash's parameters, so that one that somebody else made cannot use up the machine that verifies it.
const (
	maxHashPasses = 16
	maxHashMemory = 256 << 10 // KiB
	maxHashLanes  = 16
	maxHash       = 512 // characters
)

// ParsePasswordHash reads a hash in PHC string form, $argon2id$v=19$m=65536,t=3,p=4$SALT$TAG: version 19, salt of 8 octets
// and more, tag of 16 and more, both in base64 without padding. It fails with CodeInvalid; the error does not say what s is.
func ParsePasswordHash(s string) (PasswordHash, error) {
	bad := Errorf(CodeInvalid, "Make it with: branchpoint password", "a password's hash has the form $argon2id$v=19$m=65536,t=3,p=4$SALT$TAG")
	parts := strings.Split(s, "$")
	if len(s) > maxHash || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return PasswordHash{}, bad
	}
	var n [3]uint32
	params := strings.Split(parts[3], ",")
	if len(params) != len(n) {
		return PasswordHash{}, bad
	}
	for i, p := range params {
		digits, ok := strings.CutPrefix(p, []string{"m=", "t=", "p="}[i])
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || digits != strconv.FormatUint(v, 10) {
			return PasswordHash{}, bad
		}
		n[i] = uint32(v)
	}
	memory, passes, lanes := n[0], n[1], n[2]
	if passes < 1 || passes > maxHashPasses || lanes < 1 || lanes > maxHashLanes || memory > maxHashMemory || memory < 8*lanes {
		return PasswordHash{}, bad
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	tag, err2 := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(tag) < 16 || strings.ContainsAny(s, "\r\n") {
		return PasswordHash{}, bad
	}
	return PasswordHash{Memory: memory, Passes: passes, Lanes: uint8(lanes), Salt: salt, Tag: tag}, nil
}
