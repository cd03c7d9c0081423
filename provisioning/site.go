package provisioning

// Site is a branch office: one appliance serves it. Its name is the site code.
type Site struct {
	Name string   `yaml:"-" json:"name"`
	Spec SiteSpec `yaml:"spec" json:"spec"`
}

// SiteSpec says what a site's appliance does.
type SiteSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// TimeZone is the site's, an IANA name such as Europe/Berlin; empty means UTC. Windows of time are given in it.
	TimeZone string `yaml:"timeZone,omitempty" json:"timeZone,omitempty"`
	// Boundaries are the subnets whose clients belong to the site, IPv4 or IPv6, "10.1.0.0/16". A protected distribution
	// point serves no others.
	Boundaries []string `yaml:"boundaries,omitempty" json:"boundaries,omitempty"`
	// Admins are the people to turn to, as the screens name them: "Jo Miller, +44 20 7946 0000". At most 8.
	Admins []string `yaml:"admins,omitempty" json:"admins,omitempty"`
	// ApproveEnrolment wants a person to approve each appliance of the site, by the fingerprint that its screen shows, before it
	// is enrolled.
	ApproveEnrolment bool `yaml:"approveEnrolment,omitempty" json:"approveEnrolment,omitempty"`
	// Texts are what the people at clients are shown.
	Texts *SiteTexts `yaml:"texts,omitempty" json:"texts,omitempty"`
	// Console is what the appliance's own consoles, screen and serial line, allow whoever stands there.
	Console *ConsoleSettings `yaml:"console,omitempty" json:"console,omitempty"`
	// PXE is the PXE service point; nil turns it off.
	PXE *PXERole `yaml:"pxe,omitempty" json:"pxe,omitempty"`
	// DistributionPoint is the distribution point; nil turns it off.
	DistributionPoint *DistributionPointRole `yaml:"distributionPoint,omitempty" json:"distributionPoint,omitempty"`
	// StateMigrationPoint is the state migration point; nil turns it off.
	StateMigrationPoint *StateMigrationPointRole `yaml:"stateMigrationPoint,omitempty" json:"stateMigrationPoint,omitempty"`
	// Media is the media builder; nil turns it off.
	Media *MediaRole `yaml:"media,omitempty" json:"media,omitempty"`
}

// ConsoleSettings are what the appliance's own consoles allow. Nobody has to say there who they are.
type ConsoleSettings struct {
	// Shell allows the command shell, with which a person at the console can do and read everything on the appliance, its keys
	// and the content of its data disk included.
	Shell bool `yaml:"shell,omitempty" json:"shell,omitempty"`
}

// ShellAllowed reports whether the appliance's consoles give a shell.
func (s *SiteSpec) ShellAllowed() bool { return s != nil && s.Console != nil && s.Console.Shell }

// SiteTexts are what the people at clients are shown, one line of at most 200 characters each. They are no secret.
type SiteTexts struct {
	// Organization is the organisation's name, at the head of every client's screen and of the appliance's own.
	Organization string `yaml:"organization,omitempty" json:"organization,omitempty"`
	// Welcome stands below it, before anything is chosen.
	Welcome string `yaml:"welcome,omitempty" json:"welcome,omitempty"`
	// Help says whom to turn to when something has failed.
	Help string `yaml:"help,omitempty" json:"help,omitempty"`
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
	// UnknownComputers is what machines without a record get; nil means nothing at all.
	UnknownComputers *UnknownComputers `yaml:"unknownComputers,omitempty" json:"unknownComputers,omitempty"`
	// PasswordHash is the Argon2id hash (RFC 9106, PHC string form) of the password that is asked for before anything
	// happens on a client, as `branchpoint password` prints it; empty asks for none.
	PasswordHash string `yaml:"passwordHash,omitempty" json:"passwordHash,omitempty"`
	// SecretsAfter is password, approval, tpm or known: what secrets are handed out after. Empty means password where there is a
	// PasswordHash, else approval.
	SecretsAfter SecretRelease `yaml:"secretsAfter,omitempty" json:"secretsAfter,omitempty"`
	// Ignore are MAC addresses that are never answered.
	Ignore []MAC `yaml:"ignore,omitempty" json:"ignore,omitempty"`
	// SharedAdapters are MAC addresses of network adapters that wander from computer to computer, such as USB dongles:
	// they name no computer.
	SharedAdapters []MAC `yaml:"sharedAdapters,omitempty" json:"sharedAdapters,omitempty"`
	// WipesPerHour is how many deployments that erase disks may begin in an hour without a person's approval, 1 to 100000;
	// 0 means DefaultWipesPerHour.
	WipesPerHour int `yaml:"wipesPerHour,omitempty" json:"wipesPerHour,omitempty"`
	// DHCP is required in mode dhcp and refused in mode proxy.
	DHCP *DHCPPool `yaml:"dhcp,omitempty" json:"dhcp,omitempty"`
}

