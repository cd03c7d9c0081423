package central

import (
	"cmp"
	"context"
	"slices"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Unprovisioned says on which known computers that the caller may see no task sequence that erases a disk has ever succeeded, of one
// site or of all (""), and which machines sites have told of that no record names.
func (c *Central) Unprovisioned(ctx context.Context, site string, p client.Page) (client.UnprovisionedPage, error) {
	out := client.UnprovisionedPage{}
	err := c.reporting.do(ctx, func() error {
		s, err := c.survey(ctx, noRuns)
		if err != nil {
			return err
		}
		var all []client.Deployment
		for _, x := range s.computers {
			if !x.visible || x.provisioned || x.infrastructure || site != "" && x.computer.Spec.Site != site {
				continue
			}
			d := client.Deployment{Computer: x.name, Site: x.computer.Spec.Site}
			if x.last != nil {
				d = deploymentOf(x.name, x.last)
			}
			all = append(all, d)
		}
		out.Count = len(all)
		out.Items, out.Next = part(all, p, func(d client.Deployment) string { return d.Computer })
		if p.After == "" {
			out.Unknown, err = c.unknownMachines(ctx, s, site)
		}
		return err
	})
	return out, err
}

// unknownMachines are those that sites have told of and that no record names by now, the last seen first.
func (c *Central) unknownMachines(ctx context.Context, s *survey, site string) ([]client.UnknownMachine, error) {
	guids := map[provisioning.GUID]bool{}
	for _, x := range s.computers {
		guids[x.computer.Spec.SMBIOSGUID] = true
	}
	type key struct {
		site string
		mac  provisioning.MAC
		guid provisioning.GUID
	}
	last := map[key]client.UnknownMachine{}
	err := c.cfg.Store.EachReport(ctx, site, "", func(r provisioning.SiteReport) error {
		unknown := r.Kind == provisioning.ReportConflict && r.Conflict != nil && len(r.Conflict.ByMAC)+len(r.Conflict.ByGUID) == 0 ||
			r.Kind == provisioning.ReportWipeCap && r.Computer == ""
		m := r.Machine
		if !unknown || m.MAC == "" || s.byMAC[m.MAC] != nil || m.GUID != "" && guids[m.GUID] || s.hosts.Find(m.MAC, m.GUID) != nil || !s.atSite(r.Site) {
			return nil
		}
		k := key{r.Site, m.MAC, m.GUID}
		if old, ok := last[k]; !ok || r.At.After(old.LastSeen) {
			last[k] = client.UnknownMachine{Site: r.Site, Machine: m, LastSeen: r.At, Text: r.Text}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]client.UnknownMachine, 0, len(last))
	for _, u := range last {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b client.UnknownMachine) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Machine.MAC, b.Machine.MAC))
	})
	return out[:min(len(out), client.MaxPage)], nil
}
