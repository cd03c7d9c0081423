package central_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// fleet has ten computers, the first six at LON, and advertisements for parts of them.
func fleet() string {
	var b strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "---\napiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	document("Site", "LON", "{pxe: {mode: proxy}, distributionPoint: {}}")
	document("Site", "PAR", "{pxe: {mode: proxy}, distributionPoint: {}}")
	document("TaskSequence", "install", "{steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]}")
	for i := range 10 {
		site := "LON"
		if i >= 6 {
			site = "PAR"
		}
		extra := ""
		if i == 9 {
			extra = ", infrastructure: true"
		}
		document("Computer", fmt.Sprint("pc-", i), fmt.Sprintf(`{site: %s, macAddresses: ["52:54:00:00:00:%02x"]%s}`, site, i, extra))
	}
	document("Collection", "listed", "{computers: [pc-0, pc-1, pc-2, pc-3, pc-4, pc-7]}")
	document("Collection", "fresh", `{query: '!deployments.exists(d, d.state == "succeeded")'}`)
	document("Advertisement", "rollout", "{taskSequence: install, collection: listed, purpose: required}")
	document("Advertisement", "everybody", "{taskSequence: install, collection: all-systems, purpose: available}")
	document("Advertisement", "fresh", "{taskSequence: install, collection: fresh, purpose: available}")
	document("Advertisement", "over", `{taskSequence: install, computers: [pc-0, pc-2], purpose: available, expires: "2026-01-01T00:00:00Z"}`)
	return b.String()
}

// branchOf reports what runs at a site.
type branchOf struct {
	*site
	code  string
	far   *client.Branch
	count int
}

func (s *site) branchAt(code string) *branchOf {
	s.t.Helper()
	far, _ := s.enrol(code)
	return &branchOf{site: s, code: code, far: far}
}

// ran reports a run of rollout that begins now and comes to a state, and returns it.
func (b *branchOf) ran(computer string, mac int, state provisioning.RunState) string {
	b.t.Helper()
	b.clock.Advance(time.Second)
	b.count++
	now := b.clock.Now().UTC()
	r := provisioning.Run{
		State: provisioning.RunStarted, Spent: true, SpentAt: now, StartedAt: now, UpdatedAt: now,
		Machine: provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:00:%02x", mac))},
	}
	begun := reported(b.code, computer, b.count, 1, provisioning.StatusStepStarted, r)
	begun.Step, begun.Title = 1, "Partition"
	messages := []provisioning.StatusMessage{begun}
	r.State = state
	switch state {
	case provisioning.RunSucceeded:
		messages = append(messages, reported(b.code, computer, b.count, 2, provisioning.StatusSequenceDone, r))
	case provisioning.RunFailed:
		failed := reported(b.code, computer, b.count, 2, provisioning.StatusStepFailed, r)
		failed.Step, failed.Title, failed.ExitCode = 1, "Partition", 7
		messages = append(messages, failed, reported(b.code, computer, b.count, 3, provisioning.StatusSequenceFailed, r))
	}
	if err := b.far.Report(b.t.Context(), messages); err != nil {
		b.t.Fatal(err)
	}
	return begun.Run
}

