// Package tpm seals small secrets to the TPM 2.0 of the computer that a program in RAM runs on: nobody can read them again
// without that very chip.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"branchpoint/provisioning"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"golang.org/x/sys/unix"
)

// TPM is a computer's TPM. Its methods may be called from many goroutines: one at a time speaks with the chip.
type TPM struct {
	open func() (transport.TPMCloser, error)
	// turn holds a value while nobody speaks with the chip.
	turn chan struct{}
}

// New makes a TPM that is reached as open says. It fails with fs.ErrNotExist where there is none.
func New(open func() (transport.TPMCloser, error)) *TPM {
	t := &TPM{open: open, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// Device opens the first TPM 2.0 that the kernel has, through the kernel's resource manager where it has one. It fails with
// fs.ErrNotExist where there is none, or an older one (TPM 1.2) alone.
func Device() (transport.TPMCloser, error) {
	t, err := linuxtpm.Open("/dev/tpmrm0")
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	// Documentation/ABI/stable/sysfs-class-tpm: "1" or "2"; kernels before 5.7 do not say.
	if major, err := os.ReadFile("/sys/class/tpm/tpm0/tpm_version_major"); err == nil && strings.TrimSpace(string(major)) == "1" {
		return nil, fmt.Errorf("the TPM is of version 1.2: %w", fs.ErrNotExist)
	}
	return linuxtpm.Open("/dev/tpm0")
}

// Seal makes of a secret of 1 to 128 bytes what the same TPM alone gives back. It fails with CodeNotFound where the computer has no
// TPM 2.0, with CodeConflict where its owner has locked it with a password, and with CodeUnavailable where it fails, or is busy until
// ctx ends.
func (t *TPM) Seal(ctx context.Context, secret []byte) ([]byte, error) {
	if len(secret) < 1 || len(secret) > 128 { // TPM 2.0 library, part 2: MAX_SYM_DATA
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "a TPM does not seal %d bytes", len(secret))
	}
	return t.do(ctx, func(c transport.TPM) ([]byte, error) { return seal(c, secret) })
}

// Unseal gives back what Seal has sealed. It fails with CodeNotFound where the computer has no TPM 2.0, with CodeForbidden where
// another TPM has sealed it, or this one before it was cleared, and with CodeCorrupt where it is damaged. It may be had another time
// where it fails with CodeConflict, as the TPM's owner has locked it, or with CodeUnavailable, as the TPM fails or is busy until ctx ends.
func (t *TPM) Unseal(ctx context.Context, sealed []byte) ([]byte, error) {
	b, err := decode(sealed)
	if err != nil {
		return nil, err
	}
	return t.do(ctx, func(c transport.TPM) ([]byte, error) { return unseal(c, b) })
}

// do lets f speak with the chip, again as long as that is busy, until ctx ends. A chip that does not answer keeps whoever asks next
// from it, and nobody waits for it for longer than their ctx.
func (t *TPM) do(ctx context.Context, f func(transport.TPM) ([]byte, error)) ([]byte, error) {
	select {
	case <-t.turn:
	case <-ctx.Done():
		return nil, silent(ctx.Err())
	}
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { t.turn <- struct{}{} }()
		b, err := t.patiently(ctx, f)
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.b, diagnose(r.err)
	case <-ctx.Done():
		return nil, silent(ctx.Err())
	}
}

// patiently opens the TPM and runs f, again as long as it is busy, with growing pauses until ctx ends.
func (t *TPM) patiently(ctx context.Context, f func(transport.TPM) ([]byte, error)) ([]byte, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		b, err := t.once(f)
		if !busy(err) {
			return b, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

func (t *TPM) once(f func(transport.TPM) ([]byte, error)) (b []byte, err error) {
	c, err := t.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // what was to be said was said
	return f(c)
}

// busy reports whether the chip, or the way to it, is wanted by others at the moment.
func busy(err error) bool {
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCCanceled, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable, tpm2.TPMRCLockout,
		tpm2.TPMRCContextGap, tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles,
	} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ETIME)
}

const tryAgain = "It is tried again. If it stays, switch the computer off and on; where the TPM is broken, switch it off in the computer's firmware set-up."

func silent(err error) error {
	return provisioning.Errorf(provisioning.CodeUnavailable, tryAgain, "this computer's TPM does not answer: %w", err)
}

// diagnose gives an error its code and next step; one that has a code keeps it.
func diagnose(err error) error {
	if _, ok := errors.AsType[*provisioning.Error](err); ok || err == nil {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return provisioning.Errorf(provisioning.CodeNotFound, "Switch it on in the computer's firmware set-up, where it has one.", "this computer has no TPM 2.0 that is switched on: %w", err)
	}
	return provisioning.Errorf(provisioning.CodeUnavailable, tryAgain, "this computer's TPM fails: %w", err)
}
