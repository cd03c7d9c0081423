package branch

import (
	"context"
	"fmt"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// The rules by which a machine waits: for what is not here yet, and for a data disk that can be written.
const (
	ruleContent = "content"
	ruleStorage = "storage"
)

// Decide says what a machine gets. It is silent where the content of what it would get is not all here: a boot that
// cannot end is worse than none. It waits for nobody. What people should know of the machine, Notices tells.
func (b *Branch) Decide(_ context.Context, m provisioning.Machine) policy.Decision {
	d := b.decide(b.state.Load(), m)
	b.notices.note(b.cfg.Site, m, &d, b.cfg.Now())
	return d
}

// Explain says what a machine would get, and why, as Decide does, and touches nothing.
func (b *Branch) Explain(m provisioning.Machine) policy.Decision { return b.decide(b.state.Load(), m) }

// Known reports whether the snapshot in force names a computer of this MAC address, or of this SMBIOS GUID ("" is none).
// It waits for nobody and decides nothing: it is for telling whose packets come first, which Decide is too dear for.
func (b *Branch) Known(mac provisioning.MAC, guid provisioning.GUID) bool {
	return b.state.Load().policy.Known(mac, guid)
}

// history is what decisions are made by besides the snapshot.
func (s *state) history(now time.Time) policy.History {
	h := s.past
	h.Approved = left(s.allowances, s.latest(now))
	return h
}

func (b *Branch) decide(s *state, m provisioning.Machine) policy.Decision {
	now := b.cfg.Now()
	d := s.policy.Decide(m, s.history(now), now)
	if d.Action == policy.Silent {
		return d
	}
	silent := func(rule, format string, args ...any) policy.Decision {
		d.Action, d.Choices = policy.Silent, nil
		d.Reasons = append(d.Reasons, policy.Reason{Rule: rule, Text: fmt.Sprintf(format, args...)})
		return d
	}
	if s.snapshot.Site.Spec.DistributionPoint == nil {
		return silent("role", "the distribution point of site %s is off", b.cfg.Site)
	}
	if err := b.cfg.Writable(); err != nil {
		return silent(ruleStorage, "the run could not be stored: %v", err)
	}
	if d.Action == policy.Boot {
		if c, ok := b.missing(s.snapshot, d.TaskSequence); ok {
			return silent(ruleContent, "package %s version %d, which task sequence %s needs, is not here in full yet", c.Package, c.Version, d.TaskSequence)
		}
		return d
	}
	var here []policy.Choice
	for _, x := range d.Choices {
		c, ok := b.missing(s.snapshot, x.TaskSequence)
		if !ok {
			here = append(here, x)
			continue
		}
		d.Reasons = append(d.Reasons, policy.Reason{Rule: ruleContent, Text: fmt.Sprintf(
			"advertisement %s is left out: package %s version %d, which task sequence %s needs, is not here in full yet", x.Advertisement, c.Package, c.Version, x.TaskSequence)})
	}
	if len(here) == 0 {
		return silent(ruleContent, "nothing of what is available to %s is here in full yet", d.Computer)
	}
	d.Choices = here
	d.Advertisement, d.TaskSequence = here[0].Advertisement, here[0].TaskSequence
	return d
}

// missing is a package that a sequence needs and that is not here in full; false where all are.
func (b *Branch) missing(s *provisioning.Snapshot, sequence string) (provisioning.ContentRef, bool) {
	for _, c := range sequenceContent(s, sequence) {
		if !b.cfg.Installed(c) {
			return c, true
		}
	}
	return provisioning.ContentRef{}, false
}

// sequenceContent maps the images that a sequence applies to their content.
func sequenceContent(s *provisioning.Snapshot, sequence string) map[string]provisioning.ContentRef {
	out := map[string]provisioning.ContentRef{}
	if ts := s.TaskSequence(sequence); ts != nil {
		for _, st := range ts.Spec.Steps {
			if a := st.ApplyOperatingSystemImage; a != nil {
				if c := s.ImageContent(a.Image); c != nil {
					out[a.Image] = *c
				}
			}
		}
	}
	return out
}

// chosen narrows a decision down to the advertisement that a person chose at the machine's menu, "" where there was none. An
// advertisement that is not among the choices any more is not given, and neither is what is required by now: that is the
// next start's matter.
func chosen(d policy.Decision, advertisement string) (policy.Decision, bool) {
	switch {
	case d.Action == policy.Boot:
		return d, advertisement == "" || advertisement == d.Advertisement
	case d.Action == policy.Offer:
		for _, c := range d.Choices {
			if c.Advertisement == advertisement {
				d.Advertisement, d.TaskSequence = c.Advertisement, c.TaskSequence
				return d, true
			}
		}
	}
	return d, false
}

// computerOf is the computer that a decision is about, as its agent is told of it.
func (s *state) computerOf(d *policy.Decision, m provisioning.Machine, now time.Time) provisioning.Computer {
	out := provisioning.Computer{Name: d.Computer, Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{m.MAC}, SMBIOSGUID: m.GUID}}
	if d.Unknown { // its variables are its sequence's
		return out
	}
	if c := s.snapshot.Computer(d.Computer); c != nil {
		out = *c
	}
	// The decision has those of the first choice.
	out.Spec.Variables = s.policy.Variables(&out, d.TaskSequence, s.history(now))
	return out
}
