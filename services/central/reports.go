package central

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// maxReports bounds the body of a batch of site reports in bytes.
const maxReports = 16 << 20

// maxRefused is how much of a report that is set aside the log repeats, in bytes.
const maxRefused = 2048

// handleReport takes in what a site's branch reports of its runs.
func (c *Central) handleReport(w http.ResponseWriter, r *http.Request, site string) {
	var in struct {
		Messages []json.RawMessage `json:"messages"`
	}
	if err := readJSON(w, r, maxStatus, &in); err != nil {
		c.fail(w, r, err)
		return
	}
	if len(in.Messages) > client.MaxStatusBatch {
		c.fail(w, r, provisioning.Errorf(provisioning.CodeInvalid, "", "%d status messages at once; at most %d are taken", len(in.Messages), client.MaxStatusBatch))
		return
	}
	messages := eachDecoded(in.Messages, func(text []byte, m *provisioning.StatusMessage, err error) bool {
		if err == nil {
			err = m.Validate()
		}
		mended := err
		if err != nil {
			if left, sound := provisioning.SalvageStatus(text, c.cfg.Now()); sound {
				*m, err = left, nil
			}
		}
		if err == nil && m.Site != site {
			err = provisioning.Errorf(provisioning.CodeForbidden, "", "site %s reports status of site %.64q", site, m.Site)
		}
		if mended != nil && err == nil {
			c.cfg.Log.Error("a status message is taken without what is malformed in it", "site", site, "id", m.ID, "error", mended, "bytes", len(text))
		}
		if err != nil {
			// Not the text: there is the output of commands in it.
			c.metrics.status.WithLabelValues(resultRefused).Inc()
			c.cfg.Log.Error("a status message is set aside: it is invalid", "site", site, "error", err, "bytes", len(text))
		}
		return err == nil
	})
	added, err := c.cfg.Store.AppendStatus(r.Context(), c.cfg.Now(), messages)
	if err == nil {
		err = c.noteRuns(r.Context(), site, messages)
	}
	if err == nil {
		c.metrics.status.WithLabelValues(resultStored).Add(float64(added))
		c.metrics.status.WithLabelValues(resultDuplicate).Add(float64(len(messages) - added))
	}
	if err == nil && added > 0 {
		c.cfg.Log.Debug("status", "site", site, "messages", len(messages), "new", added)
	}
	c.answer(w, r, struct {
		New int `json:"new"`
	}{added}, err)
}

// handleSiteReports takes in what a site's branch reports of its machines.
func (c *Central) handleSiteReports(w http.ResponseWriter, r *http.Request, site string) {
	var in struct {
		Reports []json.RawMessage `json:"reports"`
	}
	if err := readJSON(w, r, maxReports, &in); err != nil {
		c.fail(w, r, err)
		return
	}
	if err := fewReports(len(in.Reports)); err != nil {
		c.fail(w, r, err)
		return
	}
	reports := eachDecoded(in.Reports, func(text []byte, _ *provisioning.SiteReport, err error) bool {
		if err != nil {
			c.setAside(site, text, err)
		}
		return err == nil
	})
	n, err := c.TakeReports(r.Context(), site, reports)
	c.answer(w, r, struct {
		New int `json:"new"`
	}{n}, err)
}

// eachDecoded decodes JSON texts, each by itself, and returns those that keep says to take: one that is malformed must not keep
// the others at the branch, which sends what it is refused again and again.
func eachDecoded[T any](texts []json.RawMessage, keep func(text []byte, v *T, err error) bool) []T {
	out := make([]T, 0, len(texts))
	for _, text := range texts {
		var v T
		if err := json.Unmarshal(text, &v); keep(text, &v, err) {
			out = append(out, v)
		}
	}
	return out
}

func fewReports(n int) error {
	if n > client.MaxSiteReports {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "%d site reports at once; at most %d are taken", n, client.MaxSiteReports)
	}
	return nil
}

// setAside notes a report that can never be taken in, in the log and in the metrics. To its branch it counts as delivered.
func (c *Central) setAside(site string, text []byte, why error) {
	c.metrics.reports.WithLabelValues(resultRefused).Inc()
	c.cfg.Log.Error("a site report is set aside: it is invalid", "site", site, "error", why, "report", strings.ToValidUTF8(string(text[:min(len(text), maxRefused)]), "?"))
}

