package provisioning

import "testing"

// TestComputersOfOtherSites: a site that serves unknown computers must be able to tell visitors from them.
func TestComputersOfOtherSites(t *testing.T) {
	catalog := func(pxe *PXERole) Catalog {
		visitor := Computer{Name: "visitor", Spec: ComputerSpec{
			Site: "PAR", Description: "d", MACAddresses: []MAC{"52:54:00:00:00:01"}, SMBIOSGUID: "11111111-1111-4111-8111-111111111111",
			Infrastructure: true, Variables: map[string]string{"secret": "s"},
		}}
		return Catalog{
			{KindSite, "LON"}:         {Kind: KindSite, Name: "LON", Site: &Site{Name: "LON", Spec: SiteSpec{PXE: pxe}}},
			{KindComputer, "visitor"}: {Kind: KindComputer, Name: "visitor", Computer: &visitor},
		}
	}
	s, err := catalog(&PXERole{UnknownComputers: &UnknownComputers{}}).Resolve("LON", Facts{})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Computers) != 0 || len(s.Elsewhere) != 1 {
		t.Fatalf("computers %v, elsewhere %v", s.Computers, s.Elsewhere)
	}
	if c := s.Elsewhere[0]; c.Name != "visitor" || c.Spec.Site != "PAR" || len(c.Spec.MACAddresses) != 1 || c.Spec.SMBIOSGUID == "" ||
		!c.Spec.Infrastructure || c.Spec.Variables != nil || c.Spec.Description != "" {
		t.Errorf("elsewhere is %+v", c)
	}
	for name, pxe := range map[string]*PXERole{"unknown computers are off": {}, "no service point": nil} {
		if s, err := catalog(pxe).Resolve("LON", Facts{}); err != nil || len(s.Elsewhere) != 0 {
			t.Errorf("%s: %v, error %v", name, s.Elsewhere, err)
		}
	}
}
