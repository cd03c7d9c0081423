package pxe

import (
	"context"
	"errors"
	"fmt"
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
		reply, why, err := s.answer(t.Context(), log, parsed(t, p), nil, false, d)
		if err != nil {
			return err.Error()
		}
		if reply == nil {
			return "silence, " + why
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
		reply, _, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), parsed(t, client(t, mac, dhcpv4.MessageTypeDiscover, wish(w))), nil, false, d)
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

// TestDoubledDiscover: while the address is looked at that a client is to be offered, its further requests wait for that.
func TestDoubledDiscover(t *testing.T) {
	for _, c := range []struct {
		name string
		by   provisioning.MAC // who uses 192.0.2.104
		err  error
		want string // the first DISCOVER's
	}{
		{"free", "", nil, "OFFER 192.0.2.104"},
		{"its own", idle, nil, "OFFER 192.0.2.104"},
		{"not to be found out", "", errors.New("no socket"), "OFFER 192.0.2.104"},
		{"another's", third, nil, "OFFER 192.0.2.109"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, d := newTestServer(t, &fakeLeases{})
			looking, end, looked := make(chan struct{}, 10), make(chan struct{}), 0
			s.inUse = func(_ context.Context, a netip.Addr) (provisioning.MAC, error) {
				looked++
				if a.String() != "192.0.2.104" {
					return "", nil
				}
				looking <- struct{}{}
				<-end
				return c.by, c.err
			}
			play := func(p *dhcpv4.DHCPv4) string {
				reply, why, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), parsed(t, p), nil, false, d)
				switch {
				case err != nil:
					return err.Error()
				case reply == nil:
					return why
				}
				return reply.MessageType().String() + " " + reply.YourIPAddr.String()
			}
			discover := client(t, idle, dhcpv4.MessageTypeDiscover, wish("192.0.2.104"))
			ask := client(t, idle, dhcpv4.MessageTypeRequest, chosen("192.0.2.10"), wish("192.0.2.104"))
			first := make(chan string)
			go func() { first <- play(discover) }()
			<-looking
			for range 2 {
				if got := play(discover); got != dropLooking {
					t.Errorf("a second DISCOVER: %s", got)
				}
				if got := play(ask); got != dropLooking {
					t.Errorf("a REQUEST before the offer: %s", got)
				}
			}
			close(end)
			got := <-first
			if got != c.want {
				t.Errorf("the first DISCOVER: %s, want %s", got, c.want)
			}
			before := looked
			if again := play(discover); again != got || looked != before {
				t.Errorf("a DISCOVER after the offer: %s after %d looks more", again, looked-before)
			}
			if want := strings.Replace(got, "OFFER", "ACK", 1); c.by != third && play(ask) != want {
				t.Errorf("no %s", want)
			}
		})
	}
}

// TestLookThatCannotBeStored: an address in use is not offered because the store that was to note it is broken.
func TestLookThatCannotBeStored(t *testing.T) {
	store := &fakeLeases{broken: true}
	s, d := newTestServer(t, store)
	s.inUse = func(_ context.Context, a netip.Addr) (provisioning.MAC, error) {
		return map[string]provisioning.MAC{"192.0.2.104": third}[a.String()], nil
	}
	discover := parsed(t, client(t, idle, dhcpv4.MessageTypeDiscover, wish("192.0.2.104")))
	for range 2 {
		if reply, why, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), discover, nil, false, d); err == nil {
			t.Errorf("no error, but %v %s", reply, why)
		}
	}
	store.broken = false
	reply, why, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), discover, nil, false, d)
	if err != nil || reply == nil || reply.YourIPAddr.String() == "192.0.2.104" {
		t.Errorf("with a store again: %v %s %v", reply, why, err)
	}
}

// TestLookFindsNewOwner: an address that a known client was given while it was looked at for another is that one's.
func TestLookFindsNewOwner(t *testing.T) {
	store, addr := &fakeLeases{}, netip.MustParseAddr("192.0.2.104")
	s, d := newTestServer(t, store)
	var err error
	if s.pool, err = newPool(&provisioning.DHCPPool{RangeStart: addr.String(), RangeEnd: addr.String()}, prefix.Masked(), prefix.Addr()); err != nil {
		t.Fatal(err)
	}
	play := func(p *dhcpv4.DHCPv4, isKnown bool) string {
		r := parsed(t, p)
		r.known = isKnown
		reply, why, err := s.answer(t.Context(), slog.New(slog.DiscardHandler), r, nil, false, d)
		if err != nil || reply == nil {
			return fmt.Sprint(why, err)
		}
		return reply.MessageType().String()
	}
	looks := 0
	s.inUse = func(context.Context, netip.Addr) (provisioning.MAC, error) {
		if looks++; looks > 1 {
			return "", nil // nobody, when it is looked at for the known client
		}
		if got := play(client(t, known, dhcpv4.MessageTypeDiscover), true); got != "OFFER" {
			t.Errorf("the known client: %s", got)
		}
		if got := play(client(t, known, dhcpv4.MessageTypeRequest, chosen("192.0.2.10"), wish(addr.String())), true); got != "ACK" {
			t.Errorf("the known client: %s", got)
		}
		return known, nil
	}
	if got := play(client(t, idle, dhcpv4.MessageTypeDiscover), false); !strings.Contains(got, dropPoolUsedUp) {
		t.Errorf("the other client: %s", got)
	}
	if l := store.leases[addr]; l.MAC != known || l.State != provisioning.LeaseBound || !s.lentTo(known, addr, d) {
		t.Errorf("the known client's lease has become %+v", l)
	}
}
