package branch

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"testing"

	"branchpoint/initramfs/tpm"
	"branchpoint/initramfs/tpm/tpmtest"
	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"

	"github.com/google/go-tpm/tpm2"
)

// tpmSum is how a record names a TPM.
func tpmSum(t *testing.T, chip client.TPM) provisioning.SHA256 {
	t.Helper()
	public, _, err := chip.Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, sum, err := endorsementKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// afterTPM hands secrets out to desk-1 once that TPM has proved to be in it; "" names none.
func afterTPM(sum provisioning.SHA256) func(*provisioning.Snapshot) {
	return func(n *provisioning.Snapshot) {
		n.Site.Spec.PXE.SecretsAfter = provisioning.SecretsAfterTPM
		n.Computers[0].Spec.TPM = sum
	}
}

// otherProof is a TPM whose proof is not what the challenge has.
type otherProof struct{ client.TPM }

func (o otherProof) Activate(ctx context.Context, credential, secret []byte) ([]byte, error) {
	b, err := o.TPM.Activate(ctx, credential, secret)
	if len(b) > 0 {
		b[0] ^= 1
	}
	return b, err
}

// TestSecretsAfterTPM: they are handed out once the chip that the record names has proved to be in the computer, and not before, nor
// to another one that has the computer's addresses, nor once the record names another chip.
func TestSecretsAfterTPM(t *testing.T) {
	chip, stolen := tpm.New(tpmtest.Start(t).Open), tpm.New(tpmtest.Start(t).Open)
	sum := tpmSum(t, chip)
	if other := tpmSum(t, stolen); other == sum || tpmSum(t, chip) != sum {
		t.Fatal("two chips are one, or one is two")
	}
	s := enrolled(t)
	s.listen(t)
	s.put(t, withSecrets(t, s.Recipient(), afterTPM("")))
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent {
		t.Errorf("a record without a TPM: %+v", d)
	}
	s.put(t, withSecrets(t, s.Recipient(), afterTPM(sum)))
	a, r := s.registered(t, desk, "", client.Facts{})
	if !r.TPMWanted || r.PasswordWanted {
		t.Fatalf("registration %+v", r)
	}
	_, err := a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	wantCode(t, a.ProveTPM(t.Context(), stolen), provisioning.CodeForbidden)
	wantCode(t, a.ProveTPM(t.Context(), otherProof{chip}), provisioning.CodeForbidden)
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	if err := a.ProveTPM(t.Context(), chip); err != nil {
		t.Fatal(err)
	}
	if as := assignment(t, a); as.Secrets["JOIN"] != theSecret {
		t.Errorf("given are %d secrets", len(as.Secrets))
	}
	s.put(t, withSecrets(t, s.Recipient(), afterTPM(tpmSum(t, stolen))))
	_, err = a.Assignment(t.Context())
	wantCode(t, err, provisioning.CodeForbidden)
	s.nowhere(t, theSecret)
}

// TestTPMProofIsOfOneBoot: what one agent was challenged with is worth nothing to another one, nor in another boot.
func TestTPMProofIsOfOneBoot(t *testing.T) {
	id := &identity{TokenKey: []byte("key")}
	base := claims{Computer: "desk-1", Boot: "b1", Key: "k1"}
	proof := id.tpmProof(&base, "s1")
	if len(proof) != 32 || !bytes.Equal(proof, id.tpmProof(&base, "s1")) {
		t.Fatalf("a proof of %d bytes, or another one each time", len(proof))
	}
	for name, other := range map[string]claims{
		"computer": {Computer: "desk-2", Boot: "b1", Key: "k1"},
		"boot":     {Computer: "desk-1", Boot: "b2", Key: "k1"},
		"agent":    {Computer: "desk-1", Boot: "b1", Key: "k2"},
	} {
		if bytes.Equal(proof, id.tpmProof(&other, "s1")) {
			t.Errorf("it is good for another %s", name)
		}
	}
	if bytes.Equal(proof, id.tpmProof(&base, "s2")) || bytes.Equal(proof, (&identity{TokenKey: []byte("other")}).tpmProof(&base, "s1")) {
		t.Error("it is good for another chip, or at another branch")
	}
}

// TestEndorsementKey: a key by the template is known by the sum of its public key; anything else is refused.
func TestEndorsementKey(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	made := func(change func(*tpm2.TPMTPublic)) []byte {
		p := tpm2.RSAEKTemplate
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
		change(&p)
		return tpm2.Marshal(p)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(der)
	good := made(func(*tpm2.TPMTPublic) {})
	if _, sum, err := endorsementKey(good); err != nil || string(sum) != hex.EncodeToString(want[:]) {
		t.Errorf("it is %s, %v", sum, err)
	}
	for name, public := range map[string][]byte{
		"empty": nil, "cut off": good[:len(good)-1], "and more": append(bytes.Clone(good), 0), "text": []byte("endorsement"),
		"not restricted": made(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = false }),
		"may leave":      made(func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }),
		"other policy":   made(func(p *tpm2.TPMTPublic) { p.AuthPolicy = tpm2.TPM2BDigest{} }),
		"short": made(func(p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()[:128]})
		}),
		"elliptic": tpm2.Marshal(tpm2.ECCEKTemplate), "template itself": tpm2.Marshal(tpm2.RSAEKTemplate),
	} {
		_, _, err := endorsementKey(public)
		if provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzEndorsementKey: what an agent says is its key is by the template, or refused.
func FuzzEndorsementKey(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(tpm2.Marshal(tpm2.RSAEKTemplate))
	f.Add(tpm2.Marshal(tpm2.ECCEKTemplate))
	f.Add(tpm2.Marshal(tpm2.ECCSRKTemplate))
	f.Fuzz(func(t *testing.T, public []byte) {
		key, sum, err := endorsementKey(public)
		if (err == nil) != (key != nil) || (err == nil) != sum.Valid() {
			t.Errorf("%x: %v, %q, %v", public, key, sum, err)
		}
	})
}
