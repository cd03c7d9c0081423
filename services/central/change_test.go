package central_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// snapshot is the site's snapshot as its branch would get it.
func (s *site) snapshot(code string) *provisioning.Snapshot {
	s.t.Helper()
	stored, err := s.store.SiteSnapshot(s.t.Context(), code)
	if err != nil {
		s.t.Fatal(err)
	}
	var out provisioning.Snapshot
	if err := json.Unmarshal(stored.Signed.Payload, &out); err != nil {
		s.t.Fatal(err)
	}
	return &out
}

// TestOrdersArePublished: a Clear reaches the sites of its computer until another takes its place or it is too old, an
// approval its site until it expires.
func TestOrdersArePublished(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	orders := func(code string) string {
		t.Helper()
		if err := s.Publish(ctx); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, c := range s.snapshot(code).Clears {
			out = append(out, fmt.Sprint("clear ", c.Number, " ", c.Computer))
		}
		for _, a := range s.snapshot(code).Approvals {
			out = append(out, fmt.Sprint("approve ", a.Number, " ", a.Wipes))
		}
		return strings.Join(out, ", ")
	}
	for range 2 {
		if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1", "desk-1"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.admin.Approve(ctx, client.ApprovalRequest{Site: "PAR", Wipes: 3, ValidMinutes: 60}); err != nil {
		t.Fatal(err)
	}
	if lon, par := orders("LON"), orders("PAR"); lon != "clear 2 desk-1" || par != "approve 3 3" {
		t.Errorf("LON is told %q, PAR %q", lon, par)
	}
	s.clock.Advance(61 * time.Minute)
	if lon, par := orders("LON"), orders("PAR"); lon != "clear 2 desk-1" || par != "" {
		t.Errorf("LON is told %q, PAR %q", lon, par)
	}
	s.clock.Advance(90 * 24 * time.Hour)
	if lon := orders("LON"); lon != "" {
		t.Errorf("LON is told %q", lon)
	}
	if r, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1"}}); err != nil || r.Orders[0].Number != 4 {
		t.Error(r, err)
	}
	if all, err := s.store.Orders(ctx); err != nil || len(all) != 1 {
		t.Error("orders that stand no longer are kept:", all, err)
	}
	for _, r := range []client.ApprovalRequest{{Site: "LON", Wipes: 0, ValidMinutes: 1}, {Site: "LON", Wipes: 1}, {Site: "LON", Wipes: 1, ValidMinutes: 1 << 62}} {
		if _, err := s.admin.Approve(ctx, r); provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%+v: %v", r, err)
		}
	}
	_, err := s.admin.Clear(ctx, client.ClearRequest{})
	wantCode(t, err, provisioning.CodeInvalid, "0 computers")
}

// TestAdvertisementsCarryTheirChange: of equal ones the newest wins, which the snapshot says.
func TestAdvertisementsCarryTheirChange(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	s.mustApply("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: another}\nspec: {taskSequence: install, computers: [desk-1], purpose: available}\n")
	ads := s.snapshot("LON").Advertisements
	if len(ads) != 2 || ads[0].Changed != 2 || ads[1].Changed != 1 {
		t.Errorf("%+v", ads)
	}
}

func siteReport(n int, kind provisioning.ReportKind) provisioning.SiteReport {
	return provisioning.SiteReport{ID: fmt.Sprintf("%032x", n), Site: "LON", Kind: kind, At: time.Now().UTC()}
}

