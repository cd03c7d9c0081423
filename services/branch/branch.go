// Package branch is a branch's side of the central site, and the side of the branch that agents speak with. It enrols
// the branch, holds its signed snapshot, decides what machines get by it, gives agents their assignments, and keeps
// what they report until central has it. It works from what it last had when central is out of reach.
package branch

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/prometheus/client_golang/prometheus"
)

// Store keeps what must survive a restart of the appliance. Every method is one transaction.
type Store interface {
	// LoadIdentity returns nil if there is none.
	LoadIdentity(ctx context.Context) ([]byte, error)
	SaveIdentity(ctx context.Context, b []byte) error
	// LoadSnapshot returns nil if there is none.
	LoadSnapshot(ctx context.Context) (*provisioning.SignedSnapshot, error)
	SaveSnapshot(ctx context.Context, s *provisioning.SignedSnapshot) error
	Runs(ctx context.Context) ([]provisioning.Run, error)
	// Record stores a run and messages about it together. Messages it has are left as they are.
	Record(ctx context.Context, run provisioning.Run, messages []provisioning.StatusMessage) error
	// RunMessages returns a run's messages in the order of their Sequence.
	RunMessages(ctx context.Context, run string) ([]provisioning.StatusMessage, error)
	// Undelivered returns the oldest messages central has not acknowledged.
	Undelivered(ctx context.Context, limit int) ([]provisioning.StatusMessage, error)
	MarkDelivered(ctx context.Context, ids []string) error
	// OutboxLength returns how many messages central has not acknowledged.
	OutboxLength(ctx context.Context) (int, error)
}

// Central is what a branch asks of the central site.
type Central interface {
	// Enrol exchanges an enrolment token and a PEM certificate request for a certificate.
	Enrol(ctx context.Context, token string, csr []byte) (Enrolment, error)
	// Snapshot waits up to wait for a snapshot newer than the given number and returns nil if there is none.
	Snapshot(ctx context.Context, epoch, number uint64, wait time.Duration) (*provisioning.SignedSnapshot, error)
	// Report delivers status messages; what was delivered before does no harm.
	Report(ctx context.Context, messages []provisioning.StatusMessage) error
}

// Enrolment is central's answer to an enrolment.
type Enrolment struct {
	// Certificate is the branch's certificate with its chain, PEM.
	Certificate []byte
	// SnapshotKey verifies snapshots.
	SnapshotKey ed25519.PublicKey
}

// Config is what a Branch is made of.
type Config struct {
	// Site is the site code.
	Site string
	// CentralCA is the sum of central's CA that site.yaml names: who enrolled at another central does not serve for this one.
	CentralCA provisioning.SHA256
	Store     Store
	Central   Central
	// Installed reports whether a content package is on the distribution point, whole and verified.
	Installed func(provisioning.ContentRef) bool
	// Writable says why nothing can be stored now, nil if it can. While it cannot, no machine is started, as its run could
	// not be noted. It must not wait for a disk. It may be nil.
	Writable func() error
	// Contact is told what came of each try to be in step with central: nil, or why it failed. It may be nil.
	Contact func(error)
	// AgentPort is the TCP port of the agents' HTTPS, for the URL told to them.
	AgentPort int
	Log       *slog.Logger
	Now       func() time.Time
	// Rand is the source of secrets, crypto/rand.Reader.
	Rand io.Reader
	// Metrics is where the branch's metrics are registered; nil is nowhere.
	Metrics prometheus.Registerer
}

// Branch is one site's state and decisions. Its methods may be called from many goroutines.
type Branch struct {
	cfg      Config
	identity atomic.Pointer[identity]
	secrets  *secrets
	metrics  *metrics
	state    atomic.Pointer[state]
	reported chan struct{} // has a value when messages wait for delivery

	mu      sync.Mutex    // held by who changes state, and while the store is written, so that it says what state says
	changed chan struct{} // closed and replaced when a new snapshot is in force
}

// state is what decisions are made by. It is never changed, only replaced, so that a decision waits for nobody: not for the
// data disk either.
type state struct {
	snapshot *provisioning.Snapshot // nil if there is none
	policy   *policy.Policy         // the snapshot's
	runs     []provisioning.Run     // in the order in which they began
}

// putInForce makes s the snapshot that everything is decided by. b.mu is held.
func (b *Branch) putInForce(s *provisioning.Snapshot) {
	p, err := policy.Compile(s)
	if err != nil {
		b.cfg.Log.Warn("parts of the snapshot cannot be used, and nothing is answered by them", "error", err)
	}
	b.state.Store(&state{snapshot: s, policy: p, runs: b.state.Load().runs})
	b.metrics.inForce(s)
}

