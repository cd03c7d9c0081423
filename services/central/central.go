// Package central is the central site: it keeps the configuration, enrols branches, makes each site's signed snapshot,
// and gathers status. Who may ask for what: docs/threat-model.md.
package central

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"branchpoint/provisioning"

	"github.com/prometheus/client_golang/prometheus"
)

// Store keeps what must survive a restart. Every method is one transaction; services/store implements it.
type Store interface {
	// Setting fails with CodeNotFound if the setting was never set.
	Setting(ctx context.Context, name string) ([]byte, error)
	// CreateSettings stores all, or fails with CodeConflict if one of them exists.
	CreateSettings(ctx context.Context, values map[string][]byte) error
	PutSetting(ctx context.Context, name string, value []byte, entries ...provisioning.AuditEntry) error
	// Documents returns the documents in force, by kind and name.
	Documents(ctx context.Context) ([]provisioning.Document, error)
	// UpdateDocuments stores what decide makes of the documents in force as one change, and returns its number; nothing
	// happens between. Where decide returns nothing there is no change.
	UpdateDocuments(ctx context.Context, change provisioning.Change, decide func(stored []provisioning.Document) ([]provisioning.Document, error)) (uint64, error)
	// Changes returns changes with numbers below before (0: all), newest first.
	Changes(ctx context.Context, before uint64, limit int) ([]provisioning.Change, error)
	// Revisions returns a document's revisions after one (0: all), oldest first, and ChangeRevisions those of a change after a
	// document's (the zero Key: all), by kind and name; at most limit.
	Revisions(ctx context.Context, key provisioning.Key, after int64, limit int) ([]provisioning.Revision, error)
	ChangeRevisions(ctx context.Context, change uint64, after provisioning.Key, limit int) ([]provisioning.Revision, error)
	// DocumentsAt returns what was in force after a change; it fails with CodeNotFound if there is no such change.
	DocumentsAt(ctx context.Context, change uint64) ([]provisioning.Document, error)
	// AddOrders numbers and stores orders.
	AddOrders(ctx context.Context, orders []provisioning.Order) ([]provisioning.Order, error)
	Orders(ctx context.Context) ([]provisioning.Order, error)
	DropOrders(ctx context.Context, numbers []uint64) error
	// UnknownReports returns those that TakeReports has not stored, which it does with what they tell of inventories and
	// conflicts.
	UnknownReports(ctx context.Context, site string, reports []provisioning.SiteReport) ([]provisioning.SiteReport, error)
	TakeReports(ctx context.Context, received time.Time, site string, reports []provisioning.SiteReport, entries map[string]provisioning.AuditEntry) error
	// Conflicts are those that ResolveConflict has not taken from the list; it fails with CodeNotFound if there is none.
	Conflicts(ctx context.Context) ([]provisioning.ConflictRecord, error)
	// EachReport calls do with the reports of a site, and of a kind, in the order in which they arrived.
	EachReport(ctx context.Context, site string, kind provisioning.ReportKind, do func(provisioning.SiteReport) error) error
	ResolveConflict(ctx context.Context, site, id string, entries ...provisioning.AuditEntry) error
	Inventories(ctx context.Context) (map[string]provisioning.Inventory, error)
	// PutHost keeps what the machine is recognised by that the appliance of a site with that key runs on, and reports whether that
	// was news; Hosts are those of all sites.
	PutHost(ctx context.Context, site string, key provisioning.SHA256, at time.Time, h provisioning.Hardware) (bool, error)
	Hosts(ctx context.Context) ([]provisioning.ToldHost, error)
	// ForgetHost fails with CodeNotFound where there is no such host.
	ForgetHost(ctx context.Context, site string, key provisioning.SHA256, entry provisioning.AuditEntry) error
	// SiteSnapshot fails with CodeNotFound if the site never had a snapshot.
	SiteSnapshot(ctx context.Context, site string) (*provisioning.SiteSnapshot, error)
	// PublishSnapshots stores what decide makes of what it is given, by the time of which nothing of that has changed. It may
	// call decide more than once.
	PublishSnapshots(ctx context.Context, decide func(provisioning.Publication) ([]provisioning.SiteSnapshot, error)) error
	IdentityStore
	// Once returns the request of an account that was carried out under a key; it fails with CodeNotFound where there is none at
	// now. Whatever changes something keeps the request of its context (provisioning.WithOnce) in its transaction.
	Once(ctx context.Context, account, key string, now time.Time) (*provisioning.Once, error)
	// AppendStatus returns how many messages were new.
	AppendStatus(ctx context.Context, received time.Time, messages []provisioning.StatusMessage) (int, error)
	// NoteRuns keeps what messages say of their runs, for Publication.Runs.
	NoteRuns(ctx context.Context, messages []provisioning.StatusMessage) error
	// Status returns the messages of runs, and the Before of the runs that follow, 0 where there are none.
	Status(ctx context.Context, f provisioning.StatusFilter) ([]provisioning.StatusMessage, uint64, error)
	// EachRun calls do with the record of each run that f chooses, in no order.
	EachRun(ctx context.Context, f provisioning.RunFilter, do func(provisioning.RunRecord) error) error
}