func counts(t *testing.T, a *client.Admin) string {
	t.Helper()
	p, err := a.Advertisements(t.Context(), client.Page{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, s := range p.Items {
		out = append(out, fmt.Sprintf("%s %d/%d/%d/%d", s.Name, s.Waiting, s.Running, s.Succeeded, s.Failed))
	}
	return strings.Join(out, ", ")
}

func TestAdvertisementStatus(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	eye := s.account("eye")
	if _, err := s.admin.Apply(ctx, client.ApplyRequest{
		Files: []provisioning.File{{Name: "all.yaml", Text: []byte(fleet() + role("eyes", "viewer", "eye", ", sites: [PAR]"))}},
	}); err != nil {
		t.Fatal(err)
	}
	same := func(a *client.Admin, want string) {
		t.Helper()
		if got := counts(t, a); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// waiting/running/succeeded/failed. Nine can be targets: one is infrastructure.
	same(s.admin, "everybody 9/0/0/0, fresh 9/0/0/0, over 0/0/0/0, rollout 6/0/0/0")
	lon, par := s.branchAt("LON"), s.branchAt("PAR")
	lon.ran("pc-0", 0, provisioning.RunStarted)
	lon.ran("pc-1", 1, provisioning.RunSucceeded)
	failed := lon.ran("pc-2", 2, provisioning.RunFailed)
	par.ran("pc-7", 7, provisioning.RunSucceeded)
	lon.ran("gone", 0x77, provisioning.RunSucceeded) // it has no record any more
	same(s.admin, "everybody 9/0/0/0, fresh 7/0/0/0, over 0/0/0/0, rollout 2/1/3/1")
	// A computer that ran it twice counts once, by the newest run; whoever left the collection still counts.
	lon.ran("pc-0", 0, provisioning.RunFailed)
	lon.ran("pc-0", 0, provisioning.RunSucceeded)
	lon.ran("pc-2", 2, provisioning.RunStarted)
	lon.ran("pc-5", 5, provisioning.RunSucceeded)
	same(s.admin, "everybody 9/0/0/0, fresh 5/0/0/0, over 0/0/0/0, rollout 2/1/5/0")
	// Deployed, cleared: it waits again. Deployed, cleared, deployed again: it counts once, in its newest state.
	clear := func(names ...string) {
		t.Helper()
		s.clock.Advance(time.Second)
		if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: names}); err != nil {
			t.Fatal(err)
		}
	}
	clear("pc-0", "pc-1", "pc-5")
	same(s.admin, "everybody 9/0/0/0, fresh 8/0/0/0, over 0/0/0/0, rollout 4/1/2/0")
	lon.ran("pc-1", 1, provisioning.RunFailed)
	same(s.admin, "everybody 9/0/0/0, fresh 8/0/0/0, over 0/0/0/0, rollout 3/1/2/1")
	lon.ran("pc-1", 1, provisioning.RunSucceeded)
	same(s.admin, "everybody 9/0/0/0, fresh 7/0/0/0, over 0/0/0/0, rollout 3/1/3/0")
	// One that was renamed since is still the one that was deployed.
	s.mustApply("apiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: listed}\nspec: {computers: [pc-0, pc-2, pc-3, pc-4, pc-7]}\n")
	if _, err := s.admin.Delete(ctx, client.DeleteRequest{Documents: []provisioning.Key{{Kind: provisioning.KindComputer, Name: "pc-1"}}}); err != nil {
		t.Fatal(err)
	}
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: renamed}\nspec: {site: LON, macAddresses: [\"52:54:00:00:00:01\"]}\n")
	same(s.admin, "everybody 9/0/0/0, fresh 8/0/0/0, over 0/0/0/0, rollout 3/1/3/0")

	page, err := s.admin.AdvertisementComputers(ctx, "rollout", "", client.Page{})
	var got []string
	for _, d := range page.Items {
		got = append(got, d.Computer+" "+string(d.State))
	}
	want := "gone succeeded, pc-0 waiting, pc-2 running, pc-3 waiting, pc-4 waiting, pc-7 succeeded, renamed succeeded"
	if err != nil || strings.Join(got, ", ") != want || page.Next != "" {
		t.Errorf("%v, %v, want %s", got, err, want)
	}
	// In parts, each once.
	got = nil
	for after := ""; ; {
		p, err := s.admin.AdvertisementComputers(ctx, "rollout", client.Waiting, client.Page{After: after, Limit: 2})
		if err != nil || len(p.Items) > 2 || p.Advertisement != page.Advertisement {
			t.Fatalf("%+v, %v", p, err)
		}
		for _, d := range p.Items {
			got = append(got, d.Computer)
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if fmt.Sprint(got) != "[pc-0 pc-3 pc-4]" {
		t.Errorf("%v", got)
	}
	if p, err := s.admin.Advertisements(ctx, client.Page{Limit: 1, After: "everybody"}); err != nil || len(p.Items) != 1 || p.Items[0].Name != "fresh" || p.Next != "fresh" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err = s.admin.AdvertisementComputers(ctx, "nothing", "", client.Page{})
	wantCode(t, err, provisioning.CodeNotFound, "nothing")
	_, err = s.admin.AdvertisementComputers(ctx, "rollout", "asleep", client.Page{})
	wantCode(t, err, provisioning.CodeInvalid, "asleep")

	// What went wrong is told.
	lon.ran("pc-3", 3, provisioning.RunFailed)
	page, err = s.admin.AdvertisementComputers(ctx, "rollout", client.Failed, client.Page{})
	if err != nil || len(page.Items) != 1 {
		t.Fatal(page, err)
	}
	if d := page.Items[0]; d.Computer != "pc-3" || d.Site != "LON" || d.Step != 1 || d.Title != "Partition" || d.ExitCode != 7 || d.Text != "message 3" || d.Run == failed || d.StartedAt.IsZero() {
		t.Errorf("%+v", d)
	}

	// Whoever is limited counts what they may see.
	same(eye, "rollout 0/0/1/0") // the others are for computers anywhere
	page, err = eye.AdvertisementComputers(ctx, "rollout", "", client.Page{})
	if err != nil || len(page.Items) != 1 || page.Items[0].Computer != "pc-7" {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestUnprovisioned(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	eye := s.account("eye")
	s.mustApply(fleet() + role("eyes", "viewer", "eye", ", sites: [PAR]"))
	lon := s.branchAt("LON")
	lon.ran("pc-0", 0, provisioning.RunSucceeded)
	lon.ran("pc-1", 1, provisioning.RunFailed)
	lon.ran("pc-2", 2, provisioning.RunSucceeded)
	lon.ran("pc-2", 2, provisioning.RunFailed)
	s.clock.Advance(time.Second)
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"pc-0"}}); err != nil {
		t.Fatal(err)
	}
	// A task sequence that erases nothing provisions nothing.
	now := s.clock.Now().UTC()
	harmless := reported("LON", "pc-3", 99, 1, provisioning.StatusSequenceDone, provisioning.Run{State: provisioning.RunSucceeded, StartedAt: now, UpdatedAt: now})
	if err := lon.far.Report(ctx, []provisioning.StatusMessage{harmless}); err != nil {
		t.Fatal(err)
	}
	names := func(a *client.Admin, site string, p client.Page) string {
		t.Helper()
		r, err := a.Unprovisioned(ctx, site, p)
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprint(r.Count)
		for _, d := range r.Items {
			out += fmt.Sprintf(" %s:%s", d.Computer, d.State)
		}
		return out + " " + r.Next
	}
	for _, c := range []struct {
		as   *client.Admin
		site string
		page client.Page
		want string
	}{
		{s.admin, "", client.Page{}, "7 pc-1:failed pc-3:succeeded pc-4: pc-5: pc-6: pc-7: pc-8: "},
		{s.admin, "", client.Page{Limit: 2}, "7 pc-1:failed pc-3:succeeded pc-3"},
		{s.admin, "", client.Page{After: "pc-3", Limit: 2}, "7 pc-4: pc-5: pc-5"},
		{s.admin, "PAR", client.Page{}, "3 pc-6: pc-7: pc-8: "},
		{eye, "", client.Page{}, "3 pc-6: pc-7: pc-8: "},
	} {
		if got := names(c.as, c.site, c.page); got != c.want {
			t.Errorf("%+v: got %q, want %q", c, got, c.want)
		}
	}

	// Machines that nobody knows, as branches tell of them, until a record names them.
	conflict := func(id, mac int, guid string, names ...string) provisioning.SiteReport {
		m := provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:01:%02x", mac)), GUID: provisioning.GUID(guid), Arch: provisioning.ArchUEFIx64}
		return provisioning.SiteReport{
			ID: fmt.Sprintf("%032x", id), Site: "LON", Kind: provisioning.ReportConflict, At: now.Add(time.Duration(id) * time.Minute), Machine: m,
			Conflict: &provisioning.Conflict{Machine: m, ByMAC: names, Text: "text"}, Text: fmt.Sprint("told ", id),
		}
	}
	if err := lon.far.ReportSite(ctx, []provisioning.SiteReport{
		conflict(1, 1, ""), conflict(2, 2, guidOf(2)), conflict(3, 1, ""), conflict(4, 4, "", "pc-1"),
	}); err != nil {
		t.Fatal(err)
	}
	unknown := func(a *client.Admin, want string) {
		t.Helper()
		r, err := a.Unprovisioned(ctx, "", client.Page{})
		var got []string
		for _, u := range r.Unknown {
			got = append(got, string(u.Machine.MAC)+" "+u.Text)
		}
		if err != nil || strings.Join(got, ", ") != want {
			t.Errorf("%v, %v, want %s", got, err, want)
		}
	}
	unknown(s.admin, "52:54:00:00:01:01 told 3, 52:54:00:00:01:02 told 2")
	unknown(eye, "")
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: found}\nspec: {smbiosGUID: " + guidOf(2) + "}\n")
	unknown(s.admin, "52:54:00:00:01:01 told 3")
	if err := lon.far.TellHost(ctx, hardware("", "52:54:00:00:01:01")); err != nil { // its own appliance's machine is none to deploy
		t.Fatal(err)
	}
	unknown(s.admin, "")
}

// TestRunsOfAComputer: each run of a sequence on a computer is kept, with its steps; and whoever is limited gets as many runs as
// they ask for, whatever else ran since.
func TestRunsOfAComputer(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	eye := s.account("eye")
	s.mustApply(fleet() + role("eyes", "viewer", "eye", ", sites: [PAR]"))
	lon, par := s.branchAt("LON"), s.branchAt("PAR")
	par.ran("pc-7", 7, provisioning.RunSucceeded)
	first := lon.ran("pc-2", 2, provisioning.RunFailed)
	s.clock.Advance(time.Second)
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"pc-2"}}); err != nil {
		t.Fatal(err)
	}
	second := lon.ran("pc-2", 2, provisioning.RunSucceeded)
	lon.ran("pc-3", 3, provisioning.RunSucceeded)
	r, err := s.admin.Status(ctx, provisioning.StatusFilter{Computer: "pc-2", TaskSequence: "install"})
	if err != nil || len(r.Runs) != 2 || r.Runs[0].Run != second || r.Runs[1].Run != first {
		t.Fatalf("%+v, %v", r.Runs, err)
	}
	old := r.Runs[1]
	if old.State != provisioning.RunFailed || len(old.Steps) != 1 || old.Steps[0].ExitCode != 7 || old.Steps[0].EndedAt.IsZero() || old.Steps[0].State != provisioning.RunFailed {
		t.Errorf("%+v", old)
	}
	if r, err := s.admin.Status(ctx, provisioning.StatusFilter{Computer: "pc-2", TaskSequence: "other"}); err != nil || len(r.Runs) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := eye.Status(ctx, provisioning.StatusFilter{Runs: 1}); err != nil || len(r.Runs) != 1 || r.Runs[0].Computer != "pc-7" {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestReportsNeedARole: whoever has a role that reads may ask, a preview too, which is sent; whoever has none may not.
func TestReportsNeedARole(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	eye, none := s.account("eye"), s.account("none")
	s.mustApply(fleet() + role("eyes", "viewer", "eye", ""))
	discard := func(_ any, err error) error { return err }
	for what, ask := range map[string]func(*client.Admin) error{
		"advertisements": func(a *client.Admin) error { return discard(a.Advertisements(ctx, client.Page{})) },
		"one": func(a *client.Admin) error {
			return discard(a.AdvertisementComputers(ctx, "rollout", "", client.Page{}))
		},
		"unprovisioned": func(a *client.Admin) error { return discard(a.Unprovisioned(ctx, "", client.Page{})) },
		"members":       func(a *client.Admin) error { return discard(a.Members(ctx, "listed", client.Page{})) },
		"preview": func(a *client.Admin) error {
			return discard(a.Preview(ctx, client.PreviewRequest{File: provisioning.File{Name: "x.yaml", Text: []byte(collectionText("computers: [pc-0]"))}}))
		},
		"explain": func(a *client.Admin) error { return discard(a.Explain(ctx, client.ExplainRequest{Machine: "pc-0"})) },
	} {
		if err := ask(eye); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := ask(none); provisioning.CodeOf(err) != provisioning.CodeForbidden {
			t.Errorf("%s without a role: %v", what, err)
		}
	}
}
