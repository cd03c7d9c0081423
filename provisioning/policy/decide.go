package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
)

// question is one decision while it is made.
type question struct {
	p   *Policy
	m   provisioning.Machine
	h   *History
	now time.Time
	d   Decision

	computer   *provisioning.Computer // nil where the machine is unknown
	discovered bool                   // the snapshot does not name computer yet
	mayRequire string                 // why nothing that is required may begin; empty where it may
	past       []*provisioning.Run    // of the computer and of the machine, at this site
	abroad     []*provisioning.Run    // and at others: what has run there does not run here, and nothing goes on here
	members    *memberships           // of the computer, made when one is asked for
}

// Decide applies the rules. It is pure: the same policy, machine, history and time give the same answer. It may be called
// for each packet of a known computer; see History.Indexed.
func (p *Policy) Decide(m provisioning.Machine, h History, now time.Time) Decision {
	q := &question{p: p, m: m, h: &h, now: now, d: Decision{Action: Silent, Reasons: make([]Reason, 0, 16)}}
	if q.served() && !q.host() && q.identify() && q.entitled() && !q.resume() {
		q.begin()
	}
	return q.d
}

// served applies the rules about the site and what can be seen on the wire.
func (q *question) served() bool {
	p := q.p
	if p == nil || p.snapshot == nil {
		q.d.because(RuleConfiguration, "the site has no configuration from central yet")
		return false
	}
	q.d.because(RuleConfiguration, "configuration "+strconv.FormatUint(p.snapshot.Epoch, 10)+"."+strconv.FormatUint(p.snapshot.Number, 10)+" of site "+p.site)
	if p.role == nil {
		q.d.because(RuleRole, "the PXE service point of site "+p.site+" is off")
		return false
	}
	q.d.because(RuleRole, "the PXE service point is on")
	if p.ignored[q.m.MAC] {
		q.d.because(RuleIgnored, string(q.m.MAC)+" stands in the ignore list of site "+p.site)
		return false
	}
	if !q.m.Arch.Supported() {
		q.d.because(RuleArchitecture, "there is no boot image for "+q.m.Arch.String())
		return false
	}
	return true
}

// entitled applies the rules about the computer, before any advertisement.
func (q *question) entitled() bool {
	if q.computer == nil {
		return q.entitledUnknown()
	}
	if s := q.computer.Spec.Site; s != "" && s != q.p.site {
		q.d.because(RuleSite, q.computer.Name+" belongs to site "+s)
		return false
	}
	if q.computer.Spec.Infrastructure {
		q.d.because(RuleInfrastructure, q.computer.Name+" is infrastructure, which is never a target")
		return false
	}
	if what := q.hostOf(q.computer); what != "" {
		q.d.because(RuleInfrastructure, q.computer.Name+" is "+what+", by its own word, and never a target")
		return false
	}
	q.recall()
	if !q.h.Complete {
		q.mayRequire = "the history of this site's runs is not back yet"
		q.d.because(RuleHistory, q.mayRequire+": nothing required begins or goes on until it is, or a person says that there is none; what is available is offered")
	}
	return true
}

func (q *question) entitledUnknown() bool {
	if q.p.role.UnknownComputers == nil {
		q.d.because(RuleUnknown, "unknown computers are not served at site "+q.p.site)
		return false
	}
	q.d.Unknown = true
	q.d.Computer = q.p.UnknownName(q.m, provisioning.Inventory{}, q.h)
	if !q.h.Complete {
		q.d.because(RuleHistory, "the history of this site's runs is not back yet: a machine that seems unknown may be one that was deployed here")
		return false
	}
	q.d.because(RuleUnknown, "unknown computers are served; it would be "+q.d.Computer)
	q.recall()
	for _, r := range slices.Concat(q.past, q.abroad) {
		if !r.Cleared && (r.Spent || pastOf(r) >= pastSucceeded) {
			where := "here"
			if !slices.Contains(q.past, r) {
				where = "at another site"
			}
			q.mayRequire = "this machine, or its network adapter, was deployed " + where + " as " + r.Computer
			q.d.because(RuleHistory, q.mayRequire+", which no record says any more: nothing required begins until it has one again")
			break
		}
	}
	return true
}

// recall gathers the runs that count for the computer: its own, and those of the machine under another name, so that a
// computer that was renamed is not erased again, whichever of its network cards it boots from. Of an unknown machine, all
// that its address or its GUID have had.
func (q *question) recall() {
	name, guid, macs := "", q.m.GUID, []provisioning.MAC{q.m.MAC}
	if q.computer != nil {
		name, guid = q.computer.Name, cmp.Or(guid, q.computer.Spec.SMBIOSGUID)
		macs = slices.DeleteFunc(append(macs, q.computer.Spec.MACAddresses...), func(m provisioning.MAC) bool { return q.p.shared[m] })
	}
	of := func(h *History) []*provisioning.Run {
		return slices.DeleteFunc(h.runs(name, guid, macs...), func(r *provisioning.Run) bool {
			return (name == "" || !strings.EqualFold(r.Computer, name)) && contradict(r.Machine.GUID, guid)
		})
	}
	q.past, q.abroad = of(q.h), of(&q.p.deployed)
}