// DefaultWipesPerHour is the wipe cap of a site that sets none: a classroom, not a company.
const DefaultWipesPerHour = 30

// UnknownComputers is how a site treats machines that no record names.
type UnknownComputers struct {
	// NamePattern makes the name of a computer that is deployed. %serial%, %mac% and %assetTag% are replaced by what the
	// firmware says, with only what a host name can hold; empty means "pc-%mac%". It must hold one of them.
	NamePattern string `yaml:"namePattern,omitempty" json:"namePattern,omitempty"`
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

// DistributionPointRole configures the distribution point.
type DistributionPointRole struct {
	// QuotaGiB bounds what content takes on the data disk; 0 means what is free.
	QuotaGiB int `yaml:"quotaGiB,omitempty" json:"quotaGiB,omitempty"`
	// Windows are when content is copied from central; none means at any time.
	Windows []Window `yaml:"windows,omitempty" json:"windows,omitempty"`
	// RateMbps bounds the copying, in 10^6 bit/s; 0 means unbounded.
	RateMbps int `yaml:"rateMbps,omitempty" json:"rateMbps,omitempty"`
	// Protected serves clients inside the site's boundaries only.
	Protected bool `yaml:"protected,omitempty" json:"protected,omitempty"`
	// Connections bounds the clients that read at one time, 1 to 1000; 0 means unbounded.
	Connections int `yaml:"connections,omitempty" json:"connections,omitempty"`
}

// Weekday is a day of the week as documents write it: mon, tue, wed, thu, fri, sat, sun.
type Weekday string

// Weekdays are all weekdays, beginning with Sunday as time.Weekday does.
var Weekdays = []Weekday{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Window is a stretch of time that comes again each week, in the site's time zone.
type Window struct {
	// Days are the days on which it begins; none means every day.
	Days []Weekday `yaml:"days,omitempty" json:"days,omitempty"`
	// From and To are "22:00" and "06:00": From is inside, To is not. A window whose To is not after From ends on the
	// next day.
	From string `yaml:"from" json:"from"`
	To   string `yaml:"to" json:"to"`
}

// StateMigrationPointRole configures the state migration point.
type StateMigrationPointRole struct {
	// Folders are where states are kept; at least one.
	Folders []StateFolder `yaml:"folders" json:"folders"`
	// DeleteAfterHours is how long a released state stays; 0 means it is deleted on release. Never deleted before release.
	DeleteAfterHours int `yaml:"deleteAfterHours,omitempty" json:"deleteAfterHours,omitempty"`
	// RestoreOnly takes no new states.
	RestoreOnly bool `yaml:"restoreOnly,omitempty" json:"restoreOnly,omitempty"`
}

// StateFolder is one storage folder of a state migration point.
type StateFolder struct {
	// Path is relative to the data disk's folder of states.
	Path string `yaml:"path" json:"path"`
	// MaxClients bounds the computers whose states it holds; 0 means unbounded.
	MaxClients int `yaml:"maxClients,omitempty" json:"maxClients,omitempty"`
	// MinFreeGiB is what stays free on its volume.
	MinFreeGiB int `yaml:"minFreeGiB,omitempty" json:"minFreeGiB,omitempty"`
}

// MediaRole configures the media builder.
type MediaRole struct {
	// MaxValidDays bounds the validity of a medium that is made here, 1 to 3650; 0 means 365.
	MaxValidDays int `yaml:"maxValidDays,omitempty" json:"maxValidDays,omitempty"`
}
