package branch

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"branchpoint/provisioning"
)

// openSnapshot verifies a snapshot that central has sent. Where it is not by what the branch trusts, central is asked what the
// root key has signed since: next is the identity with what is trusted by it then, nil where that stays as it is. Nothing is
// changed yet, since what is trusted and the snapshot that is verified by it belong together.
func (b *Branch) openSnapshot(ctx context.Context, signed *provisioning.SignedSnapshot) (s *provisioning.Snapshot, next *identity, err error) {
	id := b.identity.Load()
	if s, err = id.trust().Open(signed); err == nil {
		return s, nil, nil
	}
	says, asked := b.cfg.Central.Epochs(ctx)
	if asked != nil {
		return nil, nil, errors.Join(err, asked)
	}
	trust, refused := id.trust().Follow(b.cfg.CentralCA, says)
	if refused != nil {
		return nil, nil, refused
	}
	if s, err = trust.Open(signed); err != nil {
		return nil, nil, err
	}
	next = id.trusting(trust)
	return s, next, nil
}

// trust is what the branch verifies snapshots by.
func (id *identity) trust() provisioning.Trust {
	return provisioning.Trust{Root: id.Root, Epoch: id.Epoch, SnapshotKey: id.SnapshotKey}
}

// trusting returns the identity with other trust.
func (id *identity) trusting(t provisioning.Trust) *identity {
	next := *id
	next.Root, next.Epoch, next.SnapshotKey = t.Root, t.Epoch, t.SnapshotKey
	return &next
}

// RootPinned reports whether the branch has pinned central's root key.
func (b *Branch) RootPinned() bool { return b.identity.Load().Root != nil }

