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
	"maps"
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
	// Purge takes out of the database's files what was deleted from it or replaced.
	Purge(ctx context.Context) error
	// LoadSnapshot returns nil if there is none.
	LoadSnapshot(ctx context.Context) (*provisioning.SignedSnapshot, error)
	// Records returns what Commit has stored besides.
	Records(ctx context.Context) (provisioning.BranchRecords, error)
	// Commit stores a change, all of it or nothing.
	Commit(ctx context.Context, c provisioning.BranchChange) error
	// RunMessages returns a run's messages in the order of their Sequence.
	RunMessages(ctx context.Context, run string) ([]provisioning.StatusMessage, error)
	// Undelivered returns the oldest messages central has not acknowledged.
	Undelivered(ctx context.Context, limit int) ([]provisioning.StatusMessage, error)
	MarkDelivered(ctx context.Context, ids []string) error
	// OutboxLength returns how many messages central has not acknowledged.
	OutboxLength(ctx context.Context) (int, error)
	// UndeliveredReports returns the oldest reports that DropReports has not taken out.
	UndeliveredReports(ctx context.Context, limit int) ([]provisioning.SiteReport, error)
	DropReports(ctx context.Context, ids []string) error
}

// Central is what a branch asks of the central site.
type Central interface {
	// Enrol exchanges an enrolment token and a PEM certificate request for a certificate.
	Enrol(ctx context.Context, token string, csr []byte) (Enrolment, error)
	// Snapshot waits up to wait for a snapshot newer than the given number and returns nil if there is none.
	Snapshot(ctx context.Context, epoch, number uint64, wait time.Duration) (*provisioning.SignedSnapshot, error)
	// Report delivers status messages; what was delivered before does no harm.
	Report(ctx context.Context, messages []provisioning.StatusMessage) error
	// ReportSite delivers site reports; what was delivered before does no harm.
	ReportSite(ctx context.Context, reports []provisioning.SiteReport) error
	// Epochs says which root key central has, and what it has signed.
	Epochs(ctx context.Context) (provisioning.Epochs, error)
	// Runs are the site's runs, as far as central knows of them.
	Runs(ctx context.Context) ([]provisioning.Run, error)
	// Renew exchanges a PEM certificate request by the site's key for a new certificate.
	Renew(ctx context.Context, csr []byte) (Enrolment, error)
	// TellHost tells what the appliance's own machine is recognised by; to tell it again does no harm.
	TellHost(ctx context.Context, h provisioning.Hardware) error
}

// Enrolment is central's answer to an enrolment.
type Enrolment struct {
	// Certificate is the branch's certificate with its chain, PEM.
	Certificate []byte
	// SnapshotKey verifies snapshots.
	SnapshotKey ed25519.PublicKey
	// Epochs is central's root key, and what it has signed.
	Epochs provisioning.Epochs
}

// Config is what a Branch is made of.
type Config struct {
	// Site is the site code.
	Site string
	// CentralCA is the sum of central's CA that site.yaml names: who enrolled at another central does not serve for this one.
	CentralCA provisioning.SHA256
	// EnrolmentToken is the token with which the branch enrols again where central has revoked its certificate; may be empty.
	EnrolmentToken string
	Store          Store
	Central        Central
	// Installed reports whether a content package is on the distribution point, whole and verified.
	Installed func(provisioning.ContentRef) bool
	// Writable says why nothing can be stored now, nil if it can. While it cannot, no machine is started, as its run could
	// not be noted. It must not wait for a disk. It may be nil.
	Writable func() error
	// Own says what the appliance's own machine is recognised by: it is never a target, here from the start, and at other sites
	// once central knows. It is asked before each contact with central, as network cards can come and go; nil is nothing.
	Own func() provisioning.Hardware
	// Contact is told what came of each try to be in step with central: nil, or why it failed. It may be nil.
	Contact func(error)
	// Sealer seals the branch's private keys; nil is none, and they are stored as they are.
	Sealer Sealer
	// Keys is told how the branch's private keys are kept, whenever that may have changed. It may be nil.
	Keys func(Keys)
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
	cfg         Config
	identity    atomic.Pointer[identity]
	recipient   atomic.Pointer[string] // the identity's: decisions are made by it
	secrets     *secrets
	attempts    *attempts
	checks      *queue // of passwords that are being looked at
	notices     *notices
	wakes       *wakes
	metrics     *metrics
	state       atomic.Pointer[state]
	reported    chan struct{} // has a value when messages wait for delivery
	reportsWait chan struct{} // has a value when site reports wait for delivery

	mu       sync.Mutex             // held by who changes state, and while the store is written, so that it says what state says
	changed  chan struct{}          // closed and replaced when a new snapshot is in force
	reserved map[string]reservation // names kept for unknown computers, in lower case
	compared bool                   // central's history was asked for since the start
	refused  []byte                 // the certificate that central has refused since the start
}