// TestSiteReports: what a branch discovers becomes a document, once; what it cannot is a conflicting record.
func TestSiteReports(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	ctx := t.Context()
	discovered := func(n int, name string, mac provisioning.MAC) provisioning.SiteReport {
		r := siteReport(n, provisioning.ReportDiscovered)
		r.Computer = name
		r.Inventory = &provisioning.Inventory{Serial: "S-" + name}
		r.Discovered = &provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{mac}}}
		return r
	}
	conflict := siteReport(9, provisioning.ReportConflict)
	conflict.Conflict = &provisioning.Conflict{Machine: provisioning.Machine{MAC: "52:54:00:00:00:77"}, ByMAC: []string{"x", "y"}, Text: "both"}
	for range 2 { // as after an answer that was lost
		err := lon.ReportSite(ctx, []provisioning.SiteReport{
			discovered(1, "pc-1", "52:54:00:00:00:01"),   // new
			discovered(2, "pc-2", "52:54:00:12:34:56"),   // has an address of desk-1
			discovered(3, "desk-1", "52:54:00:00:00:03"), // has its name
			discovered(4, "desk-1", "52:54:00:12:34:56"), // is described already
			discovered(5, "pc-1", "52:54:00:00:00:01"),   // told twice
			conflict,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	docs, err := s.admin.Documents(ctx, provisioning.KindComputer, "")
	if err != nil || len(docs) != 2 || docs[1].Name != "pc-1" || !strings.Contains(docs[1].Text, "site: LON") {
		t.Errorf("%+v %v", docs, err)
	}
	changes, err := s.admin.Changes(ctx, 0, 10)
	if err != nil || len(changes) != 2 || changes[0].Command != provisioning.CommandDiscover || changes[0].By != "site LON" {
		t.Errorf("%+v %v", changes, err)
	}
	if snap := s.snapshot("LON"); len(snap.Computers) != 2 || snap.Inventories["pc-1"].Serial != "S-pc-1" {
		t.Errorf("%+v", snap)
	}
	conflicts, err := s.admin.Conflicts(ctx)
	if err != nil || len(conflicts) != 3 {
		t.Errorf("%+v %v", conflicts, err)
	}
	for _, c := range conflicts {
		if err := s.admin.Resolve(ctx, client.ResolveRequest{Site: c.Site, ID: c.ID}); err != nil {
			t.Error(err)
		}
	}
	if left, err := s.admin.Conflicts(ctx); err != nil || len(left) != 0 {
		t.Errorf("%+v %v", left, err)
	}
}

// TestShellIsAudited: that there was a shell at an appliance's console stands in the audit log, once.
func TestShellIsAudited(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	opened := siteReport(1, provisioning.ReportConsoleShell)
	opened.Text = "a shell was opened at tty1"
	for range 2 { // as after an answer that was lost
		if err := lon.ReportSite(t.Context(), []provisioning.SiteReport{opened}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.admin.Audit(t.Context(), provisioning.AuditFilter{Kind: "Console", Limit: 10})
	if err != nil || len(page.Entries) != 1 {
		t.Fatalf("%+v %v", page, err)
	}
	if e := page.Entries[0]; e.Account != "site LON" || e.Site != "LON" || e.Action != "shell" || !strings.Contains(e.After, opened.Text) {
		t.Errorf("%+v", e)
	}
}

// TestShellsAreBounded: a site does not fill the audit log with shells, not after a restart either, and how many were left out
// stands there once there is room again. Other sites' are listed.
func TestShellsAreBounded(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	next := 0
	entries := func(site string, reports, want int) []provisioning.AuditEntry {
		t.Helper()
		batch := make([]provisioning.SiteReport, reports)
		for i := range batch {
			next++
			batch[i] = siteReport(next, provisioning.ReportConsoleShell)
			batch[i].Site, batch[i].Text = site, "a shell was opened at tty1"
		}
		if n, err := s.TakeReports(ctx, site, batch); err != nil || n != reports {
			t.Fatal(n, err)
		}
		page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "Console", Site: site, Limit: 1000})
		if err != nil || len(page.Entries) != want {
			t.Fatalf("%d entries, want %d: %v", len(page.Entries), want, err)
		}
		return page.Entries
	}
	entries("LON", 40, 40)
	if last := entries("LON", 30, 60)[0]; !strings.Contains(last.After, "more than 60 within an hour") {
		t.Errorf("%+v", last)
	}
	entries("LON", 200, 60)
	entries("PAR", 1, 1)
	s.clock.Advance(61 * time.Minute)
	all := entries("LON", 2, 62)
	if !strings.Contains(all[1].After, "before it 210 more") || strings.Contains(all[0].After, "more") {
		t.Errorf("%+v", all[:2])
	}
}

// TestInvalidReportsAreSetAside: what can never be taken in keeps nothing else at the branch, and is counted.
func TestInvalidReportsAreSetAside(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	ctx := t.Context()
	valid := siteReport(1, provisioning.ReportInventory)
	valid.Computer, valid.Inventory = "desk-1", &provisioning.Inventory{Serial: "S-1"}
	last := siteReport(4, provisioning.ReportConflict)
	last.Conflict = &provisioning.Conflict{Machine: provisioning.Machine{MAC: "52:54:00:00:00:77"}, ByMAC: []string{"x", "y"}, Text: "both"}
	foreign := siteReport(3, provisioning.ReportWipeCap)
	foreign.Site = "PAR"
	for range 2 { // as after an answer that was lost
		if err := lon.ReportSite(ctx, []provisioning.SiteReport{siteReport(2, "nonsense"), valid, foreign, last}); err != nil {
			t.Fatal(err)
		}
	}
	// What is not even a report is set aside by itself, too.
	var batch bytes.Buffer
	batch.WriteString(`{"reports":[{"id":7},"nothing",`)
	after := siteReport(5, provisioning.ReportInventory)
	after.Computer, after.Inventory = "desk-1", &provisioning.Inventory{Serial: "S-2"}
	text, err := json.Marshal(after)
	if err != nil {
		t.Fatal(err)
	}
	batch.Write(text)
	batch.WriteString("]}")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, lon.URL()+client.PathBranchReports, &batch)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := lon.HTTP().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
	inventories, err := s.store.Inventories(ctx)
	if err != nil || len(inventories) != 1 || inventories["desk-1"].Serial != "S-2" {
		t.Errorf("%+v %v", inventories, err)
	}
	if conflicts, err := s.admin.Conflicts(ctx); err != nil || len(conflicts) != 1 {
		t.Errorf("%+v %v", conflicts, err)
	}
	_, body := s.get(http.MethodGet, "/metrics", s.token)
	for result, n := range map[string]int{"stored": 3, "duplicate": 2, "refused": 6} {
		if want := fmt.Sprintf("branchpoint_central_site_reports_total{result=%q} %d\n", result, n); !strings.Contains(body, want) {
			t.Errorf("%s is missing in:\n%s", want, body)
		}
	}
}

// TestDeployedElsewhere: what has run on a computer at one site is known to the others that it may be at, until a person
// clears it; a computer that comes to another site brings it along.
func TestDeployedElsewhere(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	const laptop = `apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec: {%s macAddresses: ["52:54:00:12:34:56"]}
`
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	run := strings.Repeat("a", 32)
	for i, m := range []provisioning.StatusMessage{
		{Code: provisioning.StatusPolicyReceived}, {Code: provisioning.StatusStepStarted, Step: 1, Action: "applyOperatingSystemImage"}, {Code: provisioning.StatusSequenceDone},
	} {
		m.ID, m.Site, m.Computer, m.Run, m.Advertisement, m.TaskSequence = fmt.Sprintf("%032x", i), "LON", "desk-1", run, "rollout", "install"
		m.Time, m.Sequence = s.clock.Now().UTC(), i+1
		if i == 1 {
			m.Machine = provisioning.Machine{MAC: "52:54:00:12:34:56", Arch: provisioning.ArchUEFIx64}
		}
		if err := lon.Report(ctx, []provisioning.StatusMessage{m}); err != nil {
			t.Fatal(err)
		}
	}
	known := func(code string) string {
		t.Helper()
		var out []string
		for _, r := range s.snapshot(code).Deployed {
			out = append(out, fmt.Sprint(r.Computer, " ", r.State, " ", r.Spent, " ", r.Cleared))
		}
		return strings.Join(out, ", ")
	}
	if lon, par := known("LON"), known("PAR"); lon+par != "" {
		t.Errorf("LON is told %q, PAR %q of a computer of LON", lon, par)
	}
	s.mustApply(fmt.Sprintf(laptop, ""))
	if lon, par := known("LON"), known("PAR"); lon != "" || par != "desk-1 succeeded true false" {
		t.Errorf("LON is told %q, PAR %q of a computer of any site", lon, par)
	}
	s.mustApply(fmt.Sprintf(laptop, "site: PAR,"))
	if par := known("PAR"); par != "desk-1 succeeded true false" {
		t.Errorf("PAR is told %q of a computer that has come", par)
	}
	s.clock.Advance(time.Minute)
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1"}}); err != nil {
		t.Fatal(err)
	}
	if par := known("PAR"); par != "desk-1 succeeded true true" {
		t.Errorf("PAR is told %q of a computer that was cleared", par)
	}
	s.clock.Advance(91 * 24 * time.Hour)
	if err := s.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	if par := known("PAR"); par != "desk-1 succeeded true true" || len(s.snapshot("PAR").Clears) > 0 {
		t.Errorf("PAR is told %q of a computer that was cleared long ago", par)
	}
}