// putRun replaces the run with the same id, or adds a new one. b.mu is held.
func (b *Branch) putRun(run provisioning.Run) {
	next := *b.state.Load()
	next.runs = slices.Clone(next.runs)
	if i := slices.IndexFunc(next.runs, func(r provisioning.Run) bool { return r.ID == run.ID }); i >= 0 {
		next.runs[i] = run
	} else {
		next.runs = append(next.runs, run)
	}
	b.state.Store(&next)
}

// New loads what the store has. It does not speak with central yet.
func New(ctx context.Context, cfg Config) (*Branch, error) {
	if cfg.Writable == nil {
		cfg.Writable = func() error { return nil }
	}
	b := &Branch{cfg: cfg, metrics: newMetrics(), changed: make(chan struct{}), reported: make(chan struct{}, 1)}
	if err := b.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	id, err := loadIdentity(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.identity.Store(id)
	b.secrets = &secrets{rand: cfg.Rand, issued: map[[32]byte]issued{}}
	runs, err := cfg.Store.Runs(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the history of runs: %w", err)
	}
	b.state.Store(&state{runs: runs})
	signed, err := cfg.Store.LoadSnapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the site's snapshot: %w", err)
	}
	if signed != nil && b.identity.Load().Enrolled() {
		// Verified again: the data disk is not the place that trust comes from.
		s, err := signed.Open(b.identity.Load().SnapshotKey)
		if err == nil && s.Site.Name != cfg.Site {
			err = provisioning.Errorf(provisioning.CodeForbidden, "", "it is site %s's", s.Site.Name)
		}
		if err != nil {
			// The branch is silent until central has sent it again; to end here would keep it from asking.
			cfg.Log.Error("the site's stored snapshot is not used", "error", err)
		} else {
			b.putInForce(s)
		}
	}
	b.countOutbox(ctx)
	b.reported <- struct{}{}
	return b, nil
}

// Snapshot returns the snapshot in force, nil if there is none, and a channel that is closed when it is replaced.
func (b *Branch) Snapshot() (*provisioning.Snapshot, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Load().snapshot, b.changed
}

// Decide says what a machine gets. It is silent where the content of what it would get is not all here: a boot that
// cannot end is worse than none. It waits for nobody.
func (b *Branch) Decide(_ context.Context, m provisioning.Machine) policy.Decision {
	return b.decide(b.state.Load(), m)
}

func (b *Branch) decide(s *state, m provisioning.Machine) policy.Decision {
	d := s.policy.Decide(m, policy.History{Runs: s.runs, Complete: true}, b.cfg.Now())
	if why := notServed(&d); why != "" {
		d.Action, d.Choices = policy.Silent, nil
		d.Reasons = append(d.Reasons, policy.Reason{Rule: "role", Text: why})
	}
	if d.Action != policy.Boot {
		return d
	}
	if s.snapshot.Site.Spec.DistributionPoint == nil {
		d.Action = policy.Silent
		d.Reasons = append(d.Reasons, policy.Reason{Rule: "role", Text: "the distribution point of site " + b.cfg.Site + " is off"})
		return d
	}
	if err := b.cfg.Writable(); err != nil {
		d.Action = policy.Silent
		d.Reasons = append(d.Reasons, policy.Reason{Rule: ruleStorage, Text: "the run could not be stored: " + err.Error()})
		return d
	}
	for _, c := range sequenceContent(s.snapshot, d.TaskSequence) {
		if !b.cfg.Installed(c) {
			d.Action = policy.Silent
			d.Reasons = append(d.Reasons, policy.Reason{
				Rule: ruleContent,
				Text: fmt.Sprintf("package %s version %d, which task sequence %s needs, is not here in full yet", c.Package, c.Version, d.TaskSequence),
			})
			return d
		}
	}
	return d
}

// notServed says what of a decision this branch cannot do yet, "" where it can do all.
func notServed(d *policy.Decision) string {
	switch {
	case d.Action == policy.Offer:
		return "this branch cannot offer a choice yet"
	case d.Action == policy.Boot && d.Password:
		return "this branch cannot ask for the password yet"
	case d.Action == policy.Boot && d.Unknown:
		return "this branch cannot deploy unknown computers yet"
	}
	return ""
}

// The rules by which a machine waits: for what is not here yet, and for a data disk that can be written.
const (
	ruleContent = "content"
	ruleStorage = "storage"
)

