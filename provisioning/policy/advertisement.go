package policy

import (
	"slices"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// eligible applies the rules about one advertisement.
func (q *question) eligible(a *advertisement) bool {
	return q.available(a) && q.target(a) && q.inForce(a) && q.bootable(a) && q.due(a) && q.releasable(a)
}

func (q *question) no(rule string, a *advertisement, text string) bool {
	q.d.because(rule, "advertisement "+a.Name+" "+text)
	return false
}

func (q *question) available(a *advertisement) bool {
	if ways := a.Spec.AvailableTo; len(ways) > 0 && !slices.Contains(ways, provisioning.AvailableToPXE) {
		return q.no(RuleAvailability, a, "is not available to PXE")
	}
	if !a.required && a.Spec.Purpose != provisioning.PurposeAvailable {
		return q.no(RuleAvailability, a, "has a purpose that this version does not know")
	}
	return true
}

// target reports whether the advertisement is for the computer.
func (q *question) target(a *advertisement) bool {
	name := q.d.Computer
	switch {
	case a.Spec.Collection != "" && len(a.Spec.Computers) > 0:
		return q.no(RuleTarget, a, "names both a collection and computers")
	case a.listed != nil && q.computer != nil && a.listed[name]:
		q.d.because(RuleTarget, "advertisement "+a.Name+" lists "+name)
		return true
	case a.listed != nil:
		return q.no(RuleTarget, a, "does not list "+name)
	case a.collection < 0:
		return q.no(RuleTarget, a, "is for collection "+a.Spec.Collection+", which the configuration lacks")
	case a.unknown:
		return q.targetUnknown(a)
	case q.computer == nil:
		return q.no(RuleTarget, a, "is for collection "+a.Spec.Collection+", and no record names the machine")
	}
	m := q.member(a.collection)
	if !m.Member {
		return q.no(RuleTarget, a, "is for collection "+a.Spec.Collection+": "+name+" "+m.Reason)
	}
	if q.discovered && a.required {
		// Whoever made it was told which computers it concerns, and this one was not among them.
		return q.no(RuleTarget, a, "is for collection "+a.Spec.Collection+", but requires nothing of "+name+" before central has its record")
	}
	q.d.because(RuleTarget, "advertisement "+a.Name+" is for collection "+a.Spec.Collection+": "+name+" "+m.Reason)
	return true
}

// targetUnknown is about an advertisement for machines that no record names. It stays the advertisement of a computer that
// had it as an unknown one: else nobody could let it run again there.
func (q *question) targetUnknown(a *advertisement) bool {
	if q.d.Unknown {
		q.d.because(RuleTarget, "advertisement "+a.Name+" is for all unknown computers")
		return true
	}
	had := slices.ContainsFunc(q.past, func(r *provisioning.Run) bool {
		return r.Advertisement == a.Name && r.Computer == q.d.Computer
	})
	if !had || q.p.role.UnknownComputers == nil {
		return q.no(RuleTarget, a, "is for all unknown computers: "+q.d.Computer+" is a known one")
	}
	q.d.because(RuleTarget, "advertisement "+a.Name+" is for all unknown computers, and "+q.d.Computer+" had it as one")
	return true
}

// inForce applies start, expiry and maintenance windows.
func (q *question) inForce(a *advertisement) bool {
	issued := q.p.snapshot.IssuedAt
	switch {
	case !a.Spec.Start.IsZero() && q.now.Before(a.Spec.Start.Time):
		return q.no(RuleTime, a, "starts at "+when(a.Spec.Start.Time))
	case !a.Spec.Expires.IsZero() && !q.latest().Before(a.Spec.Expires.Time): // a clock that was set back brings nothing back
		return q.no(RuleTime, a, "expired at "+when(a.Spec.Expires.Time))
	case !a.required || len(a.Spec.MaintenanceWindows) == 0:
		return true
	case q.p.zone == nil:
		return q.no(RuleTime, a, "has maintenance windows, and the site's time zone is not known")
	case issued.Sub(q.now) > clockSlack:
		return q.no(RuleTime, a, "has maintenance windows, and the clock is behind: it says "+when(q.now)+", and central made the configuration at "+when(issued))
	case !provisioning.InWindows(a.Spec.MaintenanceWindows, q.now, q.p.zone):
		return q.no(RuleTime, a, "may begin in its maintenance windows only; at the site it is "+q.now.In(q.p.zone).Format("Mon 15:04"))
	}
	return true
}

// clockSlack is how much a branch's clock may be behind central's before what it says of the time of day is not believed.
const clockSlack = 10 * time.Minute

// bootable applies task sequence and boot image.
func (q *question) bootable(a *advertisement) bool {
	if q.p.sequences[a.Spec.TaskSequence] == nil {
		return q.no(RuleSequence, a, "is of task sequence "+a.Spec.TaskSequence+", which the configuration lacks")
	}
	if why := q.p.cannotBoot(a.Spec.TaskSequence, q.m.Arch); why != "" {
		return q.no(RuleBootImage, a, "cannot be booted: "+why)
	}
	return true
}

// cannotBoot says why there is no boot image for a task sequence and an architecture, "" if there is one.
func (p *Policy) cannotBoot(sequence string, arch provisioning.Arch) string {
	name := p.sequences[sequence].Spec.BootImage
	if name == "" {
		return ""
	}
	b := p.bootImages[name]
	if b == nil {
		return "the configuration lacks boot image " + name
	}
	if len(b.Spec.Architectures) > 0 && !slices.Contains(b.Spec.Architectures, architecture(arch)) {
		return "boot image " + name + " is not for " + arch.String()
	}
	return ""
}

// architecture is what documents call an architecture, "" where they have no name for it.
func architecture(a provisioning.Arch) provisioning.BootArchitecture {
	switch a {
	case provisioning.ArchBIOS:
		return provisioning.BootBIOS
	case provisioning.ArchUEFIx64, provisioning.ArchUEFIx64Alt:
		return provisioning.BootUEFIx64
	case provisioning.ArchHTTPBootx64:
		return provisioning.BootHTTPUEFIx64
	}
	return ""
}

// due applies "once" and the rerun behaviour to a required advertisement; an available one waits for a person each time.
func (q *question) due(a *advertisement) bool {
	if !a.required {
		return true
	}
	if q.mayRequire != "" {
		return q.no(RuleHistory, a, "has to wait: "+q.mayRequire)
	}
	rerun := a.Spec.Rerun
	switch {
	case rerun == "", rerun == provisioning.RerunAlways && a.unknown: // which is refused when it is applied
		rerun = provisioning.RerunNever
	case rerun != provisioning.RerunNever && rerun != provisioning.RerunIfFailed && rerun != provisioning.RerunAlways:
		return q.no(RuleOnce, a, "has a rerun behaviour that this version does not know")
	}
	run, as := latest(q.past, a.Name), ""
	if other := latest(q.abroad, a.Name); other != nil && (run == nil || pastOf(other) > pastOf(run)) {
		run, as = other, " at another site"
	}
	if run == nil {
		return true
	}
	if run.Computer != q.d.Computer {
		as += " as " + run.Computer
	}
	on := " on " + when(run.UpdatedAt) + as
	switch past := pastOf(run); {
	case past == pastSucceeded && rerun == provisioning.RerunAlways, past == pastFailed && rerun != provisioning.RerunNever:
		q.d.because(RuleOnce, "advertisement "+a.Name+" ended ("+string(run.State)+")"+on+" and runs again: its rerun behaviour is "+string(rerun))
		return true
	case past == pastSucceeded:
		return q.no(RuleOnce, a, "has run"+on)
	case past == pastFailed:
		return q.no(RuleOnce, a, "failed"+on+" after it had begun to write; a person must decide")
	case past == pastInterrupted:
		return q.no(RuleOnce, a, "was interrupted"+on+" after it had begun to write, and cannot go on here; a person must decide")
	case past == pastStrange:
		return q.no(RuleOnce, a, "has a run"+on+" in a state that this version does not know")
	}
	q.d.because(RuleOnce, "advertisement "+a.Name+" began"+on+" and had erased nothing; it begins again")
	return true
}

// standing says what puts an advertisement before others.
func (a *advertisement) standing() string {
	text := "it is " + string(a.Spec.Purpose) + ", priority " + strconv.Itoa(a.Spec.Priority)
	if a.Changed > 0 {
		text += ", changed last by change " + strconv.FormatUint(a.Changed, 10)
	}
	return text
}
