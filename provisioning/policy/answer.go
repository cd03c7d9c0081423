package policy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"branchpoint/provisioning"
)

// The rules about what a site's appliance has, looked at after all others.
const (
	// RuleContent: the content of what a machine would get must be there in full.
	RuleContent = "content"
	// RuleStorage: the run must be stored before the machine begins.
	RuleStorage = "storage"
)

// Appliance is what an answer depends on beside configuration and history. The zero value is an appliance that has
// everything and can store everything.
type Appliance struct {
	// Installed reports whether content is there in full; nil is always.
	Installed func(provisioning.ContentRef) bool
	// Writable says why nothing can be stored, nil where it can; nil is always.
	Writable func() error
}

// Answer is what an appliance answers a machine: what Decide says, as far as the appliance can keep it. It is silent where the
// content of what the machine would get is not all there: a boot that cannot end is worse than none.
func (p *Policy) Answer(m provisioning.Machine, h History, now time.Time, has Appliance) Decision {
	d := p.Decide(m, h, now)
	if d.Action == Silent {
		return d
	}
	if p.snapshot.Site.Spec.DistributionPoint == nil {
		d.silence(RuleRole, "the distribution point of site "+p.site+" is off")
		return d
	}
	if has.Writable != nil {
		if err := has.Writable(); err != nil {
			d.silence(RuleStorage, fmt.Sprintf("the run could not be stored: %v", err))
			return d
		}
	}
	if d.Action == Boot {
		if c, ok := p.missing(d.TaskSequence, has); ok {
			d.silence(RuleContent, notHere(c, d.TaskSequence))
		}
		return d
	}
	var here []Choice
	for _, x := range d.Choices {
		c, ok := p.missing(x.TaskSequence, has)
		if !ok {
			here = append(here, x)
			continue
		}
		d.because(RuleContent, "advertisement "+x.Advertisement+" is left out: "+notHere(c, x.TaskSequence))
	}
	if len(here) == 0 {
		d.silence(RuleContent, "nothing of what is available to "+d.Computer+" is here in full yet")
		return d
	}
	d.Choices = here
	d.Advertisement, d.TaskSequence = here[0].Advertisement, here[0].TaskSequence
	return d
}

func notHere(c provisioning.ContentRef, sequence string) string {
	return fmt.Sprintf("package %s version %d, which task sequence %s needs, is not here in full yet", c.Package, c.Version, sequence)
}

// silence takes an answer back.
func (d *Decision) silence(rule, text string) {
	d.Action, d.Choices = Silent, nil
	d.because(rule, text)
}

// missing is the first package that a sequence needs and that is not there in full, by the image's name; false where all are.
func (p *Policy) missing(sequence string, has Appliance) (provisioning.ContentRef, bool) {
	if has.Installed == nil {
		return provisioning.ContentRef{}, false
	}
	content := p.snapshot.SequenceContent(sequence)
	for _, image := range slices.Sorted(maps.Keys(content)) {
		if !has.Installed(content[image]) {
			return content[image], true
		}
	}
	return provisioning.ContentRef{}, false
}

// ClearedBy reports whether an order to clear a computer is about a run: one of the computer's that it covers.
func ClearedBy(c *provisioning.Clear, computer *provisioning.Computer, r *provisioning.Run) bool {
	return RunOf(r, computer) && c.Covers(r)
}

// Explanation is a decision for people: which machine it is about, each rule with its outcome, and what follows.
func Explanation(m provisioning.Machine, d *Decision) []string {
	guid := string(m.GUID)
	if guid == "" {
		guid = "not given"
	}
	mac := string(m.MAC)
	if mac == "" {
		mac = "no MAC address"
	}
	return append([]string{mac + ", GUID " + guid + ", " + m.Arch.String() + ":"}, d.Lines()...)
}