// state is what decisions are made by. It is never changed, only replaced, so that a decision waits for nobody: not for the
// data disk either.
type state struct {
	snapshot *provisioning.Snapshot // nil if there is none
	policy   *policy.Policy         // the snapshot's
	names    map[string]bool        // of the snapshot's computers, in lower case
	// past is the history without Approved. Its runs stand in the order in which they began.
	past       policy.History
	recorded   bool                  // the store says that the history is complete; past.Complete is settled by it
	own        provisioning.Hardware // what the appliance is recognised by itself; past finds it
	allowances []provisioning.Allowance
	obeyed     map[provisioning.SHA256]bool // orders, by their sums
	// released are people's approvals to give computers secrets, by the computer's name.
	released map[string]*secretsApproval
}

// with returns the state with another snapshot.
func (s state) with(snapshot *provisioning.Snapshot) (*state, error) {
	var err error
	s.snapshot, s.names = snapshot, namesOf(snapshot)
	s.policy, err = policy.Compile(snapshot)
	return &s, err
}

// putInForce makes next, which has another snapshot, what everything is decided by. b.mu is held.
func (b *Branch) putInForce(next *state) {
	b.state.Store(next)
	b.metrics.inForce(next.snapshot)
}

// settled returns the state with its history complete only where the store says so, and the keys leave no doubt about it.
func (s state) settled(id *identity) *state {
	s.past.Complete = s.recorded && !id.doubtful()
	return &s
}

// withRun returns the state with one run in place of that with the same id, or with one more.
func (s state) withRun(run provisioning.Run) *state {
	s.past = s.past.With(run)
	return &s
}

// withInventory returns the state with what a computer says of its hardware.
func (s state) withInventory(name string, v provisioning.Inventory) *state {
	s.past.Inventories = maps.Clone(s.past.Inventories)
	if s.past.Inventories == nil {
		s.past.Inventories = map[string]provisioning.Inventory{}
	}
	s.past.Inventories[name] = v
	return &s
}

// withDiscovered returns the state with one more computer that was unknown.
func (s state) withDiscovered(c provisioning.Computer) *state {
	s.past.Discovered = append(slices.Clip(s.past.Discovered), c)
	s.past = s.past.Indexed()
	return &s
}

// withAllowance returns the state with one allowance in place of that with the same id, or with one more.
func (s state) withAllowance(a provisioning.Allowance) *state {
	s.allowances = slices.Clone(s.allowances)
	if i := slices.IndexFunc(s.allowances, func(x provisioning.Allowance) bool { return x.ID == a.ID }); i >= 0 {
		s.allowances[i] = a
	} else {
		s.allowances = append(s.allowances, a)
	}
	return &s
}

