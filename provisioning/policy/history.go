package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
)

// History is what has happened at a site, and what its people have allowed. What it holds must not be changed while it is
// used; the zero value is a site that knows nothing of its past.
type History struct {
	// Runs are the runs of the site's computers, in any order.
	Runs []provisioning.Run
	// Discovered are machines that were unknown and have been deployed here. They are known from then on, also before a
	// snapshot names them.
	Discovered []provisioning.Computer
	// Inventories are newer than the snapshot's, by computer.
	Inventories map[string]provisioning.Inventory
	// Complete says that Runs and Discovered are all that there were: it is false at an appliance that was replaced, until
	// its history is back or a person says so.
	Complete bool
	// Approved is how many deployments that erase disks people have approved beyond the wipe cap, and that have not begun.
	Approved int
	// Own is the machine of the appliance that decides; none where it is not an appliance that does.
	Own provisioning.Hosts
	// Released are the computers, by name, that people have approved to be given secrets.
	Released map[string]bool
	// Recipient is to whom secrets have to be encrypted for the appliance that decides to open them, "" while it can open none; nil
	// where it is not an appliance that does.
	Recipient *string

	index *index
}

// index finds runs and discovered machines by what they are named by: positions in History's lists.
type index struct {
	byComputer map[string][]int32 // names in lower case
	byMAC      map[provisioning.MAC][]int32
	byGUID     map[provisioning.GUID][]int32
	macs       map[provisioning.MAC][]int32 // of Discovered
	guids      map[provisioning.GUID][]int32
}

// Indexed is the same history, made ready to be asked often: decisions by it are the same.
func (h History) Indexed() History {
	x := &index{
		byComputer: make(map[string][]int32, len(h.Runs)), byMAC: make(map[provisioning.MAC][]int32, len(h.Runs)),
		byGUID: make(map[provisioning.GUID][]int32, len(h.Runs)),
		macs:   make(map[provisioning.MAC][]int32, len(h.Discovered)), guids: make(map[provisioning.GUID][]int32, len(h.Discovered)),
	}
	for i := range h.Runs {
		r, n := &h.Runs[i], int32(i)
		name := strings.ToLower(r.Computer)
		x.byComputer[name] = append(x.byComputer[name], n)
		if r.Machine.MAC != "" {
			x.byMAC[r.Machine.MAC] = append(x.byMAC[r.Machine.MAC], n)
		}
		if r.Machine.GUID != "" {
			x.byGUID[r.Machine.GUID] = append(x.byGUID[r.Machine.GUID], n)
		}
	}
	for i := range h.Discovered {
		c, n := &h.Discovered[i], int32(i)
		for _, m := range c.Spec.MACAddresses {
			x.macs[m] = append(x.macs[m], n)
		}
		if g := c.Spec.SMBIOSGUID; g != "" {
			x.guids[g] = append(x.guids[g], n)
		}
	}
	h.index = x
	return h
}

// With is the history with a run put in the place of the one of its id, or added to the others. h stays as it is.
func (h History) With(run provisioning.Run) History {
	h.Runs = slices.Clone(h.Runs)
	if i := slices.IndexFunc(h.Runs, func(r provisioning.Run) bool { return r.ID == run.ID }); i >= 0 {
		same := h.Runs[i].Computer == run.Computer && h.Runs[i].Machine == run.Machine
		h.Runs[i] = run
		if same {
			return h // positions and names are what they were
		}
	} else {
		h.Runs = append(h.Runs, run)
	}
	if h.index != nil {
		return h.Indexed()
	}
	return h
}

// runs returns the runs of a computer ("" is none), whatever the case of its name, and those that were given to a machine of
// this GUID ("" is none) or of one of these MAC addresses, in the order of Runs.
func (h *History) runs(computer string, guid provisioning.GUID, macs ...provisioning.MAC) []*provisioning.Run {
	var out []*provisioning.Run
	named := func(r *provisioning.Run) bool {
		return computer != "" && strings.EqualFold(r.Computer, computer) || guid != "" && r.Machine.GUID == guid ||
			r.Machine.MAC != "" && slices.Contains(macs, r.Machine.MAC)
	}
	if h.index == nil {
		for i := range h.Runs {
			if named(&h.Runs[i]) {
				out = append(out, &h.Runs[i])
			}
		}
		return out
	}
	var at []int32
	if computer != "" {
		at = append(at, h.index.byComputer[strings.ToLower(computer)]...)
	}
	for _, m := range macs {
		at = append(at, h.index.byMAC[m]...)
	}
	if guid != "" {
		at = append(at, h.index.byGUID[guid]...)
	}
	slices.Sort(at)
	for _, i := range slices.Compact(at) {
		if named(&h.Runs[i]) {
			out = append(out, &h.Runs[i])
		}
	}
	return out
}

