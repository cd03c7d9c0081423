package client

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// BranchConfig is what a branch knows of central.
type BranchConfig struct {
	// Address is central's "host:port".
	Address string
	// CASHA256 pins central's CA.
	CASHA256 provisioning.SHA256
	// Certificate returns the branch's certificate. It may fail until the branch is enrolled; Enrol does without.
	Certificate func() (tls.Certificate, error)
	// RootPinned reports whether the branch has pinned central's root key, for central to know. It may be nil.
	RootPinned func() bool
	// Recipient is to whom central is to encrypt the site's secrets, an age X25519 recipient. It may be nil.
	Recipient func() string
	// Now is the clock by which certificates are checked.
	Now func() time.Time
}

// Branch speaks with central for one branch.
type Branch struct {
	base string
	http *http.Client // with the site's certificate
	bare *http.Client // without, for the enrolment
	// pinned is the configuration's RootPinned.
	pinned func() bool
	// recipient is the configuration's Recipient.
	recipient func() string
}

// NewBranch makes a branch's client. It does not contact central yet.
func NewBranch(cfg BranchConfig) *Branch {
	config := pinnedTLS(cfg.CASHA256, cfg.Now)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := cfg.Certificate()
		if err != nil {
			return nil, err
		}
		return &c, nil
	}
	return &Branch{base: "https://" + cfg.Address, http: newHTTP(config), bare: newHTTP(pinnedTLS(cfg.CASHA256, cfg.Now)), pinned: cfg.RootPinned, recipient: cfg.Recipient}
}

// Enrol exchanges an enrolment token and a certificate request (PEM) for the site's certificate. The same token with
// the same key gives the same certificate while the token is valid: a lost answer can be asked for again.
func (b *Branch) Enrol(ctx context.Context, token string, csr []byte) (Enrolment, error) {
	var e Enrolment
	if _, err := call(ctx, b.bare, http.MethodPost, b.base+PathEnrol, EnrolRequest{Token: token, CSR: string(csr)}, &e); err != nil {
		return Enrolment{}, err
	}
	if p, _ := pem.Decode(e.Certificate); p == nil || len(e.SnapshotKey) != ed25519.PublicKeySize {
		return Enrolment{}, provisioning.Errorf(provisioning.CodeCorrupt, "", "central's answer to the enrolment is incomplete")
	}
	return e, nil
}

// Snapshot waits up to wait for a snapshot of the site that is newer than the given one (0, 0: than none). It returns nil
// if there was none in that time.
func (b *Branch) Snapshot(ctx context.Context, epoch, number uint64, wait time.Duration) (*provisioning.SignedSnapshot, error) {
	q := url.Values{
		"epoch": {strconv.FormatUint(epoch, 10)}, "number": {strconv.FormatUint(number, 10)}, "wait": {max(0, min(wait, MaxWait)).String()},
	}
	if b.pinned != nil && b.pinned() {
		q.Set("root", "pinned")
	}
	if b.recipient != nil {
		q.Set("recipient", b.recipient())
	}
	var s provisioning.SignedSnapshot
	content, err := b.call(ctx, http.MethodGet, PathBranchSnapshot+"?"+q.Encode(), nil, &s)
	if err != nil {
		return nil, fmt.Errorf("ask central for the site's snapshot: %w", err)
	}
	if !content {
		return nil, nil
	}
	return &s, nil
}

// Report delivers status messages, any number. Messages that were delivered before do no harm; ones
// that central finds invalid are delivered, too: it sets them aside.
func (b *Branch) Report(ctx context.Context, messages []provisioning.StatusMessage) error {
	for len(messages) > 0 {
		n := min(len(messages), MaxStatusBatch)
		if _, err := b.call(ctx, http.MethodPost, PathBranchStatus, StatusBatch{Messages: messages[:n]}, nil); err != nil {
			return fmt.Errorf("report status to central: %w", err)
		}
		messages = messages[n:]
	}
	return nil
}

// call asks with the site's certificate. A connection on which that was refused is not used again: the next one shows the
// certificate that the branch has by then.
func (b *Branch) call(ctx context.Context, method, path string, in, out any) (bool, error) {
	content, err := call(ctx, b.http, method, b.base+path, in, out)
	if provisioning.CodeOf(err) == provisioning.CodeUnauthorized {
		b.http.CloseIdleConnections()
	}
	return content, err
}

// HTTP is the client with the site's certificate, and URL central's base URL: content is read with them.
func (b *Branch) HTTP() *http.Client { return b.http }

// URL is central's base URL, without a slash at its end.
func (b *Branch) URL() string { return b.base }
