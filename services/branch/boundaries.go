package branch

import (
	"net/http"
	"net/netip"

	"branchpoint/provisioning"
)

// inside reports whether an address belongs to one of the subnets. A subnet that cannot be read holds nobody.
func inside(subnets []string, a netip.Addr) bool {
	for _, s := range subnets {
		if p, err := netip.ParsePrefix(s); err == nil && p.Masked().Contains(a) {
			return true
		}
	}
	return false
}

// mayRead says why a client is given no content, nil if it is: a protected distribution point serves those within the site's
// boundaries, where it has some.
func mayRead(s *provisioning.Snapshot, remote string) error {
	if s == nil || s.Site.Spec.DistributionPoint == nil || !s.Site.Spec.DistributionPoint.Protected || len(s.Site.Spec.Boundaries) == 0 {
		return nil
	}
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "the client's address %q cannot be read: %w", remote, err)
	}
	if a := from.Addr().Unmap().WithZone(""); !inside(s.Site.Spec.Boundaries, a) {
		return provisioning.Errorf(provisioning.CodeForbidden, "Use the network of the site, or add the client's subnet to the site's boundaries.",
			"the distribution point of site %s is protected, and address %s lies outside of the site's boundaries", s.Site.Name, a)
	}
	return nil
}

// AuthorizeContent lets an agent read content: any of the site's, with a valid token, after the password where one is wanted,
// and within the site's boundaries where the distribution point is protected.
func (b *Branch) AuthorizeContent(r *http.Request) error {
	c, err := b.authenticate(r)
	if err != nil {
		return err
	}
	if err := needsPassword(c); err != nil {
		return err
	}
	return mayRead(b.state.Load().snapshot, r.RemoteAddr)
}
