package pxe

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// newTestServer is the DHCP part alone, with a store that can break.
func newTestServer(t *testing.T, store *fakeLeases) (*dhcpServer, *Deps) {
	t.Helper()
	stored, err := store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &dhcpServer{lending: lending{pool: testPool(t)}}
	s.load(stored)
	return s, &Deps{Leases: store, Now: func() time.Time { return start }}
}

func TestLeaseSurvivesRestart(t *testing.T) {
	store, log := &fakeLeases{}, slog.New(slog.DiscardHandler)
	play := func(s *dhcpServer, d *Deps, p *dhcpv4.DHCPv4) string {
		t.Helper()
		reply, err := s.answer(t.Context(), log, parsed(t, p), nil, false, d)
		if err != nil {
			return err.Error()
		}
		if reply == nil {
			return "silence"
		}
		return reply.MessageType().String() + " " + reply.YourIPAddr.String()
	}
	us := chosen("192.0.2.10")
	s, d := newTestServer(t, store)
	if got := play(s, d, client(t, known, dhcpv4.MessageTypeDiscover, wish("192.0.2.104"))); got != "OFFER 192.0.2.104" {
		t.Fatal(got)
	}
	store.broken = true
	if got := play(s, d, client(t, known, dhcpv4.MessageTypeRequest, us, wish("192.0.2.104"))); !strings.Contains(got, "disk full") {
		t.Errorf("a lease that could not be stored: %s", got)
	}
	if _, ok := s.table.leased(known); ok {
		t.Error("a lease that could not be stored is held")
	}
	store.broken = false
	if got := play(s, d, client(t, known, dhcpv4.MessageTypeRequest, us, wish("192.0.2.104"))); got != "ACK 192.0.2.104" {
		t.Fatal(got)
	}
	s, d = newTestServer(t, store) // a restart
	if got := play(s, d, client(t, idle, dhcpv4.MessageTypeDiscover, wish("192.0.2.104"))); got == "OFFER 192.0.2.104" {
		t.Error("the address is offered to another client after a restart")
	}
	if got := play(s, d, client(t, known, dhcpv4.MessageTypeRequest, ciaddr("192.0.2.104"))); got != "ACK 192.0.2.104" {
		t.Errorf("renewal after a restart: %s", got)
	}
	if !s.lentTo(known, netip.MustParseAddr("192.0.2.104"), d) || s.lentTo(idle, netip.MustParseAddr("192.0.2.104"), d) {
		t.Error("the server does not know who has the address")
	}
}

func TestAddressInUse(t *testing.T) {
	store := &fakeLeases{}
	s, d := newTestServer(t, store)
	looked := 0
	s.inUse = func(_ context.Context, a netip.Addr) (provisioning.MAC, error) {
		looked++
		switch a.String() {
		case "192.0.2.104":
			return third, nil
		case "192.0.2.103":
			return known, nil // the client itself, from before
		}
		return "", nil
	}
	offer := func(mac provisioning.MAC, w string) string {
		t.Helper()
		reply, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), parsed(t, client(t, mac, dhcpv4.MessageTypeDiscover, wish(w))), nil, false, d)
		if err != nil {
			t.Fatal(err)
		}
		return reply.YourIPAddr.String()
	}
	if got := offer(idle, "192.0.2.104"); got == "192.0.2.104" || looked != 2 {
		t.Errorf("%s is offered after %d looks", got, looked)
	}
	if l := store.leases[netip.MustParseAddr("192.0.2.104")]; l.State != provisioning.LeaseDeclined || l.MAC != "" {
		t.Errorf("the address in use is stored as %v", l)
	}
	if got := offer(unknown, "192.0.2.104"); got == "192.0.2.104" {
		t.Errorf("the address in use is offered to the next client")
	}
	if got := offer(known, "192.0.2.103"); got != "192.0.2.103" {
		t.Errorf("the client's own address is not offered to it, but %s", got)
	}
	before := looked
	if offer(known, "192.0.2.103"); looked != before {
		t.Error("an address is looked at again for a repeated DISCOVER")
	}
}