// TestTellingOfOthersComputers: what a site tells of another site's computers changes nothing of what these get.
func TestTellingOfOthersComputers(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents) // desk-1 is of LON
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	par, _ := s.enrol("PAR")
	inventory := func(site string, n int) []provisioning.SiteReport {
		return []provisioning.SiteReport{{
			ID: fmt.Sprintf("%032x", n), Site: site, Kind: provisioning.ReportInventory, At: s.clock.Now().UTC(), Computer: "desk-1",
			Inventory: &provisioning.Inventory{Product: "as " + site + " says"},
		}}
	}
	if err := lon.ReportSite(ctx, inventory("LON", 1)); err != nil {
		t.Fatal(err)
	}
	if err := par.ReportSite(ctx, inventory("PAR", 2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.snapshot("LON").Inventories["desk-1"].Product; got != "as LON says" {
		t.Errorf("desk-1 is %q", got)
	}
	before := s.snapshot("LON").Number
	for i, m := range []provisioning.StatusMessage{{Code: provisioning.StatusStepStarted, Step: 1, Action: "applyOperatingSystemImage"}, {Code: provisioning.StatusSequenceDone}} {
		m.ID, m.Site, m.Computer, m.Run, m.Advertisement, m.TaskSequence = fmt.Sprintf("%032x", i), "PAR", "desk-1", strings.Repeat("a", 32), "rollout", "install"
		m.Time, m.Sequence = s.clock.Now().UTC(), i+1
		if err := par.Report(ctx, []provisioning.StatusMessage{m}); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.snapshot("LON"); len(n.Deployed) > 0 || n.Number != before {
		t.Errorf("LON is told %+v", n.Deployed)
	}
}
