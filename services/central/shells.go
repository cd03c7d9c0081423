package central

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"branchpoint/provisioning"
)

// maxShells is how many entries of an hour in the audit log are of the consoles of one site: what its appliance says must not
// push out what people did.
const maxShells = 60

// shells counts what is left out of the audit log. The zero value is ready.
type shells struct {
	mu sync.Mutex
	// left are how many reports were left out since the last entry, by site.
	left map[string]int
}

// storeReports stores a site's new reports. The audit log says, within maxShells, that there was a shell at a console of its
// appliance, for which nobody had to say who they are.
func (c *Central) storeReports(ctx context.Context, site string, reports []provisioning.SiteReport) error {
	var used []*provisioning.SiteReport
	for i := range reports {
		if reports[i].Kind == provisioning.ReportConsoleShell {
			used = append(used, &reports[i])
		}
	}
	if len(used) == 0 {
		return c.cfg.Store.TakeReports(ctx, c.cfg.Now(), site, reports, nil)
	}
	c.shells.mu.Lock() // until they are stored: others count them
	defer c.shells.mu.Unlock()
	page, err := c.cfg.Store.Audit(ctx, provisioning.AuditFilter{Kind: auditConsole, Site: site, Limit: maxShells})
	if err != nil {
		return err
	}
	since := c.cfg.Now().Add(-time.Hour)
	page = slices.DeleteFunc(page, func(e provisioning.AuditEntry) bool { return !e.At.After(since) })
	listed := used[:min(len(used), maxShells-len(page))]
	entries := map[string]provisioning.AuditEntry{}
	for i, r := range listed {
		c.cfg.Log.Warn("a shell at an appliance's console", "site", site, "at", r.At, "what", r.Text)
		e := c.entry(ctx, "shell", auditConsole, site, site)
		e.After = fmt.Sprintf("%s: %s\n", r.At.UTC().Format(time.RFC3339), strings.ToValidUTF8(r.Text, "?"))
		if n := c.shells.left[site]; i == 0 && n > 0 {
			e.After += fmt.Sprintf("before it %d more were left out here\n", n)
		}
		if len(page)+i+1 == maxShells {
			e.After += fmt.Sprintf("more than %d within an hour are left out here; the next entry says how many\n", maxShells)
		}
		entries[r.ID] = e
	}
	if err := c.cfg.Store.TakeReports(ctx, c.cfg.Now(), site, reports, entries); err != nil {
		return err
	}
	if len(listed) > 0 {
		delete(c.shells.left, site)
	}
	if n := len(used) - len(listed); n > 0 {
		c.cfg.Log.Warn("a site tells of too many shells at its consoles; they are left out of the audit log", "site", site, "reports", n)
		if c.shells.left == nil {
			c.shells.left = map[string]int{}
		}
		c.shells.left[site] += n
	}
	return nil
}
