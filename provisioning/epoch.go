package provisioning

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"time"
)

// EpochStatement says by which key the snapshots of an epoch are signed. The root key, which central never has, signs it.
type EpochStatement struct {
	// Epoch counts from 1.
	Epoch uint64 `json:"epoch"`
	// SnapshotKey is the ed25519 public key that verifies the epoch's snapshots.
	SnapshotKey []byte `json:"snapshotKey"`
	// CASHA256 is the sum of the site CA's certificate (DER).
	CASHA256 SHA256    `json:"caSHA256"`
	IssuedAt time.Time `json:"issuedAt"`
}

// Validate checks that the statement says all that it must.
func (s *EpochStatement) Validate() error {
	if s.Epoch == 0 || s.Epoch > MaxNumber || len(s.SnapshotKey) != ed25519.PublicKeySize || len(s.CASHA256) != 64 {
		return Errorf(CodeInvalid, "", "an epoch's statement lacks its number, its key or the CA's sum")
	}
	return nil
}

// MaxNumber is the greatest number of an epoch, and of a snapshot within it: a database holds no greater ones.
const MaxNumber = 1<<62 - 1

// SignedEpoch is an epoch's statement as it travels: the exact bytes that were signed, and the signature.
type SignedEpoch struct {
	// Payload is the statement's JSON.
	Payload []byte `json:"payload"`
	// Signature is ed25519 over epochContext followed by Payload, by the root key.
	Signature []byte `json:"signature"`
}

// epochContext keeps a statement's signature from being taken for a signature over anything else.
const epochContext = "branchpoint epoch v1\n"

// maxEpochPayload bounds a statement in bytes, and MaxEpochs how many statements a central has.
const (
	maxEpochPayload = 4 << 10
	MaxEpochs       = 1000
)

// SignEpoch encodes s and signs it with the root key.
func SignEpoch(s EpochStatement, root ed25519.PrivateKey) (*SignedEpoch, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, Errorf(CodeInternal, "", "encode an epoch's statement: %w", err)
	}
	return &SignedEpoch{Payload: payload, Signature: ed25519.Sign(root, append([]byte(epochContext), payload...))}, nil
}

// Open verifies the signature and decodes the statement. It fails with CodeCorrupt if any byte was changed.
func (s *SignedEpoch) Open(root ed25519.PublicKey) (*EpochStatement, error) {
	if len(root) != ed25519.PublicKeySize || len(s.Payload) > maxEpochPayload ||
		!ed25519.Verify(root, append([]byte(epochContext), s.Payload...), s.Signature) {
		return nil, Errorf(CodeCorrupt, "Check that this is the same central site, and that the right root key was used.",
			"the epoch's statement is not signed by the root key")
	}
	var out EpochStatement
	if err := json.Unmarshal(s.Payload, &out); err != nil {
		return nil, Errorf(CodeCorrupt, "", "decode an epoch's statement: %w", err)
	}
	return &out, out.Validate()
}

// Epochs is what central says of its root key: every epoch's statement since there is one.
type Epochs struct {
	// Root is the root key's public half (ed25519), empty as long as there is none.
	Root       []byte        `json:"root,omitempty"`
	Statements []SignedEpoch `json:"statements,omitempty"`
}

// Trust is what a branch verifies snapshots by.
type Trust struct {
	// Root is the pinned root key, nil as long as central had none.
	Root ed25519.PublicKey `json:"root,omitempty"`
	// Epoch is that of the newest statement that was accepted, 0 without a root key.
	Epoch uint64 `json:"epoch,omitempty"`
	// SnapshotKey verifies snapshots.
	SnapshotKey ed25519.PublicKey `json:"snapshotKey,omitempty"`
}

// Follow decides what a branch trusts after central, whose CA it knows by ca, has said e.
//
// A branch that knows no root key yet pins the one that signed a statement for the very key and CA that it trusts already;
// from then on nothing but the root key's signature changes what it trusts. A newer epoch is taken with its key. Failures are
// CodeCorrupt where a signature is wrong, CodeForbidden where root key, CA or an epoch's key is another than before, and
// CodeConflict where central has gone back behind the epoch: t stays as it is then.
func (t Trust) Follow(ca SHA256, e Epochs) (Trust, error) {
	const next = "Check that the appliance still speaks with its own central site."
	if len(e.Root) == 0 && len(e.Statements) == 0 && t.Root == nil {
		return t, nil
	}
	root := ed25519.PublicKey(e.Root)
	if t.Root != nil && !bytes.Equal(t.Root, root) {
		return t, Errorf(CodeForbidden, next, "central names another root key than the one that this site has pinned")
	}
	if len(e.Statements) > MaxEpochs {
		return t, Errorf(CodeInvalid, "", "central sent %d epochs", len(e.Statements))
	}
	out := t
	pinned := t.Root != nil
	var newest *EpochStatement
	for i := range e.Statements {
		s, err := e.Statements[i].Open(root)
		if err != nil {
			return t, err
		}
		if s.CASHA256 != ca {
			continue // of a CA before
		}
		if bytes.Equal(s.SnapshotKey, t.SnapshotKey) && !pinned {
			pinned, out.Root = true, root
		}
		if newest == nil || s.Epoch > newest.Epoch {
			newest = s
		} else if s.Epoch == newest.Epoch && !bytes.Equal(s.SnapshotKey, newest.SnapshotKey) {
			return t, Errorf(CodeForbidden, next, "central names two keys for epoch %d", s.Epoch)
		}
	}
	switch {
	case newest == nil:
		return t, Errorf(CodeForbidden, next, "the root key has signed nothing for this central's CA")
	case !pinned:
		return t, Errorf(CodeForbidden, next, "the root key that central names has signed nothing for the key that this site knows")
	case newest.Epoch < t.Epoch:
		return t, Errorf(CodeConflict, nextRestored, "central is in epoch %d, and this site in %d", newest.Epoch, t.Epoch)
	case newest.Epoch == t.Epoch && !bytes.Equal(newest.SnapshotKey, t.SnapshotKey):
		return t, Errorf(CodeForbidden, next, "central names another key for epoch %d", t.Epoch)
	}
	out.Epoch, out.SnapshotKey = newest.Epoch, ed25519.PublicKey(newest.SnapshotKey)
	return out, nil
}

// nextRestored is what to do about a central that is behind its sites.
const nextRestored = "If central was restored from a backup, start a new epoch there: branchpoint central root new-epoch"

// Open verifies a snapshot by what the branch trusts. Behind a pinned root key, snapshots are of the epoch that the root key
// has signed, and of no other.
func (t Trust) Open(signed *SignedSnapshot) (*Snapshot, error) {
	s, err := signed.Open(t.SnapshotKey)
	if err != nil {
		return nil, err
	}
	if t.Root != nil && s.Epoch != t.Epoch {
		return nil, Errorf(CodeConflict, nextRestored, "the snapshot is of epoch %d, and the root key has signed epoch %d for this site", s.Epoch, t.Epoch)
	}
	return s, nil
}
