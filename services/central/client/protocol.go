// Package client is what others know of the central site: appliances enrol, follow their snapshot and report status;
// administrators apply configuration and read status. services/central is the other end and uses the same types.
package client

import (
	"time"

	"branchpoint/provisioning"
)

// Paths of central's interfaces. Those below /v1 want an administrator's token, those below /branch/v1 and /content/v1 a
// site's certificate; PathEnrol wants an enrolment token instead.
const (
	PathApply     = "/v1/apply"
	PathDocuments = "/v1/documents"
	PathTokens    = "/v1/enrolment-tokens"
	PathStatus    = "/v1/status"
	PathSites     = "/v1/sites"

	PathRollback        = "/v1/rollback"
	PathDelete          = "/v1/delete"
	PathImportComputers = "/v1/import/computers"
	PathChanges         = "/v1/changes"
	PathRevisions       = "/v1/revisions"
	PathClears          = "/v1/clears"
	PathApprovals       = "/v1/approvals"
	PathSettings        = "/v1/settings"

	// PathOpenAPIJSON and PathOpenAPIYAML describe everything below /v1 but content, to anybody.
	PathOpenAPIJSON = "/v1/openapi.json"
	PathOpenAPIYAML = "/v1/openapi.yaml"

	PathEnrol          = "/branch/v1/enrol"
	PathBranchSnapshot = "/branch/v1/snapshot"
	PathBranchStatus   = "/branch/v1/status"

	// PathContentAdmin and PathContentRead are where services/content is served, with everything below.
	PathContentAdmin = "/v1/content"
	PathContentRead  = "/content/v1"
)

// MaxPage bounds the entries of one page of a list.
const MaxPage = 1000

// List is a page of a list.
type List[T any] struct {
	// Items are its entries, as far as whoever asks may see them. There may be none although there are more.
	Items []T `json:"items"`
	// Next is the after of the page that follows; empty where there is none.
	Next string `json:"next,omitempty"`
}

// Done answers what there is nothing more to say of.
type Done struct{}

// MaxStatusBatch bounds the messages of one status report.
const MaxStatusBatch = 1000

// MaxWait bounds a long poll; longer wishes are shortened to it.
const MaxWait = 60 * time.Second

// MaxApply bounds the texts of one apply together, in bytes.
const MaxApply = 32 << 20

// TokenRequest asks for an enrolment token.
type TokenRequest struct {
	Site string `json:"site"`
	// ValidSeconds is how long it is good for, 60 seconds to 90 days.
	ValidSeconds int64 `json:"validSeconds"`
	// Approval wants a person to approve the appliance that presents it.
	Approval bool `json:"approval,omitempty"`
}

// Token is a new enrolment token; central keeps only its sum.
type Token struct {
	Token string `json:"token"`
	// ID names it in lists.
	ID   string `json:"id"`
	Site string `json:"site"`
	// CASHA256 is the sum of central's CA certificate (DER), to which the first contact is pinned.
	CASHA256  provisioning.SHA256 `json:"caSHA256"`
	ExpiresAt time.Time           `json:"expiresAt"`
}

// EnrolRequest exchanges a token for a certificate.
type EnrolRequest struct {
	Token string `json:"token"`
	// CSR is a certificate request, PEM. Only its public key counts.
	CSR string `json:"csr"`
}

// Enrolment is the answer to an EnrolRequest.
type Enrolment struct {
	// Certificate is the site's certificate and the CA's, PEM.
	Certificate []byte `json:"certificate"`
	// SnapshotKey is the ed25519 public key that verifies snapshots.
	SnapshotKey []byte `json:"snapshotKey"`
	// Epochs is the root key, and what it has signed.
	Epochs provisioning.Epochs `json:"epochs,omitzero"`
}

// StatusBatch is a status report.
type StatusBatch struct {
	Messages []provisioning.StatusMessage `json:"messages"`
}

// StatusReport answers a status query. Outputs of commands are left out unless a run was named.
type StatusReport struct {
	Runs []provisioning.RunReport `json:"runs"`
	// Time is central's clock, UTC.
	Time time.Time `json:"time"`
	// Next is the after of the page that follows; empty where there is none.
	Next string `json:"next,omitempty"`
}

// SiteState is where a site stands at central.
type SiteState struct {
	Site   string `json:"site"`
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"`
	// Problem says why the present configuration could not be made into a snapshot: the site goes on with the last one.
	Problem string `json:"problem,omitempty"`
	// Enrolment is enrolled, revoked, or empty as long as nobody was; Fingerprint is that of its key.
	Enrolment          string    `json:"enrolment,omitempty"`
	Fingerprint        string    `json:"fingerprint,omitempty"`
	CertificateExpires time.Time `json:"certificateExpires,omitzero"`
	// Waiting is the fingerprint of the key of an appliance that waits for approval.
	Waiting string `json:"waiting,omitempty"`
	// LastContact is when the site last spoke with central, to the minute. HasEpoch and HasNumber are those of the newest
	// snapshot that it ever said it had, and RootPinned whether it has pinned the root key.
	LastContact time.Time `json:"lastContact,omitzero"`
	HasEpoch    uint64    `json:"hasEpoch,omitempty"`
	HasNumber   uint64    `json:"hasNumber,omitempty"`
	RootPinned  bool      `json:"rootPinned,omitempty"`
	// Ahead says that this is newer than what central has: central was restored from a backup, and has to start a new epoch.
	Ahead bool `json:"ahead,omitempty"`
}
