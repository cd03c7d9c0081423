package provisioning

import "time"

// Document is a configuration document as central keeps it.
type Document struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Revision counts the document's versions from 1.
	Revision int64 `json:"revision"`
	// Change is the number of the change that made this revision.
	Change uint64 `json:"change,omitempty"`
	// Deleted: with this revision the document is no longer in force; Text is empty.
	Deleted bool `json:"deleted,omitempty"`
	// Text is the document in its one canonical encoding, YAML (Object.Encode).
	Text string `json:"text"`
}

// Key returns the document's key.
func (d *Document) Key() Key { return Key{d.Kind, d.Name} }

// SiteSnapshot is the newest snapshot of one site as central keeps it.
type SiteSnapshot struct {
	Site string
	// Epoch and Number are those of Signed; zero as long as the site never had a snapshot.
	Epoch, Number uint64
	// Core is the sum of what the snapshot says, without number and time: as long as it stays, so does the number.
	Core SHA256
	// Signed is the snapshot as it travels.
	Signed SignedSnapshot
	// Problem says why the site's present configuration could not be made into a snapshot; empty where it could.
	Problem string
}

// SiteRun is a run with the site that has reported it.
type SiteRun struct {
	Site string
	Run  Run
}

// EnrolmentToken is an enrolment token as central keeps it: never the token itself.
type EnrolmentToken struct {
	// Hash is the sum of the token.
	Hash SHA256
	// Site is the only site it is good for.
	Site      string
	CreatedAt time.Time
	ExpiresAt time.Time
	// Key is the sum of the public key (PKIX, DER) that used the token, empty as long as nobody did. Certificate is what
	// it was given (DER): whoever asks again with the same key gets the same answer.
	Key         SHA256
	Certificate []byte
	// Approval says that a person must approve Key before it is given a certificate; ApprovedBy is the account that has.
	Approval   bool
	ApprovedBy string
	// RevokedAt is when it was revoked, zero if it was not.
	RevokedAt time.Time
}

// StatusFilter chooses status messages. Empty fields choose all.
type StatusFilter struct {
	Computer     string
	Run          string
	TaskSequence string
	// Before chooses runs that were first reported before the one which the store knows by that number; 0 begins with the newest.
	Before uint64
	// Runs bounds the answer to the newest runs; 0 means 100.
	Runs int
	// Sees says of a site and a computer whether whoever asks may see what ran there; nil chooses all.
	Sees func(site, computer string) bool
}

// RunFilter chooses records of runs. Empty fields choose all.
type RunFilter struct {
	Site          string
	Advertisement string
}