// New loads what the store has. It does not speak with central yet.
func New(ctx context.Context, cfg Config) (*Branch, error) {
	if cfg.Writable == nil {
		cfg.Writable = func() error { return nil }
	}
	if cfg.Own == nil {
		cfg.Own = func() provisioning.Hardware { return provisioning.Hardware{} }
	}
	b := &Branch{
		cfg: cfg, metrics: newMetrics(), attempts: newAttempts(), checks: newQueue(maxPasswordQueue), notices: newNotices(),
		changed: make(chan struct{}), reported: make(chan struct{}, 1), reportsWait: make(chan struct{}, 1), reserved: map[string]reservation{},
	}
	if err := b.metrics.register(cfg.Metrics); err != nil {
		return nil, err
	}
	id, err := loadIdentity(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.become(id)
	b.secrets = &secrets{rand: cfg.Rand, issued: map[secretKey]issued{}}
	records, err := cfg.Store.Records(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the branch's records: %w", err)
	}
	b.wakes = newWakes(records.Woken)
	own := cfg.Own()
	first := &state{
		own: own,
		past: policy.History{
			Runs: records.Runs, Discovered: records.Discovered, Inventories: records.Inventories,
			Own: provisioning.NewHosts([]provisioning.Host{{Site: cfg.Site, Hardware: own}}),
		}.Indexed(),
		recorded: records.HistoryComplete, allowances: records.Allowances, obeyed: make(map[provisioning.SHA256]bool, len(records.Obeyed)),
	}
	for _, sum := range records.Obeyed {
		first.obeyed[sum] = true
	}
	if err := b.attempts.load(records.PasswordAttempts); err != nil {
		cfg.Log.Error("the counts of wrong passwords begin anew", "error", err)
	}
	first.policy, _ = policy.Compile(nil) // nothing can be wrong with it
	first = first.settled(id)             // before anything is answered
	b.state.Store(first)
	signed, err := cfg.Store.LoadSnapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the site's snapshot: %w", err)
	}
	if signed != nil && b.identity.Load().Enrolled() {
		// Verified again: the data disk is not the place that trust comes from.
		s, err := b.identity.Load().trust().Open(signed)
		if err == nil && s.Site.Name != cfg.Site {
			err = provisioning.Errorf(provisioning.CodeForbidden, "", "it is site %s's", s.Site.Name)
		}
		if err != nil {
			// The branch is silent until central has sent it again; to end here would keep it from asking.
			cfg.Log.Error("the site's stored snapshot is not used", "error", err)
		} else {
			b.putInForce(b.compiled(first, s))
		}
	}
	if id.doubtful() {
		cfg.Log.Warn("this appliance cannot open the site's private keys: another one may serve the site, so nothing that is required begins")
	}
	b.countOutbox(ctx)
	b.reported <- struct{}{}
	b.reportsWait <- struct{}{}
	return b, nil
}

// compiled is the state with another snapshot; what of it cannot be used is said in the log, and is silent.
func (b *Branch) compiled(s *state, snapshot *provisioning.Snapshot) *state {
	next, err := s.with(snapshot)
	if err != nil {
		b.cfg.Log.Error("a part of the configuration is not used", "epoch", snapshot.Epoch, "number", snapshot.Number, "error", err)
	}
	return next
}

// Snapshot returns the snapshot in force, nil if there is none, and a channel that is closed when it is replaced.
func (b *Branch) Snapshot() (*provisioning.Snapshot, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Load().snapshot, b.changed
}

// Texts are what the site shows now to the people at its clients, by the snapshot in force. It waits for nobody.
func (b *Branch) Texts() provisioning.ShownTexts {
	s := b.state.Load().snapshot
	if s == nil {
		return provisioning.ShownTexts{}
	}
	return s.Site.Spec.Shown()
}

