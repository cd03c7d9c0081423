package branch

import (
	"context"
	"fmt"
	"math"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch/client"
)

// maxPasswordQueue is how many agents may wait while the password of another one is looked at: that takes 64 MiB and a tenth
// of a second.
const maxPasswordQueue = 32

// queue lets one at a time through, and a bounded number wait.
type queue struct{ waiting, turn chan struct{} }

func newQueue(size int) *queue { return &queue{make(chan struct{}, size), make(chan struct{}, 1)} }

// enter waits for the turn; leave must be called after it. It fails with CodeUnavailable where too many wait already.
func (q *queue) enter(ctx context.Context) (leave func(), err error) {
	select {
	case q.waiting <- struct{}{}:
	default:
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "many passwords are being looked at")
	}
	select {
	case q.turn <- struct{}{}:
		return func() { <-q.turn; <-q.waiting }, nil
	case <-ctx.Done():
		<-q.waiting
		return nil, ctx.Err()
	}
}

// accounts are what the wrong passwords of an agent are counted by.
func (c *claims) accounts() []string {
	out := []string{"mac " + string(c.Machine.MAC), "key " + string(c.Key)}
	if c.Machine.GUID != "" {
		out = append(out, "guid "+string(c.Machine.GUID))
	}
	return out
}

// seconds rounds up.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// needsPassword refuses what an agent may do only after the site's password.
func needsPassword(c claims) error {
	if c.Locked {
		return provisioning.Errorf(provisioning.CodeForbidden, "Start the computer from the network again.", "the site's password has not been given on this computer")
	}
	return nil
}

// password looks at the site's password as it was given at a client. What was given, and how long it is, stands nowhere.
func (b *Branch) password(ctx context.Context, c claims, given string) (*client.PasswordAnswer, error) {
	s := b.state.Load()
	d, err := b.decideFor(s, c)
	if err != nil {
		return nil, err
	}
	if !d.Password {
		return b.unlock(c, false)
	}
	leave, err := b.checks.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	count, wait := b.attempts.begin(c.accounts(), b.cfg.Now())
	if wait > 0 {
		b.metrics.passwords.WithLabelValues(passwordTooEarly).Inc()
		return &client.PasswordAnswer{WaitSeconds: seconds(wait)}, nil
	}
	right, err := password.Verify(s.snapshot.Site.Spec.PXE.PasswordHash, given)
	if err != nil {
		b.attempts.unknown(c.accounts())
		// What is wrong is the configuration: the agent waits until it is right.
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "", "the site's password cannot be checked: %w", err)
	}
	if right {
		b.attempts.right(c.accounts())
		b.keepAttempts(ctx)
		b.metrics.passwords.WithLabelValues(passwordRight).Inc()
		b.cfg.Log.Info("password given", "mac", c.Machine.MAC, "computer", c.Computer)
		return b.unlock(c, true)
	}
	b.metrics.passwords.WithLabelValues(passwordWrong).Inc()
	b.cfg.Log.Warn("wrong password", "mac", c.Machine.MAC, "guid", c.Machine.GUID, "computer", c.Computer, "in_a_row", count)
	b.wrongPassword(ctx, c, count)
	return &client.PasswordAnswer{Checked: true, WaitSeconds: seconds(b.attempts.wait(c.accounts(), b.cfg.Now()))}, nil
}

// keepAttempts stores the counts of wrong passwords, with reports. Where that cannot be, they hold until the next restart.
func (b *Branch) keepAttempts(ctx context.Context, reports ...provisioning.SiteReport) {
	kept, err := b.attempts.encode()
	if err == nil {
		// Who hangs up before the answer does not keep it from being counted.
		err = b.commitReports(context.WithoutCancel(ctx), provisioning.BranchChange{PasswordAttempts: kept, Reports: reports})
	}
	if err != nil {
		b.cfg.Log.Warn("the counts of wrong passwords are not stored, nor is central told", "error", err)
	}
}

// wrongPassword stores that there was a wrong password, and tells central. Where that cannot be stored, the log has it.
func (b *Branch) wrongPassword(ctx context.Context, c claims, count int) {
	r := provisioning.SiteReport{
		Site: b.cfg.Site, Kind: provisioning.ReportPasswordRefused, At: b.cfg.Now().UTC(), Machine: c.Machine, Computer: c.Computer,
		Text: fmt.Sprintf("a wrong password was given, %d in a row", count),
	}
	b.keepAttempts(ctx, r)
}

// unlock makes the token of an agent good for everything; for secrets, where the site's password was given (proved).
func (b *Branch) unlock(c claims, proved bool) (*client.PasswordAnswer, error) {
	c.Locked, c.Proved = false, c.Proved || proved
	b.secrets.unlock(c.Boot, proved)
	token, err := b.identity.Load().sign(c)
	if err != nil {
		return nil, err
	}
	return &client.PasswordAnswer{
		Right: true, Checked: true, Registration: &client.Registration{Token: token, Expires: c.Expires, Time: b.cfg.Now().UTC()},
	}, nil
}

// decideFor decides anew about the machine of an agent, and narrows the decision down to what its boot is for.
func (b *Branch) decideFor(s *state, c claims) (policy.Decision, error) {
	d := b.decideIn(s, c.Machine, c.Boot)
	b.notices.note(b.cfg.Site, c.Machine, &d, b.cfg.Now())
	if d.Action == policy.Silent {
		return d, nothing(c.Computer, d)
	}
	d, ok := chosen(d, c.Choice)
	switch {
	case !ok && c.Choice == "":
		return d, provisioning.Errorf(provisioning.CodeNotFound, "", "nothing is required of %s any more", c.Computer)
	case !ok:
		return d, provisioning.Errorf(provisioning.CodeNotFound, "", "advertisement %s, which was chosen, is not to be had by %s any more: %s", c.Choice, c.Computer, d.Why())
	case d.Unknown && !c.Unknown:
		return d, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no record of %s any more", c.Computer)
	case !d.Unknown && d.Computer != c.Computer:
		return d, provisioning.Errorf(provisioning.CodeNotFound, "", "this computer is %s by now, not %s", d.Computer, c.Computer)
	}
	if d.Unknown {
		d.Computer = c.Computer
	}
	return d, nil
}
