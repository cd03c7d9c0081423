// Package caibx is the form in which content is stored and travels: the chunk, named by its hash and compressed by
// itself, and the chunk index that says which chunks make a file. Both are casync's, as desync reads and writes them
// (.cacnk and .caibx). It is written out here because desync itself brings clients of two object stores along, which
// costs a program 9 MB; it depends on zstd alone and does no I/O.
package caibx

import (
	"crypto/sha512"
	"encoding/hex"

	"branchpoint/provisioning"
)

// The sizes of chunks in bytes. What lies between two runs of zeros is cut by content into chunks of these sizes; its
// last chunk may be smaller.
const (
	MinChunk = 16 << 10
	AvgChunk = 64 << 10
	MaxChunk = 256 << 10
)

// MaxStored bounds a chunk in its stored form, in bytes: what zstd makes of MaxChunk incompressible bytes, generously.
const MaxStored = MaxChunk + MaxChunk/128 + 512

// ID names a chunk: SHA-512/256 of its uncompressed bytes.
type ID [32]byte

// Sum returns the ID of the chunk that holds b.
func Sum(b []byte) ID { return sha512.Sum512_256(b) }

// String returns the ID in lower-case hexadecimal, 64 characters.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String returns; anything else is an error with CodeInvalid.
func ParseID(s string) (ID, error) {
	var id ID
	if !provisioning.SHA256(s).Valid() {
		return id, provisioning.Errorf(provisioning.CodeInvalid, "", "a chunk's name is 64 lower-case hexadecimal digits")
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err
}

// MarshalText returns the ID's hexadecimal form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the ID's hexadecimal form.
func (id *ID) UnmarshalText(b []byte) error {
	var err error
	*id, err = ParseID(string(b))
	return err
}
