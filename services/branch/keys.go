package branch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"branchpoint/provisioning"
)

// Sealer seals small secrets to the computer that the branch runs on, as a TPM does.
type Sealer interface {
	// Seal makes of up to 128 bytes what this computer alone can read again. It fails with CodeNotFound where the computer has nothing
	// to seal with.
	Seal(ctx context.Context, secret []byte) ([]byte, error)
	// Unseal gives them back. It fails for good with CodeNotFound where the computer has nothing to seal with, with CodeForbidden where
	// another one has sealed them and with CodeCorrupt where they are damaged; with any other code it may be had another time.
	Unseal(ctx context.Context, sealed []byte) ([]byte, error)
}

// Keys says how the branch's private keys are kept: sealed to the computer (neither error), as they are, or sealed and not to be opened.
type Keys struct {
	// Plain is why they are stored as they are; CodeNotFound where the computer has nothing to seal with.
	Plain error
	// Locked is why they cannot be opened. The branch goes on without central by what it has, and hands out no secrets. Nothing that
	// is required begins, as another appliance may serve the site, or have served it, until they can or a person says so.
	Locked error
}

// doubtful reports whether another appliance may have added to the site's history: without its key the branch cannot be told that
// central has refused it, for however short a time that seems to be, and no person has said otherwise.
func (id *identity) doubtful() bool { return id.locked != nil && !id.HistoryAccepted }

// forGood reports whether a key that cannot be opened cannot be in this computer as it is, however often that is tried.
func forGood(err error) bool {
	return slices.Contains([]provisioning.Code{provisioning.CodeNotFound, provisioning.CodeForbidden, provisioning.CodeCorrupt}, provisioning.CodeOf(err))
}

// sealerPatience is how long a sealer may take: slow TPMs make a key in seconds, and may be busy with testing themselves.
const sealerPatience = 30 * time.Second

// What private keys are for.
const (
	forCentral   = "site-key"
	forEnrolment = "next-site-key"
	forSecrets   = "secrets-key"
)

// sealedKey is a private key as it is stored where it is sealed.
type sealedKey struct {
	// By is the wrapping key (32 octets), as the sealer has sealed it.
	By []byte `json:"by"`
	// Box is the private key under the wrapping key: nonce (12 octets), AES-256-GCM, with site and purpose as additional data.
	Box []byte `json:"box"`
}

// wrapping is a key that private keys are wrapped with, as it is and sealed.
type wrapping struct{ key, sealed []byte }

func (w *wrapping) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(w.key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// bound is what a wrapped key is bound to.
func bound(site, purpose string) []byte {
	return []byte("branchpoint private key v1\n" + site + "\n" + purpose)
}

func (w *wrapping) wrap(site, purpose string, key []byte) (sealedKey, error) {
	aead, err := w.aead()
	if err != nil {
		return sealedKey{}, provisioning.Errorf(provisioning.CodeInternal, "", "wrap the %s: %w", purpose, err)
	}
	return sealedKey{By: w.sealed, Box: aead.Seal(nil, nil, key, bound(site, purpose))}, nil
}

func (w *wrapping) unwrap(site, purpose string, k sealedKey) ([]byte, error) {
	aead, err := w.aead()
	if err == nil {
		var key []byte
		if key, err = aead.Open(nil, nil, k.Box, bound(site, purpose)); err == nil {
			return key, nil
		}
	}
	return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "the stored %s is damaged: %w", purpose, err)
}

// privateKeys are the keys that are sealed, as they are, by what they are for; those that there are none of are missing.
func (id *identity) privateKeys() map[string][]byte {
	keys := map[string][]byte{forCentral: id.SiteKey, forEnrolment: id.NextSiteKey, forSecrets: []byte(id.SecretsKey)}
	maps.DeleteFunc(keys, func(_ string, k []byte) bool { return len(k) == 0 })
	return keys
}

// set takes a private key.
func (id *identity) set(purpose string, key []byte) {
	switch purpose {
	case forCentral:
		id.SiteKey = key
	case forEnrolment:
		id.NextSiteKey = key
	case forSecrets:
		id.SecretsKey = string(key)
	}
}

// sealed is the identity as it is stored: with a wrapping key no private key is in it as it is. Keys that cannot be opened stay.
func (id *identity) sealed() (*identity, error) {
	stored := *id
	stored.Sealed = maps.Clone(id.Sealed)
	for purpose, key := range id.privateKeys() {
		delete(stored.Sealed, purpose)
		if id.wrapping == nil {
			continue
		}
		k, err := id.wrapping.wrap(id.Site, purpose, key)
		if err != nil {
			return nil, err
		}
		if stored.Sealed == nil {
			stored.Sealed = map[string]sealedKey{}
		}
		stored.Sealed[purpose] = k
		stored.set(purpose, nil)
	}
	return &stored, nil
}

// unsealed is the identity with those of its keys opened that can be. Without its site key it is locked.
func (id *identity) unsealed(ctx context.Context, s Sealer) *identity {
	ctx, cancel := context.WithTimeout(ctx, sealerPatience)
	defer cancel()
	next := *id
	next.Sealed, next.locked = maps.Clone(id.Sealed), nil
	type opened struct {
		w   *wrapping
		err error
	}
	wrappings, failed := map[string]opened{}, map[string]error{} // by the sealed wrapping key, by purpose
	for _, purpose := range slices.Sorted(maps.Keys(id.Sealed)) {
		k := id.Sealed[purpose]
		by, asked := wrappings[string(k.By)]
		if !asked {
			by.w, by.err = openWrapping(ctx, s, k.By)
			wrappings[string(k.By)] = by
		}
		err := by.err
		if err == nil {
			var key []byte
			if key, err = by.w.unwrap(id.Site, purpose, k); err == nil {
				next.wrapping, next.plain = by.w, nil
				next.set(purpose, key)
				delete(next.Sealed, purpose)
			}
		}
		failed[purpose] = err
	}
	// What else cannot be opened has another in its place: central encrypts to whatever key it is told, and enrols any.
	if len(next.SiteKey) == 0 {
		next.locked = cmp.Or(failed[forCentral], errNoKey)
	} else {
		next.HistoryAccepted = false
	}
	return &next
}

