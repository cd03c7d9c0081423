package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
)

const (
	// wakeTries is how often a computer is woken each time that an advertisement becomes due on it: once, and three times more.
	// Nothing acknowledges a magic packet, and one is lost on a switch port that does not forward yet, or on a computer that is
	// just shutting down. Whoever does not start in a quarter of an hour has Wake-on-LAN off, or no power: a person must look.
	wakeTries = 4
	// wakeInterval is how long nothing must be heard of a computer before it is woken again: longer than firmware, boot image
	// and agent take until its run begins. It is also how often those that wait for the wipe cap or for content are looked at.
	wakeInterval = 5 * time.Minute
	// maxWakes bounds the computers of one answer; whoever asks again at once gets the next ones.
	maxWakes = 250
)

// Wake is a computer that is to be woken now.
type Wake struct {
	// Woken is what is to be remembered of it from now on.
	provisioning.Woken
	// MACs are the addresses of its network cards which would get what is required; at least one.
	MACs []provisioning.MAC
}

// Waking is whom to wake now.
type Waking struct {
	// Wakes are the computers, in the order in which to wake them; at most maxWakes.
	Wakes []Wake
	// Forget names records that say nothing any more, in the order of computers and advertisements.
	Forget []provisioning.WakeKey
	// Next is when there may be another answer although nothing changes; zero is never.
	Next time.Time
}

// Wake says which computers are to be woken now: those that have a record, and that would at once be given what an advertisement
// with Wake-on-LAN requires of them, by Answer, without a password. Each is woken once for each time that an advertisement
// becomes due on it (it starts, a window opens, a change or a person's Clear makes it so), and wakeTries times in all as long as it
// has not begun. No more are woken than could begin to erase by the wipe cap now.
//
// woken is what was remembered of earlier answers. Wake is pure, as Decide is.
func (p *Policy) Wake(h History, now time.Time, woken map[provisioning.WakeKey]provisioning.Woken, has Appliance) Waking {
	r := &waking{p: p, h: &h, now: now, has: has, woken: woken}
	if p == nil || p.snapshot == nil {
		return r.out
	}
	r.sortOut()
	switch {
	case len(r.due) == 0, !h.Complete, p.role == nil, p.role.PasswordHash != "", p.snapshot.Site.Spec.DistributionPoint == nil:
	case has.Writable != nil && has.Writable() != nil:
		r.lookAgain(now.Add(wakeInterval))
	default:
		r.choose()
	}
	slices.SortFunc(r.out.Forget, func(a, b provisioning.WakeKey) int {
		return cmp.Or(strings.Compare(a.Computer, b.Computer), strings.Compare(a.Advertisement, b.Advertisement))
	})
	return r.out
}

// choose finds the computers: first those that were woken before, then others, as far as the wipe cap lets.
func (r *waking) choose() {
	p, h := r.p, r.h
	again := r.remembered()
	r.left += p.wipeCap() - min(h.wipes(r.now, p.destructive, func(*provisioning.Run) bool { return false }), p.wipeCap()) + max(h.Approved, 0)
	for _, s := range again {
		r.tryAgain(s)
	}
	for _, d := range r.due {
		r.fresh(d)
	}
}

// waking is one answer while it is made.
type waking struct {
	p      *Policy
	h      *History
	now    time.Time
	has    Appliance
	woken  map[provisioning.WakeKey]provisioning.Woken
	out    Waking
	due    []dueAdvertisement // in force now, in the order of choice
	clears map[string]uint64  // the number of each computer's newest order, made when it is asked for
	left   int                // how many more may be woken for what erases disks
}

// dueAdvertisement is one that wakes computers and is in force.
type dueAdvertisement struct {
	*advertisement
	opened time.Time // see provisioning.Woken.Opened
}

// sleeper is a computer that one of them may be for.
type sleeper struct {
	dueAdvertisement
	computer *provisioning.Computer
	was      provisioning.Woken // Tries is 0 where it has not been woken since it became due
}

// lookAgain notes that there may be another answer at that time; zero is never.
func (r *waking) lookAgain(at time.Time) {
	if !at.IsZero() && (r.out.Next.IsZero() || at.Before(r.out.Next)) {
		r.out.Next = at
	}
}

