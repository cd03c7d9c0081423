package branch

import (
	"testing"

	"branchpoint/provisioning"
)

// TestKnown: who is known changes with the snapshot, and is known again after a restart.
func TestKnown(t *testing.T) {
	const other, guid = provisioning.MAC("52:54:00:00:00:02"), provisioning.GUID("22222222-2222-4222-8222-222222222222")
	blank := open(t, newCentral(t), t.TempDir()+"/branch.db")
	if blank.Known(desk.MAC, desk.GUID) || blank.Known("", "") {
		t.Error("somebody is known without a snapshot")
	}
	s := enrolled(t) // desk-1 has a MAC address and no GUID
	want := func(s *site, step string, mac provisioning.MAC, guid provisioning.GUID, known bool) {
		t.Helper()
		if got := s.Known(mac, guid); got != known {
			t.Errorf("%s: %s with GUID %q is known: %t", step, mac, guid, got)
		}
	}
	want(s, "first", desk.MAC, "", true)
	want(s, "first", desk.MAC, desk.GUID, true)
	want(s, "first", other, "", false)
	want(s, "first", other, desk.GUID, false)
	if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
		n.Number = 2
		n.Computers = []provisioning.Computer{{Name: "desk-2", Spec: provisioning.ComputerSpec{SMBIOSGUID: guid}}}
	})); err != nil {
		t.Fatal(err)
	}
	again := open(t, s.central, s.path)
	for step, s := range map[string]*site{"second": s, "after a restart": again} {
		want(s, step, desk.MAC, "", false)
		want(s, step, other, guid, true)
		want(s, step, other, "", false)
	}
}