// discovered returns the discovered computers of this MAC address or GUID ("" is none), in their order.
func (h *History) discovered(m provisioning.Machine) []*provisioning.Computer {
	var out []*provisioning.Computer
	if h.index == nil {
		for i := range h.Discovered {
			c := &h.Discovered[i]
			if slices.Contains(c.Spec.MACAddresses, m.MAC) || m.GUID != "" && c.Spec.SMBIOSGUID == m.GUID {
				out = append(out, c)
			}
		}
		return out
	}
	at := slices.Clone(h.index.macs[m.MAC])
	if m.GUID != "" {
		at = append(at, h.index.guids[m.GUID]...)
	}
	slices.Sort(at)
	for _, i := range slices.Compact(at) {
		out = append(out, &h.Discovered[i])
	}
	return out
}

// contradict reports whether two GUIDs say that machines are two: an empty one says nothing.
func contradict(a, b provisioning.GUID) bool { return a != "" && b != "" && a != b }

// RunOf reports whether a run was the computer's: it bears its name, or was given to a machine with its GUID, or with its MAC
// address that nothing says is another. The order to clear a computer is for these runs, so that one that was renamed can be
// cleared.
func RunOf(r *provisioning.Run, c *provisioning.Computer) bool {
	return strings.EqualFold(r.Computer, c.Name) || r.Machine.GUID != "" && r.Machine.GUID == c.Spec.SMBIOSGUID ||
		slices.Contains(c.Spec.MACAddresses, r.Machine.MAC) && !contradict(r.Machine.GUID, c.Spec.SMBIOSGUID)
}

// past is how much a run keeps its advertisement from running again, the least first.
type past int

const (
	pastNone        past = iota
	pastBegun            // it began, and nothing was erased
	pastHarmless         // it failed before anything was erased
	pastInterrupted      // it began to erase, and did not end
	pastFailed           // it failed after it had begun to erase
	pastSucceeded
	pastStrange // its state is one that this version does not know
)

func pastOf(r *provisioning.Run) past {
	switch {
	case r.State == provisioning.RunSucceeded:
		return pastSucceeded
	case r.State == provisioning.RunFailed && r.Spent:
		return pastFailed
	case r.State == provisioning.RunFailed:
		return pastHarmless
	case r.State == provisioning.RunStarted && r.Spent:
		return pastInterrupted
	case r.State == provisioning.RunStarted:
		return pastBegun
	}
	return pastStrange
}

// latest returns the run of an advertisement that counts, nil if there was none: the one with the most weight, and of these
// the newest. Which is newest is said by clocks, and one that was set back must not make a computer that was deployed look
// like one that was not.
func latest(runs []*provisioning.Run, advertisement string) *provisioning.Run {
	var best *provisioning.Run
	for _, r := range runs {
		if r.Advertisement != advertisement || r.Cleared {
			continue
		}
		if best == nil || pastOf(r) > pastOf(best) || pastOf(r) == pastOf(best) && newer(r, best) {
			best = r
		}
	}
	return best
}

// newer is stable where the clock says nothing.
func newer(a, b *provisioning.Run) bool {
	if !a.StartedAt.Equal(b.StartedAt) {
		return a.StartedAt.After(b.StartedAt)
	}
	return a.ID > b.ID
}

// capTime is how far back the wipe cap looks.
const capTime = time.Hour

// Exhausted says why a deployment that erases disks and needs an approval beyond the wipe cap must not begin to erase now, ""
// if it may: as many have begun to in the hour before as the cap lets. Decide counts those as well that are about to.
func (p *Policy) Exhausted(h *History, now time.Time) string {
	begun, most := h.wipes(now, func(string) bool { return false }, nil), p.wipeCap()
	if begun < most {
		return ""
	}
	return strconv.Itoa(begun) + " deployments began to erase disks in the last hour; " + strconv.Itoa(most) + " may without an approval"
}

// wipeCap is how many may begin in an hour.
func (p *Policy) wipeCap() int {
	if p.role != nil && p.role.WipesPerHour > 0 {
		return p.role.WipesPerHour
	}
	return provisioning.DefaultWipesPerHour
}

// wipes counts the deployments that began to erase disks in the hour before now, or are about to; mine is not counted, and
// neither are those that went beyond the cap by an approval, each of which has used one up.
// What a clock that is ahead has written counts, too: there is no telling when it was.
func (h *History) wipes(now time.Time, destructive func(sequence string) bool, mine func(*provisioning.Run) bool) int {
	since, n := now.Add(-capTime), 0
	for i := range h.Runs {
		r := &h.Runs[i]
		var at time.Time
		switch {
		case r.Allowance != "":
			continue
		case r.Spent && !r.SpentAt.IsZero():
			at = r.SpentAt
		case r.Spent:
			at = r.UpdatedAt // it was not noted when; not later than this
		case r.State == provisioning.RunStarted:
			if at = r.StartedAt; r.UpdatedAt.After(at) {
				at = r.UpdatedAt
			}
		default:
			continue
		}
		if at.After(since) && (r.Spent || destructive(r.TaskSequence) && !mine(r)) {
			n++
		}
	}
	return n
}
