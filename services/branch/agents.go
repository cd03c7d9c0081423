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
// know the branch. server is the address at which this machine reaches the branch.
func (b *Branch) BootConfig(_ context.Context, m provisioning.Machine, _ policy.Decision, server netip.Addr) ([]byte, error) {
	_, sum, err := b.identity.Load().agentCertificate()
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "read the agents' certificate: %w", err)
	}
	secret, err := b.secrets.issue(m, b.cfg.Now())
	if err != nil {
		return nil, err
	}
	return json.Marshal(client.Boot{
		Server:            "https://" + net.JoinHostPort(server.String(), strconv.Itoa(b.cfg.AgentPort)),
		CertificateSHA256: sum,
		Secret:            secret,
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
	m, err := b.secrets.exchange(req.Secret, key, now)
	if err != nil {
		return nil, err
	}
	// What the agent found must be what the firmware said: else the secret has reached another machine.
	if req.Facts.GUID != "" && m.GUID != "" && req.Facts.GUID != m.GUID {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "the boot secret was issued to %s, not to a machine with GUID %s", m.GUID, req.Facts.GUID)
	}
	d := b.Decide(r.Context(), m)
	if d.Action != policy.Boot {
		return nil, nothing(string(m.MAC), d)
	}
	expires := now.Add(tokenLife).UTC()
	token, err := b.identity.Load().sign(claims{Machine: m, Computer: d.Computer, Key: key, Expires: expires})
	if err != nil {
		return nil, err
	}
	b.metrics.registrations.Inc()
	b.cfg.Log.Info("agent registered", "computer", d.Computer, "mac", m.MAC, "guid", m.GUID, "arch", m.Arch.String(),
		"secure_boot", req.Facts.SecureBoot, "product", req.Facts.Product)
	return &client.Registration{Token: token, Expires: expires, Time: now.UTC()}, nil
}

func (b *Branch) authenticate(r *http.Request) (claims, error) {
	key, err := peerKey(r)
	if err != nil {
		return claims{}, err
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return b.identity.Load().open(token, key, b.cfg.Now())
}

// AuthorizeContent lets an agent read content: any of the site's, with a valid token.
func (b *Branch) AuthorizeContent(r *http.Request) error {
	_, err := b.authenticate(r)
	return err
}

// assign gives an agent its run: one that was interrupted, one that it had begun and destroyed nothing in, or a new one.
func (b *Branch) assign(ctx context.Context, c claims) (*provisioning.Assignment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now().UTC()
	is := b.state.Load()
	d := b.decide(is, c.Machine)
	if d.Action != policy.Boot || d.Computer != c.Computer {
		return nil, nothing(c.Computer, d)
	}
	computer, sequence := is.snapshot.Computer(d.Computer), is.snapshot.TaskSequence(d.TaskSequence)
	if computer == nil || sequence == nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "the snapshot lacks computer %s or task sequence %s", d.Computer, d.TaskSequence)
	}
	run := is.current(d)
	if run == nil {
		id, err := newID(b.cfg.Rand)
		if err != nil {
			return nil, err
		}
		run = &provisioning.Run{
			ID: id, Computer: d.Computer, Advertisement: d.Advertisement, TaskSequence: d.TaskSequence,
			State: provisioning.RunStarted, Machine: c.Machine, StartedAt: now, UpdatedAt: now,
		}
		if err := b.cfg.Store.Record(ctx, *run, nil); err != nil {
			return nil, notStored(fmt.Errorf("store run: %w", err))
		}
		b.metrics.runs.WithLabelValues(string(run.State)).Inc()
		b.putRun(*run)
	}
	past, err := b.cfg.Store.RunMessages(ctx, run.ID)
	if err != nil {
		return nil, notStored(fmt.Errorf("load status of run %s: %w", run.ID, err))
	}
	next := 1
	for _, m := range past {
		next = max(next, m.Sequence+1)
	}
	return &provisioning.Assignment{
		Run: *run, Site: b.cfg.Site, Computer: *computer, Sequence: *sequence,
		Content: sequenceContent(is.snapshot, sequence.Name), NextStatus: next,
	}, nil
}

// nothing is the answer to a machine that is not to boot (any more). What is still being copied, and a data disk that can be
// written, will be there later, so the agent asks again; everything else is final.
func nothing(name string, d policy.Decision) error {
	switch d.Rule() {
	case ruleStorage:
		return notStored(fmt.Errorf("%s has to wait: %s", name, d.Why()))
	case ruleContent:
		return provisioning.Errorf(provisioning.CodeUnavailable, "Wait until the appliance has it.", "%s has to wait: %s", name, d.Why())
	}
	return provisioning.Errorf(provisioning.CodeNotFound, "", "there is nothing to do for %s any more: %s", name, d.Why())
}

// current returns the run of a decision that is under way, nil if a new one is due.
func (s *state) current(d policy.Decision) *provisioning.Run {
	for i := len(s.runs) - 1; i >= 0; i-- {
		r := s.runs[i]
		if r.Computer == d.Computer && r.Advertisement == d.Advertisement && r.State == provisioning.RunStarted {
			return &r
		}
	}
	return nil
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
