package branch

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// notStored is the answer to an agent whose request would change what is stored, and cannot: whatever is wrong with the
// disk, asking again later is right, as nothing of the request has happened.
func notStored(err error) error {
	return provisioning.Errorf(provisioning.CodeUnavailable, "Wait: it goes on by itself once the appliance can store again. Its screen says what is wrong.", "%w", err)
}

// nothing is the answer to a machine that is not to boot (any more). What is still being copied, a data disk that can be
// written, and what a person has to approve will be there later, so the agent asks again; everything else is final.
func nothing(name string, d policy.Decision) error {
	switch d.Rule() {
	case policy.RuleStorage:
		return notStored(fmt.Errorf("%s has to wait: %s", name, d.Why()))
	case policy.RuleContent:
		return provisioning.Errorf(provisioning.CodeUnavailable, "Wait until the appliance has it.", "%s has to wait: %s", name, d.Why())
	case policy.RuleWipeCap:
		return provisioning.Errorf(provisioning.CodeUnavailable, "Wait, or have it approved: the appliance's screen says how.", "%s has to wait: %s", name, d.Why())
	}
	// What was held back for its secrets alone is what the person before the computer should hear of.
	if i := slices.IndexFunc(d.Reasons, func(r policy.Reason) bool { return r.Rule == policy.RuleSecrets }); i >= 0 && d.Rule() == policy.RuleNothing {
		return provisioning.Errorf(provisioning.CodeForbidden, "Then start the computer from the network again.", "there is nothing to do for %s now: %s", name, d.Reasons[i].Text)
	}
	return provisioning.Errorf(provisioning.CodeNotFound, "", "there is nothing to do for %s any more: %s", name, d.Why())
}

// assign gives an agent its run: one that was interrupted, one that it had begun and destroyed nothing in, or a new one.
func (b *Branch) assign(ctx context.Context, c claims) (*provisioning.Assignment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state.Load()
	if err := s.ended(c); err != nil {
		return nil, err
	}
	d, err := b.decideFor(s, c)
	if err != nil {
		return nil, err
	}
	if d.Password {
		if err := needsPassword(c); err != nil {
			return nil, err
		}
	}
	sequence := s.snapshot.TaskSequence(d.TaskSequence)
	if sequence == nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "the snapshot lacks task sequence %s", d.TaskSequence)
	}
	secrets, err := b.release(s, &c, &d) // before anything is noted: without them the sequence must not begin
	if err != nil {
		return nil, err
	}
	run, err := b.runFor(ctx, s, c, d)
	if err != nil {
		return nil, err
	}
	past, err := b.cfg.Store.RunMessages(ctx, run.ID)
	if err != nil {
		return nil, notStored(fmt.Errorf("load status of run %s: %w", run.ID, err))
	}
	next := 1
	for _, m := range past {
		next = max(next, m.Sequence+1)
	}
	out := &provisioning.Assignment{
		Run: *run, Site: b.cfg.Site, Computer: s.computerOf(&d, c.Machine, b.cfg.Now()), Sequence: *sequence,
		Content: s.snapshot.SequenceContent(sequence.Name), NextStatus: next, Secrets: secrets,
	}
	out.Computer.Spec.Secrets, out.Sequence.Spec.Secrets = nil, nil // of which the agent needs no names
	return out, nil
}

// ended refuses an agent whose boot has had its run: what comes next is for a new start, whatever it is.
func (s *state) ended(c claims) error {
	for i := range s.past.Runs {
		if r := &s.past.Runs[i]; c.Boot != "" && r.Boot == c.Boot && r.State != provisioning.RunStarted {
			return provisioning.Errorf(provisioning.CodeNotFound, "Start the computer again.",
				"there is nothing to do for %s any more: the task sequence of this start has ended (%s)", c.Computer, r.State)
		}
	}
	return nil
}

