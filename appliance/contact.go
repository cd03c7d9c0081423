package appliance

import (
	"context"
	"fmt"
	"sync"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
)

// centralPatience is how long central may be out of reach before the screen says so: three long polls.
const centralPatience = 150 * time.Second

// contact is how a site stands with central. Its zero value has never heard of it.
type contact struct {
	// last is when central last answered, or when the first try began.
	last time.Time
	// lost is why it does not, nil while it does or has not done so for less than centralPatience.
	lost error
}

// note takes what came of one try.
func (c *contact) note(now time.Time, err error) {
	switch {
	case err == nil:
		*c = contact{last: now}
	case now.Sub(c.last) < centralPatience:
	case c.lost == nil || provisioning.CodeOf(c.lost) != provisioning.CodeOf(err): // others differ in port numbers alone
		c.lost = err
	}
}

// centralItem says how a site stands with central: in step, or without it, where deployments go on all the same.
func centralItem(address, site string, snapshot *provisioning.Snapshot, c contact) screen.Item {
	item := screen.Item{State: screen.OK, Text: "enrolled at " + address + " as site " + site}
	if snapshot != nil {
		item.Text = fmt.Sprintf("%s, configuration %d.%d of %s: %s, %s",
			address, snapshot.Epoch, snapshot.Number, snapshot.IssuedAt.UTC().Format(itemTime),
			plural(len(snapshot.Computers), "computer"), plural(len(snapshot.Advertisements), "advertisement"))
	}
	if c.lost == nil {
		return item
	}
	item.State = screen.Problem
	item.Text += fmt.Sprintf("\nnot in step with central since %s: %v", c.last.UTC().Format(itemTime), c.lost)
	if snapshot != nil {
		item.Text += "\nDeployments go on with this configuration and the content that is here; what they report is kept for central."
	}
	item.Next = "Check the line to central, and that it runs. It goes on by itself."
	return item
}

// itemTime is how the screen shows times.
const itemTime = "2006-01-02 15:04 MST"

// centralStanding is how a site stands with central, as its roles tell it.
type centralStanding struct {
	mu sync.Mutex // held while it is shown, so that what is shown last is what is
	contact
}

// contacted notes what came of a try to be in step with central.
func (s *site) contacted(err error) {
	s.standing.mu.Lock()
	defer s.standing.mu.Unlock()
	s.standing.note(s.Now(), err)
	s.showCentral()
}

// showCentral shows how the site stands with central. s.standing.mu is held.
func (s *site) showCentral() {
	snapshot, _ := s.branch.Snapshot()
	s.setOffline(s.standing.lost != nil && snapshot != nil)
	s.screen.Set(topicCentral, centralItem(s.settings.Central.Address, s.settings.Site, snapshot, s.standing.contact))
}

// follow keeps the snapshot in step and shows which one is in force.
func (s *site) follow(ctx context.Context) error {
	s.standing.mu.Lock()
	s.standing.contact = contact{last: s.Now()}
	s.standing.mu.Unlock()
	var shown sync.WaitGroup
	defer s.setOffline(false)
	defer shown.Wait()
	show, stop := context.WithCancel(ctx)
	defer stop()
	shown.Go(func() {
		for {
			snapshot, changed := s.branch.Snapshot()
			if snapshot != nil {
				s.standing.mu.Lock()
				s.showCentral()
				s.standing.mu.Unlock()
				s.heed(&snapshot.Site)
				s.tellServing()
			}
			select {
			case <-changed:
			case <-show.Done():
				return
			}
		}
	})
	return s.branch.Follow(ctx)
}

// setOffline notes whether the site works without central, by what it has.
func (a *appliance) setOffline(offline bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offline = offline
}

// isOffline reports whether the site works without central.
func (a *appliance) isOffline() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.offline
}