// TakeReports takes in what a site's branch reports of its machines, and returns how many reports were new: computers that
// it discovered become documents, inventories and conflicting records are kept. Reports that were taken in before do no
// harm. Those that are invalid, or another site's, are set aside: the log tells of them.
func (c *Central) TakeReports(ctx context.Context, site string, reports []provisioning.SiteReport) (int, error) {
	if err := fewReports(len(reports)); err != nil {
		return 0, err
	}
	reports, err := c.validReports(site, reports)
	if err != nil {
		return 0, err
	}
	fresh, err := c.cfg.Store.UnknownReports(ctx, site, reports)
	if err != nil {
		return 0, err
	}
	known := len(reports) - len(fresh)
	if len(fresh) == 0 {
		c.metrics.reports.WithLabelValues(resultDuplicate).Add(float64(known))
		return 0, nil
	}
	ctx = provisioning.WithActor(ctx, provisioning.Actor{Account: "site " + site, From: provisioning.ActorOf(ctx).From})
	for i := range fresh {
		if r := &fresh[i]; r.Kind == provisioning.ReportDiscovered {
			r.Computer = r.Discovered.Name
			if err := c.discover(ctx, r); err != nil {
				return 0, err
			}
		}
	}
	publish, err := c.ownInventories(ctx, site, fresh)
	if err != nil {
		return 0, err
	}
	if err := c.storeReports(ctx, site, fresh); err != nil {
		return 0, err
	}
	c.metrics.reports.WithLabelValues(resultDuplicate).Add(float64(known))
	c.metrics.reports.WithLabelValues(resultStored).Add(float64(len(fresh)))
	if publish {
		c.publishSoon(ctx)
	}
	return len(fresh), nil
}

// validReports are those of a site's reports that can be taken in; the others are set aside.
func (c *Central) validReports(site string, reports []provisioning.SiteReport) ([]provisioning.SiteReport, error) {
	valid := make([]provisioning.SiteReport, 0, len(reports))
	for i := range reports {
		r := &reports[i]
		err := r.Validate()
		if err == nil && r.Site != site {
			err = provisioning.Errorf(provisioning.CodeForbidden, "", "site %s reports of site %.64q", site, r.Site)
		}
		if err == nil {
			valid = append(valid, *r)
			continue
		}
		text, encodeErr := json.Marshal(r)
		if encodeErr != nil {
			return nil, provisioning.Errorf(provisioning.CodeInternal, "", "encode a site report: %w", encodeErr)
		}
		c.setAside(site, text, err)
	}
	return valid, nil
}

// ownInventories takes out of a site's reports the inventories of computers that are not its own, and reports whether any are
// left. Who belongs to a collection hangs on them, at every site: a site that is not honest must not decide that for others.
func (c *Central) ownInventories(ctx context.Context, site string, reports []provisioning.SiteReport) (bool, error) {
	catalog, err := c.catalog(ctx)
	if err != nil {
		return false, err
	}
	left := false
	for i := range reports {
		r := &reports[i]
		if r.Inventory == nil {
			continue
		}
		_, described := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: r.Computer}]
		// A conflict: the machine is not the computer that has its name.
		if r.Conflict != nil || !described || !mayBeAt(catalog, r.Computer, site) {
			c.cfg.Log.Warn("the inventory of a computer that is not the site's is not taken", "site", site, "computer", r.Computer)
			r.Inventory = nil
			continue
		}
		left = true
	}
	return left, nil
}

// catalog is the configuration in force.
func (c *Central) catalog(ctx context.Context) (provisioning.Catalog, error) {
	stored, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	return c.decoded.catalog(stored)
}

// mayBeAt reports whether a site may tell of the computer of that name: not where it belongs to another one, whose disks
// another site's word must not come to erase. One that nothing describes may be anywhere.
func mayBeAt(catalog provisioning.Catalog, computer, site string) bool {
	o, ok := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: computer}]
	return !ok || o.Computer.Spec.Site == "" || o.Computer.Spec.Site == site
}

// noteRuns notes what a site's status messages say of runs on computers that may be there, and lets the other sites of these
// know where that counts.
func (c *Central) noteRuns(ctx context.Context, site string, messages []provisioning.StatusMessage) error {
	catalog, err := c.catalog(ctx)
	if err != nil {
		return err
	}
	messages = slices.DeleteFunc(slices.Clone(messages), func(m provisioning.StatusMessage) bool { return !mayBeAt(catalog, m.Computer, site) })
	if err := c.cfg.Store.NoteRuns(ctx, messages); err != nil {
		return err
	}
	if len(sites(catalog)) > 1 && slices.ContainsFunc(messages, counts) {
		c.publishSoon(ctx)
	}
	return nil
}

