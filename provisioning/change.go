package provisioning

import "time"

// Command is what made a change of the configuration.
type Command string

// The commands that change the configuration.
const (
	CommandApply    Command = "apply"
	CommandDelete   Command = "delete"
	CommandRollback Command = "rollback"
	CommandImport   Command = "import"
	// CommandDiscover: a branch has reported machines that were unknown until they were deployed.
	CommandDiscover Command = "discover"
)

// Change is one change of the configuration: what one command did, as a whole.
type Change struct {
	// Number counts the changes, from 1.
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	// By is the account that made it, "site LON" for the branch of a site; empty for changes older than accounts are.
	By      string  `json:"by,omitempty"`
	Command Command `json:"command"`
	// Note says more, such as what was rolled back to; may be empty.
	Note string `json:"note,omitempty"`
	// Documents is how many documents it touched.
	Documents int `json:"documents"`
}

// Revision is one version of a document, with the change that made it.
type Revision struct {
	Document
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"`
	Command Command   `json:"command"`
}

// Publication is what central makes the sites' snapshots of.
type Publication struct {
	// Documents are those in force, by kind and name.
	Documents []Document
	// Present are the sites' snapshots, without Signed.
	Present map[string]SiteSnapshot
	// Orders are all orders that were ever given and not dropped, by number.
	Orders []Order
	// Inventories are what computers last said of their hardware, by name.
	Inventories map[string]Inventory
	// Runs are those of all sites that have begun to erase, or have ended. Where there is one site, they are left out.
	Runs []SiteRun
	// Hosts are those that have told what they are, in any order.
	Hosts []Host
}

// Order is a person's order to branches, as central keeps it: either Computer is set (see Clear), or Site (see Approval).
type Order struct {
	// Number counts the orders, from 1. A number that was used once never comes again.
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	// By is the account that gave it.
	By string `json:"by,omitempty"`
	// Computer is the one on which what has run may run again, at whatever site it is.
	Computer string `json:"computer,omitempty"`
	// Site is the one at which Wipes deployments may go beyond the wipe cap until Expires.
	Site    string    `json:"site,omitempty"`
	Wipes   int       `json:"wipes,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// ConflictRecord is a Conflict as central keeps it.
type ConflictRecord struct {
	Site string `json:"site"`
	// ID is the Conflict's.
	ID        string    `json:"id"`
	FirstSeen time.Time `json:"firstSeen"`
	LastSeen  time.Time `json:"lastSeen"`
	Conflict  Conflict  `json:"conflict"`
}
