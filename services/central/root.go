package central

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"strconv"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// The settings of the root key. Central never has its private half: what it signs is brought here.
const (
	settingRoot     = "root-public-key"           // ed25519
	settingSignNext = "snapshot-signing-key-next" // sealed, ed25519 seed; of the epoch that waits to be signed, or empty
)

// signer is what snapshots are signed by.
type signer struct {
	epoch uint64
	key   ed25519.PrivateKey
}

func (s *signer) public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// rootKey is the root key's public half, nil as long as there is none.
func (c *Central) rootKey(ctx context.Context) (ed25519.PublicKey, error) {
	b, err := c.cfg.Store.Setting(ctx, settingRoot)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return nil, nil
	}
	return ed25519.PublicKey(b), err
}

// epochs is what branches are told of the root key.
func (c *Central) epochs(ctx context.Context) (provisioning.Epochs, error) {
	root, err := c.rootKey(ctx)
	if err != nil || root == nil {
		return provisioning.Epochs{}, err
	}
	statements, err := c.cfg.Store.Epochs(ctx)
	return provisioning.Epochs{Root: root, Statements: statements[max(0, len(statements)-provisioning.MaxEpochs):]}, err
}

// Epoch says where central stands with its root key.
func (c *Central) Epoch(ctx context.Context) (client.EpochState, error) {
	root, err := c.rootKey(ctx)
	if err != nil {
		return client.EpochState{}, err
	}
	s := c.signer.Load()
	out := client.EpochState{Epoch: s.epoch, SnapshotKey: s.public(), CASHA256: c.CASHA256(), Root: root}
	if out.Ahead, _, err = c.sitesAhead(ctx); err != nil || root != nil {
		return out, err
	}
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	for site, contact := range contacts {
		if contact.RootPinned {
			out.Pinned = append(out.Pinned, site)
		}
	}
	slices.Sort(out.Pinned)
	return out, err
}

// sitesAhead returns the sites that have seen newer snapshots than central has made, sorted, and the newest epoch that any
// site has seen.
func (c *Central) sitesAhead(ctx context.Context) ([]string, uint64, error) {
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	if err != nil {
		return nil, 0, err
	}
	var sites []string
	var newest uint64
	for site, contact := range contacts {
		newest = max(newest, contact.Epoch)
		s, err := c.cfg.Store.SiteSnapshot(ctx, site)
		if provisioning.CodeOf(err) == provisioning.CodeNotFound {
			s, err = &provisioning.SiteSnapshot{}, nil
		}
		if err != nil {
			return nil, 0, err
		}
		if ahead(contact, s.Epoch, s.Number) {
			sites = append(sites, site)
		}
	}
	slices.Sort(sites)
	return sites, newest, nil
}

// NextEpoch makes the statement of an epoch after all that central and any site have seen, to be signed with the root key. With
// RotateKey it is for a new signing key, which waits here until then.
func (c *Central) NextEpoch(ctx context.Context, r client.EpochRequest) (provisioning.EpochStatement, error) {
	root, err := c.rootKey(ctx)
	if err == nil && root == nil {
		err = provisioning.Errorf(provisioning.CodeConflict, "Make one: branchpoint central root create", "there is no root key yet")
	}
	if err != nil {
		return provisioning.EpochStatement{}, err
	}
	_, seen, err := c.sitesAhead(ctx)
	if err != nil {
		return provisioning.EpochStatement{}, err
	}
	now := c.signer.Load()
	s := provisioning.EpochStatement{Epoch: max(now.epoch, seen) + 1, SnapshotKey: now.public(), CASHA256: c.CASHA256(), IssuedAt: c.cfg.Now().UTC()}
	sealed := []byte{}
	if r.RotateKey {
		seed := make([]byte, ed25519.SeedSize)
		if _, err := io.ReadFull(c.cfg.Rand, seed); err != nil {
			return s, provisioning.Errorf(provisioning.CodeInternal, "", "make a signing key: %w", err)
		}
		if sealed, err = c.cfg.Key.seal(c.cfg.Rand, settingSignNext, seed); err != nil {
			return s, err
		}
		s.SnapshotKey = ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	}
	answering(ctx, func(any) any { return s })
	e := c.entry(ctx, "prepare", auditRootKey, provisioning.Fingerprint(provisioning.SumSHA256(root)), "")
	e.After = signerText(s.Epoch, s.SnapshotKey)
	return s, c.cfg.Store.PutSetting(ctx, settingSignNext, sealed, e)
}

