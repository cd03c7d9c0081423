package tpm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"branchpoint/provisioning"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// blob is what Seal returns, as JSON.
type blob struct {
	// SRK is the name of the storage root key under which it is sealed (TPM 2.0 library, part 1, "Names"): each TPM has its own, and
	// another one after it was cleared.
	SRK []byte `json:"srk"`
	// Public and Private are the sealed object, TPM2B_PUBLIC and TPM2B_PRIVATE without their sizes.
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
}

// maxBlob bounds what is decoded, in bytes: ours have less than 600.
const maxBlob = 8192

func damaged(err error) error {
	return provisioning.Errorf(provisioning.CodeCorrupt, "", "what the TPM has sealed is damaged: %w", err)
}

func decode(b []byte) (blob, error) {
	var out blob
	if len(b) > maxBlob {
		return out, damaged(fmt.Errorf("it has %d bytes", len(b)))
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, damaged(err)
	}
	if len(out.SRK) == 0 || len(out.Public) == 0 || len(out.Private) == 0 {
		return out, damaged(errors.New("parts of it are missing"))
	}
	return out, nil
}

// sealedData is the template of what is sealed: it leaves this TPM never, wants no password, and does not count for, nor suffer from,
// the TPM's lockout after wrong passwords (noDA). No state of the machine is asked for (PCR): another version of the appliance has
// another one, and must be able to read it.
func sealedData() tpm2.TPM2BPublic {
	return tpm2.New2B(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
	})
}

// storageRoot is the storage root key while it is loaded.
type storageRoot struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// loadRoot makes the storage root key: the TPM derives it from its owner's seed, always the same one, by the template of the TCG's
// provisioning guidance (ECC P-256).
func loadRoot(c transport.TPM) (*storageRoot, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail, tpm2.TPMRCAuthUnavailable, tpm2.TPMRCHierarchy, tpm2.TPMRCDisabled} {
		if errors.Is(err, rc) {
			return nil, provisioning.Errorf(provisioning.CodeConflict, "Take its owner password away, or clear the TPM in the computer's firmware set-up: what others have sealed with it is lost then.",
				"this computer's TPM has an owner who has locked it: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the storage root key: %w", err)
	}
	root := &storageRoot{handle: r.ObjectHandle}
	public, err := r.OutPublic.Contents()
	if err == nil {
		root.public = *public
		var name *tpm2.TPM2BName
		if name, err = tpm2.ObjectName(public); err == nil { // of the very key that salts are encrypted to, whatever the answer says
			root.name = *name
			return root, nil
		}
	}
	root.flush(c)
	return nil, fmt.Errorf("read the storage root key: %w", err)
}

func (r *storageRoot) flush(c transport.TPM) { flush(c, r.handle) }

// flush takes an object out of the TPM. Where it cannot, the kernel's resource manager does when the TPM is closed.
func flush(c transport.TPM, h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(c)
}

// session authorizes one command, and encrypts what goes in, comes out or both: its key is made of a salt that is encrypted to the
// storage root key, so that who listens on the wires to the chip learns nothing.
func (r *storageRoot) session(c transport.TPM, direction tpm2.AuthOption) (tpm2.Session, func(), error) {
	s, end, err := tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16, tpm2.Salted(r.handle, r.public), direction)
	if err != nil {
		return nil, nil, fmt.Errorf("begin a session: %w", err)
	}
	return s, func() { _ = end() }, nil
}

func seal(c transport.TPM, secret []byte) ([]byte, error) {
	root, err := loadRoot(c)
	if err != nil {
		return nil, err
	}
	defer root.flush(c)
	session, end, err := root.session(c, tpm2.AESEncryption(128, tpm2.EncryptInOut))
	if err != nil {
		return nil, err
	}
	defer end()
	r, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: root.handle, Name: root.name, Auth: session},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
		InPublic:     sealedData(),
	}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return json.Marshal(blob{SRK: root.name.Buffer, Public: r.OutPublic.Bytes(), Private: r.OutPrivate.Buffer})
}

func unseal(c transport.TPM, b blob) ([]byte, error) {
	root, err := loadRoot(c)
	if err != nil {
		return nil, err
	}
	defer root.flush(c)
	// Also because the session's salt must be for the very TPM that has sealed it, and for nobody between it and us.
	if !bytes.Equal(root.name.Buffer, b.SRK) {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "another computer's TPM has sealed it, or this one's before it was cleared")
	}
	object, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: root.handle, Name: root.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: b.Private}, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](b.Public),
	}.Execute(c)
	if rejected(err) {
		return nil, damaged(err)
	}
	if err != nil {
		return nil, fmt.Errorf("load what is sealed: %w", err)
	}
	defer flush(c, object.ObjectHandle)
	session, end, err := root.session(c, tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, err
	}
	defer end()
	r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session}}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return r.OutData.Buffer, nil
}

// rejected reports whether the TPM took what it was given to load for wrong, rather than failed: a response code of format one (TPM 2.0
// library, part 2, "Response codes": bit 7) is about a parameter, handle or session.
func rejected(err error) bool {
	rc, ok := errors.AsType[tpm2.TPMRC](err)
	return ok && rc&0x80 != 0
}