// resume goes on with a run that was interrupted after it began to erase, before all else and whatever has expired: half a
// deployment is no state to leave a computer in.
func (q *question) resume() bool {
	if q.computer == nil || !q.h.Complete {
		return false
	}
	var run *provisioning.Run
	for _, r := range q.past {
		if r.Computer != q.computer.Name || r.Cleared || pastOf(r) != pastInterrupted {
			continue
		}
		if why := q.cannotResume(r); why != "" {
			q.d.because(RuleResume, "advertisement "+r.Advertisement+": run "+r.ID+" was interrupted on "+when(r.UpdatedAt)+" and cannot go on here: "+why)
		} else if run == nil || newer(r, run) {
			run = r
		}
	}
	if run == nil {
		return false
	}
	q.d.Action, q.d.Advertisement, q.d.TaskSequence, q.d.Resume = Boot, run.Advertisement, run.TaskSequence, run.ID
	q.d.Destructive = q.p.destructive(run.TaskSequence)
	q.d.Variables = q.variables(run.TaskSequence)
	if _, after := q.withheld(run.TaskSequence); after == provisioning.SecretsAfterPassword {
		q.askPassword() // which was given in another start: who asks now may be another machine
	}
	q.d.because(RuleResume, "advertisement "+run.Advertisement+": run "+run.ID+" was interrupted on "+when(run.UpdatedAt)+" and goes on")
	return true
}

// resumeTime is for how long a run goes on by itself after it was last heard of: who has not heard of its end must not
// take a computer that has been used since for one that is half deployed.
const resumeTime = 7 * 24 * time.Hour

// latest is the time, or that at which central made the configuration where the clock is behind that.
func (q *question) latest() time.Time {
	if issued := q.p.snapshot.IssuedAt; issued.After(q.now) {
		return issued
	}
	return q.now
}

// since is how long ago at was. Where the clock was set back meanwhile, what central has said of the time counts.
func (q *question) since(at time.Time) time.Duration {
	if at.After(q.now) {
		return q.latest().Sub(at)
	}
	return q.now.Sub(at)
}

// cannotResume says why a run cannot go on, "" if it can.
func (q *question) cannotResume(r *provisioning.Run) string {
	switch {
	case !q.sameMachine(r.Machine):
		return "it was begun on another machine, " + string(r.Machine.MAC) + " with " + guidText(r.Machine.GUID)
	case !q.p.advertised(r.Advertisement):
		return "its advertisement is no longer in the configuration"
	case q.since(r.UpdatedAt) > resumeTime:
		return "nothing has been heard of it for more than " + strconv.Itoa(int(resumeTime.Hours())) + " hours, so that there may be new data on the computer; a person must decide"
	case q.p.sequences[r.TaskSequence] == nil:
		return "its task sequence " + r.TaskSequence + " is no longer in the configuration"
	}
	if why := q.p.cannotBoot(r.TaskSequence, q.m.Arch); why != "" {
		return why
	}
	why, _ := q.withheld(r.TaskSequence)
	return why
}

// sameMachine reports whether a run of the computer was given to this machine: another may have its name by now. A run
// that does not say is believed to be its computer's.
func (q *question) sameMachine(m provisioning.Machine) bool {
	switch {
	case m == provisioning.Machine{}:
		return true
	case m.GUID != "" && q.m.GUID != "":
		return m.GUID == q.m.GUID
	case m.MAC == q.m.MAC:
		return true
	}
	for _, own := range q.computer.Spec.MACAddresses {
		if own == m.MAC {
			return true
		}
	}
	return false
}

func (p *Policy) advertised(name string) bool {
	for i := range p.ads {
		if p.ads[i].Name == name {
			return true
		}
	}
	return false
}

// begin looks at every advertisement, and decides what begins.
func (q *question) begin() {
	var required []*advertisement
	var available []*advertisement
	for i := range q.p.ads {
		a := &q.p.ads[i]
		if !q.eligible(a) {
			continue
		}
		if a.required {
			required = append(required, a)
		} else {
			available = append(available, a)
		}
	}
	switch {
	case len(required) > 0:
		q.require(required[0], len(required)+len(available))
	case len(available) > 0:
		q.offer(available)
	default:
		q.d.because(RuleNothing, "no advertisement asks anything of "+q.d.Computer+" now")
	}
}