// PutEpoch puts an epoch in force that the root key has signed: the present one, where there was no root key yet, or the one
// that NextEpoch made. Every site gets a new snapshot by it.
func (c *Central) PutEpoch(ctx context.Context, r client.EpochSigned) (client.EpochState, error) {
	c.publishing.Lock()
	err := c.putEpoch(ctx, r)
	c.publishing.Unlock()
	if err != nil {
		return client.EpochState{}, err
	}
	c.publishSoon(ctx)
	return c.Epoch(ctx)
}

// putEpoch is called with c.publishing held: nothing is signed meanwhile.
func (c *Central) putEpoch(ctx context.Context, r client.EpochSigned) error {
	root, err := c.rootKey(ctx)
	if err != nil {
		return err
	}
	first := root == nil
	switch {
	case first && len(r.Root) != ed25519.PublicKeySize:
		return provisioning.Errorf(provisioning.CodeInvalid, "Make one: branchpoint central root create", "there is no root key yet")
	case first:
		root = r.Root
	case len(r.Root) > 0 && !bytes.Equal(root, r.Root):
		return provisioning.Errorf(provisioning.CodeConflict, "Use the root key that was made first: branches take no other.", "there is a root key already")
	}
	s, err := r.Statement.Open(root)
	if err != nil {
		return err
	}
	now := c.signer.Load()
	if done, err := c.inForce(ctx, r.Statement); err != nil || done {
		return err
	}
	next, sealed, err := c.signerFor(ctx, s)
	if err != nil {
		return err
	}
	switch {
	case s.CASHA256 != c.CASHA256():
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the statement is for another CA")
	case first && s.Epoch != now.epoch:
		return provisioning.Errorf(provisioning.CodeConflict, "", "the first statement is for the present epoch %d, not for %d", now.epoch, s.Epoch)
	case !first && s.Epoch <= now.epoch:
		return provisioning.Errorf(provisioning.CodeConflict, "Ask for the next epoch again.", "central is in epoch %d already, and the statement is for %d", now.epoch, s.Epoch)
	}
	settings := map[string][]byte{settingRoot: root, settingEpoch: []byte(strconv.FormatUint(s.Epoch, 10)), settingSignNext: {}}
	if sealed != nil {
		settings[settingSignKey] = sealed
	}
	e := c.entry(ctx, "new epoch", auditRootKey, provisioning.Fingerprint(provisioning.SumSHA256(root)), "")
	if first {
		e.Action = "create"
	}
	e.Before, e.After = signerText(now.epoch, now.public()), signerText(next.epoch, next.public())
	if err := c.cfg.Store.AddEpoch(ctx, s.Epoch, r.Statement, settings, e); err != nil {
		return err
	}
	c.signer.Store(next)
	c.cfg.Log.Warn("an epoch signed by the root key is in force", "epoch", s.Epoch, "rotated", sealed != nil, "by", provisioning.ActorOf(ctx).Account)
	return nil
}

// inForce reports whether a statement is the one in force: whoever did not hear the answer sends it again.
func (c *Central) inForce(ctx context.Context, s provisioning.SignedEpoch) (bool, error) {
	all, err := c.cfg.Store.Epochs(ctx)
	if err != nil || len(all) == 0 {
		return false, err
	}
	last := all[len(all)-1]
	return bytes.Equal(last.Payload, s.Payload) && bytes.Equal(last.Signature, s.Signature), nil
}

// signerFor returns what signs by a statement: with the present key, or with the one that waits, which it returns sealed, too.
func (c *Central) signerFor(ctx context.Context, s *provisioning.EpochStatement) (*signer, []byte, error) {
	now := c.signer.Load()
	if bytes.Equal(s.SnapshotKey, now.public()) {
		return &signer{s.Epoch, now.key}, nil, nil
	}
	unknown := provisioning.Errorf(provisioning.CodeConflict, "Ask for the next epoch again.", "the statement is for a signing key that does not wait here")
	waits, err := c.cfg.Store.Setting(ctx, settingSignNext)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound || err == nil && len(waits) == 0 {
		return nil, nil, unknown
	}
	if err != nil {
		return nil, nil, err
	}
	seed, err := c.cfg.Key.open(settingSignNext, waits)
	if err != nil {
		return nil, nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, nil, unknown
	}
	next := &signer{s.Epoch, ed25519.NewKeyFromSeed(seed)}
	if !bytes.Equal(s.SnapshotKey, next.public()) {
		return nil, nil, unknown
	}
	sealed, err := c.cfg.Key.seal(c.cfg.Rand, settingSignKey, seed)
	return next, sealed, err
}

// signerText is what the audit log says of what signs snapshots.
func signerText(epoch uint64, key ed25519.PublicKey) string {
	return fmt.Sprintf("epoch: %d\nsigning key: %s\n", epoch, provisioning.Fingerprint(provisioning.SumSHA256(key)))
}
