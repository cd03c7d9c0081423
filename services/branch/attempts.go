package branch

import (
	"encoding/json"
	"sync"
	"time"

	"branchpoint/provisioning"
)

// How wrong passwords slow down what comes after them.
const (
	// firstDelay is how long a machine waits after its first wrong password; each further one doubles it, up to lastDelay.
	firstDelay = time.Second
	lastDelay  = 5 * time.Minute
	// forgetAfter is how long after its last wrong password a machine is as good as new.
	forgetAfter = time.Hour
	// A site takes siteBurst wrong passwords at once and one more each siteInterval, however many machines they come from:
	// MAC addresses and keys can be made up.
	siteBurst    = 100
	siteInterval = 20 * time.Second
	// maxAccounts bounds the table: more than the site's budget lets into it within forgetAfter.
	maxAccounts = 1024
)

// attempts counts the wrong passwords of machines. What a machine is counted by are its accounts, several: whoever changes
// one of them keeps the others. A restart of the appliance forgets as little as what a client does.
type attempts struct {
	mu    sync.Mutex
	wrong map[string]attempt // by account
	// spent is how much of the site's budget is used, in wrong passwords, at the time spentAt.
	spent   float64
	spentAt time.Time
}

// attempt is what is known of an account.
type attempt struct {
	Count int `json:"count"`
	// Last is when the last wrong password came, Next when another one may.
	Last time.Time `json:"last"`
	Next time.Time `json:"next"`
}

func newAttempts() *attempts { return &attempts{wrong: map[string]attempt{}} }

// keptAttempts is what the data disk has of attempts, as JSON.
type keptAttempts struct {
	Wrong   map[string]attempt `json:"wrong,omitempty"`
	Spent   float64            `json:"spent,omitempty"`
	SpentAt time.Time          `json:"spentAt,omitzero"`
}

// encode returns what is to be kept.
func (a *attempts) encode() ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, err := json.Marshal(keptAttempts{Wrong: a.wrong, Spent: a.spent, SpentAt: a.spentAt})
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encode the counts of wrong passwords: %w", err)
	}
	return b, nil
}

// load takes in what was kept, before anything is counted; empty is nothing.
func (a *attempts) load(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	var x keptAttempts
	if err := json.Unmarshal(b, &x); err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the counts of wrong passwords: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x.Wrong != nil {
		a.wrong = x.Wrong
	}
	a.spent, a.spentAt = min(max(x.Spent, 0), siteBurst), x.SpentAt
	return nil
}

// settle makes what came later than now come now: the clock has been set back, and nobody is to wait until it is there again.
// a.mu is held.
func (a *attempts) settle(now time.Time) {
	if a.spentAt.After(now) {
		a.spentAt = now
	}
	for k, x := range a.wrong {
		if x.Last.After(now) {
			a.wrong[k] = attempt{Count: x.Count, Last: now, Next: now.Add(delayAfter(x.Count))}
		}
	}
}

// wait is how long the accounts have to wait until a password of theirs is looked at; 0 is not at all.
func (a *attempts) wait(accounts []string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.waitLocked(accounts, now)
}

func (a *attempts) waitLocked(accounts []string, now time.Time) time.Duration {
	a.settle(now)
	var out time.Duration
	for _, k := range accounts {
		if x, ok := a.wrong[k]; ok && now.Before(x.Last.Add(forgetAfter)) {
			out = max(out, min(x.Next.Sub(now), lastDelay))
		}
	}
	if a.used(now) > siteBurst-1 {
		out = max(out, siteInterval)
	}
	return out
}

// used is how much of the site's budget is used now.
func (a *attempts) used(now time.Time) float64 {
	if d := now.Sub(a.spentAt); d > 0 {
		return max(0, a.spent-float64(d)/float64(siteInterval))
	}
	return a.spent
}

// begin takes a password in to be looked at, or says how long it has to wait. It counts as a wrong one until right says
// otherwise, so that many at once are no way around the delay. count is how many wrong ones there are with it.
func (a *attempts) begin(accounts []string, now time.Time) (count int, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if wait := a.waitLocked(accounts, now); wait > 0 {
		return 0, wait
	}
	a.spent, a.spentAt = a.used(now)+1, now
	for _, k := range accounts {
		if x, ok := a.wrong[k]; ok && now.Before(x.Last.Add(forgetAfter)) {
			count = max(count, x.Count)
		}
	}
	count++
	a.sweep(len(accounts), now)
	for _, k := range accounts {
		a.wrong[k] = attempt{Count: count, Last: now, Next: now.Add(delayAfter(count))}
	}
	return count, 0
}

// right says that what begin took in was the password: the accounts are as good as new.
func (a *attempts) right(accounts []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spent = max(0, a.spent-1)
	for _, k := range accounts {
		delete(a.wrong, k)
	}
}

// unknown says that nobody could tell whether what begin took in was the password.
func (a *attempts) unknown(accounts []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spent = max(0, a.spent-1)
	for _, k := range accounts {
		if x := a.wrong[k]; x.Count > 1 {
			x.Count--
			x.Next = x.Last
			a.wrong[k] = x
		} else {
			delete(a.wrong, k)
		}
	}
}

// sweep forgets old accounts, and the oldest where there is no room for so many more.
func (a *attempts) sweep(room int, now time.Time) {
	for k, x := range a.wrong {
		if !now.Before(x.Last.Add(forgetAfter)) {
			delete(a.wrong, k)
		}
	}
	for len(a.wrong) > maxAccounts-room {
		oldest := ""
		for k, x := range a.wrong {
			if oldest == "" || x.Last.Before(a.wrong[oldest].Last) {
				oldest = k
			}
		}
		delete(a.wrong, oldest)
	}
}

// delayAfter is how long is waited after the count-th wrong password in a row.
func delayAfter(count int) time.Duration {
	if count > 16 {
		return lastDelay
	}
	return min(firstDelay<<(count-1), lastDelay)
}