func (q *question) require(a *advertisement, of int) {
	if of > 1 {
		q.d.because(RuleChoice, "of "+strconv.Itoa(of)+" advertisements "+a.Name+" comes first: "+a.standing())
	}
	q.d.Advertisement, q.d.TaskSequence, q.d.Destructive = a.Name, a.Spec.TaskSequence, q.p.destructive(a.Spec.TaskSequence)
	if q.d.Destructive && !q.withinCap(a.Name) {
		return
	}
	q.askPassword()
	if a.Spec.WakeOnLAN {
		q.explainWake(a)
	}
	q.d.Action = Boot
	q.d.Variables = q.variables(a.Spec.TaskSequence)
	q.d.because(RuleRequired, "advertisement "+a.Name+" requires task sequence "+a.Spec.TaskSequence)
}

func (q *question) offer(ads []*advertisement) {
	capped := false
	for _, a := range ads {
		destructive := q.p.destructive(a.Spec.TaskSequence)
		if destructive && !q.withinCap(a.Name) {
			capped = true
			continue
		}
		q.d.Destructive = q.d.Destructive || destructive
		q.d.Choices = append(q.d.Choices, Choice{a.Name, a.Spec.TaskSequence})
	}
	if len(q.d.Choices) == 0 {
		if capped { // the cap's reason stands last
			q.d.Advertisement, q.d.TaskSequence, q.d.Destructive = ads[0].Name, ads[0].Spec.TaskSequence, true
		}
		return
	}
	first := q.d.Choices[0]
	if len(q.d.Choices) > 1 {
		q.d.because(RuleChoice, "of "+strconv.Itoa(len(q.d.Choices))+" advertisements "+first.Advertisement+" comes first")
	}
	q.askPassword()
	q.d.Action, q.d.Advertisement, q.d.TaskSequence = Offer, first.Advertisement, first.TaskSequence
	q.d.Variables = q.variables(first.TaskSequence)
	q.d.because(RuleAvailable, "advertisement "+first.Advertisement+" makes task sequence "+first.TaskSequence+" available; a person has to press a key")
}

// withinCap applies the wipe cap to a deployment that erases disks.
func (q *question) withinCap(ad string) bool {
	most := q.p.wipeCap()
	// A run of this computer that has erased nothing yet is the one that it would get again.
	mine := func(r *provisioning.Run) bool {
		return r.Advertisement == ad && r.State == provisioning.RunStarted && !r.Spent &&
			(r.Computer == q.d.Computer || q.d.Unknown && r.Machine == q.m)
	}
	begun := q.h.wipes(q.now, q.p.destructive, mine)
	text := strconv.Itoa(begun) + " deployments that erase disks began in the last hour; " + strconv.Itoa(most) + " may without an approval"
	if begun >= most {
		switch {
		case slices.ContainsFunc(q.past, func(r *provisioning.Run) bool { return mine(r) && r.Allowance != "" && !r.Cleared }):
			text += ", and this one is approved"
		case q.h.Approved > 0:
			text += ", and " + strconv.Itoa(q.h.Approved) + " more are approved"
		default:
			q.d.because(RuleWipeCap, "advertisement "+ad+" has to wait: "+text)
			return false
		}
		q.d.Approved = true
	}
	q.d.because(RuleWipeCap, "advertisement "+ad+": "+text)
	return true
}

func (q *question) askPassword() {
	if q.p.role.PasswordHash != "" {
		q.d.Password = true
		q.d.because(RulePassword, "the site's password is asked for first")
	}
}

// variables are those of the computer over its collections' over the sequence's. Of collections the first by name wins.
func (q *question) variables(sequence string) map[string]string {
	out := map[string]string{}
	take := func(from map[string]string, over bool) {
		for k, v := range from {
			if _, ok := out[k]; over || !ok {
				out[k] = v
			}
		}
	}
	if q.computer != nil {
		take(q.computer.Spec.Variables, true)
		for i, of := range q.p.collectionSpecs {
			if v := of.Spec.Variables; len(v) > 0 && q.member(i).Member {
				take(v, false)
			}
		}
	}
	if ts := q.p.sequences[sequence]; ts != nil {
		take(ts.Spec.Variables, false)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// Variables are what a computer's task sequence is run with: see Decision.Variables, which has those of the first choice.
func (p *Policy) Variables(c *provisioning.Computer, sequence string, h History) map[string]string {
	if p.snapshot == nil {
		return nil
	}
	q := &question{p: p, h: &h, computer: c}
	q.past, q.abroad = h.runs(c.Name, ""), p.deployed.runs(c.Name, "")
	return q.variables(sequence)
}

// member decides whether the computer belongs to a collection.
func (q *question) member(i int) *collection.Membership {
	if q.members == nil {
		q.members = q.p.membershipsOf(q.computer, q.h, slices.Concat(q.past, q.abroad))
	}
	return q.members.of(q.p.collections, i)
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }
