package tpm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"

	"branchpoint/initramfs/tpm"
	"branchpoint/initramfs/tpm/tpmtest"
	"branchpoint/provisioning"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func on(c *tpmtest.Chip) *tpm.TPM { return tpm.New(c.Open) }

func wantCode(t *testing.T, err error, code provisioning.Code) {
	t.Helper()
	if provisioning.CodeOf(err) != code {
		t.Errorf("the error is %v, code %q; want %q", err, provisioning.CodeOf(err), code)
	}
}

func sealed(t *testing.T, c *tpmtest.Chip) []byte {
	t.Helper()
	b, err := on(c).Seal(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSealAndUnseal: the chip gives back what it has sealed, and nobody who listens between it and us learns it.
func TestSealAndUnseal(t *testing.T) {
	c := tpmtest.Start(t)
	b := sealed(t, c)
	for range 8 { // nothing stays loaded: a chip has room for three objects
		got, err := on(c).Unseal(t.Context(), sealed(t, c))
		if err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("unsealed %q, %v", got, err)
		}
	}
	if bytes.Contains(b, secret) || bytes.Contains(c.Sent.Bytes(), secret) {
		t.Error("the secret is readable")
	}
	// A session without a salt has a key that whoever listens can derive (TPM 2.0 library, part 1, "Session Key Creation").
	salted, unsalted := []byte{0, 0, 1, 0x76, 0x80}, []byte{0, 0, 1, 0x76, 0x40, 0, 0, 7}
	if bytes.Contains(c.Sent.Bytes(), unsalted) || !bytes.Contains(c.Sent.Bytes(), salted) {
		t.Error("a session begins without a salt")
	}
	if c.Sent.Len() < 1000 {
		t.Errorf("only %d bytes were listened to", c.Sent.Len())
	}
}

// TestOtherAndClearedTPM: neither another chip nor this one after it was cleared gives back the secret, and both say why.
func TestOtherAndClearedTPM(t *testing.T) {
	c, other := tpmtest.Start(t), tpmtest.Start(t)
	b := sealed(t, c)
	_, err := on(other).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeForbidden)
	// Not only because of the name that is compared: with this chip's own in its place it is the chip that refuses.
	var mine, theirs map[string][]byte
	if err := errors.Join(json.Unmarshal(b, &mine), json.Unmarshal(sealed(t, other), &theirs)); err != nil {
		t.Fatal(err)
	}
	mine["srk"] = theirs["srk"]
	forged, err := json.Marshal(mine)
	if err != nil {
		t.Fatal(err)
	}
	_, err = on(other).Unseal(t.Context(), forged)
	wantCode(t, err, provisioning.CodeCorrupt)

	direct, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}).Execute(direct); err != nil {
		t.Fatal(err)
	}
	_, err = on(c).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeForbidden)
	if got, err := on(c).Unseal(t.Context(), sealed(t, c)); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("a cleared chip is not used any more: %q, %v", got, err)
	}
}

// TestRootOfAnother: whoever sits between the chip and us, and gives us another key under the chip's name, learns no salt by it.
func TestRootOfAnother(t *testing.T) {
	c, other := tpmtest.Start(t), tpmtest.Start(t)
	b := sealed(t, c)
	sealed(t, other)
	// The first that is said is the storage root key's: command, then answer.
	answerOf := func(c *tpmtest.Chip) []byte {
		sent := c.Sent.Bytes()
		sent = sent[binary.BigEndian.Uint32(sent[2:]):]
		return bytes.Clone(sent[:binary.BigEndian.Uint32(sent[2:])])
	}
	mine, theirs := answerOf(c), answerOf(other)
	// Header, handle and the parameters' size come before the public area (TPM 2.0 library, part 3, "TPM2_CreatePrimary").
	const public = 10 + 4 + 4
	n := 2 + int(binary.BigEndian.Uint16(mine[public:]))
	if len(mine) != len(theirs) || bytes.Equal(mine[public:public+n], theirs[public:public+n]) {
		t.Fatal("the two keys are not alike")
	}
	copy(mine[public:public+n], theirs[public:public+n])
	began := false
	c.Before = func(command []byte) []byte {
		switch binary.BigEndian.Uint32(command[6:]) {
		case uint32(tpm2.TPMCCCreatePrimary):
			return mine
		case uint32(tpm2.TPMCCStartAuthSession):
			began = true
		}
		return nil
	}
	_, err := on(c).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeForbidden)
	if began {
		t.Error("a salt was encrypted to another's key")
	}
}