// notStored is the answer to an agent whose request would change what is stored, and cannot: whatever is wrong with the
// disk, asking again later is right, as nothing of the request has happened.
func notStored(err error) error {
	return provisioning.Errorf(provisioning.CodeUnavailable, "Wait: it goes on by itself once the appliance can store again. Its screen says what is wrong.", "%w", err)
}

// sequenceContent maps the images that a sequence applies to their content.
func sequenceContent(s *provisioning.Snapshot, sequence string) map[string]provisioning.ContentRef {
	out := map[string]provisioning.ContentRef{}
	if ts := s.TaskSequence(sequence); ts != nil {
		for _, st := range ts.Spec.Steps {
			if a := st.ApplyOperatingSystemImage; a != nil {
				if c := s.ImageContent(a.Image); c != nil {
					out[a.Image] = *c
				}
			}
		}
	}
	return out
}

// apply puts a snapshot in force if it is for this site and newer than the one that is.
func (b *Branch) apply(ctx context.Context, signed *provisioning.SignedSnapshot) error {
	s, err := signed.Open(b.identity.Load().SnapshotKey)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.state.Load().snapshot
	switch {
	case s.Site.Name != b.cfg.Site:
		return provisioning.Errorf(provisioning.CodeForbidden, "", "central sent a snapshot of site %s to site %s", s.Site.Name, b.cfg.Site)
	case !s.Newer(before):
		return provisioning.Errorf(provisioning.CodeConflict, "", "central sent snapshot %d.%d, which is not newer than %d.%d",
			s.Epoch, s.Number, before.Epoch, before.Number)
	}
	if err := b.cfg.Store.SaveSnapshot(ctx, signed); err != nil {
		return fmt.Errorf("store snapshot %d.%d: %w", s.Epoch, s.Number, err)
	}
	b.putInForce(s)
	close(b.changed)
	b.changed = make(chan struct{})
	b.cfg.Log.Info("snapshot in force", "epoch", s.Epoch, "number", s.Number, "computers", len(s.Computers), "advertisements", len(s.Advertisements))
	return nil
}

// record stores messages with what they change about their run, then lets the outbox go on.
func (b *Branch) record(ctx context.Context, computer string, messages []provisioning.StatusMessage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	byRun := map[string][]provisioning.StatusMessage{}
	var order []string
	for _, m := range messages {
		if err := m.Validate(); err != nil {
			return err
		}
		if m.Site != b.cfg.Site || m.Computer != computer {
			return provisioning.Errorf(provisioning.CodeForbidden, "", "status message %s is about another computer", m.ID)
		}
		if byRun[m.Run] == nil {
			order = append(order, m.Run)
		}
		byRun[m.Run] = append(byRun[m.Run], m)
	}
	for _, id := range order {
		runs := b.state.Load().runs
		i := slices.IndexFunc(runs, func(r provisioning.Run) bool { return r.ID == id && r.Computer == computer })
		if i < 0 {
			return provisioning.Errorf(provisioning.CodeNotFound, "", "there is no run %s of %s at this branch", id, computer)
		}
		run := runs[i]
		for _, m := range byRun[id] {
			advance(&run, m, b.cfg.Now())
		}
		if err := b.cfg.Store.Record(ctx, run, byRun[id]); err != nil {
			return notStored(fmt.Errorf("store status of run %s: %w", id, err))
		}
		b.metrics.runChanged(runs[i], run)
		b.putRun(run)
	}
	b.countOutbox(ctx)
	select {
	case b.reported <- struct{}{}:
	default:
	}
	return nil
}

// advance is what a status message changes about its run. A final state is never left: messages may arrive twice.
func advance(run *provisioning.Run, m provisioning.StatusMessage, now time.Time) {
	run.UpdatedAt = now.UTC()
	if m.Code == provisioning.StatusStepStarted && destructive(m.Action) {
		if !run.Spent {
			run.SpentAt = now.UTC()
		}
		run.Spent = true
	}
	if run.State != provisioning.RunStarted {
		return
	}
	switch m.Code {
	case provisioning.StatusSequenceDone:
		run.State = provisioning.RunSucceeded
	case provisioning.StatusSequenceFailed:
		run.State = provisioning.RunFailed
	}
}

// destructive reports whether a step of that action overwrites disks.
func destructive(action string) bool {
	for _, s := range []provisioning.Step{
		{PartitionDisk: &provisioning.PartitionDisk{}},
		{ApplyOperatingSystemImage: &provisioning.ApplyOperatingSystemImage{}},
	} {
		if s.Action() == action {
			return s.Destructive()
		}
	}
	return false
}
