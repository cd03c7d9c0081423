package client

import (
	"context"
	"fmt"
	"net/http"

	"branchpoint/provisioning"
)

// TPMRequest is what an agent sends whose computer is to prove by its TPM which one it is: first the keys, for which it gets a
// challenge, then what the TPM makes of that.
type TPMRequest struct {
	// EndorsementKey is the public area of the TPM's endorsement key (TPMT_PUBLIC), made by the TCG's template L-1 (RSA 2048).
	EndorsementKey []byte `json:"endorsementKey"`
	// Name is that of an object which is loaded in the same TPM (TPM 2.0 library, part 1, "Names"): what is sealed to both keys can
	// be opened where both are.
	Name []byte `json:"name"`
	// Proof is what was in the challenge; empty asks for one.
	Proof []byte `json:"proof,omitempty"`
}

// TPMChallenge can be opened by the TPM alone (TPM2_ActivateCredential).
type TPMChallenge struct {
	// Credential is a TPMS_ID_OBJECT, Secret a TPM2B_ENCRYPTED_SECRET, both without their sizes.
	Credential []byte `json:"credential"`
	Secret     []byte `json:"secret"`
}

// TPMAnswer is the answer to a TPMRequest: a challenge, or, where the proof was right, another token.
type TPMAnswer struct {
	Challenge *TPMChallenge `json:"challenge,omitempty"`
	Token     string        `json:"token,omitempty"`
}

// TPM is a computer's TPM 2.0.
type TPM interface {
	// Endorsement returns what TPMRequest has of the same names.
	Endorsement(ctx context.Context) (endorsementKey, name []byte, err error)
	// Activate opens a challenge.
	Activate(ctx context.Context, credential, secret []byte) ([]byte, error)
}

// ProveTPM proves by the computer's TPM which computer it is. It fails with CodeForbidden where that is not the one of the record,
// and with what the TPM fails with.
func (c *Client) ProveTPM(ctx context.Context, t TPM) error {
	var req TPMRequest
	var err error
	if req.EndorsementKey, req.Name, err = t.Endorsement(ctx); err != nil {
		return fmt.Errorf("ask the TPM which one it is: %w", err)
	}
	var a TPMAnswer
	if err := c.call(ctx, http.MethodPost, PathTPM, req, &a); err != nil {
		return fmt.Errorf("ask the branch for a challenge to the TPM: %w", err)
	}
	if a.Challenge == nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "the branch's answer has no challenge to the TPM")
	}
	if req.Proof, err = t.Activate(ctx, a.Challenge.Credential, a.Challenge.Secret); err != nil {
		return fmt.Errorf("have the TPM open the branch's challenge: %w", err)
	}
	a = TPMAnswer{}
	if err := c.call(ctx, http.MethodPost, PathTPM, req, &a); err != nil {
		return fmt.Errorf("prove to the branch which computer this is: %w", err)
	}
	if a.Token == "" {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "the branch's answer to the TPM's proof is incomplete")
	}
	c.mu.Lock()
	c.token = a.Token
	c.mu.Unlock()
	return nil
}
