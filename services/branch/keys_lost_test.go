package branch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// TestLostTPM: on another computer, after the TPM was cleared, or without one, the branch says so and goes on without central by what it
// has. It makes no other key by itself, and back in its computer has what it had; with a new token it enrols again.
func TestLostTPM(t *testing.T) {
	for name, other := range map[string]Sealer{"another computer's, or cleared": newChip(), "none": nil} {
		t.Run(name, func(t *testing.T) {
			tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
			s, _ := on(t, newCentral(t), path, tpm)
			s.deployable(t)
			keys, recipient := s.identity.Load().privateKeys(), s.Recipient()
			s.off(t)

			s, kept := on(t, s.central, path, other)
			if !forGood(kept.Locked) || len(s.identity.Load().privateKeys()) != 0 || s.Recipient() != "" {
				t.Fatalf("kept as %+v", *kept)
			}
			if s.HistoryComplete() {
				t.Error("at its start it takes its history for complete")
			}
			_, err := s.ClientCertificate()
			wantCode(t, err, provisioning.CodeUnavailable)
			s.central.refused = true // nobody asks it
			for _, token := range []string{"", "spent"} {
				s.cfg.EnrolmentToken = token
				ctx, stop := context.WithCancel(t.Context())
				s.cfg.Contact = func(err error) {
					if !errors.Is(err, kept.Locked) {
						t.Errorf("with token %q: %v", token, err)
					}
					stop()
				}
				_ = s.Follow(ctx)
			}
			// Another appliance may have served the site: until a person knows better nothing that is required begins.
			if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || s.HistoryComplete() {
				t.Errorf("%+v", d)
			}
			if err := s.AcceptHistory(t.Context()); err != nil || !s.HistoryComplete() {
				t.Fatal(err)
			}
			s.off(t)
			if s, _ = on(t, s.central, path, other); !s.HistoryComplete() {
				t.Error("after a restart a person has to say so again")
			}
			s.listen(t)
			a, _ := s.registered(t, desk, "", client.Facts{})
			as := assignment(t, a) // clients are served all the same
			report(t, a, as, provisioning.StatusStepStarted, "applyOperatingSystemImage")
			s.off(t)

			back, kept := on(t, s.central, path, tpm)
			if got := back.identity.Load().privateKeys(); *kept != (Keys{}) || !bytes.Equal(got[forCentral], keys[forCentral]) || back.Recipient() != recipient {
				t.Errorf("back in its computer: %+v", *kept)
			}
			if !back.HistoryComplete() {
				t.Error("back in its computer it waits for central")
			}
			back.off(t)

			s, kept = on(t, s.central, path, other)
			if s.HistoryComplete() {
				t.Error("what a person said before the keys were opened still holds")
			}
			s.central.refused, s.cfg.EnrolmentToken = false, "good"
			ctx, stop := context.WithCancel(t.Context())
			s.cfg.Contact = func(err error) {
				if err != nil {
					t.Error("enrolled again:", err)
				}
				stop()
			}
			_ = s.Follow(ctx)
			if s.HistoryComplete() {
				t.Error("enrolled again it takes its history for complete without central's")
			}
			if s.keepUp(t.Context()); !s.HistoryComplete() {
				t.Error("enrolled again it does not ask what has run")
			}
			fresh := s.identity.Load().privateKeys()
			if len(fresh) != 2 || bytes.Equal(fresh[forCentral], keys[forCentral]) || kept.Locked != nil || (kept.Plain != nil) != (other == nil) {
				t.Errorf("enrolled again there are %d keys, %+v", len(fresh), *kept)
			}
			if n, err := s.cfg.Store.OutboxLength(t.Context()); err != nil || n != 1 {
				t.Errorf("%d messages wait, %v", n, err)
			}
			if found := s.traces(t, fresh); (len(found) > 0) != (other == nil) {
				t.Errorf("the new keys stand in %v", found)
			}
			s.off(t)
			s, kept = on(t, s.central, path, other)
			if !maps.EqualFunc(s.identity.Load().privateKeys(), fresh, bytes.Equal) || kept.Locked != nil {
				t.Errorf("after a restart: %+v", *kept)
			}
		})
	}
}

// TestTPMFailsForAWhile: as long as it may answer yet, the branch waits for it and uses no token. Nothing that is required begins
// meanwhile, as central cannot tell it that another appliance has its place; it begins as soon as the keys are there, without central.
func TestTPMFailsForAWhile(t *testing.T) {
	for _, code := range []provisioning.Code{provisioning.CodeUnavailable, provisioning.CodeConflict} {
		for _, accepts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, accepted %v", code, accepts), func(t *testing.T) { failsForAWhile(t, code, accepts) })
		}
	}
}

