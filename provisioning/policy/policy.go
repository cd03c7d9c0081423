// Package policy decides what a machine that boots from the network gets. A Policy is made of a site's snapshot, and its
// Decide is one pure function of the machine, what was run at the site before, and the time: the appliance answers by it,
// central explains by it, and tests call it. Every rule that was looked at is in the answer, in order, with its outcome.
//
// A mistake here erases somebody's disk. So every doubt is silence with a reason: a query that fails, a name that is
// missing, a value that this version does not know, a record that contradicts another.
package policy

import (
	"time"

	"branchpoint/provisioning"
)

// Action is what to do about a machine.
type Action string

// The actions. The zero value is no decision; silence is the default of every rule that does not apply.
const (
	// Silent: no answer at all.
	Silent Action = "silent"
	// Boot: offer the boot image and run the sequence without prompting.
	Boot Action = "boot"
	// Offer: offer the boot image; the person at the machine presses a key and chooses, else it goes to its next boot
	// device.
	Offer Action = "offer"
)

// The rules, in the order in which they are looked at. Those from RuleAvailability to RuleOnce are looked at for each
// advertisement.
const (
	// RuleConfiguration: without a snapshot nothing is answered.
	RuleConfiguration = "configuration"
	// RuleRole: nor where the PXE service point is off.
	RuleRole = "role"
	// RuleIgnored: nor to addresses of the site's ignore list.
	RuleIgnored = "ignore list"
	// RuleArchitecture: nor to firmware that there are no boot images for.
	RuleArchitecture = "architecture"
	// RuleInfrastructure: an appliance, central or a host that makes media gets nothing, whatever a collection says. What is one
	// by its own word is looked for here, by the machine's address and GUID, and again when it is known as a computer, by all
	// that the record says; what is one by its record alone is seen then.
	RuleInfrastructure = "infrastructure"
	// RuleIdentity says which computer a machine is. Where that is in doubt, nothing is answered.
	RuleIdentity = "identity"
	// RuleSite: a computer of another site gets nothing here.
	RuleSite = "site"
	// RuleUnknown says whether machines that no record names are served.
	RuleUnknown = "unknown computers"
	// RuleHistory: without the history of what has run nothing that is required begins.
	RuleHistory = "history"
	// RuleResume: a run that was interrupted after it began to erase goes on.
	RuleResume = "resume"
	// RuleAvailability: an advertisement must be available to PXE.
	RuleAvailability = "availability"
	// RuleTarget: it must be for the computer.
	RuleTarget = "target"
	// RuleTime: it must be in force.
	RuleTime = "time"
	// RuleSequence: its task sequence must be there.
	RuleSequence = "task sequence"
	// RuleBootImage: its boot image must be there, and for the machine's architecture.
	RuleBootImage = "boot image"
	// RuleOnce: a required one runs once, or as its rerun behaviour says.
	RuleOnce = "once"
	// RuleSecrets: secrets that it needs must be handed out to the computer.
	RuleSecrets = "secrets"
	// RuleNothing: no advertisement is left.
	RuleNothing = "nothing to do"
	// RuleChoice says which of several advertisements comes first.
	RuleChoice = "choice"
	// RuleWipeCap bounds how many deployments that erase disks begin in an hour.
	RuleWipeCap = "wipe cap"
	// RulePassword says whether a password is asked for.
	RulePassword = "password"
	// RuleWake says of a required advertisement with Wake-on-LAN whether it wakes the computer.
	RuleWake = "wake"
	// RuleRequired and RuleAvailable: what is answered.
	RuleRequired  = "required"
	RuleAvailable = "available"
)

// Reason is one rule with its outcome.
type Reason struct {
	// Rule names the rule, as documentation lists it.
	Rule string `json:"rule"`
	// Text says what the rule found, for an admin.
	Text string `json:"text"`
}

// Choice is one of the advertisements that the person at a machine may choose.
type Choice struct {
	Advertisement string `json:"advertisement"`
	TaskSequence  string `json:"taskSequence"`
}

