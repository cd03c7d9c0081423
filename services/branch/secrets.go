package branch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"branchpoint/provisioning"
)

// secretLife is how long a boot secret can be exchanged: the longest boot from offer to agent that is reasonable on
// slow hardware, and no more.
const secretLife = 10 * time.Minute

// tokenLife bounds a deployment's length.
const tokenLife = 12 * time.Hour

// maxSecrets bounds the table: more boots than that within secretLife are no branch office.
const maxSecrets = 4096

// secrets remembers boot secrets, by their sum, until they are exchanged or expire. They are not kept over a restart:
// a machine whose secret was lost boots again.
type secrets struct {
	rand   io.Reader
	mu     sync.Mutex
	issued map[secretKey]issued
}

// issued is what a boot secret stands for. A secret that was exchanged stays, bound to the key that did it: the answer
// may have been lost. An agent that was started anew has another key, and its computer boots again.
type issued struct {
	machine provisioning.Machine
	// choice is the advertisement that a person chose at the machine, empty where it boots for what is required.
	choice  string
	expires time.Time
	key     provisioning.SHA256 // empty until exchanged
	// unlocked is true once the site's password was given in this boot, or was not wanted when it could have been given; proved
	// once it was given.
	unlocked, proved bool
}

// boot tells a boot from others: it is made of the secret, and says nothing about it.
func (k secretKey) boot() string { return hex.EncodeToString(k[:16]) }

// secretKey is the sum of a secret.
type secretKey [32]byte

// issue makes a secret for one boot of a machine. Older secrets of the machine stay until they expire: whoever can ask for
// one in the machine's name must not end the boot that is under way.
func (s *secrets) issue(m provisioning.Machine, choice string, now time.Time) (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(s.rand, b[:]); err != nil {
		return "", fmt.Errorf("make boot secret: %w", err)
	}
	secret := base64.RawURLEncoding.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.issued {
		if now.After(v.expires) {
			delete(s.issued, k)
		}
	}
	if len(s.issued) >= maxSecrets {
		return "", provisioning.Errorf(provisioning.CodeUnavailable, "", "%d machines are booting at once", len(s.issued))
	}
	s.issued[sha256.Sum256([]byte(secret))] = issued{machine: m, choice: choice, expires: now.Add(secretLife)}
	return secret, nil
}

// exchange takes a secret in for the agent with the given key, and returns what it was issued for, and the boot's name.
func (s *secrets) exchange(secret string, key provisioning.SHA256, now time.Time) (issued, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := secretKey(sha256.Sum256([]byte(secret)))
	v, ok := s.issued[k]
	if !ok || now.After(v.expires) || (v.key != "" && v.key != key) {
		delete(s.issued, k) // a secret that two keys present has leaked: nobody keeps it
		return issued{}, "", provisioning.Errorf(provisioning.CodeUnauthorized,
			"Start the computer from the network again.", "the boot secret is unknown, expired or used")
	}
	if v.key == "" {
		// From now on it is worth nothing without the key, so it may last as long as what it was exchanged for: an agent
		// that crashes comes again with both.
		v.key, v.expires = key, now.Add(tokenLife)
		s.issued[k] = v
	}
	return v, k.boot(), nil
}

// unlock notes that the site's password was given in a boot, or (proved is false) is not wanted any more: an agent that is started
// anew within it is not asked again.
func (s *secrets) unlock(boot string, proved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.issued {
		if k.boot() == boot {
			v.unlocked, v.proved = true, v.proved || proved
			s.issued[k] = v
		}
	}
}

// claims is what an agent's token says.
type claims struct {
	Machine  provisioning.Machine `json:"machine"`
	Computer string               `json:"computer"`
	// Unknown: Computer is the name that was kept for a machine that no record names.
	Unknown bool `json:"unknown,omitempty"`
	// Choice is the advertisement that a person chose at the machine, empty where it boots for what is required.
	Choice string `json:"choice,omitempty"`
	// Boot tells the boot from others.
	Boot string `json:"boot,omitempty"`
	// Locked: the site's password is wanted, and was not given yet.
	Locked bool `json:"locked,omitempty"`
	// Proved: the site's password was given in this boot.
	Proved bool `json:"proved,omitempty"`
	// TPM is which chip has proved to be in the computer in this boot, empty where none has; see provisioning.ComputerSpec.
	TPM provisioning.SHA256 `json:"tpm,omitempty"`
	// Key is the sum of the agent's public key (SubjectPublicKeyInfo): the token is worth nothing without it.
	Key     provisioning.SHA256 `json:"key"`
	Expires time.Time           `json:"expires"`
}

// sign makes a token of claims.
func (id *identity) sign(c claims) (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "encode token: %w", err)
	}
	body := base64.RawURLEncoding.EncodeToString(b)
	return body + "." + base64.RawURLEncoding.EncodeToString(id.mac(body)), nil
}

func (id *identity) mac(body string) []byte {
	h := hmac.New(sha256.New, id.TokenKey)
	h.Write([]byte("branchpoint agent token v1\n" + body))
	return h.Sum(nil)
}

// open checks a token and the key of whoever presents it.
func (id *identity) open(token string, key provisioning.SHA256, now time.Time) (claims, error) {
	refused := provisioning.Errorf(provisioning.CodeUnauthorized, "Start the computer from the network again.", "the agent's token is not valid")
	if len(token) > 4096 {
		return claims{}, refused
	}
	body, tag, ok := strings.Cut(token, ".")
	if !ok {
		return claims{}, refused
	}
	got, err := base64.RawURLEncoding.DecodeString(tag)
	if err != nil || !hmac.Equal(got, id.mac(body)) {
		return claims{}, refused
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return claims{}, refused
	}
	var c claims
	if err := json.Unmarshal(b, &c); err != nil || c.Key != key || now.After(c.Expires) {
		return claims{}, refused
	}
	return c, nil
}
