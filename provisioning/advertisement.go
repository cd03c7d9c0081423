package provisioning

// Purpose says whether an advertisement is offered or imposed.
type Purpose string

// The purposes of an advertisement.
const (
	// PurposeRequired runs without prompting and once per computer.
	PurposeRequired Purpose = "required"
	// PurposeAvailable waits for a key press.
	PurposeAvailable Purpose = "available"
)

// Rerun says whether a required advertisement runs again on a computer where it has run.
type Rerun string

// The rerun behaviours; empty means never.
const (
	RerunNever Rerun = "never"
	// RerunIfFailed runs again where the last run failed.
	RerunIfFailed Rerun = "if-failed"
	// RerunAlways runs at each boot from the network. Whoever applies it must confirm it, and it cannot
	// be for unknown computers.
	RerunAlways Rerun = "always"
)

// Availability is how an advertisement can reach a computer.
type Availability string

// The ways in which an advertisement reaches a computer.
const (
	AvailableToPXE    Availability = "pxe"
	AvailableToMedia  Availability = "media"
	AvailableToClient Availability = "client" // the agent of an installed system
)

// Advertisement gives a task sequence to computers.
type Advertisement struct {
	Name string            `yaml:"-" json:"name"`
	Spec AdvertisementSpec `yaml:"spec" json:"spec"`
	// Changed is the number of the change that made or last changed the document, for "the one that was made last". It
	// stands in snapshots only, never in a document.
	Changed uint64 `yaml:"-" json:"changed,omitempty"`
}

// AdvertisementSpec says which sequence which computers get, and when.
type AdvertisementSpec struct {
	// TaskSequence is the sequence's name.
	TaskSequence string `yaml:"taskSequence" json:"taskSequence"`
	// Collection is the name of the collection it is for. This or Computers is given.
	Collection string `yaml:"collection,omitempty" json:"collection,omitempty"`
	// Computers are the names of the computers it is for.
	Computers []string `yaml:"computers,omitempty" json:"computers,omitempty"`
	// Purpose is "required" or "available".
	Purpose Purpose `yaml:"purpose" json:"purpose"`
	// Priority decides among several required ones, and among several available ones: the highest first; of equals the one
	// that was made last. -1000 to 1000.
	Priority int `yaml:"priority,omitempty" json:"priority,omitempty"`
	// AvailableTo are the ways in which it reaches a computer; empty means pxe and media.
	AvailableTo []Availability `yaml:"availableTo,omitempty" json:"availableTo,omitempty"`
	// Rerun is for required ones: never, if-failed or always.
	Rerun Rerun `yaml:"rerun,omitempty" json:"rerun,omitempty"`
	// Client is how it runs from an installed system.
	Client *ClientRun `yaml:"client,omitempty" json:"client,omitempty"`
	// WakeOnLAN wakes the computers of a required one when it becomes due on them.
	WakeOnLAN bool `yaml:"wakeOnLAN,omitempty" json:"wakeOnLAN,omitempty"`
	// DownloadFirst copies content to the computer before the sequence runs, rather than read it from the distribution
	// point as it goes. A sequence that erases the disk it would be copied to is refused.
	DownloadFirst bool `yaml:"downloadFirst,omitempty" json:"downloadFirst,omitempty"`
	// MaintenanceWindows are when a required one may begin, in the site's time zone; none means at any time.
	MaintenanceWindows []Window `yaml:"maintenanceWindows,omitempty" json:"maintenanceWindows,omitempty"`
	// FallbackToUnprotected lets clients outside of the boundaries of a protected distribution point use another one.
	FallbackToUnprotected bool `yaml:"fallbackToUnprotected,omitempty" json:"fallbackToUnprotected,omitempty"`
	// Start and Expires bound the time in which it is in force; zero means unbounded. RFC 3339.
	Start   Time `yaml:"start,omitempty" json:"start,omitzero"`
	Expires Time `yaml:"expires,omitempty" json:"expires,omitzero"`
}

// ClientRun is how an advertisement runs from an installed system.
type ClientRun struct {
	// When is "now" (default), "log-on" or "log-off".
	When ClientTrigger `yaml:"when,omitempty" json:"when,omitempty"`
	// CountdownMinutes is how long before it begins the user is told, 0 to 1440; RemindMinutes how often again, 0 is never.
	CountdownMinutes int `yaml:"countdownMinutes,omitempty" json:"countdownMinutes,omitempty"`
	RemindMinutes    int `yaml:"remindMinutes,omitempty" json:"remindMinutes,omitempty"`
	// UserMayStart lets users start it themselves before its time.
	UserMayStart bool `yaml:"userMayStart,omitempty" json:"userMayStart,omitempty"`
	// HideProgress shows nothing while it runs.
	HideProgress bool `yaml:"hideProgress,omitempty" json:"hideProgress,omitempty"`
}

// ClientTrigger is when an advertisement runs on an installed system.
type ClientTrigger string

// The triggers; empty means now.
const (
	TriggerNow    ClientTrigger = "now"
	TriggerLogOn  ClientTrigger = "log-on"
	TriggerLogOff ClientTrigger = "log-off"
)
