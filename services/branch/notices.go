package branch

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

const (
	// maxNotices bounds the machines that are remembered because of a conflict, or because they wait; the one that was not
	// seen for longest is forgotten first.
	maxNotices = 256
	// maxUnsaid bounds what waits to be stored for central; what does not fit is told when the machine comes again.
	maxUnsaid = 256
	// repeatNotice is after how long central is told again of a machine that is seen still.
	repeatNotice = 24 * time.Hour
	// noticeTime is how long after a machine was last seen it is shown.
	noticeTime = time.Hour
)

// Notice is a machine that people should know of: it cannot be told from others, or waits for an approval.
type Notice struct {
	Machine provisioning.Machine
	// Computer is its name, empty where it cannot be told.
	Computer string
	// Text is the reason for which it gets nothing.
	Text string
	// Conflict is set where it is one.
	Conflict *provisioning.Conflict
	// First and Last are when it was seen.
	First, Last time.Time
}

// notices remembers them. They are noted where decisions are made, so that noting must wait for nothing but its own lock.
type notices struct {
	mu     sync.Mutex
	byKey  map[string]*noticed
	unsaid []provisioning.SiteReport // without their ids
	// news has a value when there is something unsaid, or something to be shown anew.
	news chan struct{}
}

type noticed struct {
	Notice
	told time.Time
}

func newNotices() *notices {
	return &notices{byKey: map[string]*noticed{}, news: make(chan struct{}, 1)}
}

// note remembers what a decision says that people should know of.
func (n *notices) note(site string, m provisioning.Machine, d *policy.Decision, now time.Time) {
	kind := provisioning.ReportKind("")
	switch {
	case d.Conflict != nil:
		kind = provisioning.ReportConflict
	case d.Rule() == policy.RuleWipeCap && d.Action == policy.Silent:
		kind = provisioning.ReportWipeCap
	default:
		n.forgetWaiting(m)
		return
	}
	key := noticeKey(kind, m)
	if d.Conflict != nil {
		key += " " + d.Conflict.ID()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x, ok := n.byKey[key]
	if !ok || now.Sub(x.Last) >= noticeTime || now.Before(x.Last) {
		first := now
		if ok {
			first = x.First
		} else {
			n.makeRoom()
		}
		told := time.Time{}
		if ok {
			told = x.told
		}
		x = &noticed{Notice{First: first}, told}
		n.byKey[key] = x
		n.wake()
	}
	x.Machine, x.Computer, x.Text, x.Conflict, x.Last = m, d.Computer, d.Why(), d.Conflict, now
	if (x.told.IsZero() || now.Sub(x.told) >= repeatNotice || now.Before(x.told)) && len(n.unsaid) < maxUnsaid {
		x.told = now
		r := provisioning.SiteReport{Site: site, Kind: kind, At: now.UTC(), Machine: m, Conflict: d.Conflict, Text: clipText(d.Why())}
		if kind == provisioning.ReportWipeCap && !d.Unknown {
			r.Computer = d.Computer
		}
		n.unsaid = append(n.unsaid, r)
		n.wake()
	}
}

// NoteConsole lets central know of what was done at a console of the appliance. It waits for nothing: Watch stores it, as soon
// as that can be.
func (b *Branch) NoteConsole(text string) {
	b.notices.say(provisioning.SiteReport{
		Site: b.cfg.Site, Kind: provisioning.ReportConsoleShell, At: b.cfg.Now().UTC(), Text: clipText(text),
	})
}

// say keeps a report for Watch, where there is room.
func (n *notices) say(r provisioning.SiteReport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.unsaid) < maxUnsaid {
		n.unsaid = append(n.unsaid, r)
	}
	n.wake()
}

func noticeKey(kind provisioning.ReportKind, m provisioning.Machine) string {
	return string(kind) + " " + string(m.MAC) + " " + string(m.GUID)
}

