package branch

import "branchpoint/provisioning"

// names are what a snapshot calls its computers by: it is made once for each snapshot, so that asking costs next to
// nothing however many computers there are.
type names struct {
	macs  map[provisioning.MAC]bool
	guids map[provisioning.GUID]bool
}

func namesOf(s *provisioning.Snapshot) *names {
	n := &names{make(map[provisioning.MAC]bool, len(s.Computers)), make(map[provisioning.GUID]bool, len(s.Computers))}
	for i := range s.Computers {
		spec := &s.Computers[i].Spec
		for _, m := range spec.MACAddresses {
			n.macs[m] = true
		}
		if spec.SMBIOSGUID != "" {
			n.guids[spec.SMBIOSGUID] = true
		}
	}
	return n
}

// Known reports whether the snapshot in force names a computer of this MAC address, or of this SMBIOS GUID ("" is none).
// It waits for nobody and decides nothing: it is for telling whose packets come first, which Decide is too dear for.
func (b *Branch) Known(mac provisioning.MAC, guid provisioning.GUID) bool {
	n := b.state.Load().names
	return n != nil && (n.macs[mac] || guid != "" && n.guids[guid])
}
