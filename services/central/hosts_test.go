package central_test

import (
	"fmt"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/central/client"
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
	// What its machine has no longer is nobody's.
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
	if err := s.bare().TellHost(ctx, hardware("", many[0])); err == nil {
		t.Error("nobody's word is taken")
	}
	if got := s.snapshot("PAR"); got.Number != 1 || len(got.Infrastructure) != 0 {
		t.Errorf("%+v", got.Infrastructure)
	}
	// Whatever it says takes the place of what it said before.
	for i := range 3 {
		if err := lon.TellHost(ctx, hardware("", many[i*10:i*10+10]...)); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.snapshot("PAR").Infrastructure; len(got) != 1 || got[0].Site != "LON" || len(got[0].MACAddresses) != 10 || got[0].MACAddresses[0] != many[20] {
		t.Errorf("%+v", got)
	}
}