// TestDamaged: no byte of what is sealed can be changed without it being refused for good, and none makes it something else.
func TestDamaged(t *testing.T) {
	c := tpmtest.Start(t)
	var parts map[string][]byte
	if err := json.Unmarshal(sealed(t, c), &parts); err != nil {
		t.Fatal(err)
	}
	for name, part := range parts {
		for i := 0; i < len(part); i += 7 {
			part[i] ^= 0x40
			b, err := json.Marshal(parts)
			if err != nil {
				t.Fatal(err)
			}
			got, err := on(c).Unseal(t.Context(), b)
			want := provisioning.CodeCorrupt
			if name == "srk" {
				want = provisioning.CodeForbidden
			}
			if provisioning.CodeOf(err) != want {
				t.Errorf("byte %d of %s: %q, %v", i, name, got, err)
			}
			part[i] ^= 0x40
		}
	}
	for _, b := range []string{"", "{}", "null", "[]", `{"srk":"AA==","public":"AA=="}`, string(bytes.Repeat([]byte(" "), 1<<20))} {
		_, err := on(c).Unseal(t.Context(), []byte(b))
		wantCode(t, err, provisioning.CodeCorrupt)
	}
	for _, n := range []int{0, 129} {
		_, err := on(c).Seal(t.Context(), make([]byte, n))
		wantCode(t, err, provisioning.CodeInvalid)
	}
}

// TestLockedByOwner: a TPM whose owner has given it a password says so: it may be taken away again.
func TestLockedByOwner(t *testing.T) {
	c := tpmtest.Start(t)
	b := sealed(t, c)
	direct, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("another system's")},
	}).Execute(direct); err != nil {
		t.Fatal(err)
	}
	_, err = on(c).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeConflict)
	_, err = on(c).Seal(t.Context(), secret)
	wantCode(t, err, provisioning.CodeConflict)
}

// answer is one of a TPM that is a response code alone.
func answer(rc tpm2.TPMRC) []byte {
	return []byte{0x80, 0x01, 0, 0, 0, 10, byte(rc >> 24), byte(rc >> 16), byte(rc >> 8), byte(rc)}
}

// TestBusy: a chip that is busy or locked out for a moment is asked again; one that stays so, or never answers, is waited for until the
// context ends. One that fails is not asked for ever.
func TestBusy(t *testing.T) {
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCLockout, tpm2.TPMRCRetry, tpm2.TPMRCTesting, tpm2.TPMRCObjectMemory} {
		c := tpmtest.Start(t)
		times := 0
		c.Before = func([]byte) []byte {
			if times++; times < 4 {
				return answer(rc)
			}
			return nil
		}
		if got, err := on(c).Unseal(t.Context(), sealed(t, c)); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("%v: %q, %v", rc, got, err)
		}
	}
	c := tpmtest.Start(t)
	b := sealed(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	c.Before = func([]byte) []byte { cancel(); return answer(tpm2.TPMRCLockout) }
	_, err := on(c).Unseal(ctx, b)
	wantCode(t, err, provisioning.CodeUnavailable)
	c.Before = func([]byte) []byte { return answer(tpm2.TPMRCFailure) }
	_, err = on(c).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeUnavailable)

	// That it fails says nothing about what is sealed.
	c.Before = func(command []byte) []byte {
		if binary.BigEndian.Uint32(command[6:]) == uint32(tpm2.TPMCCLoad) {
			return answer(tpm2.TPMRCFailure)
		}
		return nil
	}
	_, err = on(c).Unseal(t.Context(), b)
	wantCode(t, err, provisioning.CodeUnavailable)

	// It hangs, and who comes after waits no longer than they want to either; then it answers.
	ctx, cancel = context.WithCancel(t.Context())
	var hung atomic.Bool
	release := make(chan struct{})
	c.Before = func([]byte) []byte {
		if !hung.Swap(true) {
			cancel()
			<-release
		}
		return nil
	}
	one := on(c)
	_, err = one.Unseal(ctx, b)
	wantCode(t, err, provisioning.CodeUnavailable)
	_, err = one.Unseal(ctx, b)
	wantCode(t, err, provisioning.CodeUnavailable)
	close(release)
	if got, err := one.Unseal(t.Context(), b); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestNoTPM: where there is none it is not-found, and where it cannot be opened it may be another time.
func TestNoTPM(t *testing.T) {
	for err, code := range map[error]provisioning.Code{fs.ErrNotExist: provisioning.CodeNotFound, fs.ErrPermission: provisioning.CodeUnavailable} {
		none := tpm.New(func() (transport.TPMCloser, error) { return nil, fmt.Errorf("open: %w", err) })
		_, err := none.Seal(t.Context(), secret)
		wantCode(t, err, code)
	}
}