// sortOut finds the advertisements that wake computers now, when others will, and the records that are of none of them.
func (r *waking) sortOut() {
	wakes := map[string]bool{}
	for i := range r.p.ads {
		a := &r.p.ads[i]
		if !a.required || !a.Spec.WakeOnLAN {
			continue
		}
		q := &question{p: r.p, h: r.h, now: r.now}
		if expires := a.Spec.Expires; !expires.IsZero() && !q.latest().Before(expires.Time) {
			continue
		}
		wakes[a.Name] = true
		r.lookAgain(r.p.opens(a, r.now))
		if q.available(a) && q.inForce(a) {
			r.due = append(r.due, dueAdvertisement{a, r.p.opened(a, r.now)})
		}
	}
	for key := range r.woken {
		if !wakes[key.Advertisement] || r.p.computers[key.Computer] == nil {
			r.out.Forget = append(r.out.Forget, key)
		}
	}
}

// opened is when an advertisement that is in force became so.
func (p *Policy) opened(a *advertisement, now time.Time) time.Time {
	at := a.Spec.Start.Time
	for _, w := range a.Spec.MaintenanceWindows {
		if o := w.Opened(now, p.zone); o.After(at) {
			at = o
		}
	}
	return at.UTC()
}

// opens is when an advertisement will start, or its next maintenance window open; zero is never.
func (p *Policy) opens(a *advertisement, now time.Time) time.Time {
	if a.Spec.Start.After(now) {
		return a.Spec.Start.Time
	}
	var next time.Time
	for _, w := range a.Spec.MaintenanceWindows {
		if p.zone == nil {
			break
		}
		if at := w.Opens(now, p.zone); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// clear is the number of the newest order to clear a computer, 0 where there is none.
func (r *waking) clear(computer string) uint64 {
	if r.clears == nil {
		r.clears = make(map[string]uint64, len(r.p.snapshot.Clears))
		for _, c := range r.p.snapshot.Clears {
			r.clears[c.Computer] = max(r.clears[c.Computer], c.Number)
		}
	}
	return r.clears[computer]
}

// of is what is known of a computer and an advertisement that is due.
func (r *waking) of(d dueAdvertisement, c *provisioning.Computer) sleeper {
	s := sleeper{dueAdvertisement: d, computer: c}
	if w, ok := r.woken[provisioning.WakeKey{Computer: c.Name, Advertisement: d.Name}]; ok && w.Opened.Equal(d.opened) && w.Clear >= r.clear(c.Name) {
		s.was = w
	}
	return s
}

// remembered looks at the computers that were woken since what is due became so. Those on which nothing has begun, and that may
// still start, keep their place in the wipe cap. It returns those that were woken for the last time long enough ago.
func (r *waking) remembered() []sleeper {
	var out []sleeper
	for _, d := range r.due {
		for _, c := range r.p.targets(d.advertisement) {
			s := r.of(d, c)
			if s.was.Tries == 0 || r.question(c).begun(d.advertisement, d.opened) {
				continue
			}
			if since := r.now.Sub(s.was.Last); since >= 0 && since < wakeInterval {
				r.take(s)
				r.lookAgain(s.was.Last.Add(wakeInterval))
			} else {
				out = append(out, s)
			}
		}
	}
	return out
}

// take uses up a place in the wipe cap.
func (r *waking) take(s sleeper) {
	if r.p.destructive(s.Spec.TaskSequence) {
		r.left--
	}
}

// room reports whether one more computer may be woken for an advertisement now.
func (r *waking) room(d dueAdvertisement) bool {
	if len(r.out.Wakes) >= maxWakes {
		r.lookAgain(r.now)
		return false
	}
	if r.left <= 0 && r.p.destructive(d.Spec.TaskSequence) {
		r.lookAgain(r.now.Add(wakeInterval))
		return false
	}
	return true
}

// tryAgain wakes a computer of which nothing was heard once more, as often as that may be. One that would not be given the
// advertisement by now is forgotten: should that change, it has become due anew.
func (r *waking) tryAgain(s sleeper) {
	if s.was.Tries >= wakeTries || !r.room(s.dueAdvertisement) {
		return
	}
	macs, wanted := r.addresses(s)
	switch {
	case !wanted:
		r.out.Forget = append(r.out.Forget, s.was.Key())
	case len(macs) > 0:
		r.wake(s, macs)
	default:
		r.lookAgain(r.now.Add(wakeInterval))
	}
}

// fresh wakes computers on which an advertisement has become due.
func (r *waking) fresh(d dueAdvertisement) {
	if _, missing := r.p.missing(d.Spec.TaskSequence, r.has); missing {
		r.lookAgain(r.now.Add(wakeInterval))
		return
	}
	for _, c := range r.p.targets(d.advertisement) {
		s := r.of(d, c)
		if s.was.Tries > 0 {
			continue
		}
		if !r.room(d) {
			return
		}
		q := r.question(c) // which spares decisions about computers that have nothing to do with it
		if q.begun(d.advertisement, d.opened) || !q.target(d.advertisement) {
			continue
		}
		if macs, _ := r.addresses(s); len(macs) > 0 {
			r.wake(s, macs)
		}
	}
}

func (r *waking) wake(s sleeper, macs []provisioning.MAC) {
	r.take(s)
	r.lookAgain(r.now.Add(wakeInterval))
	r.out.Wakes = append(r.out.Wakes, Wake{MACs: macs, Woken: provisioning.Woken{
		Computer: s.computer.Name, Advertisement: s.Name, Opened: s.opened, Clear: r.clear(s.computer.Name), Tries: s.was.Tries + 1, Last: r.now.UTC(),
	}})
}

// addresses are those of a computer's network cards which would be given the advertisement if they asked now. wanted is true
// where there are some, or where what keeps them from it passes by itself: the wipe cap, and content that is being copied.
func (r *waking) addresses(s sleeper) (macs []provisioning.MAC, wanted bool) {
	for _, m := range s.computer.Spec.MACAddresses {
		if r.p.shared[m] { // whose computer is not known
			continue
		}
		d := r.p.Answer(r.p.likely(s.computer, m, r.h), *r.h, r.now, r.has)
		if d.Advertisement != s.Name || d.Computer != s.computer.Name {
			continue
		}
		wanted = true
		if d.Action == Boot && d.wakes {
			macs = append(macs, m)
		}
	}
	return macs, wanted
}

// question is one about a computer of the snapshot, as far as it can be asked without its firmware.
func (r *waking) question(c *provisioning.Computer) *question {
	q := &question{p: r.p, h: r.h, now: r.now, computer: c, d: Decision{Computer: c.Name}}
	q.recall()
	return q
}

// begun reports whether an advertisement has begun on the computer since it became due, or ran there before and will not run
// again: the computer is on, or a person has had it.
func (q *question) begun(a *advertisement, opened time.Time) bool {
	never := a.Spec.Rerun == "" || a.Spec.Rerun == provisioning.RerunNever
	return slices.ContainsFunc(slices.Concat(q.past, q.abroad), func(r *provisioning.Run) bool {
		return r.Advertisement == a.Name && !r.Cleared && (!r.UpdatedAt.Before(opened) || never && pastOf(r) >= pastInterrupted)
	})
}

// targets are the computers of the snapshot that an advertisement can be for.
func (p *Policy) targets(a *advertisement) []*provisioning.Computer {
	var out []*provisioning.Computer
	for i := range p.snapshot.Computers {
		if c := &p.snapshot.Computers[i]; len(c.Spec.MACAddresses) > 0 && (a.listed == nil || a.listed[c.Name]) {
			out = append(out, c)
		}
	}
	return out
}

// likely is the machine that a computer is when it starts by the network card of that address: what its record does not say is
// taken from the last run that was given to the address. Firmware that nobody has seen is taken for UEFI.
func (p *Policy) likely(c *provisioning.Computer, mac provisioning.MAC, h *History) provisioning.Machine {
	m := provisioning.Machine{MAC: mac, GUID: c.Spec.SMBIOSGUID, Arch: provisioning.ArchUEFIx64}
	hardware, ok := h.Inventories[c.Name]
	if !ok {
		hardware = p.snapshot.Inventories[c.Name]
	}
	if hardware.Firmware == "bios" {
		m.Arch = provisioning.ArchBIOS
	}
	var last *provisioning.Run
	for _, r := range h.runs("", "", mac) {
		if last == nil || newer(r, last) {
			last = r
		}
	}
	if last != nil {
		m.GUID, m.Arch = cmp.Or(m.GUID, last.Machine.GUID), last.Machine.Arch
	}
	return m
}

// explainWake decides whether an advertisement wakes the machine.
func (q *question) explainWake(a *advertisement) {
	say := func(text string) { q.d.because(RuleWake, "advertisement "+a.Name+" "+text) }
	name := q.d.Computer
	switch {
	case q.computer == nil || q.discovered:
		say("wakes only computers with a record at central")
		return
	case q.d.Password:
		say("does not wake " + name + ": nobody would be there to give the password")
		return
	case q.begun(a, q.p.opened(a, q.now)):
		say("does not wake " + name + ": it has begun there since it became due")
		return
	}
	var macs []string
	for _, m := range q.computer.Spec.MACAddresses {
		if !q.p.shared[m] {
			macs = append(macs, string(m))
		}
	}
	if len(macs) == 0 {
		say("cannot wake " + name + ": its record has no MAC address of its own")
		return
	}
	q.d.wakes = true
	say("wakes " + name + " by Wake-on-LAN, once it has become due: " + strings.Join(macs, ", "))
}
