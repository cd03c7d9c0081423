package branch

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// BootConfig makes the boot configuration for one boot of a machine that was decided to boot: a new secret, and how to
// know the branch. Of an offer, d names the advertisement that was chosen: the boot is for that one alone. server is the address at which this machine reaches the branch.
func (b *Branch) BootConfig(_ context.Context, m provisioning.Machine, d policy.Decision, server netip.Addr) ([]byte, error) {
	_, sum, err := b.identity.Load().agentCertificate()
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "read the agents' certificate: %w", err)
	}
	choice := ""
	if d.Action == policy.Offer {
		choice = d.Advertisement
	}
	secret, err := b.secrets.issue(m, choice, b.cfg.Now())
	if err != nil {
		return nil, err
	}
	return json.Marshal(client.Boot{
		Server:            "https://" + net.JoinHostPort(server.String(), strconv.Itoa(b.cfg.AgentPort)),
		CertificateSHA256: sum,
		Secret:            secret,
		Texts:             b.Texts(),
	})
}

// TLS is the configuration of the agents' HTTPS: agents must show a key, which their token is bound to.
func (b *Branch) TLS() (*tls.Config, error) {
	cert, _, err := b.identity.Load().agentCertificate()
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "read the agents' certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}, nil
}

// Bounds of agents' requests in bytes.
const (
	maxRequest = 1 << 20
	// maxRegister is for those who have shown no token yet: a secret, and what the firmware says of its machine.
	maxRegister = 16 << 10
)

// Handler serves the agents' interface (client.Path…).
func (b *Branch) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+client.PathRegister, func(w http.ResponseWriter, r *http.Request) {
		b.answer(w, r, "register", func() (any, error) {
			var req client.RegisterRequest
			if err := decode(w, r, maxRegister, &req); err != nil {
				return nil, err
			}
			return b.register(r, req)
		})
	})
	mux.HandleFunc("POST "+client.PathPassword, func(w http.ResponseWriter, r *http.Request) {
		b.answer(w, r, "password", func() (any, error) {
			c, err := b.authenticate(r)
			if err != nil {
				return nil, err
			}
			var req client.PasswordRequest
			if err := decode(w, r, maxRegister, &req); err != nil {
				// What is wrong with it could be a part of the password.
				return nil, provisioning.Errorf(provisioning.CodeOf(err), "", "the password could not be read")
			}
			return b.password(r.Context(), c, req.Password)
		})
	})
	mux.HandleFunc("POST "+client.PathTPM, func(w http.ResponseWriter, r *http.Request) {
		b.answer(w, r, "tpm", func() (any, error) {
			c, err := b.authenticate(r)
			if err != nil {
				return nil, err
			}
			var req client.TPMRequest
			if err := decode(w, r, maxRegister, &req); err != nil {
				return nil, err
			}
			return b.tpm(c, &req)
		})
	})
	mux.HandleFunc("POST "+client.PathAssignment, func(w http.ResponseWriter, r *http.Request) {
		b.answer(w, r, "assignment", func() (any, error) {
			c, err := b.authenticate(r)
			if err != nil {
				return nil, err
			}
			if err := decode(w, r, maxRequest, &struct{}{}); err != nil {
				return nil, err
			}
			return b.assign(r.Context(), c)
		})
	})
	mux.HandleFunc("POST "+client.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		b.answer(w, r, "status", func() (any, error) {
			c, err := b.authenticate(r)
			if err != nil {
				return nil, err
			}
			if err := needsPassword(c); err != nil {
				return nil, err
			}
			var messages []provisioning.StatusMessage
			if err := decode(w, r, maxRequest, &messages); err != nil {
				return nil, err
			}
			return struct{}{}, b.record(r.Context(), c.Computer, messages)
		})
	})
	return mux
}

// decode reads a request of at most limit bytes. One that did not come whole may be sent again.
func decode(w http.ResponseWriter, r *http.Request, limit int64, in any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the request is larger than %d bytes", limit)
	}
	if err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "", "read request: %w", err)
	}
	if err := json.Unmarshal(body, in); err != nil {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "decode request: %w", err)
	}
	return nil
}

