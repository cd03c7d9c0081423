package central

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// maxHost bounds the body in which an appliance says what it is recognised by, in bytes.
const maxHost = 16 << 10

func (c *Central) handleHost(w http.ResponseWriter, r *http.Request, site string) {
	var in provisioning.Hardware
	if err := readJSON(w, r, maxHost, &in); err != nil {
		c.fail(w, r, err)
		return
	}
	x, err := describeCertificate(r.TLS.VerifiedChains[0][0])
	if err == nil {
		err = c.TakeHost(r.Context(), site, x.Key, in)
	}
	c.answer(w, r, struct{}{}, err)
}

// TakeHost takes in what the machine is recognised by that the appliance of a site with that key runs on, in the place of what it
// said before: no site's appliance makes it a target from then on. Where it says what it said before, nothing is published.
// It fails with CodeUnavailable where it has said something else a few minutes ago.
func (c *Central) TakeHost(ctx context.Context, site string, key provisioning.SHA256, h provisioning.Hardware) error {
	if err := h.Validate(); err != nil {
		return err
	}
	news, err := c.cfg.Store.PutHost(ctx, site, key, c.cfg.Now(), h)
	if err != nil || !news {
		return err
	}
	c.cfg.Log.Info("an appliance has said what its machine is recognised by", "site", site, "key", provisioning.Fingerprint(key),
		"macs", h.MACAddresses, "guid", h.SMBIOSGUID)
	c.publishSoon(ctx)
	return nil
}

// Hosts lists the machines that appliances and central run on, or ran on, and that are never targets: those of sites that the
// caller may see, and central's own.
func (c *Central) Hosts(ctx context.Context) ([]client.Host, error) {
	told, err := c.cfg.Store.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	catalog, err := c.decoded.catalog(stored)
	if err != nil {
		return nil, err
	}
	sees, err := c.sees(ctx)
	if err != nil {
		return nil, err
	}
	current, err := c.appliances(ctx)
	if err != nil {
		return nil, err
	}
	out := []client.Host{}
	for _, x := range append(told, provisioning.ToldHost{Host: provisioning.Host{Hardware: c.cfg.Own}}) {
		own := x.Site == ""
		if own && x.Empty() || !own && c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(x.Site)) != nil {
			continue
		}
		h := client.Host{Site: x.Site, ToldAt: x.At, MACAddresses: x.MACAddresses, SMBIOSGUID: x.SMBIOSGUID, InUse: own || current[x.Site] == x.Key}
		if !own {
			h.Fingerprint = provisioning.Fingerprint(x.Key)
		}
		one := provisioning.NewHosts([]provisioning.Host{x.Host})
		for i := range stored {
			d := &stored[i]
			if o := catalog[d.Key()].Computer; o != nil && one.Of(o) != nil && sees(d) {
				h.Computers = append(h.Computers, d.Name)
			}
		}
		slices.Sort(h.Computers)
		out = append(out, h)
	}
	return out, nil
}

// appliances are the sums of the public keys of the appliances that sites have now.
func (c *Central) appliances(ctx context.Context) (map[string]provisioning.SHA256, error) {
	all, err := c.cfg.Store.SiteCertificates(ctx, "")
	out := map[string]provisioning.SHA256{}
	for _, x := range all { // a site's newest first
		if _, ok := out[x.Site]; !ok && x.RevokedAt.IsZero() {
			out[x.Site] = x.Key
		}
	}
	return out, err
}

// ForgetHost lets the machine be a target again that an appliance of a site has told of, by the fingerprint of its key. It fails
// with CodeConflict where the site has that appliance still, and where disks could be erased for it, unless confirm confirms that.
func (c *Central) ForgetHost(ctx context.Context, site, fingerprint, confirm string) error {
	if err := c.allow(ctx, provisioning.ActionAdminister, provisioning.Everywhere("hosts")); err != nil {
		return err
	}
	told, err := c.cfg.Store.Hosts(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(told, func(x provisioning.ToldHost) bool {
		return x.Site == site && provisioning.Fingerprint(x.Key) == fingerprint
	})
	if i < 0 {
		return provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint site hosts", "no appliance of site %.64q with key %.64q has said what its machine is", site, fingerprint)
	}
	x := told[i]
	current, err := c.appliances(ctx)
	if err != nil {
		return err
	}
	if current[site] == x.Key {
		return provisioning.Errorf(provisioning.CodeConflict, "Revoke it first: branchpoint site revoke "+site+" --why TEXT", "the appliance with key %s is in use at site %s, and would say the same again", fingerprint, site)
	}
	danger, err := c.forgetDanger(ctx, told, i)
	if err == nil {
		err = confirmed(danger, confirm)
	}
	if err != nil {
		return err
	}
	e := c.entry(ctx, "forget", auditHost, fingerprint, site)
	e.Before = fmt.Sprintf("macAddresses: %v\nsmbiosGUID: %s\n", x.MACAddresses, x.SMBIOSGUID)
	if err := c.cfg.Store.ForgetHost(ctx, site, x.Key, e); err != nil {
		return err
	}
	c.cfg.Log.Warn("a machine that an appliance ran on can be a target again", "site", site, "key", fingerprint, "macs", x.MACAddresses, "guid", x.SMBIOSGUID,
		"by", provisioning.ActorOf(ctx).Account)
	c.publishSoon(ctx)
	return nil
}

// forgetDanger says whose disks could be erased without what one appliance has told. However few they are, somebody is asked: they
// may hold what a site has.
func (c *Central) forgetDanger(ctx context.Context, told []provisioning.ToldHost, forgotten int) (*client.Danger, error) {
	stored, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	catalog, err := c.decoded.catalog(stored)
	if err != nil {
		return nil, err
	}
	inventories, err := c.cfg.Store.Inventories(ctx)
	if err != nil {
		return nil, err
	}
	world := func(told []provisioning.ToldHost) *world {
		return newWorld(catalog, c.cfg.Now(), inventories, c.withOwn(untold(told)))
	}
	before := world(told)
	after := world(slices.Delete(slices.Clone(told), forgotten, forgotten+1))
	return (&plan{}).between(before, after, nil, 0), nil
}

func untold(told []provisioning.ToldHost) []provisioning.Host {
	out := make([]provisioning.Host, len(told))
	for i := range told {
		out[i] = told[i].Host
	}
	return out
}

// hosts are the machines that appliances and central run on, as they have told it.
func (c *Central) hosts(ctx context.Context) ([]provisioning.Host, error) {
	told, err := c.cfg.Store.Hosts(ctx)
	return c.withOwn(untold(told)), err
}

// withOwn adds central's own host.
func (c *Central) withOwn(told []provisioning.Host) []provisioning.Host {
	return append(slices.Clip(told), provisioning.Host{Hardware: c.cfg.Own})
}
