package branch

import (
	"context"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
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

// history is what decisions are made by besides the snapshot, but for secrets.
func (s *state) history(now time.Time) policy.History {
	h := s.past
	h.Approved = left(s.allowances, s.latest(now))
	return h
}

// history is all that decisions about a boot are made by besides the snapshot; "" is one that is yet to come, for which no
// approval counts that another has used up.
func (b *Branch) history(s *state, boot string, now time.Time) policy.History {
	h := s.history(now)
	h.Recipient = b.recipient.Load()
	for computer, a := range s.released {
		if a.lets(boot, now) {
			if h.Released == nil {
				h.Released = map[string]bool{}
			}
			h.Released[computer] = true
		}
	}
	return h
}

func (b *Branch) decide(s *state, m provisioning.Machine) policy.Decision {
	return b.decideIn(s, m, "")
}

func (b *Branch) decideIn(s *state, m provisioning.Machine, boot string) policy.Decision {
	now := b.cfg.Now()
	return s.policy.Answer(m, b.history(s, boot, now), now, policy.Appliance{Installed: b.cfg.Installed, Writable: b.cfg.Writable})
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