// answer calls f and encodes what it returns. request is its name in the metrics.
func (b *Branch) answer(w http.ResponseWriter, r *http.Request, request string, f func() (any, error)) {
	out, err := f()
	if err != nil {
		d := provisioning.NewProblemDocument(err)
		b.metrics.refusals.WithLabelValues(request, string(d.Code)).Inc()
		b.cfg.Log.Warn("agent's request refused", "path", r.URL.Path, "from", r.RemoteAddr, "status", d.Status, "error", err)
		w.Header().Set("Content-Type", provisioning.ProblemContentType)
		w.WriteHeader(d.Status)
		_ = json.NewEncoder(w).Encode(d) // the agent went away: nothing to do about it
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// peerKey is the sum of the public key that the agent showed in TLS.
func peerKey(r *http.Request) (provisioning.SHA256, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", provisioning.Errorf(provisioning.CodeUnauthorized, "", "the agent showed no key")
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
	return provisioning.SHA256(hex.EncodeToString(sum[:])), nil
}

func (b *Branch) register(r *http.Request, req client.RegisterRequest) (*client.Registration, error) {
	key, err := peerKey(r)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Now()
	x, boot, err := b.secrets.exchange(req.Secret, key, now)
	if err != nil {
		return nil, err
	}
	m := x.machine
	// What the agent found must be what the firmware said: else the secret has reached another machine.
	found, err := provisioning.ParseGUID(string(req.Facts.GUID))
	switch {
	case err != nil || found == "":
	case m.GUID == "":
		m.GUID = found // the firmware did not say it, and it may be that of another computer than the address's
	case found != m.GUID && found != m.GUID.Swapped():
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "the boot secret was issued to %s, not to a machine with GUID %s", m.GUID, found)
	}
	c := claims{Machine: m, Key: key, Choice: x.choice, Boot: boot, Expires: now.Add(tokenLife).UTC()}
	d, err := b.admit(r.Context(), &c, req.Facts)
	if err != nil {
		return nil, err
	}
	c.Locked, c.Proved = d.Password && !x.unlocked, x.proved
	token, err := b.identity.Load().sign(c)
	if err != nil {
		return nil, err
	}
	b.metrics.registrations.Inc()
	b.cfg.Log.Info("agent registered", "computer", c.Computer, "unknown", c.Unknown, "mac", m.MAC, "guid", m.GUID, "arch", m.Arch.String(),
		"chosen", c.Choice, "password_wanted", c.Locked, "secure_boot", req.Facts.SecureBoot, "product", req.Facts.Product)
	out := &client.Registration{Token: token, Expires: c.Expires, Time: now.UTC(), PasswordWanted: c.Locked, TPMWanted: b.wantsTPM(&c)}
	if c.Locked {
		out.WaitSeconds = seconds(b.attempts.wait(c.accounts(), now))
	}
	return out, nil
}

// admit decides about an agent that registers, notes its inventory, and completes the claims with the computer's name.
func (b *Branch) admit(ctx context.Context, c *claims, f client.Facts) (policy.Decision, error) {
	hardware := inventory(f)
	b.mu.Lock()
	s := b.state.Load()
	d := b.decide(s, c.Machine)
	if c.Computer = d.Computer; d.Unknown && d.Action != policy.Silent {
		c.Computer, c.Unknown = b.nameUnknown(s, c.Machine, hardware, b.cfg.Now()), true
	}
	b.mu.Unlock()
	d, err := b.decideFor(s, *c)
	if err != nil {
		return d, err
	}
	if err := b.takeInventory(ctx, c.Computer, !c.Unknown, hardware); err != nil {
		// Nothing depends on it now; a disk that cannot be written is told of elsewhere.
		b.cfg.Log.Warn("the inventory was not stored", "computer", c.Computer, "error", err)
	}
	return d, nil
}

func (b *Branch) authenticate(r *http.Request) (claims, error) {
	key, err := peerKey(r)
	if err != nil {
		return claims{}, err
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return b.identity.Load().open(token, key, b.cfg.Now())
}

// newID makes a random id of 32 hexadecimal digits.
func newID(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "make an id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// ServeAgents serves the agents' HTTPS with handler on the listener until ctx ends. It closes the listener. It speaks HTTP/1.1
// alone, as agents do: with HTTP/2 one connection would carry the requests of hundreds.
func (b *Branch) ServeAgents(ctx context.Context, l net.Listener, handler http.Handler) error {
	defer l.Close()
	config, err := b.TLS()
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: b.bounded(handler), TLSConfig: config, Protocols: new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second, WriteTimeout: answerTime, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withAgentConn,
		ErrorLog: log.New(serverLog{b.cfg.Log}, "", 0),
	}
	srv.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.ServeTLS(limitAgents(l, b.metrics.connectionDropped), "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve agents: %w", err)
	}
	return ctx.Err()
}
