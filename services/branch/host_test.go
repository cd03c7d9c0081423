package branch

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/store"
)

// TestOwnMachine is never a target: from the start on, whatever central knows, and as soon as it has another network card. Central
// is told as long as the snapshot does not say it.
func TestOwnMachine(t *testing.T) {
	s := enrolled(t)
	if d := s.Decide(t.Context(), desk); d.Action != policy.Boot {
		t.Fatalf("%+v", d)
	}
	db, err := store.Open(t.Context(), s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	own := provisioning.Hardware{SMBIOSGUID: desk.GUID}
	b, err := New(t.Context(), Config{
		Site: "LON", Store: db, Central: s.central, Own: func() provisioning.Hardware { return own }, Installed: func(provisioning.ContentRef) bool { return true },
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	other := provisioning.Machine{MAC: desk.MAC, Arch: desk.Arch} // the same card, and no GUID
	rules := func(when, byGUID, byMAC string) {
		t.Helper()
		if got := b.Decide(t.Context(), desk); got.Rule() != byGUID {
			t.Errorf("%s: %+v", when, got)
		}
		if got := b.Decide(t.Context(), other); got.Rule() != byMAC {
			t.Errorf("%s: %+v", when, got)
		}
	}
	rules("at the start", policy.RuleInfrastructure, policy.RuleRequired)
	told := func(want int) {
		t.Helper()
		if err := b.tellHost(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.central.hosts); n != want || n > 0 && !s.central.hosts[n-1].Equal(own) {
			t.Errorf("central was told %+v, want %d times", s.central.hosts, want)
		}
	}
	own = provisioning.Hardware{SMBIOSGUID: desk.GUID, MACAddresses: []provisioning.MAC{desk.MAC}}
	told(1)
	told(2)
	rules("with another card", policy.RuleInfrastructure, policy.RuleInfrastructure)
	put := func(number uint64, hosts ...provisioning.Host) {
		t.Helper()
		if err := b.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) { n.Number, n.Infrastructure = number, hosts })); err != nil {
			t.Fatal(err)
		}
	}
	put(2, provisioning.Host{Site: "PAR", Hardware: own})
	told(3)
	put(3, provisioning.Host{Site: "LON", Hardware: own})
	told(3)
	own = provisioning.Hardware{MACAddresses: []provisioning.MAC{"52:54:00:00:00:77"}}
	told(4)
	rules("by the word of before", policy.RuleInfrastructure, policy.RuleInfrastructure)
	put(4, provisioning.Host{Site: "LON", Hardware: own})
	rules("in another machine", policy.RuleRequired, policy.RuleRequired)
	own = provisioning.Hardware{} // it cannot be read: central keeps what it knows
	before := len(s.central.hosts)
	if err := b.tellHost(t.Context()); err != nil || len(s.central.hosts) != before {
		t.Errorf("central was told %+v, %v", s.central.hosts, err)
	}
}

// TestHostsOfARestoredCentral: what an older backup does not know of stays infrastructure, until central knows of it again.
func TestHostsOfARestoredCentral(t *testing.T) {
	s := enrolled(t)
	machine := func(i int) provisioning.Machine {
		return provisioning.Machine{MAC: deskNumber(i).MAC, GUID: provisioning.GUID("11111111-1111-4111-8111-1111111111" + string(rune('a'+i%6)) + "1"), Arch: desk.Arch}
	}
	host := func(site string, i int) provisioning.Host {
		return provisioning.Host{Site: site, Hardware: provisioning.Hardware{MACAddresses: []provisioning.MAC{machine(i).MAC}}}
	}
	rules := func(when string, want ...string) {
		t.Helper()
		for i, rule := range want {
			if d := s.Decide(t.Context(), machine(i+2)); d.Rule() != rule {
				t.Errorf("%s: machine %d: %+v", when, i+2, d)
			}
		}
	}
	s.put(t, func(n *provisioning.Snapshot) {
		forUnknown(n)
		n.Infrastructure = []provisioning.Host{host("", 2), host("LON", 3), host("PAR", 4)}
	})
	rules("before", policy.RuleInfrastructure, policy.RuleInfrastructure, policy.RuleInfrastructure, policy.RuleRequired)
	restored := func(number uint64, hosts ...provisioning.Host) {
		t.Helper()
		if err := s.apply(t.Context(), s.central.sign(t, func(n *provisioning.Snapshot) {
			n.Epoch, n.Number, n.Infrastructure = 2, number, hosts
			forUnknown(n)
		})); err != nil {
			t.Fatal(err)
		}
	}
	restored(1, host("", 2))
	rules("restored", policy.RuleInfrastructure, policy.RuleInfrastructure, policy.RuleInfrastructure, policy.RuleRequired)
	if left := s.state.Load().past.Discovered; len(left) != 2 {
		t.Errorf("kept are %+v", left)
	}
	if got := s.waiting(t, provisioning.ReportDiscovered); len(got) != 0 {
		t.Errorf("central is told %+v", got)
	}
	restored(2, host("", 2), host("LON", 3), host("PAR", 4))
	if left := s.state.Load().past.Discovered; len(left) != 0 {
		t.Errorf("kept are %+v", left)
	}
	restored(3, host("", 2))
	rules("after a person has deleted their sites", policy.RuleInfrastructure, policy.RuleRequired, policy.RuleRequired)
}

// TestDiscoveredAndHosts: what an appliance says of a computer that was deployed here takes nothing of what is known of it: once the
// word is taken back, it is no unknown machine.
func TestDiscoveredAndHosts(t *testing.T) {
	pc := provisioning.Computer{Name: "found-1", Spec: provisioning.ComputerSpec{Site: "LON", MACAddresses: []provisioning.MAC{stranger.MAC}, SMBIOSGUID: stranger.GUID}}
	host := provisioning.Host{Site: "PAR", Hardware: provisioning.Hardware{MACAddresses: pc.Spec.MACAddresses, SMBIOSGUID: pc.Spec.SMBIOSGUID}}
	told := &provisioning.Snapshot{Infrastructure: []provisioning.Host{host}}
	if got := known([]provisioning.Computer{pc}, told); len(got) != 0 {
		t.Errorf("%q are forgotten", got)
	}
	pc.Spec.Infrastructure = true
	if got := known([]provisioning.Computer{pc}, told); len(got) != 1 {
		t.Errorf("%q are forgotten", got)
	}
}

// TestHostIsTold with each contact, and that central does not understand it keeps the branch from nothing.
func TestHostIsTold(t *testing.T) {
	own := provisioning.Hardware{SMBIOSGUID: desk.GUID}
	s := open(t, newCentral(t), filepath.Join(t.TempDir(), "branch.db"))
	s.cfg.Own = func() provisioning.Hardware { return own }
	s.cfg.Central = deaf{s.central}
	if err := s.tellHost(t.Context()); !errors.Is(err, errDeaf) {
		t.Error(err)
	}
	s.keepUp(t.Context())
	if !s.HistoryComplete() {
		t.Error("nothing came after it")
	}
}

// deaf is a central that knows of no hosts.
type deaf struct{ *central }

func (deaf) TellHost(context.Context, provisioning.Hardware) error { return errDeaf }

var errDeaf = provisioning.Errorf(provisioning.CodeNotFound, "", "there is no such path")
