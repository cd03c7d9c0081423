package central

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"branchpoint/provisioning"
)

// Publish brings every site's snapshot up to date with the configuration, people's orders and the content, and wakes those
// who wait for one. A site whose snapshot would say the same keeps it, with its number. It is to be called when content
// changes.
func (c *Central) Publish(ctx context.Context) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	if err != nil {
		return fmt.Errorf("publish snapshots: %w", err)
	}
	recipients, err := c.cfg.Store.Recipients(ctx)
	if err != nil {
		return fmt.Errorf("publish snapshots: %w", err)
	}
	published := 0
	err = c.cfg.Store.PublishSnapshots(ctx, func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
		next, err := c.next(ctx, p, contacts, recipients)
		published = len(next)
		return next, err
	})
	if err != nil {
		return fmt.Errorf("publish snapshots: %w", err)
	}
	c.metrics.published.Add(float64(published))
	c.wake()
	return nil
}

// next makes the snapshots that differ from the present ones. A site that has seen what central knows nothing of gets none
// within this epoch: once their numbers came to be higher, it would take what an older backup says for news.
func (c *Central) next(ctx context.Context, p provisioning.Publication, contacts map[string]provisioning.SiteContact, recipients map[string]string) ([]provisioning.SiteSnapshot, error) {
	catalog, err := c.decoded.catalog(p.Documents)
	if err != nil {
		return nil, err
	}
	changed := make(map[provisioning.Key]uint64)
	for i := range p.Documents {
		if d := &p.Documents[i]; d.Kind == provisioning.KindAdvertisement {
			changed[d.Key()] = d.Change
		}
	}
	stand := standing(p.Orders, c.cfg.Now())
	hosts := c.withOwn(p.Hosts)
	var out []provisioning.SiteSnapshot
	for _, site := range sites(catalog) {
		old := p.Present[site]
		next, err := old, c.forked(contacts[site], old)
		if err == nil {
			next, err = c.resolve(catalog, site, old, recipients[site], provisioning.Facts{
				Content: func(pkg string, version int) (provisioning.ContentRef, error) {
					return c.cfg.Content.Ref(ctx, pkg, version)
				},
				Changed:     func(k provisioning.Key) uint64 { return changed[k] },
				Inventories: p.Inventories,
				Clears:      stand.clears,
				Aged:        stand.aged,
				Approvals:   stand.approvals[site],
				Runs:        p.Runs,
				Hosts:       hosts,
			})
		}
		if err != nil {
			// The site goes on with the last snapshot that could be made; the others must not wait for it.
			c.cfg.Log.Warn("a site's snapshot cannot be made; it keeps the last one", "site", site, "error", err)
			next = old
			next.Site, next.Problem = site, err.Error()
		}
		if next.Core != old.Core || next.Epoch != old.Epoch || next.Problem != old.Problem {
			out = append(out, next)
		}
	}
	return out, nil
}

// forked fails where a site has seen a newer snapshot than its present one, in this epoch or a later one.
func (c *Central) forked(contact provisioning.SiteContact, present provisioning.SiteSnapshot) error {
	epoch, number := c.signer.Load().epoch, uint64(0)
	if present.Epoch == epoch {
		number = present.Number
	}
	if !ahead(contact, epoch, number) {
		return nil
	}
	return provisioning.Errorf(provisioning.CodeConflict, "Begin a new epoch: branchpoint central root new-epoch",
		"the site has snapshot %d.%d, which this central does not know: it was restored from a backup", contact.Epoch, contact.Number)
}

// sites are the names of a catalog's sites, sorted.
func sites(catalog provisioning.Catalog) []string {
	var out []string
	for k := range catalog {
		if k.Kind == provisioning.KindSite {
			out = append(out, k.Name)
		}
	}
	slices.Sort(out)
	return out
}

// resolve makes a site's snapshot, or returns old, without its problem, if it would say the same. Secrets are the same as long
// as their sealed forms and the recipient are: encrypted again they would look different each time.
func (c *Central) resolve(catalog provisioning.Catalog, site string, old provisioning.SiteSnapshot, recipient string, facts provisioning.Facts) (provisioning.SiteSnapshot, error) {
	s, err := catalog.Resolve(site, facts)
	if err != nil {
		return old, err
	}
	if len(s.AllSecrets()) > 0 {
		if s.SecretsFor = recipient; recipient == "" {
			withhold(s)
		}
	}
	core, err := json.Marshal(s) // number, epoch and time are still zero
	if err != nil {
		return old, provisioning.Errorf(provisioning.CodeInternal, "", "encode snapshot: %w", err)
	}
	sum := provisioning.SumSHA256(core)
	by := c.signer.Load()
	if old.Core == sum && old.Epoch == by.epoch {
		old.Problem = ""
		return old, nil
	}
	s.Epoch, s.Number, s.IssuedAt = by.epoch, 1, c.cfg.Now().UTC()
	if old.Epoch == by.epoch {
		s.Number = old.Number + 1
	}
	if err := c.enclose(s); err != nil {
		return old, err
	}
	signed, err := provisioning.SignSnapshot(s, by.key)
	if err != nil {
		return old, err
	}
	c.cfg.Log.Info("new snapshot", "site", site, "epoch", s.Epoch, "number", s.Number, "computers", len(s.Computers), "advertisements", len(s.Advertisements))
	return provisioning.SiteSnapshot{Site: site, Epoch: s.Epoch, Number: s.Number, Core: sum, Signed: *signed}, nil
}

// wake lets everybody who waits look again.
func (c *Central) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// changes returns a channel that is closed at the next wake.
func (c *Central) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// newer returns a site's snapshot if it comes after the given one, nil if it does not.
func (c *Central) newer(ctx context.Context, site string, epoch, number uint64) (*provisioning.SignedSnapshot, error) {
	s, err := c.cfg.Store.SiteSnapshot(ctx, site)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return nil, nil // not described yet, or not without fault: it waits
	}
	if err != nil {
		return nil, err
	}
	if s.Epoch > epoch || s.Epoch == epoch && s.Number > number {
		return &s.Signed, nil
	}
	if s.Epoch < epoch || s.Number < number {
		c.cfg.Log.Warn("a site has a newer snapshot than central, which was restored from a backup: start a new epoch (branchpoint central root new-epoch)", "site", site,
			"site.epoch", epoch, "site.number", number, "epoch", s.Epoch, "number", s.Number)
	}
	return nil, nil
}
