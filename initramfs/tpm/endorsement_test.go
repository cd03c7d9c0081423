package tpm_test

import (
	"bytes"
	"crypto/rand"
	"testing"

	"branchpoint/initramfs/tpm/tpmtest"
	"branchpoint/provisioning"

	"github.com/google/go-tpm/tpm2"
)

// TestActivate: what is sealed to a chip's two keys is opened by that chip alone, as often as one wants, and only while it is whole.
func TestActivate(t *testing.T) {
	chip, other := tpmtest.Start(t), tpmtest.Start(t)
	public, name, err := on(chip).Endorsement(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.ImportEncapsulationKey(parsed)
	if err != nil {
		t.Fatal(err)
	}
	credential, to, err := tpm2.CreateCredential(rand.Reader, key, name, secret)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // nothing stays loaded: a chip has room for three objects
		got, err := on(chip).Activate(t.Context(), credential, to)
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("opened is %q, %v", got, err)
		}
	}
	damaged := bytes.Clone(credential)
	damaged[len(damaged)-1] ^= 1
	_, err = on(chip).Activate(t.Context(), damaged, to)
	wantCode(t, err, provisioning.CodeForbidden)
	if _, err := on(chip).Activate(t.Context(), bytes.Repeat([]byte{1}, 4096), to); err == nil {
		t.Error("a huge challenge is opened")
	}
	elsewhere, name2, err := on(other).Endorsement(t.Context())
	if err != nil || bytes.Equal(elsewhere, public) || bytes.Equal(name, name2) {
		t.Error("two chips have the same keys", err)
	}
	// Some chips say that it is not for them, and some (libtpms 0.9) fail until they are switched off.
	if got, err := on(other).Activate(t.Context(), credential, to); err == nil || bytes.Contains(other.Sent.Bytes(), secret) {
		t.Errorf("another chip opens %q", got)
	}
}