// Decision is what a machine gets, and why.
type Decision struct {
	Action Action `json:"action"`
	// Computer, Advertisement and TaskSequence name what was found; empty where the rules did not get that far. Of an Offer
	// they name the first of Choices.
	Computer      string `json:"computer,omitempty"`
	Advertisement string `json:"advertisement,omitempty"`
	TaskSequence  string `json:"taskSequence,omitempty"`
	// Resume is the run to go on with; empty for a new run.
	Resume string `json:"resume,omitempty"`
	// Choices are the available advertisements of an Offer, in order.
	Choices []Choice `json:"choices,omitempty"`
	// Unknown says that no record names the machine. Computer then is the name it would be deployed under, as far as it can
	// be told without the machine's inventory: see UnknownName.
	Unknown bool `json:"unknown,omitempty"`
	// Password says that the site's password is asked for before anything happens. A run that is gone on with asks for
	// none: it was asked for when the run began; unless it needs secrets, which are handed out after it.
	Password bool `json:"password,omitempty"`
	// Destructive says that the sequence erases disks; of an Offer, that one of Choices does.
	Destructive bool `json:"destructive,omitempty"`
	// Variables are what the sequence is to be run with: the computer's over its collections' over the sequence's own.
	Variables map[string]string `json:"variables,omitempty"`
	// Approved says that what it erases is beyond the wipe cap and begins by an approval: one of those of History.Approved is
	// used up by it, unless the run that it is about has its own already.
	Approved bool `json:"approved,omitempty"`
	// Conflict is the conflicting record that keeps the machine from being answered.
	Conflict *provisioning.Conflict `json:"conflict,omitempty"`
	// Reasons are the rules in the order in which they were looked at; the last one decided.
	Reasons []Reason `json:"reasons"`

	wakes bool // what is required wakes the computer
}

// Why is the reason that decided.
func (d *Decision) Why() string {
	if len(d.Reasons) == 0 {
		return ""
	}
	return d.Reasons[len(d.Reasons)-1].Text
}

// Rule is the name of the rule that decided.
func (d *Decision) Rule() string {
	if len(d.Reasons) == 0 {
		return ""
	}
	return d.Reasons[len(d.Reasons)-1].Rule
}

func (d *Decision) because(rule, text string) {
	d.Reasons = append(d.Reasons, Reason{rule, text})
}

// Lines are the decision as text for people: each rule with its outcome, then what follows.
func (d *Decision) Lines() []string {
	out := make([]string, 0, len(d.Reasons)+4)
	width := 0
	for _, r := range d.Reasons {
		width = max(width, len(r.Rule))
	}
	for _, r := range d.Reasons {
		out = append(out, r.Rule+":"+spaces(width-len(r.Rule)+1)+r.Text)
	}
	what := "→ " + string(d.Action)
	if d.Computer != "" {
		what += " " + d.Computer
	}
	if d.Unknown {
		what += " (unknown until now)"
	}
	if d.Resume != "" {
		what += ", go on with run " + d.Resume
	}
	if d.Action == Boot {
		what += ": advertisement " + d.Advertisement + ", task sequence " + d.TaskSequence
	}
	if d.Password {
		what += ", after the password"
	}
	out = append(out, what)
	for _, c := range d.Choices {
		out = append(out, "  choice: advertisement "+c.Advertisement+", task sequence "+c.TaskSequence)
	}
	return out
}

func spaces(n int) string {
	const blank = "                                "
	return blank[:min(max(n, 0), len(blank))]
}

// Decide makes a policy of a snapshot, nil where the site has none yet, and asks it once. A part of the snapshot that
// cannot be used is silent, with a reason.
func Decide(snapshot *provisioning.Snapshot, m provisioning.Machine, h History, now time.Time) Decision {
	p, _ := Compile(snapshot) // what of it cannot be used, the reasons say
	return p.Decide(m, h, now)
}