// counts reports whether a message says that a run has begun to erase, or has ended.
func counts(m provisioning.StatusMessage) bool {
	return m.Code == provisioning.StatusStepStarted && provisioning.DestructiveAction(m.Action) ||
		m.Code == provisioning.StatusSequenceDone || m.Code == provisioning.StatusSequenceFailed
}

// discover makes a document of a computer that a site has discovered. Where that cannot be, because others have its name or
// its addresses, a conflicting record is made of the report: a person must look.
func (c *Central) discover(ctx context.Context, r *provisioning.SiteReport) error {
	found := *r.Discovered
	found.Spec.Site = r.Site
	_, err := c.change(ctx, changeRequest{
		command: provisioning.CommandDiscover,
		note:    "at site " + r.Site,
		edit: func(stored []provisioning.Document) (edit, error) {
			catalog, err := c.decoded.catalog(stored)
			if err != nil {
				return edit{}, err
			}
			return discovered(catalog, &found)
		},
	})
	switch provisioning.CodeOf(err) {
	case provisioning.CodeInvalid, provisioning.CodeConflict, provisioning.CodeNotFound:
		c.cfg.Log.Warn("a discovered computer cannot be described", "site", r.Site, "computer", found.Name, "mac", r.Machine.MAC, "error", err)
		m := provisioning.Machine{MAC: r.Machine.MAC, GUID: found.Spec.SMBIOSGUID}
		if len(found.Spec.MACAddresses) > 0 { // none where it was started from a shared adapter
			m.MAC = found.Spec.MACAddresses[0]
		}
		text := strings.ToValidUTF8(fmt.Sprintf("%s was deployed, but cannot be described: %v", found.Name, err), "?")
		r.Conflict = &provisioning.Conflict{Machine: m, Text: text[:min(len(text), 1000)]}
		return nil
	}
	return err
}

// errOtherMachine says that a discovered computer's name is another machine's.
var errOtherMachine = errors.New("another computer has that name, or its addresses")

// discovered makes the edit that describes a computer; where it is described already there is nothing to do.
func discovered(catalog provisioning.Catalog, found *provisioning.Computer) (edit, error) {
	mine := addresses(found)
	for _, o := range catalog {
		if o.Computer == nil || !strings.EqualFold(o.Name, found.Name) && !shares(o.Computer, mine) {
			continue
		}
		if strings.EqualFold(o.Name, found.Name) && shares(o.Computer, mine) {
			return edit{}, nil
		}
		return edit{}, provisioning.Errorf(provisioning.CodeConflict, "", "computer %s: %w", o.Name, errOtherMachine)
	}
	o := provisioning.Object{Kind: provisioning.KindComputer, Name: found.Name, Computer: found}
	text, err := o.Encode()
	if err != nil {
		return edit{}, err
	}
	given, err := decodeAll([]provisioning.File{{Name: "report of site " + found.Spec.Site, Text: []byte(text)}})
	if err != nil {
		return edit{}, err
	}
	return want(given), nil
}

func shares(c *provisioning.Computer, ids []string) bool {
	return slices.ContainsFunc(addresses(c), func(id string) bool { return slices.Contains(ids, id) })
}

// Conflicts are the conflicting records that are not resolved, of sites that the caller may read of.
func (c *Central) Conflicts(ctx context.Context) ([]provisioning.ConflictRecord, error) {
	all, err := c.cfg.Store.Conflicts(ctx)
	if err != nil {
		return nil, err
	}
	out := []provisioning.ConflictRecord{}
	for _, r := range all {
		if c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(r.Site)) == nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// ResolveConflict takes a conflicting record from the list, until the branch sees the machine again. It fails with
// CodeNotFound where there is none.
func (c *Central) ResolveConflict(ctx context.Context, in client.ResolveRequest) (client.ResolveRequest, error) {
	if err := c.allow(ctx, provisioning.ActionOrder, provisioning.AtSite(in.Site)); err != nil {
		return in, err
	}
	answering(ctx, func(any) any { return in })
	return in, c.cfg.Store.ResolveConflict(ctx, in.Site, in.ID, c.entry(ctx, "resolve", "conflict", in.ID, in.Site))
}