// runFor is the run of a decision: the one that is under way, or a new one, which is stored. b.mu is held.
func (b *Branch) runFor(ctx context.Context, s *state, c claims, d policy.Decision) (*provisioning.Run, error) {
	now := b.cfg.Now().UTC()
	run := s.current(d, c)
	if run != nil && run.Spent {
		return run, b.goOn(ctx, s, run, c)
	}
	fresh := run == nil
	if fresh {
		if d.Unknown && s.taken(d.Computer, c.Machine) {
			return nil, provisioning.Errorf(provisioning.CodeConflict, "Start the computer from the network again.", "another computer is named %s by now", d.Computer)
		}
		id, err := newID(b.cfg.Rand)
		if err != nil {
			return nil, err
		}
		run = &provisioning.Run{
			ID: id, Computer: d.Computer, Advertisement: d.Advertisement, TaskSequence: d.TaskSequence, State: provisioning.RunStarted, StartedAt: now,
			Unknown: d.Unknown,
		}
	}
	// From now on it counts for the wipe cap anew: it is about to erase now, whenever it began.
	run.Machine, run.Boot, run.UpdatedAt = c.Machine, c.Boot, now
	change := provisioning.BranchChange{}
	next := s
	if d.Approved && run.Allowance == "" && destructive(s.snapshot.TaskSequence(d.TaskSequence)) {
		a, ok := use(s.allowances, s.latest(now))
		if !ok { // the decision was made with it a moment ago
			return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "%s has to wait: the approval beyond the wipe cap has just ended", d.Computer)
		}
		run.Allowance = a.ID
		change.Allowances = []provisioning.Allowance{a}
		next = next.withAllowance(a)
	}
	change.Runs = []provisioning.Run{*run}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return nil, notStored(fmt.Errorf("store run: %w", err))
	}
	if fresh {
		b.metrics.runs.WithLabelValues(string(run.State)).Inc()
	}
	b.state.Store(next.withRun(*run))
	return run, nil
}

// goOn notes in which boot a run goes on that has begun to erase. Nothing that it does is new. b.mu is held.
func (b *Branch) goOn(ctx context.Context, s *state, run *provisioning.Run, c claims) error {
	if run.Boot == c.Boot {
		return nil
	}
	if run.Boot = c.Boot; run.Machine == (provisioning.Machine{}) { // central did not know it
		run.Machine = c.Machine
	}
	if err := b.cfg.Store.Commit(ctx, provisioning.BranchChange{Runs: []provisioning.Run{*run}}); err != nil {
		return notStored(fmt.Errorf("store run: %w", err))
	}
	b.state.Store(s.withRun(*run))
	return nil
}

// current returns the run of a decision that is under way, nil if a new one is due.
func (s *state) current(d policy.Decision, c claims) *provisioning.Run {
	for i := len(s.past.Runs) - 1; i >= 0; i-- {
		r := s.past.Runs[i]
		if d.Resume != "" && r.ID == d.Resume {
			return &r
		}
		if d.Resume != "" || r.Advertisement != d.Advertisement || r.TaskSequence != d.TaskSequence || r.State != provisioning.RunStarted || r.Cleared {
			continue
		}
		mine := r.Computer == d.Computer && (!d.Unknown || sameMachine(r.Machine, c.Machine))
		// One that has begun to erase goes on within its boot, also where decisions do not know the whole history.
		if mine && (!r.Spent || c.Boot != "" && r.Boot == c.Boot) {
			return &r
		}
	}
	return nil
}

// destructive reports whether a sequence erases disks. One that is not there may.
func destructive(ts *provisioning.TaskSequence) bool {
	return ts == nil || slices.ContainsFunc(ts.Spec.Steps, func(s provisioning.Step) bool { return s.Destructive() })
}

// record stores messages with what they change about their run, then lets the outbox go on. A machine that was unknown is
// known from the moment on in which its first disk is erased.
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
		s := b.state.Load()
		i := slices.IndexFunc(s.past.Runs, func(r provisioning.Run) bool { return r.ID == id && r.Computer == computer })
		if i < 0 {
			return provisioning.Errorf(provisioning.CodeNotFound, "", "there is no run %s of %s at this branch", id, computer)
		}
		allowance, err := b.mayErase(s, &s.past.Runs[i], byRun[id])
		if err != nil {
			return err
		}
		if err := b.recordRun(ctx, s, s.past.Runs[i], allowance, byRun[id]); err != nil {
			return notStored(fmt.Errorf("store status of run %s: %w", id, err))
		}
	}
	b.countOutbox(ctx)
	select {
	case b.reported <- struct{}{}:
	default:
	}
	return nil
}

// erases reports whether a message says that a step is about to begin which overwrites disks.
func erases(m *provisioning.StatusMessage) bool {
	return m.Code == provisioning.StatusStepStarted && provisioning.DestructiveAction(m.Action)
}

