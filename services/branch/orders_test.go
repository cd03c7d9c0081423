package branch

import (
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestObey(t *testing.T) {
	run := func(id, computer string, at time.Time) provisioning.Run {
		return provisioning.Run{ID: id, Computer: computer, State: provisioning.RunSucceeded, StartedAt: at}
	}
	runs := []provisioning.Run{run("old", "pc-1", noon.Add(-time.Hour)), run("other", "pc-2", noon.Add(-time.Hour)), run("new", "pc-1", noon.Add(time.Minute))}
	s := &provisioning.Snapshot{
		Clears:    []provisioning.Clear{{Number: 3, Computer: "pc-1", At: noon, By: "jo"}},
		Approvals: []provisioning.Approval{{Number: 4, Wipes: 5, Expires: noon.Add(time.Hour), By: "jo"}, {Number: 5, Expires: noon.Add(time.Hour)}},
	}
	obeyed := map[provisioning.SHA256]bool{}
	past := policy.History{Runs: runs}
	o := obey(s, past, nil, obeyed)
	if !o.runs[0].Cleared || o.runs[1].Cleared || o.runs[2].Cleared || runs[0].Cleared {
		t.Errorf("cleared are %+v", o.runs)
	}
	if len(o.change.Runs) != 1 || o.change.Runs[0].ID != "old" || len(o.change.Obeyed) != 3 {
		t.Errorf("to be stored: %+v", o.change)
	}
	if left(o.allowances, noon) != 5 || left(o.allowances, noon.Add(time.Hour)) != 0 || len(o.change.Allowances) != 1 {
		t.Errorf("approved: %+v", o.allowances)
	}
	for _, sum := range o.change.Obeyed {
		obeyed[sum] = true
	}
	// The same orders come with each snapshot: they are obeyed once.
	again := obey(s, past, o.allowances, obeyed)
	if again.runs[0].Cleared || len(again.change.Obeyed)+len(again.change.Runs)+len(again.change.Allowances) > 0 || left(again.allowances, noon) != 5 {
		t.Errorf("obeyed twice: %+v", again)
	}
	// A restored central counts on from its backup: the number is an old one, and the order a new one.
	s.Clears[0].At = noon.Add(time.Hour)
	if restored := obey(s, past, o.allowances, obeyed); !restored.runs[2].Cleared {
		t.Error("an order of a restored central is not obeyed")
	}
}

func TestUseOfApprovals(t *testing.T) {
	list := []provisioning.Allowance{
		{ID: "late", Wipes: 1, Expires: noon.Add(2 * time.Hour)}, {ID: "soon", Wipes: 1, Expires: noon.Add(time.Hour)}, {ID: "over", Wipes: 9, Expires: noon},
	}
	var order []string
	for {
		a, ok := use(list, noon)
		if !ok {
			break
		}
		order = append(order, a.ID)
		for i := range list {
			if list[i].ID == a.ID {
				list[i] = a
			}
		}
	}
	if len(order) != 2 || order[0] != "soon" || order[1] != "late" || left(list, noon) != 0 {
		t.Errorf("used in the order %v, left %d", order, left(list, noon))
	}
}
