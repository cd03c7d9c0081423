package branch

import "branchpoint/provisioning"

// Known reports whether the snapshot in force names a computer of this MAC address, or of this SMBIOS GUID ("" is none).
// It waits for nobody and decides nothing: it is for telling whose packets come first, which Decide is too dear for.
func (b *Branch) Known(mac provisioning.MAC, guid provisioning.GUID) bool {
	return b.state.Load().policy.Known(mac, guid)
}