// apply puts a snapshot in force if it is for this site and newer than the one that is, and obeys its orders.
func (b *Branch) apply(ctx context.Context, signed *provisioning.SignedSnapshot) error {
	s, trusting, err := b.openSnapshot(ctx, signed)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	is := b.state.Load()
	before := is.snapshot
	switch {
	case s.Site.Name != b.cfg.Site:
		return provisioning.Errorf(provisioning.CodeForbidden, "", "central sent a snapshot of site %s to site %s", s.Site.Name, b.cfg.Site)
	case !s.Newer(before):
		return provisioning.Errorf(provisioning.CodeConflict, "", "central sent snapshot %d.%d, which is not newer than %d.%d",
			s.Epoch, s.Number, before.Epoch, before.Number)
	}
	next := b.compiled(is, s)
	change, lines, err := b.take(is, next)
	if err != nil {
		return err
	}
	change.Snapshot = signed
	// A central that was restored has lost what it was told since its backup.
	change.Resend = before != nil && before.Epoch != s.Epoch
	if err := b.commitSnapshot(ctx, change, trusting); err != nil {
		return fmt.Errorf("store snapshot %d.%d: %w", s.Epoch, s.Number, err)
	}
	b.putInForce(next)
	close(b.changed)
	b.changed = make(chan struct{})
	b.cfg.Log.Info("snapshot in force", "epoch", s.Epoch, "number", s.Number, "computers", len(s.Computers), "advertisements", len(s.Advertisements))
	for _, l := range lines {
		b.cfg.Log.Warn("an order is obeyed", "order", l)
	}
	if n := len(change.Discovered); n > 0 {
		b.cfg.Log.Warn("central knows computers of this site no more, as a backup of it was restored; they are not taken for unknown", "computers", n)
	}
	if len(change.Reports) > 0 {
		b.wakeReports()
	}
	b.notices.recheck(func(m provisioning.Machine) policy.Decision { return b.decide(next, m) })
	return nil
}

// take makes next, which has another snapshot than the state before, what it is by that snapshot: its orders are obeyed, and
// computers that it knows are discovered ones no more. It returns what of that is to be stored, and lines for the log.
func (b *Branch) take(is, next *state) (provisioning.BranchChange, []string, error) {
	o := obey(next.snapshot, is.past, is.allowances, is.obeyed)
	change := o.change
	next.allowances = o.allowances
	if len(change.Obeyed) > 0 {
		next.obeyed = maps.Clone(is.obeyed)
		for _, sum := range change.Obeyed {
			next.obeyed[sum] = true
		}
	}
	change.Forget = known(is.past.Discovered, next.snapshot)
	change.Discovered = lost(&is.past, is.snapshot, next.snapshot)
	next.past.Runs = o.runs
	next.past.Discovered = slices.DeleteFunc(slices.Clone(is.past.Discovered), func(c provisioning.Computer) bool { return slices.Contains(change.Forget, c.Name) })
	next.past.Discovered = append(next.past.Discovered, change.Discovered...)
	next.past = next.past.Indexed()
	if is.snapshot == nil || is.snapshot.Epoch == next.snapshot.Epoch {
		return change, o.lines, nil
	}
	// A central that was restored has lost what it was told since its backup.
	for i := range next.past.Discovered {
		if !reportable(&next.past.Discovered[i], b.cfg.Site, next.past.Runs) {
			continue
		}
		r, err := b.discoveredReport(next, &next.past.Discovered[i])
		if err != nil {
			return change, nil, err
		}
		change.Reports = append(change.Reports, r)
	}
	return change, o.lines, nil
}

// discoveredReport tells central of a computer that was unknown.
func (b *Branch) discoveredReport(s *state, c *provisioning.Computer) (provisioning.SiteReport, error) {
	id, err := newID(b.cfg.Rand)
	if err != nil {
		return provisioning.SiteReport{}, err
	}
	r := provisioning.SiteReport{ID: id, Site: b.cfg.Site, Kind: provisioning.ReportDiscovered, At: b.cfg.Now().UTC(), Computer: c.Name, Discovered: c}
	if inv, ok := s.past.Inventories[c.Name]; ok {
		r.Inventory = &inv
	}
	return r, nil
}
