package branch

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"

	"github.com/google/go-tpm/tpm2"
)

// wantsTPM reports whether an agent's computer has to prove by its TPM which one it is, before it is given secrets.
func (b *Branch) wantsTPM(c *claims) bool {
	s := b.state.Load()
	return s.policy.SecretsAfter() == provisioning.SecretsAfterTPM && s.tpmOf(c) != ""
}

// tpmOf is the TPM that the record of an agent's computer names, "" where there is no record, or where it names none.
func (s *state) tpmOf(c *claims) provisioning.SHA256 {
	if c.Unknown || s.snapshot == nil {
		return ""
	}
	return s.tpm(c.Computer)
}

func (s *state) tpm(computer string) provisioning.SHA256 {
	for i := range s.snapshot.Computers {
		if x := &s.snapshot.Computers[i]; x.Name == computer {
			return x.Spec.TPM
		}
	}
	return ""
}

// provedTPM reports whether the TPM that the computer's record names by now has proved in this boot to be in the agent's computer.
func (s *state) provedTPM(c *claims, computer string) bool {
	return c.TPM != "" && computer == c.Computer && c.TPM == s.tpm(computer)
}

// tpm gives an agent a challenge that its computer's TPM alone can open, or, for what was in it, a token that says so. What is in it
// is made of boot, agent and chip, so that nothing is kept of it here, and is worth nothing to any other boot or agent.
func (b *Branch) tpm(c claims, req *client.TPMRequest) (*client.TPMAnswer, error) {
	wanted := b.state.Load().tpmOf(&c)
	if wanted == "" {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "Set tpm in its record.", "no TPM is on record for %s", c.Computer)
	}
	ek, sum, err := endorsementKey(req.EndorsementKey)
	if err != nil {
		return nil, err
	}
	if sum != wanted {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "If this is the computer, set tpm in its record to that of this one.",
			"the TPM of this computer is %s, and the record of %s names another one", sum, c.Computer)
	}
	id := b.identity.Load()
	proof := id.tpmProof(&c, sum)
	if len(req.Proof) == 0 {
		if len(req.Name) == 0 || len(req.Name) > maxTPMName {
			return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "a name of a TPM's object has at most %d bytes, not %d", maxTPMName, len(req.Name))
		}
		credential, secret, err := tpm2.CreateCredential(b.cfg.Rand, ek, req.Name, proof)
		if err != nil {
			return nil, provisioning.Errorf(provisioning.CodeInternal, "", "make a challenge to a TPM: %w", err)
		}
		return &client.TPMAnswer{Challenge: &client.TPMChallenge{Credential: credential, Secret: secret}}, nil
	}
	if !hmac.Equal(req.Proof, proof) {
		b.cfg.Log.Warn("a TPM's proof is wrong", "computer", c.Computer, "mac", c.Machine.MAC, "tpm", sum)
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "that is not what was in the challenge to the TPM of %s", c.Computer)
	}
	c.TPM = sum
	token, err := id.sign(c)
	if err != nil {
		return nil, err
	}
	b.cfg.Log.Info("a TPM has proved which computer it is in", "computer", c.Computer, "mac", c.Machine.MAC, "tpm", sum)
	return &client.TPMAnswer{Token: token}, nil
}

// maxTPMName bounds the name of an object in bytes: an algorithm and its largest digest (TPM 2.0 library, part 2, TPM2B_NAME).
const maxTPMName = 2 + 64

// tpmProof is what is in the challenge to a TPM: 32 octets, as much as there may be under SHA-256.
func (id *identity) tpmProof(c *claims, sum provisioning.SHA256) []byte {
	h := hmac.New(sha256.New, id.TokenKey)
	h.Write([]byte("branchpoint tpm proof v1\n" + c.Computer + "\n" + c.Boot + "\n" + string(c.Key) + "\n" + string(sum)))
	return h.Sum(nil)
}

// endorsementKey reads the public area of an endorsement key, and says which it is. It is one by the TCG's template, but for the key
// itself: by any other, other objects than TPMs might open what is meant for one.
func endorsementKey(public []byte) (tpm2.LabeledEncapsulationKey, provisioning.SHA256, error) {
	invalid := func(err error) (tpm2.LabeledEncapsulationKey, provisioning.SHA256, error) {
		return nil, "", provisioning.Errorf(provisioning.CodeInvalid, "", "that is no endorsement key of a TPM 2.0 (RSA 2048): %w", err)
	}
	got, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return invalid(err)
	}
	want := tpm2.RSAEKTemplate
	want.Unique = got.Unique
	unique, err := got.Unique.RSA()
	if err != nil {
		return invalid(err)
	}
	if got.Type != want.Type || len(unique.Buffer) != 256 || unique.Buffer[0] < 0x80 || !bytes.Equal(public, tpm2.Marshal(want)) {
		return invalid(errNotByTemplate)
	}
	parameters, err := got.Parameters.RSADetail()
	if err != nil {
		return invalid(err)
	}
	key, err := tpm2.RSAPub(parameters, unique)
	if err != nil {
		return invalid(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return invalid(err)
	}
	to, err := tpm2.ImportEncapsulationKey(got)
	if err != nil {
		return invalid(err)
	}
	sum := sha256.Sum256(der)
	return to, provisioning.SHA256(hex.EncodeToString(sum[:])), nil
}

var errNotByTemplate error = provisioning.Errorf(provisioning.CodeInvalid, "", "it is not made by the TCG's template L-1")
