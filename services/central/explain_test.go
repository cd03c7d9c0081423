package central_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/central/client"
)

const offices = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {timeZone: Europe/London, pxe: {mode: proxy}, distributionPoint: {}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {pxe: {mode: proxy, unknownComputers: {}}, distributionPoint: {}}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec: {site: LON, macAddresses: ["52:54:00:00:00:01"], smbiosGUID: 11111111-1111-4111-8111-111111111111}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
spec: {site: PAR, macAddresses: ["52:54:00:00:00:02"]}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: laptop}
spec: {macAddresses: ["52:54:00:00:00:03"]}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec: {steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec: {taskSequence: install, computers: [desk-1, desk-2], purpose: required, start: "2026-01-01T00:00:00Z"}
`

// reported is what a branch tells central of a run of the advertisement rollout, as it stands.
func reported(site, computer string, id, sequence, code int, run provisioning.Run) provisioning.StatusMessage {
	return provisioning.StatusMessage{
		ID: fmt.Sprintf("%016x%016x", id, sequence), Site: site, Computer: computer, Run: fmt.Sprintf("%032x", id), Advertisement: "rollout", TaskSequence: "install",
		Time: run.UpdatedAt, Sequence: sequence, Code: code, Text: fmt.Sprint("message ", sequence), Facts: provisioning.FactsOf(&run),
	}
}

func rulesOf(d *policy.Decision) string {
	var out []string
	for _, r := range d.Reasons {
		out = append(out, r.Rule)
	}
	return strings.Join(out, ", ")
}

func TestExplain(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	explain := func(in client.ExplainRequest) client.Explanation {
		t.Helper()
		e, err := s.admin.Explain(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	e := explain(client.ExplainRequest{Machine: "desk-1"})
	if e.Site != "LON" || e.Machine.MAC != "52:54:00:00:00:01" || e.Machine.GUID != "11111111-1111-4111-8111-111111111111" || e.Number != 1 ||
		e.Decision.Action != policy.Boot || rulesOf(&e.Decision) != "configuration, role, identity, target, wipe cap, required" ||
		!slices.Contains(e.Notes, "the site's appliance has never asked for its configuration") {
		t.Errorf("%+v", e)
	}
	if text := strings.Join(e.Lines(), "\n"); !strings.HasPrefix(text, "52:54:00:00:00:01, GUID 11111111-1111-4111-8111-111111111111, UEFI x64:\nconfiguration: configuration 1.1 of site LON\n") ||
		!strings.Contains(text, "\n→ boot desk-1: advertisement rollout, task sequence install\nnote: ") {
		t.Error(text)
	}
	// By MAC address, in another notation and case.
	if again := explain(client.ExplainRequest{Machine: "5254.0000.0001"}); again.Site != "LON" || again.Decision.Computer != "desk-1" {
		t.Errorf("%+v", again)
	}
	for in, want := range map[client.ExplainRequest]string{
		{Machine: "desk-1", At: "2025-12-31 23:59"}:                  policy.RuleNothing,
		{Machine: "desk-1", Firmware: "http"}:                        policy.RuleRequired,
		{Machine: "DESK-1", GUID: guidOf(9)}:                         policy.RuleIdentity,
		{Machine: "desk-1", GUID: client.NoGUID}:                     policy.RuleRequired,
		{Machine: "desk-2", Site: "LON"}:                             policy.RuleUnknown, // LON's snapshot has none of other sites
		{Machine: "laptop", Site: "PAR"}:                             policy.RuleNothing,
		{Machine: "52:54:00:00:00:99", Site: "LON"}:                  policy.RuleUnknown,
		{Machine: "52:54:00:00:00:99", Site: "PAR"}:                  policy.RuleIdentity, // the firmware gives no GUID
		{Machine: "52-54-00-00-00-99", Site: "PAR", GUID: guidOf(9)}: policy.RuleNothing,
	} {
		if e := explain(in); e.Decision.Rule() != want {
			t.Errorf("%+v: %+v", in, e.Decision)
		}
	}
	for in, want := range map[client.ExplainRequest]struct{ text, next string }{
		{Machine: "52:54:00:00:00:99"}:          {"at which site", "LON, PAR"},
		{Machine: "laptop"}:                     {"limited to no site", "LON, PAR"},
		{Machine: "desk-1", Site: "ROM"}:        {"no site", "LON, PAR"},
		{Machine: "desk-9"}:                     {"neither a computer's name", "get computers"},
		{Machine: "desk-1", Firmware: "arm"}:    {"firmware", "bios, uefi or http"},
		{Machine: "desk-1", GUID: "x"}:          {"no SMBIOS GUID", ""},
		{Machine: "desk-1", At: "at some time"}: {"is no time", ""},
	} {
		_, err := s.admin.Explain(ctx, in)
		if err == nil || !strings.Contains(err.Error(), want.text) || !strings.Contains(provisioning.NextOf(err), want.next) {
			t.Errorf("%+v: %v, next %q", in, err, provisioning.NextOf(err))
		}
	}
}

func guidOf(n int) string { return fmt.Sprintf("%08x-1111-4111-8111-111111111111", n) }

// TestExplainByWhatHasRun: central decides by what the site has reported, and by people's orders.
func TestExplainByWhatHasRun(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	now := s.clock.Now().UTC()
	run := provisioning.Run{
		State: provisioning.RunStarted, Spent: true, SpentAt: now, StartedAt: now, UpdatedAt: now,
		Machine: provisioning.Machine{MAC: "52:54:00:00:00:01", GUID: provisioning.GUID(guidOf(0x11111111)), Arch: provisioning.ArchBIOS},
	}
	explained := func(machine string) client.Explanation {
		t.Helper()
		e, err := s.admin.Explain(ctx, client.ExplainRequest{Machine: machine, Site: "LON"})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	tell := func(computer string, id, sequence, code int) {
		t.Helper()
		if err := lon.Report(ctx, []provisioning.StatusMessage{reported("LON", computer, id, sequence, code, run)}); err != nil {
			t.Fatal(err)
		}
	}
	tell("desk-1", 1, 1, provisioning.StatusStepStarted)
	if e := explained("desk-1"); e.Decision.Rule() != policy.RuleResume || e.Decision.Resume != fmt.Sprintf("%032x", 1) || e.Machine.Arch != provisioning.ArchBIOS {
		t.Errorf("interrupted: %+v", e)
	}
	run.State = provisioning.RunSucceeded
	tell("desk-1", 1, 2, provisioning.StatusSequenceDone)
	if e := explained("desk-1"); e.Decision.Rule() != policy.RuleNothing || !strings.Contains(rulesOf(&e.Decision), policy.RuleOnce) {
		t.Errorf("deployed: %+v", e)
	}
	// It was deployed under another name: only the branch knows which machine that was.
	if _, err := s.admin.Apply(ctx, client.ApplyRequest{Prune: true, Files: []provisioning.File{{Name: "all.yaml", Text: []byte(strings.ReplaceAll(offices, "desk-1", "renamed"))}}}); err != nil {
		t.Fatal(err)
	}
	if e := explained("renamed"); e.Decision.Rule() != policy.RuleNothing || !strings.Contains(strings.Join(e.Lines(), "\n"), "as desk-1") {
		t.Errorf("renamed: %+v", e)
	}
	s.clock.Advance(time.Minute)
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"renamed"}}); err != nil {
		t.Fatal(err)
	}
	if e := explained("renamed"); e.Decision.Rule() != policy.RuleRequired {
		t.Errorf("cleared: %+v", e)
	}
	// What has begun since stays.
	run.StartedAt, run.UpdatedAt = s.clock.Now().Add(time.Second), s.clock.Now().Add(time.Second)
	tell("renamed", 2, 1, provisioning.StatusSequenceDone)
	if e := explained("renamed"); e.Decision.Rule() != policy.RuleNothing {
		t.Errorf("deployed again: %+v", e)
	}
}

// TestClearsOutliveTheirPublication: a run that was cleared counts for nothing for as long as it is kept. A Clear that has cleared
// nothing is forgotten.
func TestClearsOutliveTheirPublication(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	lon := s.branchAt("LON")
	lon.ran("desk-1", 1, provisioning.RunSucceeded)
	s.clock.Advance(time.Minute)
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1", "desk-2"}}); err != nil {
		t.Fatal(err)
	}
	orders := func() string {
		t.Helper()
		all, err := s.store.Orders(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, o := range all {
			out = append(out, o.Computer+o.Site)
		}
		return strings.Join(out, ", ")
	}
	cleared := func(when string) {
		t.Helper()
		e, err := s.admin.Explain(ctx, client.ExplainRequest{Machine: "desk-1"})
		if err != nil || e.Decision.Rule() != policy.RuleRequired {
			t.Errorf("%s: %+v, %v", when, e.Decision, err)
		}
		if got := counts(t, s.admin); got != "rollout 2/0/0/0" {
			t.Errorf("%s: %s", when, got)
		}
	}
	if got := orders(); got != "desk-1, desk-2" {
		t.Error(got)
	}
	cleared("at once")
	s.clock.Advance(91 * 24 * time.Hour)
	cleared("when no branch is told any more")
	if _, err := s.admin.Approve(ctx, client.ApprovalRequest{Site: "LON", Wipes: 1, ValidMinutes: 60}); err != nil {
		t.Fatal(err)
	}
	if got := orders(); got != "desk-1, LON" {
		t.Errorf("orders %s are kept", got)
	}
	if n := len(s.snapshot("LON").Clears); n > 0 {
		t.Errorf("%d orders are published", n)
	}
	cleared("when old orders were forgotten")
}

// TestExplainRights: whoever is limited learns of their own machines and sites.
func TestExplainRights(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	lon, lab, none := s.account("lon"), s.account("lab"), s.account("none")
	s.mustApply(offices + "---\napiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: lab}\nspec: {computers: [desk-2]}\n" +
		role("london", "viewer", "lon", ", sites: [LON]") + role("lab", "viewer", "lab", ", collections: [lab]"))
	allowed := func(a *client.Admin, in client.ExplainRequest) {
		t.Helper()
		if _, err := a.Explain(ctx, in); err != nil {
			t.Error(err)
		}
	}
	refused := func(a *client.Admin, in client.ExplainRequest, code provisioning.Code) {
		t.Helper()
		if e, err := a.Explain(ctx, in); provisioning.CodeOf(err) != code {
			t.Errorf("%+v: %+v, %v", in, e, err)
		}
	}
	allowed(lon, client.ExplainRequest{Machine: "desk-1"})
	allowed(lon, client.ExplainRequest{Machine: "52:54:00:00:00:99"}) // they have one site
	refused(lon, client.ExplainRequest{Machine: "desk-2"}, provisioning.CodeNotFound)
	refused(lon, client.ExplainRequest{Machine: "52:54:00:00:00:02", Site: "PAR"}, provisioning.CodeForbidden)
	allowed(lab, client.ExplainRequest{Machine: "desk-2"})
	refused(lab, client.ExplainRequest{Machine: "desk-2", Site: "LON"}, provisioning.CodeForbidden)
	refused(lab, client.ExplainRequest{Machine: "desk-1"}, provisioning.CodeNotFound)
	refused(lab, client.ExplainRequest{Machine: "52:54:00:00:00:99"}, provisioning.CodeInvalid)
	refused(none, client.ExplainRequest{Machine: "desk-1"}, provisioning.CodeForbidden)
}