// pinRoot pins central's root key where the branch has none, and central has one by now. The snapshot in force must be good by
// it too: else it is pinned together with the next one.
func (b *Branch) pinRoot(ctx context.Context) error {
	if b.RootPinned() {
		return nil
	}
	says, err := b.cfg.Central.Epochs(ctx)
	if err != nil {
		return fmt.Errorf("ask central for its root key: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.identity.Load()
	trust, err := id.trust().Follow(b.cfg.CentralCA, says)
	if err != nil || trust.Root == nil {
		return err
	}
	signed, err := b.cfg.Store.LoadSnapshot(ctx)
	if err != nil {
		return err
	}
	if signed != nil {
		if _, err := trust.Open(signed); err != nil {
			return nil
		}
	}
	if err := b.storeIdentity(ctx, id.trusting(trust), provisioning.BranchChange{}); err != nil {
		return err
	}
	b.cfg.Log.Info("central's root key is pinned", "root", provisioning.Fingerprint(provisioning.SumSHA256(trust.Root)), "epoch", trust.Epoch)
	return nil
}

// storeIdentity stores an identity with a change, and takes it. b.mu is held.
func (b *Branch) storeIdentity(ctx context.Context, id *identity, change provisioning.BranchChange) error {
	var err error
	if change.Identity, err = id.encode(); err != nil {
		return err
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return fmt.Errorf("store the branch's identity: %w", err)
	}
	if change.HistoryMissing { // before its keys leave no doubt any more
		next := *b.state.Load()
		next.recorded = false
		b.state.Store(next.settled(id))
	}
	b.become(id)
	if change.Resend {
		b.wakeStatus(ctx)
	}
	return nil
}

// commitSnapshot stores a change with a snapshot, together with the trust that the snapshot was verified by; nil is that of
// before. b.mu is held.
func (b *Branch) commitSnapshot(ctx context.Context, change provisioning.BranchChange, trusting *identity) error {
	if trusting != nil {
		next := b.identity.Load().trusting(trusting.trust()) // whatever else of it has changed meanwhile
		return b.storeIdentity(ctx, next, change)
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return err
	}
	if change.Resend {
		b.wakeStatus(ctx)
	}
	return nil
}

// wakeStatus lets the outbox go on.
func (b *Branch) wakeStatus(ctx context.Context) {
	b.countOutbox(ctx)
	select {
	case b.reported <- struct{}{}:
	default:
	}
}

// HistoryComplete reports whether the runs of before this data disk are here, too, and no other appliance may have added to them
// meanwhile, as it may while the site's keys cannot be opened. Until then no required advertisement is
// answered: what it would erase may have been deployed by an appliance before.
func (b *Branch) HistoryComplete() bool { return b.state.Load().past.Complete }

// fetchHistory asks central for the runs of the site, where those of before this data disk are missing, and once after each
// start: the data disk may be an older one, or have been restored.
func (b *Branch) fetchHistory(ctx context.Context) error {
	b.mu.Lock()
	compared := b.compared
	b.mu.Unlock()
	if compared && b.HistoryComplete() {
		return nil
	}
	runs, err := b.cfg.Central.Runs(ctx)
	if err != nil {
		return fmt.Errorf("ask central for the history of runs: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.completeHistory(ctx, runs, b.identity.Load()); err != nil {
		return err
	}
	b.compared = true
	return nil
}

// unsettle notes that central has refused the branch's certificate: another appliance may serve the site by now, or have done so, and
// have deployed what this one knows nothing of. So its history is missing until it has enrolled again. It is noted once for each
// certificate after a start, so that what a person says at the console holds.
func (b *Branch) unsettle(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.identity.Load()
	if bytes.Equal(b.refused, id.Certificate) {
		return nil
	}
	if err := b.cfg.Store.Commit(ctx, provisioning.BranchChange{HistoryMissing: true}); err != nil {
		return fmt.Errorf("note that the history of runs is missing: %w", err)
	}
	b.refused, b.compared = id.Certificate, false
	next := *b.state.Load()
	next.recorded = false
	b.state.Store(next.settled(id))
	b.cfg.Log.Warn("central has refused this appliance: another one may serve the site, so nothing that is required begins")
	return nil
}

// AcceptHistory takes the history of runs as complete, as it is: a person says so, who knows that no computer's disk may be
// erased by it that must not. While the site's keys cannot be opened that holds until they can, or until the branch has enrolled again.
func (b *Branch) AcceptHistory(ctx context.Context) error {
	b.cfg.Log.Warn("a person has taken the history of runs as complete")
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.identity.Load()
	if id.doubtful() {
		accepted := *id
		accepted.HistoryAccepted = true
		id = &accepted
	}
	return b.completeHistory(ctx, nil, id)
}

// completeHistory adds runs that the branch does not know, and what it does not know of others, and notes that no more are
// missing, with who the branch is then. Orders to let computers run again that were obeyed before these runs were known are about
// them, too. b.mu is held.
func (b *Branch) completeHistory(ctx context.Context, more []provisioning.Run, id *identity) error {
	is := b.state.Load()
	known := map[string]*provisioning.Run{}
	for i := range is.past.Runs {
		known[is.past.Runs[i].ID] = &is.past.Runs[i]
	}
	change := provisioning.BranchChange{HistoryComplete: true}
	for _, r := range more {
		if own := known[r.ID]; own != nil {
			if further, ok := own.Further(&r); ok {
				change.Runs = append(change.Runs, further)
			}
			continue
		}
		known[r.ID] = &r
		r.Cleared = r.Cleared || cleared(is.snapshot, &r)
		change.Runs = append(change.Runs, r)
	}
	if id != b.identity.Load() {
		var err error
		if change.Identity, err = id.encode(); err != nil {
			return err
		}
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return fmt.Errorf("store the history of runs: %w", err)
	}
	next := *is
	next.recorded = true
	next.past.Runs = provisioning.MergeRuns(is.past.Runs, change.Runs)
	next.past = next.past.Indexed()
	b.state.Store(next.settled(b.identity.Load()))
	if change.Identity != nil {
		b.become(id)
	}
	b.cfg.Log.Info("the history of runs is complete", "runs", len(next.past.Runs), "from central", len(change.Runs))
	return nil
}

// cleared reports whether a person has ordered, after a run had begun, that its computer may run again.
func cleared(s *provisioning.Snapshot, r *provisioning.Run) bool {
	if s == nil {
		return false
	}
	for _, c := range s.Clears {
		if c.Computer == r.Computer && c.Covers(r) {
			return true
		}
	}
	return false
}

// certificate is the site's certificate, nil where the branch is not enrolled.
func (id *identity) certificate() *x509.Certificate {
	p, _ := pem.Decode(id.Certificate)
	if p == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(p.Bytes)
	if err != nil {
		return nil
	}
	return cert
}

// due reports whether half of a certificate's time is over.
func due(cert *x509.Certificate, now time.Time) bool {
	return cert != nil && now.After(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore)/2))
}

// renewCertificate renews the site's certificate when half of its time is over. The key stays.
func (b *Branch) renewCertificate(ctx context.Context) error {
	id := b.identity.Load()
	if !due(id.certificate(), b.cfg.Now()) {
		return nil
	}
	csr, err := request(id.Site, id.SiteKey)
	if err != nil {
		return err
	}
	answer, err := b.cfg.Central.Renew(ctx, csr)
	if err != nil {
		return fmt.Errorf("renew the site's certificate: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next := *b.identity.Load()
	next.Certificate = answer.Certificate
	if got := next.certificate(); got == nil || due(got, b.cfg.Now()) || !bytes.Equal(next.SiteKey, id.SiteKey) {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "central's answer to the renewal is no newer certificate")
	}
	if err := b.storeIdentity(ctx, &next, provisioning.BranchChange{}); err != nil {
		return err
	}
	b.cfg.Log.Info("the site's certificate was renewed", "until", next.certificate().NotAfter)
	return nil
}

// keepUp does what is due beside following the snapshot. None of it keeps the site from its work, so that failures are only
// told; it is tried again with the next poll.
func (b *Branch) keepUp(ctx context.Context) {
	for _, do := range []func(context.Context) error{b.tellHost, b.fetchHistory, b.pinRoot, b.renewCertificate} {
		err := do(ctx)
		switch provisioning.CodeOf(err) {
		case "":
		case provisioning.CodeUnavailable, provisioning.CodeUnauthorized:
			return // the poll says so, too
		case provisioning.CodeNotFound:
			b.cfg.Log.Debug("central is an older one", "error", err)
		default:
			if ctx.Err() == nil {
				b.cfg.Log.Warn("cannot keep up with central", "error", err)
			}
		}
	}
}
