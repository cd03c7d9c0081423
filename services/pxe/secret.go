package pxe

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"time"

	"branchpoint/provisioning"

	"github.com/u-root/u-root/pkg/cpio"
)

const (
	// secretTime is how long a boot's own layer may be fetched. GRUB asks for it last, after the big layers.
	secretTime = 5 * time.Minute
	// secretFetches is how often: loaders try again, and some read a file twice.
	secretFetches = 6
	// maxSecrets bounds the table; there is one secret for a machine, as a rule.
	maxSecrets = 1024
	// maxAskers is at how many addresses there are secrets of one machine at once. Across a router nobody knows whose an
	// address is, so whoever asks in a machine's name must not take away what the machine itself was given.
	maxAskers = 4
	// bootConfigPath is where the agent finds the configuration of its boot.
	bootConfigPath = "etc/branchpoint/boot.json"
	// maxBootConfig bounds the configuration of one boot.
	maxBootConfig = 64 << 10
)

// bootLayer is a newc archive with config at bootConfigPath, mode 0600: the layer of one boot of one machine.
func bootLayer(config []byte) ([]byte, error) {
	if len(config) > maxBootConfig {
		return nil, fmt.Errorf("boot configuration has %d octets; at most %d are possible", len(config), maxBootConfig)
	}
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	records := []cpio.Record{
		cpio.Directory("etc", 0o755),
		cpio.Directory("etc/branchpoint", 0o755),
		cpio.StaticFile(bootConfigPath, string(config), 0o600),
	}
	for i := range records {
		records[i].Ino = uint64(i + 1)
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, fmt.Errorf("write boot layer: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("write boot layer: %w", err)
	}
	return b.Bytes(), nil
}

// secret is one boot's layer, for the one address that fetched the configuration that names it.
type secret struct {
	mac     provisioning.MAC
	client  netip.Addr
	layer   []byte
	expires time.Time
	left    int
}

// secrets are the layers that may be fetched now, by nonce. Not safe for concurrent use.
type secrets struct {
	byNonce map[string]*secret
}

func newSecrets() *secrets { return &secrets{map[string]*secret{}} }

// put keeps a layer and returns the nonce to ask for it with. An earlier one of the same machine at the same address is
// forgotten, and the oldest where it has maxAskers. random is a source of cryptographic randomness.
func (s *secrets) put(mac provisioning.MAC, client netip.Addr, layer []byte, random io.Reader, now time.Time) (string, error) {
	var n [16]byte
	if _, err := io.ReadFull(random, n[:]); err != nil {
		return "", fmt.Errorf("make a nonce: %w", err)
	}
	nonce := hex.EncodeToString(n[:])
	s.sweep(now)
	s.makeRoom(mac, client)
	if len(s.byNonce) >= maxSecrets {
		return "", fmt.Errorf("%d machines are loading their boot layer already", maxSecrets)
	}
	s.byNonce[nonce] = &secret{mac, client, layer, now.Add(secretTime), secretFetches}
	return nonce, nil
}

// makeRoom forgets the secret that one more for mac at client takes the place of, if there is one.
func (s *secrets) makeRoom(mac provisioning.MAC, client netip.Addr) {
	var oldest string
	askers := 0
	for nonce, x := range s.byNonce {
		if x.mac != mac {
			continue
		}
		if x.client == client {
			delete(s.byNonce, nonce)
			return
		}
		if askers++; oldest == "" || x.expires.Before(s.byNonce[oldest].expires) {
			oldest = nonce
		}
	}
	if askers >= maxAskers {
		delete(s.byNonce, oldest)
	}
}

// take returns the layer of a nonce to the client it was made for, while it may be fetched. count is false for a
// request that does not carry the layer away.
func (s *secrets) take(nonce string, client netip.Addr, count bool, now time.Time) (layer []byte, mac provisioning.MAC, ok bool) {
	s.sweep(now)
	x, ok := s.byNonce[nonce]
	if !ok || x.client != client || x.left == 0 {
		return nil, "", false
	}
	if count {
		x.left--
	}
	return x.layer, x.mac, true
}

func (s *secrets) sweep(now time.Time) {
	for nonce, x := range s.byNonce {
		if !now.Before(x.expires) {
			delete(s.byNonce, nonce)
		}
	}
}

// defaultRandom is the source of randomness where Deps brings none.
var defaultRandom = rand.Reader
