package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

func report(n int, r provisioning.SiteReport) provisioning.SiteReport {
	r.ID, r.Site = fmt.Sprintf("%032x", n), "LON"
	return r
}

// TestReports: each report counts once, and what it tells of is kept with it.
func TestReports(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	conflict := &provisioning.Conflict{Machine: provisioning.Machine{MAC: "52:54:00:00:00:01"}, ByMAC: []string{"a", "b"}, Text: "two have it"}
	reports := []provisioning.SiteReport{
		report(1, provisioning.SiteReport{Kind: provisioning.ReportInventory, Computer: "a", Inventory: &provisioning.Inventory{Serial: "new"}}),
		report(2, provisioning.SiteReport{Kind: provisioning.ReportConflict, Conflict: conflict}),
	}
	unknown := func(want int) {
		t.Helper()
		if got, err := s.UnknownReports(ctx, "LON", append(reports, reports...)); err != nil || len(got) != want {
			t.Errorf("%d unknown, want %d: %v", len(got), want, err)
		}
	}
	unknown(2)
	for i := range 2 {
		if err := s.TakeReports(ctx, noon.Add(time.Duration(i)*time.Hour), "LON", reports, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveInventories(ctx, noon, map[string]provisioning.Inventory{"a": {Serial: "newer"}}); err != nil {
			t.Fatal(err)
		}
	}
	s = reopen(t, s)
	unknown(0)
	if got, err := s.UnknownReports(ctx, "PAR", reports); err != nil || len(got) != 2 {
		t.Error("another site's ids are its own:", got, err)
	}
	if got, err := s.Inventories(ctx); err != nil || got["a"].Serial != "newer" {
		t.Error("a report that was known was taken in again:", got, err)
	}
	listed := func() string {
		t.Helper()
		got, err := s.Conflicts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range got {
			out = append(out, fmt.Sprint(c.Site, " ", c.Conflict.Text, " ", c.FirstSeen.Hour(), " ", c.LastSeen.Hour()))
		}
		return strings.Join(out, ", ")
	}
	if got := listed(); got != "LON two have it 12 12" {
		t.Error(got)
	}
	again := report(3, provisioning.SiteReport{Kind: provisioning.ReportConflict, Conflict: conflict})
	for range 2 {
		if err := s.TakeReports(ctx, noon.Add(3*time.Hour), "LON", []provisioning.SiteReport{reports[0], again}, nil); err != nil {
			t.Fatal(err)
		}
		if got := listed(); got != "LON two have it 12 15" {
			t.Error(got)
		}
		if err := s.ResolveConflict(ctx, "LON", conflict.ID()); err != nil {
			t.Fatal(err)
		}
		if got := listed(); got != "" {
			t.Error(got)
		}
		if err := s.ResolveConflict(ctx, "LON", conflict.ID()); provisioning.CodeOf(err) != provisioning.CodeNotFound {
			t.Error(err)
		}
		again = report(4, again) // seen once more
	}
}
