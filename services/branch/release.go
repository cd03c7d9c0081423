package branch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"filippo.io/age"
)

// maxOpened bounds what a snapshot's secrets are decrypted to, in bytes: no more than the snapshot's own bound.
const maxOpened = 128 << 20

// newSecretsKey makes the key to which central encrypts the site's secrets, an age X25519 identity.
func newSecretsKey() (string, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "make the key of the site's secrets: %w", err)
	}
	return key.String(), nil
}

// withSecretsKey gives a stored identity from before there were secrets its key, and stores that.
func (id *identity) withSecretsKey(ctx context.Context, s Store) (*identity, error) {
	if id.SecretsKey != "" {
		return id, nil
	}
	next := *id
	var err error
	if next.SecretsKey, err = newSecretsKey(); err != nil {
		return nil, err
	}
	return &next, saveIdentity(ctx, s, &next)
}

// secretsKey reads the key. It fails with CodeUnavailable while it is sealed and cannot be opened.
func (id *identity) secretsKey() (*age.X25519Identity, error) {
	if id.locked != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "See the appliance's screen.", "the key of the site's secrets cannot be opened: %w", id.locked)
	}
	key, err := age.ParseX25519Identity(id.SecretsKey)
	if err != nil { // which would say what it is
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "Enrol the appliance with a blank data disk.", "the key of the site's secrets cannot be read")
	}
	return key, nil
}

// Recipient is to whom central encrypts the site's secrets, for central to know; empty where the key cannot be read.
func (b *Branch) Recipient() string { return *b.recipient.Load() }

func (id *identity) recipient() string {
	key, err := id.secretsKey()
	if err != nil {
		return ""
	}
	return key.Recipient().String()
}

// release returns the secrets that an agent's task sequence is run with, by variable, nil where there are none. It fails with
// CodeForbidden where the site's rule does not let the agent have them, and with CodeUnavailable as long as they are not
// encrypted to this appliance. Nothing of them is kept. b.mu is held.
func (b *Branch) release(s *state, c *claims, d *policy.Decision) (map[string]string, error) {
	computer := d.Computer
	if d.Unknown {
		computer = "" // whoever has its name by now
	}
	needed, err := s.policy.Secrets(c.Machine, computer, d.TaskSequence, b.history(s, c.Boot, b.cfg.Now()))
	if err != nil {
		return nil, err
	}
	if len(needed) == 0 {
		return nil, nil
	}
	if s.policy.SecretsAfter() == provisioning.SecretsAfterPassword && !c.Proved {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "Start the computer from the network again.",
			"%s is given secrets after the site's password alone, which was not given in this start", c.Computer)
	}
	if s.policy.SecretsAfter() == provisioning.SecretsAfterTPM && !s.provedTPM(c, computer) {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "Switch its TPM on in the computer's firmware set-up, or correct tpm of its record; then start it again.",
			"%s is given secrets once its TPM has proved which computer it is, and it has not", c.Computer)
	}
	key, err := b.identity.Load().secretsKey()
	if err != nil {
		return nil, err
	}
	if s.snapshot.SecretsFor != key.Recipient().String() {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "Wait: central sends them once it has heard from this appliance.",
			"the site's secrets are not encrypted to this appliance yet")
	}
	all, err := openSecrets(s.snapshot.Secrets, key)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(needed))
	if s.policy.SecretsAfter() == provisioning.SecretsAfterApproval {
		if err := s.spend(d.Computer, c.Boot, b.cfg.Now()); err != nil {
			return nil, err
		}
	}
	for _, n := range needed {
		value, ok := all[n.Place]
		if !ok {
			return nil, provisioning.Errorf(provisioning.CodeInternal, "", "the snapshot lacks secret %s", n.Place)
		}
		out[n.Variable] = value
	}
	b.cfg.Log.Info("secrets handed out", "computer", c.Computer, "mac", c.Machine.MAC, "sequence", d.TaskSequence, "secrets", len(out), "after", s.policy.SecretsAfter())
	return out, nil
}

// secretsTime is how long a computer can be given secrets after a person has approved it.
const secretsTime = time.Hour

// secretsApproval lets one start of a computer be given secrets.
type secretsApproval struct {
	until time.Time
	// boot is the one that has them, nil until one has; it is set under Branch.mu.
	boot atomic.Pointer[string]
}

// lets reports whether it is for a boot at that time; "" is one that is yet to come.
func (a *secretsApproval) lets(boot string, now time.Time) bool {
	of := a.boot.Load()
	return now.Before(a.until) && (of == nil || *of == boot)
}

// ApproveSecrets lets the next start of a computer within an hour be given secrets, and returns when that ends. It is for the
// console: who stands there may. It does not survive a restart of the appliance. It fails with CodeNotFound where no computer of the
// configuration has that name.
func (b *Branch) ApproveSecrets(computer string) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := *b.state.Load()
	i := -1
	if next.snapshot != nil {
		i = slices.IndexFunc(next.snapshot.Computers, func(c provisioning.Computer) bool { return strings.EqualFold(c.Name, computer) })
	}
	if i < 0 {
		return time.Time{}, provisioning.Errorf(provisioning.CodeNotFound, "Type the name that central has for it.", "there is no computer %.64q in the configuration", computer)
	}
	name, now := next.snapshot.Computers[i].Name, b.cfg.Now()
	a := &secretsApproval{until: now.Add(secretsTime)}
	next.released = maps.Clone(next.released)
	if next.released == nil {
		next.released = map[string]*secretsApproval{}
	}
	maps.DeleteFunc(next.released, func(_ string, a *secretsApproval) bool { return !now.Before(a.until) })
	next.released[name] = a
	b.state.Store(&next)
	b.cfg.Log.Warn("secrets for a computer were approved at the console", "computer", name, "until", a.until)
	return a.until, nil
}

// spend uses up a person's approval for a computer in a boot. b.mu is held.
func (s *state) spend(computer, boot string, now time.Time) error {
	a := s.released[computer]
	if a == nil || !a.lets(boot, now) {
		return provisioning.Errorf(provisioning.CodeForbidden, "Type at the appliance's console: approve secrets "+computer+". Then start the computer from the network again.",
			"that %s is given secrets has to be approved for this start", computer)
	}
	a.boot.Store(&boot)
	return nil
}

// openSecrets decrypts a snapshot's secrets, by place.
func openSecrets(encrypted []byte, key age.Identity) (map[string]string, error) {
	bad := func(err error) error {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "open the site's secrets: %w", err)
	}
	r, err := age.Decrypt(bytes.NewReader(encrypted), key)
	if err != nil {
		return nil, bad(err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxOpened+1))
	if err != nil {
		return nil, bad(err)
	}
	if len(plain) > maxOpened {
		return nil, bad(fmt.Errorf("they have more than %d bytes", maxOpened))
	}
	var out map[string]string
	if json.Unmarshal(plain, &out) != nil { // whose error could hold a part of one
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "", "the site's secrets are not what is expected")
	}
	return out, nil
}