func failsForAWhile(t *testing.T, code provisioning.Code, accepts bool) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, tpm)
	s.deployable(t)
	keys := s.identity.Load().privateKeys()
	s.off(t)
	tpm.err = provisioning.Errorf(code, "", "not now")
	s, kept := on(t, s.central, path, tpm)
	if kept.Plain != nil || provisioning.CodeOf(kept.Locked) != code {
		t.Errorf("kept as %+v", *kept)
	}
	s.cfg.EnrolmentToken = "good"
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || s.HistoryComplete() {
		t.Errorf("from the start: %+v", d)
	}
	wantCode(t, s.Enrol(t.Context(), "good"), code)
	if accepts {
		if err := s.AcceptHistory(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s.central.down = true
	var told []error
	s.cfg.Contact = func(err error) {
		if told = append(told, err); len(told) == 1 && s.HistoryComplete() != accepts {
			t.Errorf("the history is complete: %v", !accepts)
		}
		tpm.err = nil
	}
	done := make(chan struct{})
	go func() { _ = s.Follow(ctx); close(done) }()
	s.central.snapshots <- s.central.sign(t, func(n *provisioning.Snapshot) { n.Number = 2 }) // which it asks for with its key
	stop()
	<-done
	if len(told) == 0 || provisioning.CodeOf(told[0]) != code {
		t.Errorf("told was %v", told)
	}
	if got := s.identity.Load().privateKeys(); !maps.EqualFunc(got, keys, bytes.Equal) || *kept != (Keys{}) {
		t.Errorf("then there are %v, %+v", slices.Collect(maps.Keys(got)), *kept)
	}
	if d := s.Decide(t.Context(), desk); d.Action != policy.Boot || !s.HistoryComplete() {
		t.Errorf("with its keys: %+v", d)
	}
	s.off(t)
	tpm.err = provisioning.Errorf(code, "", "not again")
	if s, _ = on(t, s.central, path, tpm); s.HistoryComplete() {
		t.Error("what a person said of the time before holds for this one")
	}
}

// TestTPMIsLostAfterAll: what may answer yet at the start, and then has lost what it sealed, holds back what is required all the time.
func TestTPMIsLostAfterAll(t *testing.T) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, tpm)
	s.deployable(t)
	s.off(t)
	tpm.err = provisioning.Errorf(provisioning.CodeUnavailable, "", "busy")
	s, kept := on(t, s.central, path, tpm)
	if s.HistoryComplete() {
		t.Fatal("what is required is not held back at once")
	}
	tpm.err, tpm.kept = nil, map[string][]byte{}
	ctx, stop := context.WithCancel(t.Context())
	s.cfg.Contact = func(err error) {
		wantCode(t, err, provisioning.CodeForbidden)
		stop()
	}
	_ = s.Follow(ctx)
	if d := s.Decide(t.Context(), desk); d.Action != policy.Silent || s.HistoryComplete() || kept.Locked == nil {
		t.Errorf("%+v, kept as %+v", d, *kept)
	}
}

// TestLostTwice: an enrolment that was begun on another computer and done on a third leaves no key of either.
func TestLostTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, newChip())
	s.deployable(t)
	s.off(t)
	s, _ = on(t, s.central, path, newChip())
	wantCode(t, s.Enrol(t.Context(), "spent"), provisioning.CodeUnauthorized)
	s.off(t)
	tpm := newChip()
	s, _ = on(t, s.central, path, tpm)
	if n := len(s.identity.Load().Sealed); n != 3 {
		t.Fatalf("%d keys are sealed by others", n)
	}
	if err := s.Enrol(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	s.off(t)
	s, kept := on(t, s.central, path, tpm)
	if is := s.identity.Load(); len(is.Sealed) != 0 || len(is.privateKeys()) != 2 || *kept != (Keys{}) {
		t.Errorf("%d keys are sealed by others, kept as %+v", len(is.Sealed), *kept)
	}
}

// TestSealingHoldsNobodyUp: while the TPM seals the next key the branch goes on, and what it becomes meanwhile is not lost.
func TestSealingHoldsNobodyUp(t *testing.T) {
	tpm, path := newChip(), filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, newChip())
	s.deployable(t)
	s.off(t)
	s, _ = on(t, s.central, path, nil)
	s.cfg.Sealer = tpm
	tpm.give = func(secret []byte) ([]byte, error) { // in the middle of the enrolment's sealing
		tpm.give = nil
		done := make(chan error, 1)
		go func() { done <- s.AcceptHistory(t.Context()) }()
		select {
		case err := <-done:
			return secret, err
		case <-time.After(time.Minute):
			return nil, errors.New("the branch waits for the TPM")
		}
	}
	wantCode(t, s.Enrol(t.Context(), "good"), provisioning.CodeUnavailable)
	if !s.HistoryComplete() || s.identity.Load().NextSiteKey != nil {
		t.Error("what a person said meanwhile is lost")
	}
	if err := s.Enrol(t.Context(), "good"); err != nil || s.identity.Load().locked != nil {
		t.Error(err)
	}
}

// TestSealedBeforeEnrolment: a TPM that is lost before the branch was enrolled costs nothing but the token.
func TestSealedBeforeEnrolment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "branch.db")
	s, _ := on(t, newCentral(t), path, newChip())
	before := s.Fingerprint()
	s.off(t)
	s, kept := on(t, s.central, path, newChip())
	wantCode(t, s.Enrol(t.Context(), "spent"), provisioning.CodeUnauthorized)
	asked := s.Fingerprint()
	s.deployable(t)
	if *kept != (Keys{}) || s.Recipient() == "" || asked == "" || asked == before || s.Fingerprint() != asked {
		t.Errorf("kept as %+v; fingerprints %s, %s, %s", *kept, before, asked, s.Fingerprint())
	}
}
