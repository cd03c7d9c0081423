package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"branchpoint/provisioning"
)

// PathBranchHost is where an appliance says what its machine is recognised by, with its site's certificate.
const PathBranchHost = "/branch/v1/host"

// TellHost tells central what the machine is recognised by that the appliance runs on. To tell it again does no harm.
func (b *Branch) TellHost(ctx context.Context, h provisioning.Hardware) error {
	if _, err := b.call(ctx, http.MethodPost, PathBranchHost, h, nil); err != nil {
		return fmt.Errorf("tell central what this appliance is recognised by: %w", err)
	}
	return nil
}

// PathHosts is where the machines are listed that appliances and central run on.
const PathHosts = "/v1/hosts"

// Host is a machine that an appliance or central runs on, or ran on, by its own word: never a target, at no site.
type Host struct {
	// Site is the site whose appliance it is, or was; empty is central's own host.
	Site string `json:"site,omitempty"`
	// Fingerprint is that of the appliance's key; empty is central's own host.
	Fingerprint string `json:"fingerprint,omitempty"`
	// InUse says that it is the site's appliance now, or central.
	InUse bool `json:"inUse,omitempty"`
	// ToldAt is when the appliance said so.
	ToldAt       time.Time          `json:"toldAt,omitzero"`
	MACAddresses []provisioning.MAC `json:"macAddresses,omitempty"`
	SMBIOSGUID   provisioning.GUID  `json:"smbiosGUID,omitempty"`
	// Computers are the names of the Computer documents that are no targets because of it.
	Computers []string `json:"computers,omitempty"`
}

// Hosts lists the machines that appliances and central run on, or ran on.
func (a *Admin) Hosts(ctx context.Context) ([]Host, error) {
	return list[Host](ctx, a, PathHosts, nil)
}

// ForgetHost lets the machine be a target again that the appliance of a site with a key of that fingerprint has told of. It fails
// with CodeConflict where the site has that appliance still, and where disks could be erased for it and confirm does not say so.
func (a *Admin) ForgetHost(ctx context.Context, site, fingerprint, confirm string) error {
	q := url.Values{"confirm": {confirm}}
	return a.ask(ctx, http.MethodDelete, PathHosts+"/"+url.PathEscape(site)+"/"+url.PathEscape(fingerprint)+"?"+q.Encode(), nil, nil)
}
