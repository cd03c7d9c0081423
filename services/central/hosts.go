package central

import (
	"context"
	"net/http"

	"branchpoint/provisioning"
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

// hosts are the machines that appliances and central run on, as they have told it.
func (c *Central) hosts(ctx context.Context) ([]provisioning.Host, error) {
	told, err := c.cfg.Store.Hosts(ctx)
	return c.withOwn(told), err
}

// withOwn adds central's own host.
func (c *Central) withOwn(told []provisioning.Host) []provisioning.Host {
	return append(told, provisioning.Host{Hardware: c.cfg.Own})
}
