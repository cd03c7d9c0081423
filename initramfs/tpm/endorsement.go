package tpm

import (
	"context"
	"fmt"

	"branchpoint/provisioning"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Endorsement returns the public area (TPMT_PUBLIC) of the endorsement key, by which its maker and others know the TPM, made by the
// TCG's template L-1 (RSA 2048); and the name of the storage root key, which is in the same TPM. It fails as Seal does.
func (t *TPM) Endorsement(ctx context.Context) (key, name []byte, err error) {
	key, err = t.withBoth(ctx, func(_ transport.TPM, root *storageRoot, ek *tpm2.CreatePrimaryResponse) ([]byte, error) {
		name = root.name.Buffer
		public, err := ek.OutPublic.Contents()
		if err != nil {
			return nil, fmt.Errorf("read the endorsement key: %w", err)
		}
		return tpm2.Marshal(public), nil
	})
	if err != nil {
		return nil, nil, err
	}
	return key, name, nil
}

// Activate opens what somebody has sealed to the two keys of Endorsement (TPM2_ActivateCredential): nobody but this TPM can. credential is
// a TPMS_ID_OBJECT, secret a TPM2B_ENCRYPTED_SECRET, without their sizes. It fails with CodeForbidden where they are for
// another TPM or damaged, and else as Seal does.
func (t *TPM) Activate(ctx context.Context, credential, secret []byte) ([]byte, error) {
	return t.withBoth(ctx, func(c transport.TPM, root *storageRoot, ek *tpm2.CreatePrimaryResponse) ([]byte, error) {
		r, err := tpm2.ActivateCredential{
			ActivateHandle: tpm2.AuthHandle{Handle: root.handle, Name: root.name, Auth: tpm2.PasswordAuth(nil)},
			KeyHandle:      tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, byEndorsement)},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: secret},
		}.Execute(c)
		if rejected(err) {
			return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "the challenge is for another TPM, or damaged: %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("open a challenge: %w", err)
		}
		return r.CertInfo.Buffer, nil
	})
}

// withBoth lets f speak with the chip while the storage root key and the endorsement key are loaded.
func (t *TPM) withBoth(ctx context.Context, f func(transport.TPM, *storageRoot, *tpm2.CreatePrimaryResponse) ([]byte, error)) ([]byte, error) {
	return t.do(ctx, func(c transport.TPM) ([]byte, error) {
		root, err := loadRoot(c)
		if err != nil {
			return nil, err
		}
		defer root.flush(c)
		ek, err := loadEndorsement(c)
		if err != nil {
			return nil, err
		}
		defer flush(c, ek.ObjectHandle)
		return f(c, root, ek)
	})
}

// loadEndorsement makes the endorsement key: the TPM derives it from a seed that clearing it does not change.
func loadEndorsement(c transport.TPM) (*tpm2.CreatePrimaryResponse, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("make the endorsement key: %w", err)
	}
	return r, nil
}

// byEndorsement satisfies the policy of endorsement keys: PolicySecret of the endorsement hierarchy, whose password is empty.
func byEndorsement(c transport.TPM, handle tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: handle, NonceTPM: nonce,
	}.Execute(c)
	return err
}
