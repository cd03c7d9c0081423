package central_test

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/central"
	"branchpoint/services/central/client"
	"branchpoint/services/store"
)

func hardware(guid provisioning.GUID, macs ...provisioning.MAC) provisioning.Hardware {
	return provisioning.Hardware{MACAddresses: macs, SMBIOSGUID: guid}
}

// TestHosts: the machines that appliances run on are never targets, at any site, until their site is deleted; what is told again
// makes no snapshot.
func TestHosts(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	first, _ := s.enrol("LON")
	tell := func(b *client.Branch, h provisioning.Hardware) {
		t.Helper()
		if err := b.TellHost(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	// The rule by which a machine that no record names gets nothing at PAR, where such are served.
	rule := func(mac string, guid string) string {
		t.Helper()
		e, err := s.admin.Explain(ctx, client.ExplainRequest{Machine: mac, GUID: guid, Site: "PAR"})
		if err != nil {
			t.Fatal(err)
		}
		return e.Decision.Rule()
	}
	const one, two, other = "52:54:00:00:00:91", "52:54:00:00:00:92", "52:54:00:00:00:93"
	if got := rule(one, guidOf(9)); got != policy.RuleNothing {
		t.Error(got)
	}
	tell(first, hardware("", one))
	if got := rule(one, guidOf(9)); got != policy.RuleInfrastructure {
		t.Error(got)
	}
	number := s.snapshot("PAR").Number
	tell(first, hardware("", one))
	if s.snapshot("PAR").Number != number || number != 2 {
		t.Errorf("what is known makes snapshot %d after %d", s.snapshot("PAR").Number, number)
	}
	// Another appliance in its place: both are infrastructure, the first one's word counts no more.
	second, _ := s.enrol("LON")
	tell(second, hardware(provisioning.GUID(guidOf(8)), two))
	wantCode(t, first.TellHost(ctx, hardware("", other)), provisioning.CodeUnauthorized, "revoked")
	for mac, want := range map[string]string{one: policy.RuleInfrastructure, two: policy.RuleInfrastructure, other: policy.RuleNothing} {
		if got := rule(mac, guidOf(9)); got != want {
			t.Errorf("%s: %s", mac, got)
		}
	}
	if got := rule(other, guidOf(8)); got != policy.RuleInfrastructure {
		t.Error("by its GUID:", got)
	}
	// What its machine has no longer is nobody's. But a site whose word goes to and fro makes no snapshot each time.
	number = s.snapshot("PAR").Number
	for range 3 {
		wantCode(t, second.TellHost(ctx, hardware(provisioning.GUID(guidOf(8)), other)), provisioning.CodeUnavailable, "has said only now that its machine is another one")
		tell(second, hardware(provisioning.GUID(guidOf(8)), two))
	}
	if got := s.snapshot("PAR").Number; got != number {
		t.Errorf("snapshot %d after %d", got, number)
	}
	s.clock.Advance(5 * time.Minute)
	tell(second, hardware(provisioning.GUID(guidOf(8)), other))
	if a, b := rule(two, guidOf(9)), rule(other, guidOf(9)); a != policy.RuleNothing || b != policy.RuleInfrastructure {
		t.Error(a, b)
	}
	if _, err := s.admin.RevokeSite(ctx, "LON", "stolen"); err != nil {
		t.Fatal(err)
	}
	if got := rule(one, guidOf(9)); got != policy.RuleInfrastructure {
		t.Error("of a revoked site:", got)
	}
	// A known computer that is one waits for nothing.
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-2}\nspec: {site: PAR, macAddresses: [\"" + other + "\"]}\n")
	status, err := s.admin.AdvertisementComputers(ctx, "rollout", "", client.Page{})
	if err != nil || status.Advertisement.Waiting != 1 {
		t.Errorf("%+v, %v", status, err)
	}
	if page, err := s.admin.Unprovisioned(ctx, "PAR", client.Page{}); err != nil || page.Count != 0 {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestDishonestHosts: a site's word about its machine is bounded, and nothing of what is refused is kept.
func TestDishonestHosts(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	many := make([]provisioning.MAC, provisioning.MaxHostMACs+1)
	for i := range many {
		many[i] = provisioning.MAC(fmt.Sprintf("52:54:00:00:01:%02x", i))
	}
	wantCode(t, lon.TellHost(ctx, hardware("", many...)), provisioning.CodeInvalid, "at most 32")
	wantCode(t, lon.TellHost(ctx, hardware("", many[1], many[0])), provisioning.CodeInvalid, "not sorted")
	wantCode(t, lon.TellHost(ctx, hardware("x")), provisioning.CodeInvalid, "GUID")
	wantCode(t, s.bare().TellHost(ctx, hardware("", many[0])), provisioning.CodeUnauthorized, "a site's certificate is wanted")
	if got := s.snapshot("PAR"); got.Number != 1 || len(got.Infrastructure) != 0 {
		t.Errorf("%+v", got.Infrastructure)
	}
	// Whatever it says takes the place of what it said before.
	for i := range 3 {
		if err := lon.TellHost(ctx, hardware("", many[i*10:i*10+10]...)); err != nil {
			t.Fatal(err)
		}
		s.clock.Advance(5 * time.Minute)
	}
	if got := s.snapshot("PAR").Infrastructure; len(got) != 1 || got[0].Site != "LON" || len(got[0].MACAddresses) != 10 || got[0].MACAddresses[0] != many[20] {
		t.Errorf("%+v", got)
	}
}

// TestForgetHost: what an appliance said that is the site's no more can be taken back, by who may administer everything, after a
// question where disks could be erased for it.
func TestForgetHost(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	boss := s.account("lonboss")
	s.mustApply(role("london-bosses", "administrator", "lonboss", ", sites: [LON]"))
	ctx := t.Context()
	first, _ := s.enrol("LON")
	if err := first.TellHost(ctx, hardware(provisioning.GUID(guidOf(7)), "52:54:00:00:00:02", "52:54:00:00:00:91")); err != nil {
		t.Fatal(err)
	}
	par, _ := s.enrol("PAR")
	if err := par.TellHost(ctx, hardware("", "52:54:00:00:00:92")); err != nil {
		t.Fatal(err)
	}
	listed := func(a *client.Admin) []client.Host {
		t.Helper()
		out, err := a.Hosts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := listed(s.admin)
	if len(all) != 2 || all[0].Site != "LON" || !all[0].InUse || !slices.Equal(all[0].Computers, []string{"desk-2"}) || all[0].ToldAt.IsZero() ||
		len(all[0].MACAddresses) != 2 || all[0].SMBIOSGUID != provisioning.GUID(guidOf(7)) || !all[1].InUse || all[1].Computers != nil {
		t.Fatalf("%+v", all)
	}
	// As long as desk-2 is one, nothing is begun on it by whatever lets it.
	if _, err := s.admin.PutSettings(ctx, client.SettingsRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.Clear(ctx, client.ClearRequest{Computers: []string{"desk-2"}}); err != nil {
		t.Error(err)
	}
	key := all[0].Fingerprint
	// Who is limited to a site sees its own, and desk-2 is none of that.
	if seen := listed(boss); len(seen) != 1 || seen[0].Fingerprint != key || seen[0].Computers != nil {
		t.Errorf("%+v", seen)
	}
	wantCode(t, s.admin.ForgetHost(ctx, "LON", key, ""), provisioning.CodeConflict, "in use at site LON")
	if _, err := s.admin.RevokeSite(ctx, "LON", "not honest"); err != nil {
		t.Fatal(err)
	}
	if all := listed(s.admin); len(all) != 2 || all[0].InUse || !all[1].InUse {
		t.Errorf("%+v", all)
	}
	wantCode(t, boss.ForgetHost(ctx, "LON", key, "1"), provisioning.CodeForbidden, "")
	wantCode(t, s.admin.ForgetHost(ctx, "PAR", key, ""), provisioning.CodeNotFound, "no appliance of site")
	wantCode(t, s.admin.ForgetHost(ctx, "LON", "", ""), provisioning.CodeNotFound, "")
	// However few they are, and whatever is done unasked elsewhere.
	if _, err := s.admin.PutSettings(ctx, client.SettingsRequest{Settings: client.Settings{WipesUnconfirmed: 10}, Confirm: "10"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.admin.ForgetHost(ctx, "LON", key, ""), provisioning.CodeConflict, "1 computer: desk-2")
	s.mustApply("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: again}\nspec: {taskSequence: install, computers: [desk-2], purpose: required, rerun: always}\n")
	wantCode(t, s.admin.ForgetHost(ctx, "LON", key, ""), provisioning.CodeConflict, "1 computer: desk-2; at each boot by again")
	if all := listed(s.admin); len(all) != 2 {
		t.Errorf("%+v", all)
	}
	if err := s.admin.ForgetHost(ctx, "LON", key, "1"); err != nil {
		t.Fatal(err)
	}
	if all := listed(s.admin); len(all) != 1 || all[0].Site != "PAR" {
		t.Errorf("%+v", all)
	}
	if got := s.snapshot("PAR").Infrastructure; len(got) != 1 || got[0].Site != "PAR" {
		t.Errorf("%+v", got)
	}
	page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Kind: "Host"})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].Action != "forget" || page.Entries[0].Site != "LON" || !strings.Contains(page.Entries[0].Before, "52:54:00:00:00:91") {
		t.Errorf("%+v, %v", page, err)
	}
}

// TestOwnHost: central's own machine is in every snapshot, and in the list without a key.
func TestOwnHost(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	key, err := central.LoadKey(filepath.Join(dir, "key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(ctx, filepath.Join(dir, "central.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := central.Open(ctx, central.Config{Store: db, Key: key, Own: hardware("", "52:54:00:00:00:93"), Log: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader})
	if err == nil {
		_, err = c.Apply(ctx, client.ApplyRequest{Files: []provisioning.File{{Name: "a.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {pxe: {mode: proxy}}\n")}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := db.SiteSnapshot(ctx, "LON")
	if err != nil || !strings.Contains(string(snapshot.Signed.Payload), "52:54:00:00:00:93") {
		t.Errorf("%+v, %v", snapshot, err)
	}
	if all, err := c.Hosts(ctx); err != nil || len(all) != 1 || all[0].Site != "" || all[0].Fingerprint != "" || !all[0].InUse {
		t.Errorf("%+v, %v", all, err)
	}
	wantCode(t, c.ForgetHost(ctx, "", "", ""), provisioning.CodeNotFound, "")
}
