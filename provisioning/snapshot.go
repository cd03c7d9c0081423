package provisioning

import (
	"crypto/ed25519"
	"encoding/json"
	"time"
)

// Snapshot is everything one site needs to work without central: numbered, signed, applied as a whole.
type Snapshot struct {
	// Epoch counts central's restorations from backup, Number the snapshots of the site within an epoch, both from 1.
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"`
	// Site is the site it is for.
	Site Site `json:"site"`
	// IssuedAt is when central made it, UTC.
	IssuedAt time.Time `json:"issuedAt"`

	Computers []Computer `json:"computers"`
	// Elsewhere are the computers that are limited to other sites, with no more than what they are recognised by: a visitor
	// must not be taken for unknown. Only where the site supports unknown computers.
	Elsewhere []Computer `json:"elsewhere,omitempty"`
	// Infrastructure are the machines that appliances, of whatever site, and central run on: never targets, whatever else the
	// snapshot says of them. See Catalog.Infrastructure.
	Infrastructure []Host `json:"infrastructure,omitempty"`
	// Collections are those that an advertisement of the snapshot is for, or that give its computers variables.
	Collections []Collection `json:"collections,omitempty"`
	// Inventories are what central knows of the computers' hardware, by name. The branch may know newer.
	Inventories map[string]Inventory `json:"inventories,omitempty"`
	// BootImages are those that its task sequences name.
	BootImages     []BootImage            `json:"bootImages,omitempty"`
	Images         []OperatingSystemImage `json:"images"`
	TaskSequences  []TaskSequence         `json:"taskSequences"`
	Advertisements []Advertisement        `json:"advertisements"`
	// Content is what the site's distribution point holds: one entry for each package an image of the snapshot uses.
	Content []ContentRef `json:"content"`
	// Deployed are the runs of the site's computers at other sites, as far as central knows of them: what has run there does
	// not run here again. A computer may be of any site, or have come from another one.
	Deployed []Run `json:"deployed,omitempty"`
	// Clears are the orders of people to let required advertisements run again, and Approvals those to let more disks be
	// erased than the wipe cap allows; each oldest first. A branch obeys an order once: the first time it sees its number.
	Clears    []Clear    `json:"clears,omitempty"`
	Approvals []Approval `json:"approvals,omitempty"`
	// Secrets is an age file (age-encryption.org/v1) to the recipient SecretsFor, the site's appliance. It holds the values of
	// the secrets of Computers, Collections and TaskSequences, where only their names stand: a JSON object by SecretPlace. Both
	// are empty where there are none, or where central knows no appliance of the site that could open it.
	Secrets    []byte `json:"secrets,omitempty"`
	SecretsFor string `json:"secretsFor,omitempty"`
}

// Clear lets what has run on a computer run again ("Clear last PXE advertisement").
type Clear struct {
	// Number counts central's orders from 1, Clears and Approvals together.
	Number   uint64    `json:"number"`
	Computer string    `json:"computer"`
	At       time.Time `json:"at"`
	// By is the account that ordered it.
	By string `json:"by"`
}

// Covers reports whether the order is about one of its computer's runs: one that began before it was given. A run that had
// erased nothing by then has used nothing up, and counts if it erases after that: else it would erase a second time.
func (c *Clear) Covers(r *Run) bool {
	switch {
	case r.StartedAt.After(c.At):
		return false
	case r.Spent:
		return !r.SpentAt.After(c.At)
	}
	return r.State != RunStarted
}

// Approval lets Wipes deployments that erase disks begin beyond the wipe cap, until Expires.
type Approval struct {
	Number  uint64    `json:"number"`
	Wipes   int       `json:"wipes"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
}

// Newer reports whether s comes after o; every snapshot comes after none (nil).
func (s *Snapshot) Newer(o *Snapshot) bool {
	if o == nil {
		return true
	}
	if s.Epoch != o.Epoch {
		return s.Epoch > o.Epoch
	}
	return s.Number > o.Number
}

// TaskSequence returns the sequence of that name, nil if there is none.
func (s *Snapshot) TaskSequence(name string) *TaskSequence {
	for i := range s.TaskSequences {
		if s.TaskSequences[i].Name == name {
			return &s.TaskSequences[i]
		}
	}
	return nil
}

// Computer returns the computer of that name, nil if there is none.
func (s *Snapshot) Computer(name string) *Computer {
	for i := range s.Computers {
		if s.Computers[i].Name == name {
			return &s.Computers[i]
		}
	}
	return nil
}

// ImageContent returns the content of the operating system image of that name, nil if the snapshot has none.
func (s *Snapshot) ImageContent(image string) *ContentRef {
	for _, im := range s.Images {
		if im.Name != image {
			continue
		}
		for i, c := range s.Content {
			if c.Package == im.Spec.Package && (im.Spec.Version == 0 || im.Spec.Version == c.Version) {
				return &s.Content[i]
			}
		}
	}
	return nil
}

// SequenceContent maps the images that a task sequence applies to their content.
func (s *Snapshot) SequenceContent(sequence string) map[string]ContentRef {
	out := map[string]ContentRef{}
	if ts := s.TaskSequence(sequence); ts != nil {
		for _, st := range ts.Spec.Steps {
			if a := st.ApplyOperatingSystemImage; a != nil {
				if c := s.ImageContent(a.Image); c != nil {
					out[a.Image] = *c
				}
			}
		}
	}
	return out
}

// SignedSnapshot is a snapshot as it travels: the exact bytes that were signed, and the signature.
type SignedSnapshot struct {
	// Payload is the snapshot's JSON.
	Payload []byte `json:"payload"`
	// Signature is ed25519 over signatureContext followed by Payload.
	Signature []byte `json:"signature"`
}

// signatureContext keeps a snapshot's signature from being taken for a signature over anything else.
const signatureContext = "branchpoint snapshot v1\n"

// SignSnapshot encodes s and signs it.
func SignSnapshot(s *Snapshot, key ed25519.PrivateKey) (*SignedSnapshot, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, Errorf(CodeInternal, "", "encode snapshot: %w", err)
	}
	return &SignedSnapshot{Payload: payload, Signature: ed25519.Sign(key, append([]byte(signatureContext), payload...))}, nil
}

// maxSnapshot bounds a snapshot's size in bytes (20,000 computers with variables stay far below).
const maxSnapshot = 128 << 20

// Open verifies the signature and decodes the snapshot. It fails with CodeCorrupt if any byte was changed.
func (s *SignedSnapshot) Open(key ed25519.PublicKey) (*Snapshot, error) {
	if len(s.Payload) > maxSnapshot {
		return nil, Errorf(CodeInvalid, "", "a snapshot of %d bytes is larger than any real one", len(s.Payload))
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, append([]byte(signatureContext), s.Payload...), s.Signature) {
		return nil, Errorf(CodeCorrupt, "Check that the appliance was enrolled at this central site.",
			"the snapshot's signature is not by this central site's key")
	}
	var out Snapshot
	if err := json.Unmarshal(s.Payload, &out); err != nil {
		return nil, Errorf(CodeCorrupt, "", "decode snapshot: %w", err)
	}
	if out.Epoch == 0 || out.Number == 0 || out.Site.Name == "" {
		return nil, Errorf(CodeInvalid, "", "the snapshot lacks its number or its site")
	}
	return &out, nil
}
