package provisioning

import (
	"net/netip"
	"time"
)

// LeaseState says why an address is not free.
type LeaseState string

// The states of a lease.
const (
	// LeaseBound: a client has the address until Lease.Expires. After that the record is kept, so that the client gets
	// the same address again while nobody else needs it.
	LeaseBound LeaseState = "bound"
	// LeaseDeclined: somebody who was not given the address uses it (a client declined it, or it answered a probe);
	// it is not handed out before Lease.Expires.
	LeaseDeclined LeaseState = "declined"
)

// Lease is one address of a DHCP pool that is not free. There is one lease for an address, and one address for a MAC.
type Lease struct {
	// Address is IPv4.
	Address netip.Addr `json:"address"`
	// MAC is who has it; empty where State is declined.
	MAC MAC `json:"mac,omitempty"`
	// HostName is what the client called itself (DHCP option 12), clipped and printable; may be empty.
	HostName string     `json:"hostName,omitempty"`
	State    LeaseState `json:"state"`
	Expires  time.Time  `json:"expires"`
}
