// Package client is what the agent knows of its branch: the boot configuration that came with its own boot, the
// exchange of the boot secret for a token, its assignment, and status messages. services/branch is the other end and
// uses the same types.
package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"branchpoint/provisioning"
)

// BootConfigPath is where the boot configuration stands in the agent's RAM file system.
const BootConfigPath = "/etc/branchpoint/boot.json"

// Paths of the agent's interface at the branch, below Boot.Server.
const (
	PathRegister   = "/agent/v1/register"
	PathAssignment = "/agent/v1/assignment"
	PathStatus     = "/agent/v1/status"
	PathPassword   = "/agent/v1/password"
	PathTPM        = "/agent/v1/tpm"
)

// Boot is what the branch tells one machine for one boot, in an initramfs made for it. It holds a secret.
type Boot struct {
	// Server is the branch's URL, https://ADDRESS[:PORT].
	Server string `json:"server"`
	// CertificateSHA256 pins the branch's TLS certificate (SHA-256 of its DER form).
	CertificateSHA256 provisioning.SHA256 `json:"certificateSHA256"`
	// Secret is exchanged, once, for a token. It lives for minutes.
	Secret string `json:"secret"`
	// Texts are what the site shows to the people at its clients.
	Texts provisioning.ShownTexts `json:"texts,omitzero"`
}

// Facts are what an agent tells of its machine when it registers.
type Facts struct {
	MAC          provisioning.MAC  `json:"mac"`
	GUID         provisioning.GUID `json:"guid,omitempty"`
	UEFI         bool              `json:"uefi"`
	SecureBoot   bool              `json:"secureBoot"`
	Manufacturer string            `json:"manufacturer,omitempty"`
	Product      string            `json:"product,omitempty"`
	Serial       string            `json:"serial,omitempty"`
	AssetTag     string            `json:"assetTag,omitempty"`
	MemoryBytes  int64             `json:"memoryBytes,omitempty"`
}

// Registration is the answer to Facts and the secret.
type Registration struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
	// Time is the branch's clock, UTC: a client's own may be years off.
	Time time.Time `json:"time"`
	// PasswordWanted: the token is good for nothing but giving the site's password (Password).
	PasswordWanted bool `json:"passwordWanted,omitempty"`
	// TPMWanted: some of what is to be done needs secrets, which are given once the computer's TPM has proved which computer it is
	// (ProveTPM).
	TPMWanted bool `json:"tpmWanted,omitempty"`
	// WaitSeconds is how long a password would not be looked at, as there were wrong ones.
	WaitSeconds int `json:"waitSeconds,omitempty"`
}

// PasswordRequest is what Password sends.
type PasswordRequest struct {
	Password string `json:"password"`
}

// PasswordAnswer is the answer to a password.
type PasswordAnswer struct {
	// Right: the password was right, and Registration holds another token, which is good for everything.
	Right bool `json:"right"`
	// Checked is false where the password was not looked at, as others were wrong: it may be sent again after WaitSeconds.
	Checked bool `json:"checked"`
	// WaitSeconds is how long the next password will not be looked at.
	WaitSeconds int `json:"waitSeconds,omitempty"`
	// Registration is set where the password was right.
	Registration *Registration `json:"registration,omitempty"`
}

// RegisterRequest is what Register sends.
type RegisterRequest struct {
	Secret string `json:"secret"`
	Facts  Facts  `json:"facts"`
}

// Client speaks with a branch for one machine.
type Client struct {
	boot  Boot
	http  *http.Client
	mu    sync.Mutex
	token string
}

// ReadBoot reads the boot configuration. It fails with CodeNotFound where the boot image was started without one.
func ReadBoot(path string) (Boot, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Boot{}, provisioning.Errorf(provisioning.CodeNotFound, "Start the computer from the network again.",
			"this boot image was started without a configuration of its branch (%s is missing)", path)
	}
	if err != nil {
		return Boot{}, fmt.Errorf("read boot configuration: %w", err)
	}
	var boot Boot
	if err := json.Unmarshal(b, &boot); err != nil {
		return Boot{}, provisioning.Errorf(provisioning.CodeCorrupt, "Start the computer from the network again.", "read %s: %w", path, err)
	}
	if u, err := url.Parse(boot.Server); err != nil || u.Scheme != "https" || u.Host == "" || !boot.CertificateSHA256.Valid() || boot.Secret == "" {
		return Boot{}, provisioning.Errorf(provisioning.CodeCorrupt, "Start the computer from the network again.", "%s is incomplete", path)
	}
	return boot, nil
}

// KeyPath is where the agent keeps its key, in memory: an agent that is started again in the same boot is the same agent
// to the branch.
const KeyPath = "/run/branchpoint/agent.key"

