package branch

import (
	"context"
	"slices"

	"branchpoint/provisioning"
)

// tellHost looks at what the appliance's own machine is recognised by, takes it for decisions at once, and tells central as long
// as the snapshot in force does not say the same: central may not know it yet, or not any more.
func (b *Branch) tellHost(ctx context.Context) error {
	own := b.cfg.Own()
	b.mu.Lock()
	is := b.state.Load()
	if !is.own.Equal(own) {
		next := *is
		next.own, next.past.Own = own, provisioning.NewHosts([]provisioning.Host{{Site: b.cfg.Site, Hardware: own}})
		b.state.Store(&next)
	}
	b.mu.Unlock()
	if is.snapshot == nil && own.Empty() || is.snapshot != nil && toldBy(is.snapshot, own) {
		return nil
	}
	return b.cfg.Central.TellHost(ctx, own)
}

// toldBy reports whether a snapshot says all that is to be said of its site's appliance.
func toldBy(s *provisioning.Snapshot, own provisioning.Hardware) bool {
	return own.Empty() || slices.ContainsFunc(s.Infrastructure, func(h provisioning.Host) bool { return h.Site == s.Site.Name && h.Equal(own) })
}

// lostHosts are the machines of appliances and of central that the snapshot before knew and the one after does not, as computers
// that are infrastructure.
func lostHosts(before, after *provisioning.Snapshot) []provisioning.Computer {
	var out []provisioning.Computer
	for _, h := range before.Infrastructure {
		if slices.ContainsFunc(after.Infrastructure, func(x provisioning.Host) bool { return x.Equal(h.Hardware) }) {
			continue
		}
		out = append(out, provisioning.Computer{Name: "host-" + h.Site, Spec: provisioning.ComputerSpec{
			MACAddresses: h.MACAddresses, SMBIOSGUID: h.SMBIOSGUID, Infrastructure: true,
		}})
	}
	return out
}
