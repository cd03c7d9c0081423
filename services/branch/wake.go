package branch

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// wakeRetry is after how long whom to wake is asked again where it could not be noted.
const wakeRetry = time.Minute

// wakes remembers whom the branch has woken, and for which state of the branch it was last asked whom to wake. Decisions do not
// depend on it.
type wakes struct {
	mu    sync.Mutex // held while the store is written, so that it says what woken says
	woken map[provisioning.WakeKey]provisioning.Woken
	asked *state
	// by is to whom secrets could be opened then: what a key holds back that is sealed wakes nobody.
	by *string
	// at is when it was asked, next when there may be another answer by the same state; zero is never.
	at, next time.Time
}

func newWakes(stored []provisioning.Woken) *wakes {
	w := &wakes{woken: make(map[provisioning.WakeKey]provisioning.Woken, len(stored))}
	for _, x := range stored {
		w.woken[x.Key()] = x
	}
	return w
}

// unchanged reports whether the answer still is that nobody is to be woken.
func (w *wakes) unchanged(s *state, by *string, now time.Time) bool {
	return w.asked == s && w.by == by && !now.Before(w.at) && (w.next.IsZero() || now.Before(w.next))
}

// Wake returns the computers that are to be woken now, by Wake-on-LAN, and has noted that they are: no other call returns them for
// the same reason, also after a restart. As long as nothing has changed it costs next to nothing, so that it can be called every few
// seconds. It fails where that cannot be noted, and nobody is to be woken then.
func (b *Branch) Wake(ctx context.Context) ([]policy.Wake, error) {
	w := b.wakes
	w.mu.Lock()
	defer w.mu.Unlock()
	s, by, now := b.state.Load(), b.recipient.Load(), b.cfg.Now()
	if w.unchanged(s, by, now) {
		return nil, nil
	}
	x := s.policy.Wake(b.history(s, "", now), now, w.woken, policy.Appliance{Installed: b.cfg.Installed, Writable: b.cfg.Writable})
	change := provisioning.BranchChange{ForgetWoken: x.Forget}
	for i := range x.Wakes {
		change.Woken = append(change.Woken, x.Wakes[i].Woken)
	}
	w.asked, w.by, w.at, w.next = s, by, now, now.Add(wakeRetry)
	if len(change.Woken)+len(change.ForgetWoken) > 0 {
		if err := b.cfg.Store.Commit(ctx, change); err != nil {
			return nil, fmt.Errorf("note which computers are woken: %w", err)
		}
	}
	w.next = x.Next
	for _, key := range change.ForgetWoken {
		delete(w.woken, key)
	}
	for _, r := range change.Woken {
		w.woken[r.Key()] = r
	}
	return x.Wakes, nil
}

// Boundaries are the subnets whose clients belong to the site, by the snapshot in force. What cannot be read is left out.
func (b *Branch) Boundaries() []netip.Prefix {
	s := b.state.Load().snapshot
	if s == nil {
		return nil
	}
	var out []netip.Prefix
	for _, text := range s.Site.Spec.Boundaries {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
