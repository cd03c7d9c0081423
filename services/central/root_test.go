package central_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

func newRoot(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func (s *site) signEpoch(root ed25519.PrivateKey, e provisioning.EpochStatement) provisioning.SignedEpoch {
	s.t.Helper()
	signed, err := provisioning.SignEpoch(e, root)
	if err != nil {
		s.t.Fatal(err)
	}
	return *signed
}

// createRoot makes central's root key.
func (s *site) createRoot() ed25519.PrivateKey {
	s.t.Helper()
	pub, root := newRoot(s.t)
	now, err := s.admin.Epoch(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	signed := s.signEpoch(root, provisioning.EpochStatement{Epoch: now.Epoch, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256})
	if _, err := s.admin.PutEpoch(s.t.Context(), client.EpochSigned{Root: pub, Statement: signed}); err != nil {
		s.t.Fatal(err)
	}
	return root
}

// nextEpoch begins the next epoch.
func (s *site) nextEpoch(root ed25519.PrivateKey, rotate bool) client.EpochState {
	s.t.Helper()
	next, err := s.admin.NextEpoch(s.t.Context(), client.EpochRequest{RotateKey: rotate})
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.admin.PutEpoch(s.t.Context(), client.EpochSigned{Statement: s.signEpoch(root, next)})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func TestEpochs(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	before, beforeKey := s.enrol("LON") // before there was a root key
	_, err := s.admin.NextEpoch(ctx, client.EpochRequest{})
	wantCode(t, err, provisioning.CodeConflict, "no root key yet")
	root := s.createRoot()
	if e, err := before.Epochs(ctx); err != nil || len(e.Statements) != 1 {
		t.Fatal(e, err)
	}
	trust, err := provisioning.Trust{SnapshotKey: beforeKey}.Follow(s.CASHA256(), must(before.Epochs(ctx)))
	if err != nil || trust.Root == nil || trust.Epoch != 1 {
		t.Fatalf("%+v, %v", trust, err)
	}

	other, otherRoot := newRoot(t)
	now := must(s.admin.Epoch(ctx))
	statement := provisioning.EpochStatement{Epoch: now.Epoch + 1, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256}
	put := func(e client.EpochSigned) error { return discardState(s.admin.PutEpoch(ctx, e)) }
	wantCode(t, put(client.EpochSigned{Root: other, Statement: s.signEpoch(otherRoot, statement)}), provisioning.CodeConflict, "a root key already")
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(otherRoot, statement)}), provisioning.CodeCorrupt, "not signed by the root key")
	foreign := statement
	foreign.SnapshotKey = other
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeConflict, "does not wait here")
	foreign = statement
	foreign.CASHA256 = provisioning.SumSHA256([]byte("x"))
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeInvalid, "another CA")
	foreign = statement
	foreign.Epoch = now.Epoch
	if err := put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}); err != nil {
		t.Error("the statement in force cannot be put again:", err)
	}
	foreign.IssuedAt = s.clock.Now()
	wantCode(t, put(client.EpochSigned{Statement: s.signEpoch(root, foreign)}), provisioning.CodeConflict, "in epoch 1 already")

	signed, err := before.Snapshot(ctx, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	old := must(trust.Open(signed))
	state := s.nextEpoch(root, true)
	if state.Epoch != 2 || bytes.Equal(state.SnapshotKey, now.SnapshotKey) {
		t.Errorf("%+v", state)
	}
	signed, err = before.Snapshot(ctx, old.Epoch, old.Number, time.Minute)
	if err != nil || signed == nil {
		t.Fatal(signed, err)
	}
	if _, err := trust.Open(signed); provisioning.CodeOf(err) != provisioning.CodeCorrupt {
		t.Error("the new key is trusted before the root key says so:", err)
	}
	trust, err = trust.Follow(s.CASHA256(), must(before.Epochs(ctx)))
	if err != nil {
		t.Fatal(err)
	}
	if snap := must(trust.Open(signed)); snap.Epoch != 2 || snap.Number != 1 || len(snap.Computers) != 1 {
		t.Errorf("%+v", snap)
	}
	// Who comes now pins it at once.
	key := newKey(t)
	e, err := s.bare().Enrol(ctx, s.createToken("PAR"), request(t, key))
	if err != nil || len(e.Epochs.Statements) != 2 || !bytes.Equal(e.SnapshotKey, state.SnapshotKey) {
		t.Errorf("%+v, %v", e.Epochs, err)
	}
	if state = s.nextEpoch(root, false); state.Epoch != 3 || !bytes.Equal(state.SnapshotKey, e.SnapshotKey) {
		t.Errorf("%+v", state)
	}
	s.stop()
	s = start(t, dir)
	if again := must(s.admin.Epoch(ctx)); again.Epoch != 3 || !bytes.Equal(again.SnapshotKey, state.SnapshotKey) || !bytes.Equal(again.Root, state.Root) {
		t.Errorf("after a restart %+v", again)
	}
	page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "RootKey"})
	if err != nil || len(page.Entries) != 5 || page.Entries[4].Action != "create" || page.Entries[1].Action != "prepare" || !strings.Contains(page.Entries[0].After, "epoch: 3") {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestRestoredCentral: a central that is behind its sites says so, and goes beyond all that they have seen.
func TestRestoredCentral(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	b, _ := s.enrol("LON")
	if e := must(s.admin.Epoch(ctx)); len(e.Pinned) > 0 {
		t.Errorf("%+v", e)
	}
	// The backup is of before there was a root key, and the site has pinned it.
	if err := s.store.NoteSiteContact(ctx, provisioning.SiteContact{Site: "LON", At: s.clock.Now(), RootPinned: true}); err != nil {
		t.Fatal(err)
	}
	if e := must(s.admin.Epoch(ctx)); !slices.Equal(e.Pinned, []string{"LON"}) {
		t.Errorf("%+v", e)
	}
	root := s.createRoot()
	if e := must(s.admin.Epoch(ctx)); len(e.Pinned) > 0 {
		t.Errorf("%+v", e)
	}
	if s, err := b.Snapshot(ctx, 7, 3, 0); err != nil || s != nil {
		t.Fatal(s, err)
	}
	sites, err := s.admin.Sites(ctx)
	if err != nil || !sites[0].Ahead || sites[0].HasEpoch != 7 || sites[0].HasNumber != 3 || sites[1].Ahead {
		t.Errorf("%+v, %v", sites, err)
	}
	if e := must(s.admin.Epoch(ctx)); !slices.Equal(e.Ahead, []string{"LON"}) {
		t.Errorf("%+v", e)
	}
	// However often it changes now, its numbers never come to look like news to that site.
	had, par := s.snapshot("LON").Number, s.snapshot("PAR").Number
	for i := range 3 {
		s.mustApply(fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: new-%d}\nspec: {macAddresses: [\"52:54:00:00:01:0%d\"]}\n", i, i))
	}
	if now := s.snapshot("LON").Number; now != had || s.snapshot("PAR").Number != par+3 {
		t.Errorf("LON went from %d to %d, PAR from %d to %d", had, now, par, s.snapshot("PAR").Number)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || !strings.Contains(sites[0].Problem, "7.3") || sites[1].Problem != "" {
		t.Errorf("%+v, %v", sites, err)
	}
	if e := s.nextEpoch(root, false); e.Epoch != 8 || len(e.Ahead) > 0 {
		t.Errorf("%+v", e)
	}
	if signed, err := b.Snapshot(ctx, 7, 3, 0); err != nil || signed == nil {
		t.Error(signed, err)
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Ahead {
		t.Errorf("%+v, %v", sites, err)
	}
}

func discardState(_ client.EpochState, err error) error { return err }
