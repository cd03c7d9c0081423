// Package policy decides what a machine that boots from the network gets. Decide is one pure function of the site's
// snapshot, the machine, what was run on it before, and the time: the appliance answers by it, central explains by it,
// and tests call it. Every rule that was looked at is in the answer, in order, with its outcome.
package policy

import (
	"fmt"
	"slices"
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
)

// Reason is one rule with its outcome.
type Reason struct {
	// Rule names the rule, as documentation lists it.
	Rule string `json:"rule"`
	// Text says what the rule found, for an admin.
	Text string `json:"text"`
}

// Decision is what a machine gets, and why.
type Decision struct {
	Action Action `json:"action"`
	// Computer, Advertisement and TaskSequence name what was found; empty where the rules did not get that far.
	Computer      string `json:"computer,omitempty"`
	Advertisement string `json:"advertisement,omitempty"`
	TaskSequence  string `json:"taskSequence,omitempty"`
	// Resume is the run to go on with; empty for a new run.
	Resume string `json:"resume,omitempty"`
	// Reasons are the rules in the order in which they were looked at; the last one decided.
	Reasons []Reason `json:"reasons"`
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

func (d *Decision) because(rule, format string, args ...any) {
	d.Reasons = append(d.Reasons, Reason{rule, fmt.Sprintf(format, args...)})
}

// Decide applies the rules. snapshot may be nil: the site has no configuration yet. history holds the runs of the
// site's computers; an incomplete one is the caller's responsibility to refuse.
func Decide(snapshot *provisioning.Snapshot, m provisioning.Machine, history []provisioning.Run, now time.Time) Decision {
	d := Decision{Action: Silent}
	if snapshot == nil {
		d.because("configuration", "the site has no configuration from central yet")
		return d
	}
	if snapshot.Site.Spec.PXE == nil {
		d.because("role", "the PXE service point of site %s is off", snapshot.Site.Name)
		return d
	}
	computer, ok := identify(snapshot, m, &d)
	if !ok {
		return d
	}
	d.Computer = computer.Name
	if !m.Arch.Supported() {
		d.because("architecture", "there is no boot image for %s", m.Arch)
		return d
	}
	ads := eligible(snapshot, computer.Name)
	for _, a := range ads {
		// Goes on before anything else and even after the advertisement has expired: half a deployment is no state to
		// leave a computer in.
		if run := latest(history, computer.Name, a.Name); run != nil && run.Spent && run.State == provisioning.RunStarted {
			d.because("once", "advertisement %s: run %s was interrupted on %s and goes on", a.Name, run.ID, run.UpdatedAt.UTC().Format(time.RFC3339))
			d.Action, d.Advertisement, d.TaskSequence, d.Resume = Boot, a.Name, a.Spec.TaskSequence, run.ID
			return d
		}
	}
	for _, a := range ads {
		if decideAdvertisement(&d, &a, computer.Name, history, now) {
			return d
		}
	}
	d.because("nothing to do", "no advertisement asks anything of %s now", computer.Name)
	return d
}

// identify finds the computer by MAC address and SMBIOS GUID. Where the two name different computers nobody is right.
func identify(s *provisioning.Snapshot, m provisioning.Machine, d *Decision) (*provisioning.Computer, bool) {
	var byMAC, byGUID []*provisioning.Computer
	for i := range s.Computers {
		c := &s.Computers[i]
		if slices.Contains(c.Spec.MACAddresses, m.MAC) {
			byMAC = append(byMAC, c)
		}
		if m.GUID != "" && c.Spec.SMBIOSGUID == m.GUID {
			byGUID = append(byGUID, c)
		}
	}
	switch {
	case len(byMAC) > 1 || len(byGUID) > 1:
		d.because("identity", "conflicting record: %s or its GUID belongs to more than one computer", m.MAC)
	case len(byMAC) == 1 && len(byGUID) == 1 && byMAC[0] != byGUID[0]:
		d.because("identity", "conflicting record: MAC address %s is %s, SMBIOS GUID %s is %s", m.MAC, byMAC[0].Name, m.GUID, byGUID[0].Name)
	case len(byMAC) == 1 && byMAC[0].Spec.SMBIOSGUID != "" && m.GUID != "" && byMAC[0].Spec.SMBIOSGUID != m.GUID:
		d.because("identity", "conflicting record: MAC address %s is %s, whose SMBIOS GUID is %s, not %s", m.MAC, byMAC[0].Name, byMAC[0].Spec.SMBIOSGUID, m.GUID)
	case len(byMAC) == 1:
		d.because("identity", "MAC address %s is %s", m.MAC, byMAC[0].Name)
		return byMAC[0], true
	case len(byGUID) == 1:
		d.because("identity", "SMBIOS GUID %s is %s", m.GUID, byGUID[0].Name)
		return byGUID[0], true
	default:
		d.because("identity", "no computer has MAC address %s or SMBIOS GUID %q, and unknown computers are not served", m.MAC, m.GUID)
	}
	return nil, false
}

// eligible lists the advertisements for a computer. A snapshot's are sorted by name, which makes the order stable.
func eligible(s *provisioning.Snapshot, computer string) []provisioning.Advertisement {
	var out []provisioning.Advertisement
	for _, a := range s.Advertisements {
		if a.Spec.Purpose == provisioning.PurposeRequired && slices.Contains(a.Spec.Computers, computer) {
			out = append(out, a)
		}
	}
	return out
}

// decideAdvertisement reports whether advertisement a settles the matter.
func decideAdvertisement(d *Decision, a *provisioning.Advertisement, computer string, history []provisioning.Run, now time.Time) bool {
	run := latest(history, computer, a.Name)
	switch {
	case run != nil && run.State == provisioning.RunSucceeded:
		d.because("once", "advertisement %s has run on %s", a.Name, run.UpdatedAt.UTC().Format(time.RFC3339))
		return false
	case run != nil && run.Spent:
		d.because("once", "advertisement %s failed on %s after it had begun to write; a person must decide", a.Name, run.UpdatedAt.UTC().Format(time.RFC3339))
		return false
	case !a.Spec.Start.IsZero() && now.Before(a.Spec.Start.Time):
		d.because("time", "advertisement %s starts at %s", a.Name, a.Spec.Start.UTC().Format(time.RFC3339))
		return false
	case !a.Spec.Expires.IsZero() && !now.Before(a.Spec.Expires.Time):
		d.because("time", "advertisement %s expired at %s", a.Name, a.Spec.Expires.UTC().Format(time.RFC3339))
		return false
	}
	d.because("required", "advertisement %s requires task sequence %s", a.Name, a.Spec.TaskSequence)
	d.Action, d.Advertisement, d.TaskSequence = Boot, a.Name, a.Spec.TaskSequence
	return true
}

// latest returns the run of an advertisement on a computer that counts, nil if there was none: the one with the most
// weight, and of these the newest. Which is newest is said by clocks, and one that was set back must not make a computer
// that was deployed look like one that was not.
func latest(history []provisioning.Run, computer, advertisement string) *provisioning.Run {
	var best *provisioning.Run
	for i := range history {
		r := &history[i]
		if r.Computer != computer || r.Advertisement != advertisement {
			continue
		}
		if best == nil || weight(r) > weight(best) || weight(r) == weight(best) && r.StartedAt.After(best.StartedAt) {
			best = r
		}
	}
	return best
}

// weight is how much a run keeps its advertisement from running again.
func weight(r *provisioning.Run) int {
	switch {
	case r.State == provisioning.RunSucceeded:
		return 3
	case r.Spent && r.State != provisioning.RunStarted:
		return 2
	case r.Spent:
		return 1
	}
	return 0
}
