package provisioning

import "time"

// APIVersion stands at the head of every configuration document.
const APIVersion = "branchpoint/v1"

// Kind is the kind of a configuration document.
type Kind string

// The kinds of configuration documents.
const (
	KindSite                 Kind = "Site"
	KindComputer             Kind = "Computer"
	KindOperatingSystemImage Kind = "OperatingSystemImage"
	KindTaskSequence         Kind = "TaskSequence"
	KindAdvertisement        Kind = "Advertisement"
)

// Kinds lists every kind in the order in which one may refer to another.
var Kinds = []Kind{KindSite, KindComputer, KindOperatingSystemImage, KindTaskSequence, KindAdvertisement}

// Site is a branch office: one appliance serves it. Its name is the site code.
type Site struct {
	Name string   `yaml:"-" json:"name"`
	Spec SiteSpec `yaml:"spec" json:"spec"`
}

// SiteSpec says what a site's appliance does.
type SiteSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// PXE is the PXE service point; nil turns it off.
	PXE *PXERole `yaml:"pxe,omitempty" json:"pxe,omitempty"`
	// DistributionPoint is the distribution point; nil turns it off.
	DistributionPoint *DistributionPointRole `yaml:"distributionPoint,omitempty" json:"distributionPoint,omitempty"`
}

// PXEMode says how the PXE service point gets its word in.
type PXEMode string

// The modes of a PXE service point.
const (
	// PXEModeProxy answers beside the site's own DHCP server (PXE 2.1 section 2.4.1, "ProxyDHCP").
	PXEModeProxy PXEMode = "proxy"
	// PXEModeDHCP is the site's DHCP server.
	PXEModeDHCP PXEMode = "dhcp"
)

// PXERole configures the PXE service point.
type PXERole struct {
	// Mode is proxy or dhcp.
	Mode PXEMode `yaml:"mode" json:"mode"`
	// Interfaces are the names of the network interfaces to listen on, as the appliance's screen shows them; empty
	// means every one that site.yaml lets serve.
	Interfaces []string `yaml:"interfaces,omitempty" json:"interfaces,omitempty"`
	// ResponseDelaySeconds is how long to wait before an offer, 0 to 32.
	ResponseDelaySeconds int `yaml:"responseDelaySeconds,omitempty" json:"responseDelaySeconds,omitempty"`
	// DHCP is required in mode dhcp and refused in mode proxy.
	DHCP *DHCPPool `yaml:"dhcp,omitempty" json:"dhcp,omitempty"`
}

// DHCPPool is what the appliance hands out as the site's DHCP server. Addresses are IPv4, dotted.
type DHCPPool struct {
	// RangeStart and RangeEnd bound the addresses handed out, both included; inside the serving interface's subnet.
	RangeStart string `yaml:"rangeStart" json:"rangeStart"`
	RangeEnd   string `yaml:"rangeEnd" json:"rangeEnd"`
	// Router is the default gateway told to clients; may be empty.
	Router string `yaml:"router,omitempty" json:"router,omitempty"`
	// DNS are the name servers told to clients.
	DNS []string `yaml:"dns,omitempty" json:"dns,omitempty"`
	// LeaseMinutes is how long an address is lent, 2 to 10080; 0 means 60.
	LeaseMinutes int `yaml:"leaseMinutes,omitempty" json:"leaseMinutes,omitempty"`
	// Relayed are pools for networks that the appliance is not on, whose relay agents send their clients' requests to it.
	Relayed []RelayedPool `yaml:"relayed,omitempty" json:"relayed,omitempty"`
}

