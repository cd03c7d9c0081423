package branch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// obedience is what comes of the orders of a snapshot: what changes, and what of it is to be stored.
type obedience struct {
	runs       []provisioning.Run // all of them
	allowances []provisioning.Allowance
	change     provisioning.BranchChange
	lines      []string // for the log
}

// obey obeys the orders of a snapshot that were not obeyed before. An order is known by everything it says, as a central
// that was restored from a backup may use a number again.
//
// A Clear is about what ran before it was given, and nothing else: a branch that hears of it late, or that has its history
// from central, must not erase what was deployed since.
func obey(s *provisioning.Snapshot, past policy.History, allowances []provisioning.Allowance, obeyed map[provisioning.SHA256]bool) obedience {
	runs := past.Runs
	out := obedience{runs: slices.Clone(runs), allowances: slices.Clone(allowances)}
	fresh := func(order any) bool {
		sum := orderSum(order)
		if obeyed[sum] || slices.Contains(out.change.Obeyed, sum) {
			return false
		}
		out.change.Obeyed = append(out.change.Obeyed, sum)
		return true
	}
	for _, c := range s.Clears {
		if !fresh(c) {
			continue
		}
		cleared, computer := 0, computerNamed(s, past.Discovered, c.Computer)
		for i := range out.runs {
			r := &out.runs[i]
			if !r.Cleared && policy.ClearedBy(&c, computer, r) {
				r.Cleared = true
				cleared++
			}
		}
		out.lines = append(out.lines, fmt.Sprintf("order %d of %s: %d runs on %s count no more", c.Number, c.By, cleared, c.Computer))
	}
	for _, a := range s.Approvals {
		if !fresh(a) || a.Wipes <= 0 {
			continue
		}
		id := strconv.FormatUint(a.Number, 10) + "-" + string(orderSum(a)[:8])
		allowance := provisioning.Allowance{ID: id, Wipes: a.Wipes, Expires: a.Expires, By: a.By}
		out.allowances = append(out.allowances, allowance)
		out.change.Allowances = append(out.change.Allowances, allowance)
		out.lines = append(out.lines, fmt.Sprintf("order %d of %s: %d more deployments that erase disks until %s", a.Number, a.By, a.Wipes, a.Expires.UTC().Format(time.RFC3339)))
	}
	for i := range out.runs {
		if out.runs[i].Cleared != runs[i].Cleared {
			out.change.Runs = append(out.change.Runs, out.runs[i])
		}
	}
	return out
}

// computerNamed is the computer of that name, with no more than the name where nobody knows it.
func computerNamed(s *provisioning.Snapshot, discovered []provisioning.Computer, name string) *provisioning.Computer {
	if c := s.Computer(name); c != nil {
		return c
	}
	for i := range discovered {
		if discovered[i].Name == name {
			return &discovered[i]
		}
	}
	return &provisioning.Computer{Name: name}
}

// orderSum is what an order is known by. Orders are made of texts, numbers and times: their encoding cannot fail.
func orderSum(order any) provisioning.SHA256 {
	b, err := json.Marshal(order)
	if err != nil {
		panic(err)
	}
	return provisioning.SumSHA256(fmt.Appendf(b, "%T", order))
}

// latest is the time, or that at which central made the configuration where the clock is behind that: an approval that has
// ended stays so where the clock was set back.
func (s *state) latest(now time.Time) time.Time {
	if s.snapshot != nil && s.snapshot.IssuedAt.After(now) {
		return s.snapshot.IssuedAt
	}
	return now
}

// left is how many deployments may go beyond the wipe cap, by approvals that are not used up.
func left(allowances []provisioning.Allowance, now time.Time) int {
	n := 0
	for i := range allowances {
		n += allowances[i].Left(now)
	}
	return n
}

// use takes one deployment out of the approval that ends first; false where there is none.
func use(allowances []provisioning.Allowance, now time.Time) (provisioning.Allowance, bool) {
	var best *provisioning.Allowance
	for i := range allowances {
		a := &allowances[i]
		if a.Left(now) > 0 && (best == nil || cmp.Or(a.Expires.Compare(best.Expires), cmp.Compare(a.ID, best.ID)) < 0) {
			best = a
		}
	}
	if best == nil {
		return provisioning.Allowance{}, false
	}
	out := *best
	out.Used++
	return out, true
}