// forbids are the rules by which nothing may reach a machine, whatever it was given before.
var forbids = map[string]bool{
	policy.RuleRole: true, policy.RuleIgnored: true, policy.RuleIdentity: true, policy.RuleSite: true, policy.RuleInfrastructure: true, policy.RuleUnknown: true,
}

// stopped fails where a run that is about to erase must not any more: its machine may get nothing by now, or its advertisement
// was deleted.
func (b *Branch) stopped(s *state, run *provisioning.Run) error {
	d := b.decide(s, run.Machine)
	why := ""
	switch {
	case run.Machine == provisioning.Machine{}, s.snapshot == nil:
	case d.Action == policy.Silent && forbids[d.Rule()]:
		why = d.Why()
	case !slices.ContainsFunc(s.snapshot.Advertisements, func(a provisioning.Advertisement) bool { return a.Name == run.Advertisement }):
		why = "advertisement " + run.Advertisement + " was deleted"
	}
	if why == "" {
		return nil
	}
	return provisioning.Errorf(provisioning.CodeConflict, "Start the computer again: nothing was erased.", "the disk of %s must not be erased any more: %s", run.Computer, why)
}

// mayErase looks once more where messages say that a run is about to erase, which may have been given to its machine hours
// ago: whether that was stopped, and whether the wipe cap lets it now. The agent waits with the step until it is told that its
// message was stored. What is returned is the approval that the run uses up, nil where it needs none. b.mu is held.
func (b *Branch) mayErase(s *state, run *provisioning.Run, messages []provisioning.StatusMessage) (*provisioning.Allowance, error) {
	if run.Spent || !slices.ContainsFunc(messages, func(m provisioning.StatusMessage) bool { return erases(&m) }) {
		return nil, nil
	}
	if err := b.stopped(s, run); err != nil || run.Allowance != "" {
		return nil, err
	}
	now := b.cfg.Now()
	h := s.history(now)
	why := s.policy.Exhausted(&h, now)
	if why == "" {
		return nil, nil
	}
	if a, ok := use(s.allowances, s.latest(now)); ok {
		return &a, nil
	}
	d := policy.Decision{Action: policy.Silent, Computer: run.Computer, Unknown: run.Unknown, Reasons: []policy.Reason{{Rule: policy.RuleWipeCap, Text: why}}}
	b.notices.note(b.cfg.Site, run.Machine, &d, now)
	return nil, nothing(run.Computer, d)
}

// recordRun stores messages of one run, with the approval that it uses up, nil where it needs none. b.mu is held.
func (b *Branch) recordRun(ctx context.Context, s *state, before provisioning.Run, allowance *provisioning.Allowance, messages []provisioning.StatusMessage) error {
	run := before
	change, next := provisioning.BranchChange{}, s
	if allowance != nil {
		run.Allowance = allowance.ID
		change.Allowances, next = []provisioning.Allowance{*allowance}, s.withAllowance(*allowance)
	}
	for _, m := range messages {
		advance(&run, m, b.cfg.Now())
		if m.Machine = (provisioning.Machine{}); erases(&m) {
			m.Machine = run.Machine // central's history of the run must say of which machine it was
		}
		m.Facts = provisioning.FactsOf(&run) // whatever the agent says of it
		change.Messages = append(change.Messages, m)
	}
	next = next.withRun(run)
	change.Runs = []provisioning.Run{run}
	if run.Spent && !before.Spent {
		if c := s.discover(&run); c != nil {
			next = next.withDiscovered(*c)
			r, err := b.discoveredReport(next, c)
			if err != nil {
				return err
			}
			change.Discovered, change.Reports = []provisioning.Computer{*c}, []provisioning.SiteReport{r}
		}
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return err
	}
	b.metrics.runChanged(before, run)
	b.state.Store(next)
	for _, c := range change.Discovered {
		delete(b.reserved, strings.ToLower(c.Name))
		b.cfg.Log.Info("an unknown computer is known from now on", "computer", c.Name, "mac", run.Machine.MAC, "guid", run.Machine.GUID)
		b.wakeReports()
	}
	return nil
}

// advance is what a status message changes about its run. A final state is never left: messages may arrive twice.
func advance(run *provisioning.Run, m provisioning.StatusMessage, now time.Time) {
	run.UpdatedAt = now.UTC()
	if erases(&m) && !run.Spent {
		run.Spent, run.SpentAt = true, now.UTC()
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