// Content is what central asks of the content store.
type Content interface {
	// Ref returns a version of a package, 0 the newest. It fails with CodeNotFound if there is none.
	Ref(ctx context.Context, pkg string, version int) (provisioning.ContentRef, error)
	// Packages maps each package to its newest version.
	Packages(ctx context.Context) (map[string]int, error)
}

// noContent is a content store without packages.
type noContent struct{}

func (noContent) Ref(_ context.Context, pkg string, _ int) (provisioning.ContentRef, error) {
	return provisioning.ContentRef{}, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no content package %q", pkg)
}

func (noContent) Packages(context.Context) (map[string]int, error) { return nil, nil }

// Config is what a Central is made of.
type Config struct {
	Store Store
	// Content may be nil: then there is no package.
	Content Content
	// ContentRead answers branches, at and below client.PathContentRead; ContentAdmin administrators, at and below
	// client.PathContentAdmin. Both may be nil, and are asked only after the caller has been recognised.
	ContentRead  http.Handler
	ContentAdmin http.Handler
	// Key encrypts private keys in the store. It must stay the same as long as the store does.
	Key Key
	// Names are the host names and addresses that central's certificate carries beside localhost.
	Names []string
	// Own is what central's own machine is recognised by: it is never a target.
	Own provisioning.Hardware
	Log *slog.Logger
	Now func() time.Time
	// Rand is the source of keys and secrets, crypto/rand.Reader.
	Rand io.Reader
	// Metrics is where central's metrics are registered; nil is nowhere. MetricsHandler answers administrators at /metrics;
	// nil is nothing there.
	Metrics        prometheus.Registerer
	MetricsHandler http.Handler
}

// Central is the central site. Its methods may be called from many goroutines.
type Central struct {
	cfg Config
	ca  *authority
	// signer is replaced when an epoch begins, with publishing held.
	signer atomic.Pointer[signer]
	// admin is the sum of the administrator's token.
	admin   provisioning.SHA256
	decoded decodedDocuments
	metrics *metrics
	logins  throttle
	// recipients are those that appliances say anew.
	recipients pace
	// shells are what consoles were used for.
	shells shells
	// hashing is of passwords, at 64 MiB each, and reporting of questions for which whole sites are looked at.
	hashing, reporting turns
	seen               contacts
	// publishing lets one publication after another be made: they would only find out at the end that they disagree.
	publishing sync.Mutex

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when snapshots may have changed
	server  *tls.Certificate
	expires time.Time // when server is replaced

	stop     chan struct{} // closed when long polls are to end
	stopOnce sync.Once
}

// Open loads central's identity from the store, or makes it the first time: CA, snapshot signing key, epoch 1. Snapshots
// are brought up to date, in case the last run ended between an apply and its publication.
func Open(ctx context.Context, cfg Config) (*Central, error) {
	if cfg.Content == nil {
		cfg.Content = noContent{}
	}
	c := &Central{cfg: cfg, metrics: newMetrics(), hashing: newTurns(2, 30), reporting: newTurns(2, 64), changed: make(chan struct{}), stop: make(chan struct{})}
	if err := c.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	if err := c.loadIdentity(ctx); err != nil {
		return nil, err
	}
	if err := c.Publish(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// CA is the CA certificate, PEM.
func (c *Central) CA() []byte { return c.ca.pem() }

// CASHA256 is the sum of the CA certificate (DER), to which first contacts are pinned.
func (c *Central) CASHA256() provisioning.SHA256 { return provisioning.SumSHA256(c.ca.cert.Raw) }

// Limits of the HTTP server, against clients that hold on to connections.
const (
	headerTimeout = 15 * time.Second
	idleTimeout   = 2 * time.Minute
	shutdownTime  = 10 * time.Second
)

// Serve answers on l until ctx ends, then lets requests under way end. It is called once.
func (c *Central) Serve(ctx context.Context, l net.Listener) error {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           c.Handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(c.cfg.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(tls.NewListener(l, c.TLS())) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve central: %w", err)
	case <-ctx.Done():
	}
	c.stopOnce.Do(func() { close(c.stop) })
	stop, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancelStop()
	go func() {
		// Long polls end at once, other requests get half of the time.
		t := time.NewTimer(shutdownTime / 2)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-stop.Done():
		}
	}()
	if err := srv.Shutdown(stop); err != nil {
		return errors.Join(fmt.Errorf("shut central down: %w", err), srv.Close())
	}
	return nil
}

// TLS is the configuration of central's listener: TLS 1.3, sites show a certificate of central's CA, others none.
func (c *Central) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(c.ca.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  pool,
		Time:       c.cfg.Now,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.serverCertificate()
		},
	}
}