// forgetWaiting forgets that a machine waits for an approval: it does no more.
func (n *notices) forgetWaiting(m provisioning.Machine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.byKey) == 0 {
		return
	}
	key := noticeKey(provisioning.ReportWipeCap, m)
	if _, ok := n.byKey[key]; ok {
		delete(n.byKey, key)
		n.wake()
	}
}

// makeRoom forgets the machine that was not seen for longest, where there are too many.
func (n *notices) makeRoom() {
	if len(n.byKey) < maxNotices {
		return
	}
	var oldest string
	for k, x := range n.byKey {
		if oldest == "" || x.Last.Before(n.byKey[oldest].Last) {
			oldest = k
		}
	}
	delete(n.byKey, oldest)
}

func (n *notices) wake() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// take returns what is to be stored for central.
func (n *notices) take() []provisioning.SiteReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.unsaid
	n.unsaid = nil
	return out
}

// putBack takes back what could not be stored.
func (n *notices) putBack(reports []provisioning.SiteReport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unsaid = append(reports, n.unsaid...)
	n.unsaid = n.unsaid[:min(len(n.unsaid), maxUnsaid)]
}

// recheck forgets the machines for which decide says that there is nothing to be known any more.
func (n *notices) recheck(decide func(provisioning.Machine) policy.Decision) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, x := range n.byKey {
		d := decide(x.Machine)
		if x.Conflict != nil && (d.Conflict == nil || d.Conflict.ID() != x.Conflict.ID()) || x.Conflict == nil && d.Rule() != policy.RuleWipeCap {
			delete(n.byKey, k)
		}
	}
	n.wake()
}

// Notices returns the machines that were seen within the last hour and that people should know of, the last seen first: those
// that cannot be told from others, and those that wait for an approval.
func (b *Branch) Notices() (conflicts, waiting []Notice) {
	now := b.cfg.Now()
	b.notices.mu.Lock()
	defer b.notices.mu.Unlock()
	for _, x := range b.notices.byKey {
		if now.Sub(x.Last) >= noticeTime {
			continue
		}
		if x.Conflict != nil {
			conflicts = append(conflicts, x.Notice)
		} else {
			waiting = append(waiting, x.Notice)
		}
	}
	for _, list := range [][]Notice{conflicts, waiting} {
		slices.SortFunc(list, func(a, b Notice) int {
			return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Machine.MAC, b.Machine.MAC))
		})
	}
	return conflicts, waiting
}

// noticeCheck is how often notices that have become old are taken from the screen.
const noticeCheck = time.Minute

// Watch stores for central what decisions have shown that people should know of, and calls show whenever Notices may have
// another answer, until ctx ends.
func (b *Branch) Watch(ctx context.Context, show func()) error {
	t := time.NewTicker(noticeCheck)
	defer t.Stop()
	for {
		show()
		if reports := b.notices.take(); len(reports) > 0 {
			if err := b.report(ctx, reports); err != nil {
				b.notices.putBack(reports)
				b.cfg.Log.Warn("what central should know of machines waits to be stored", "error", err)
			}
		}
		select {
		case <-b.notices.news:
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// report stores reports for central; ids are made here.
func (b *Branch) report(ctx context.Context, reports []provisioning.SiteReport) error {
	return b.commitReports(ctx, provisioning.BranchChange{Reports: reports})
}

// commitReports stores a change with its reports for central, whose ids are made here.
func (b *Branch) commitReports(ctx context.Context, change provisioning.BranchChange) error {
	reports := change.Reports
	for i := range reports {
		if reports[i].ID != "" {
			continue
		}
		id, err := newID(b.cfg.Rand)
		if err != nil {
			return err
		}
		reports[i].ID = id
	}
	if err := b.cfg.Store.Commit(ctx, change); err != nil {
		return err
	}
	b.wakeReports()
	return nil
}

// wakeReports lets the reports go on to central.
func (b *Branch) wakeReports() {
	select {
	case b.reportsWait <- struct{}{}:
	default:
	}
}

// clipText bounds a text for a report.
func clipText(s string) string {
	const most = 1000
	if len(s) > most {
		return s[:most]
	}
	return s
}
