package branch

import (
	"context"
	"time"

	"branchpoint/provisioning"
)

// pollWait is how long central holds a long poll, and the upper bound of the pause after a failure.
const pollWait = 50 * time.Second

// reportBatch is how many status messages travel at once.
const reportBatch = 200

// Follow keeps the snapshot in step with central until ctx ends: a long poll that is repeated at once, and with growing
// pauses while central is out of reach.
func (b *Branch) Follow(ctx context.Context) error {
	pause := backoff{}
	for ctx.Err() == nil {
		err := b.reopen(ctx)
		switch {
		case err == nil:
			err = b.poll(ctx)
		case forGood(err):
			err = b.enrolAgain(ctx, err)
		}
		if ctx.Err() != nil {
			break
		}
		if b.cfg.Contact != nil {
			b.cfg.Contact(err)
		}
		if err != nil {
			b.cfg.Log.Warn("cannot follow central; the site goes on with what it has", "error", err)
			pause.wait(ctx)
			continue
		}
		pause.reset()
	}
	return ctx.Err()
}

// poll asks central once what is due, and for a newer snapshot, which is put in force.
func (b *Branch) poll(ctx context.Context) error {
	var epoch, number uint64
	if s, _ := b.Snapshot(); s != nil {
		epoch, number = s.Epoch, s.Number
	}
	b.keepUp(ctx)
	signed, err := b.cfg.Central.Snapshot(ctx, epoch, number, pollWait)
	if err == nil {
		b.metrics.contact(b.cfg.Now())
		if signed != nil {
			err = b.apply(ctx, signed)
		}
	}
	if provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
		return err
	}
	if noted := b.unsettle(ctx); noted != nil {
		b.cfg.Log.Error("central has refused this appliance", "error", noted)
	}
	return b.enrolAgain(ctx, err)
}

// enrolAgain enrols the branch again where central has refused its certificate, or its key is lost, with the token of site.yaml. It
// returns what was refused where that did not help.
func (b *Branch) enrolAgain(ctx context.Context, refused error) error {
	if b.cfg.EnrolmentToken == "" {
		return refused
	}
	if err := b.Enrol(ctx, b.cfg.EnrolmentToken); err != nil {
		if provisioning.CodeOf(err) == provisioning.CodeUnavailable {
			return err // it waits for a person's approval, or central is out of reach
		}
		b.cfg.Log.Warn("cannot enrol again", "error", err)
		return refused
	}
	return nil
}

// Deliver sends queued status messages to central until ctx ends. A message leaves the queue when central has
// acknowledged it; one that arrives twice counts once there.
func (b *Branch) Deliver(ctx context.Context) error {
	pause := backoff{}
	for {
		messages, err := b.cfg.Store.Undelivered(ctx, reportBatch)
		if err == nil && len(messages) == 0 {
			select {
			case <-b.reported:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err == nil {
			err = b.cfg.Central.Report(ctx, messages)
		}
		if err == nil {
			b.metrics.contact(b.cfg.Now())
			err = b.cfg.Store.MarkDelivered(ctx, ids(messages))
			b.countOutbox(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b.cfg.Log.Warn("status messages wait for central", "error", err)
			pause.wait(ctx)
			continue
		}
		pause.reset()
	}
}

func ids(messages []provisioning.StatusMessage) []string {
	out := make([]string, len(messages))
	for i := range messages {
		out[i] = messages[i].ID
	}
	return out
}

// backoff waits longer after each failure in a row: 1 s to pollWait, doubling.
type backoff struct{ next time.Duration }

func (p *backoff) reset() { p.next = 0 }

func (p *backoff) wait(ctx context.Context) {
	p.next = min(max(p.next*2, time.Second), pollWait)
	t := time.NewTimer(p.next)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