func openWrapping(ctx context.Context, s Sealer, sealed []byte) (*wrapping, error) {
	if s == nil {
		return nil, errNoSealer
	}
	key, err := s.Unseal(ctx, sealed)
	if err != nil {
		return nil, err
	}
	return &wrapping{key: key, sealed: sealed}, nil
}

// errNoKey is why an identity without a key cannot be used.
var errNoKey error = provisioning.Errorf(provisioning.CodeCorrupt, "", "the site key is missing")

// errNoSealer is why nothing is sealed, or can be opened, where there is nothing to seal with.
var errNoSealer error = provisioning.Errorf(provisioning.CodeNotFound, "", "this computer has no TPM that is used")

// protected is the identity with a new wrapping key, where the sealer can seal one and gives it back; else it says why not.
func (id *identity) protected(ctx context.Context, cfg Config) *identity {
	next := *id
	if cfg.Sealer == nil {
		next.plain = errNoSealer
		return &next
	}
	ctx, cancel := context.WithTimeout(ctx, sealerPatience)
	defer cancel()
	w := &wrapping{key: make([]byte, 32)}
	_, err := io.ReadFull(rand.Reader, w.key)
	if err == nil {
		w.sealed, err = cfg.Sealer.Seal(ctx, w.key)
	}
	var back []byte
	if err == nil { // nothing is trusted to a TPM that does not give it back
		back, err = cfg.Sealer.Unseal(ctx, w.sealed)
	}
	if err == nil && !bytes.Equal(back, w.key) {
		err = provisioning.Errorf(provisioning.CodeCorrupt, "", "the TPM gives back another secret than it was given")
	}
	if next.plain = err; err == nil {
		next.wrapping = w
	}
	return &next
}

// opened is a stored identity with its keys opened and, where they stood there as they are and the computer can seal, sealed.
func (id *identity) opened(ctx context.Context, cfg Config) (*identity, error) {
	plain := len(id.privateKeys()) > 0
	next := id.unsealed(ctx, cfg.Sealer)
	if next.locked != nil && !forGood(next.locked) {
		return next, nil
	}
	if next.wrapping == nil {
		next = next.protected(ctx, cfg)
	}
	seals := plain && next.wrapping != nil
	if seals || next.HistoryAccepted != id.HistoryAccepted {
		next.Remains = next.Remains || seals
		if err := saveIdentity(ctx, cfg.Store, next); err != nil {
			return nil, err
		}
	}
	if seals {
		cfg.Log.Info("the site's private keys are sealed to this computer's TPM from now on")
	}
	if next.locked == nil {
		var err error
		if next, err = next.withSecretsKey(ctx, cfg.Store); err != nil {
			return nil, err
		}
	}
	if !next.Remains || next.wrapping == nil {
		return next, nil
	}
	return next.purged(ctx, cfg)
}

// purged takes what remains of keys as they are out of the store. Where it cannot, that is tried again at the next start.
func (id *identity) purged(ctx context.Context, cfg Config) (*identity, error) {
	if err := cfg.Store.Purge(ctx); err != nil {
		cfg.Log.Warn("private keys may still stand in the database as they are; to take them out is tried again at the next start", "error", err)
		return id, nil
	}
	next := *id
	next.Remains = false
	return &next, saveIdentity(ctx, cfg.Store, &next)
}

// keys says how the private keys are kept.
func (id *identity) keys() Keys {
	k := Keys{Plain: id.plain, Locked: id.locked}
	if id.wrapping == nil && k == (Keys{}) {
		k.Plain = errNoSealer
	}
	return k
}

// become makes an identity the branch's. b.mu is held.
func (b *Branch) become(id *identity) {
	b.identity.Store(id)
	b.recipient.Store(new(id.recipient()))
	if s := b.state.Load(); s != nil {
		b.state.Store(s.settled(id))
	}
	b.metrics.keptAs(id.keys())
	if b.cfg.Keys != nil {
		b.cfg.Keys(id.keys())
	}
}

// reopen says why the branch's keys cannot be opened, nil if they can: where that may change it is tried again.
func (b *Branch) reopen(ctx context.Context) error {
	is := b.identity.Load()
	if is.locked == nil || forGood(is.locked) {
		return is.locked
	}
	next := is.unsealed(ctx, b.cfg.Sealer)
	if next.locked == nil && next.SecretsKey == "" {
		var err error
		if next.SecretsKey, err = newSecretsKey(); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.identity.Load() != is {
		return fmt.Errorf("who the branch is has changed meanwhile: %w", is.locked)
	}
	if is.HistoryAccepted != next.HistoryAccepted { // before it is believed: it is not for another time
		if err := b.storeIdentity(ctx, next, provisioning.BranchChange{}); err != nil {
			return err
		}
	} else {
		b.become(next)
	}
	if next.locked == nil {
		b.cfg.Log.Info("the site's private keys could be opened again")
	}
	return next.locked
}