// RelayedPool is what clients behind a relay agent are given. Addresses are IPv4, dotted.
type RelayedPool struct {
	// Subnet is the clients' network, "10.8.0.0/24": requests come from it whose relay agent has an address in it
	// ("giaddr"). Subnets of one site do not overlap.
	Subnet string `yaml:"subnet" json:"subnet"`
	// RangeStart and RangeEnd bound the addresses handed out, both included; inside Subnet.
	RangeStart string `yaml:"rangeStart" json:"rangeStart"`
	RangeEnd   string `yaml:"rangeEnd" json:"rangeEnd"`
	// Router is the default gateway told to clients, inside Subnet: without one they could not reach the appliance.
	Router string `yaml:"router" json:"router"`
	// DNS are the name servers told to clients.
	DNS []string `yaml:"dns,omitempty" json:"dns,omitempty"`
	// LeaseMinutes is how long an address is lent, 2 to 10080; 0 means 60.
	LeaseMinutes int `yaml:"leaseMinutes,omitempty" json:"leaseMinutes,omitempty"`
}

// DistributionPointRole configures the distribution point. It has no settings yet: present means on.
type DistributionPointRole struct{}

// Computer is a known computer. Its name is the host name it gets.
type Computer struct {
	Name string       `yaml:"-" json:"name"`
	Spec ComputerSpec `yaml:"spec" json:"spec"`
}

// ComputerSpec says how a computer is recognised and what it is given.
type ComputerSpec struct {
	// Site limits the computer to one site; empty means any.
	Site string `yaml:"site,omitempty" json:"site,omitempty"`
	// MACAddresses are the addresses of its network cards. These or SMBIOSGUID must be given.
	MACAddresses []MAC `yaml:"macAddresses,omitempty" json:"macAddresses,omitempty"`
	// SMBIOSGUID is its SMBIOS GUID.
	SMBIOSGUID GUID `yaml:"smbiosGUID,omitempty" json:"smbiosGUID,omitempty"`
	// Variables are set in its task sequences, and win over the sequence's own.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
}

// OperatingSystemImage makes a content package deployable.
type OperatingSystemImage struct {
	Name string                   `yaml:"-" json:"name"`
	Spec OperatingSystemImageSpec `yaml:"spec" json:"spec"`
}

// OperatingSystemImageSpec names the content of an image.
type OperatingSystemImageSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Package is the name given to `branchpoint content add`.
	Package string `yaml:"package" json:"package"`
	// Version is the package's version, from 1; 0 means the newest at the time a snapshot is made.
	Version int `yaml:"version,omitempty" json:"version,omitempty"`
}

// TaskSequence is an ordered list of steps.
type TaskSequence struct {
	Name string           `yaml:"-" json:"name"`
	Spec TaskSequenceSpec `yaml:"spec" json:"spec"`
}

// TaskSequenceSpec is what a task sequence does.
type TaskSequenceSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Variables are the sequence's own; %NAME% in a step's texts is replaced by the value.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Steps run from first to last.
	Steps []Step `yaml:"steps" json:"steps"`
}

// Purpose says whether an advertisement is offered or imposed.
type Purpose string

// PurposeRequired runs without prompting and once per computer.
const PurposeRequired Purpose = "required"

// Advertisement gives a task sequence to computers.
type Advertisement struct {
	Name string            `yaml:"-" json:"name"`
	Spec AdvertisementSpec `yaml:"spec" json:"spec"`
}

// AdvertisementSpec says which sequence which computers get, and when.
type AdvertisementSpec struct {
	// TaskSequence is the sequence's name.
	TaskSequence string `yaml:"taskSequence" json:"taskSequence"`
	// Computers are the names of the computers it is for.
	Computers []string `yaml:"computers" json:"computers"`
	// Purpose is "required".
	Purpose Purpose `yaml:"purpose" json:"purpose"`
	// Start and Expires bound the time in which it is in force; zero means unbounded. RFC 3339.
	Start   Time `yaml:"start,omitempty" json:"start,omitzero"`
	Expires Time `yaml:"expires,omitempty" json:"expires,omitzero"`
}

// Time is a point in time in a document, RFC 3339. It is a type of its own because the YAML library reads a malformed
// time.Time as zero, without an error: an advertisement would lose its bounds.
type Time struct {
	time.Time
	malformed string // what stood there instead of a time; validation reports it with its place
}

// UnmarshalText reads RFC 3339; text of any other form is kept for validation to refuse.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339, string(b))
	*t = Time{Time: v}
	if err != nil {
		t.malformed = string(b)
	}
	return nil
}