// LoadKey reads the agent's key, or makes one where there is none yet. A file that holds no key is replaced: what was
// bound to the key it held is lost either way.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(b) == ed25519.SeedSize {
		return ed25519.NewKeyFromSeed(b), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the agent's key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the agent's key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("keep the agent's key: %w", err)
	}
	if err := os.WriteFile(path, key.Seed(), 0o600); err != nil {
		return nil, fmt.Errorf("keep the agent's key: %w", err)
	}
	return key, nil
}

// New makes a client with a key, which the token will be bound to. now is for the key's certificate, whose dates nobody
// checks: the key is what counts.
func New(boot Boot, key ed25519.PrivateKey, now time.Time) (*Client, error) {
	cert, err := selfSigned(key, now)
	if err != nil {
		return nil, fmt.Errorf("make the agent's certificate: %w", err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		// The certificate is pinned by its sum, which came with this boot: names and dates would add nothing, and a
		// client's clock may be wrong by years.
		InsecureSkipVerify: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 {
				return errors.New("the branch sent no certificate")
			}
			if sum := sha256.Sum256(raw[0]); hex.EncodeToString(sum[:]) != string(boot.CertificateSHA256) {
				return errors.New("the branch's certificate is not the one this boot was told to expect")
			}
			return nil
		},
	}
	transport := &http.Transport{
		TLSClientConfig:       config,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   16,
		ResponseHeaderTimeout: 60 * time.Second,
		TLSHandshakeTimeout:   30 * time.Second,
		DisableCompression:    true,
	}
	return &Client{boot: boot, http: &http.Client{Transport: transport}}, nil
}

// selfSigned makes a certificate to carry the key.
func selfSigned(key ed25519.PrivateKey, now time.Time) (tls.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "branchpoint agent"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Register exchanges the boot secret for a token bound to this client's key.
func (c *Client) Register(ctx context.Context, f Facts) (Registration, error) {
	var r Registration
	if err := c.call(ctx, http.MethodPost, PathRegister, RegisterRequest{Secret: c.boot.Secret, Facts: f}, &r); err != nil {
		return r, fmt.Errorf("register at the branch: %w", err)
	}
	c.mu.Lock()
	c.token = r.Token
	c.mu.Unlock()
	return r, nil
}

// Password gives the site's password, where Register said that it is wanted. A wrong one is no error.
func (c *Client) Password(ctx context.Context, password string) (PasswordAnswer, error) {
	var a PasswordAnswer
	if err := c.call(ctx, http.MethodPost, PathPassword, PasswordRequest{Password: password}, &a); err != nil {
		return a, fmt.Errorf("give the password to the branch: %w", err)
	}
	if a.Right && a.Registration == nil {
		return a, provisioning.Errorf(provisioning.CodeCorrupt, "", "the branch's answer to the password is incomplete")
	}
	if a.Right {
		c.mu.Lock()
		c.token = a.Registration.Token
		c.mu.Unlock()
	}
	return a, nil
}

// Assignment asks for what to do. It fails with CodeNotFound if there is nothing for this computer any more.
func (c *Client) Assignment(ctx context.Context) (*provisioning.Assignment, error) {
	var a provisioning.Assignment
	if err := c.call(ctx, http.MethodPost, PathAssignment, struct{}{}, &a); err != nil {
		return nil, fmt.Errorf("fetch the task sequence: %w", err)
	}
	return &a, nil
}

// Report delivers status messages. Messages that were delivered before do no harm.
func (c *Client) Report(ctx context.Context, messages []provisioning.StatusMessage) error {
	if err := c.call(ctx, http.MethodPost, PathStatus, messages, nil); err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	return nil
}

// HTTP is the pinned HTTP client, and URL the branch's base URL: services/content/client reads content with them.
func (c *Client) HTTP() *http.Client { return &http.Client{Transport: authorized{c}} }

// URL is the branch's base URL.
func (c *Client) URL() string { return c.boot.Server }

// authorized adds the token to every request.
type authorized struct{ c *Client }

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	a.c.mu.Lock()
	r.Header.Set("Authorization", "Bearer "+a.c.token)
	a.c.mu.Unlock()
	return a.c.http.Transport.RoundTrip(r)
}

// maxAnswer bounds an answer's size in bytes; an assignment is a few kilobytes.
const maxAnswer = 8 << 20

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.boot.Server+path, bytes.NewReader(body))
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.HTTP().Do(req)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Check the cable and that the branch's appliance is running.", "%w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "", "read the branch's answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return provisioning.DecodeProblem(resp.StatusCode, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the branch's answer: %w", err)
	}
	return nil
}
