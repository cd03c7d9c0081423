package appliance

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/events"
	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/services/pxe"
)

func testLinks(names ...string) *links {
	a := &appliance{screen: screen.New("", nil, nil, nil), events: events.New(time.Now)}
	a.Log = slog.New(slog.DiscardHandler)
	l := newLinks(a)
	l.order = names
	return l
}

// lease sets an interface's address; "" is none.
func (l *links) lease(name, address string, serves bool) {
	s := linkState{status: network.Status{Interface: name}, serves: serves}
	if address != "" {
		s.up, s.status.Address = true, netip.MustParsePrefix(address)
	}
	l.set(name, s)
}

// call is one call of what serves.
type call struct {
	ctx context.Context
	on  []pxe.Interface
	end chan error
}

// next waits for something that must come.
func next[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

func TestServingFollowsTheInterfaces(t *testing.T) {
	l := testLinks("eth0", "eth1", "wan")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting, calls, ended := make(chan bool, 1), make(chan call), make(chan error, 1)
	go func() {
		ended <- l.onServing(ctx, nil, func() { waiting <- true }, func(ctx context.Context, on []pxe.Interface) error {
			c := call{ctx, on, make(chan error)}
			calls <- c
			select {
			case err := <-c.end:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	addresses := func(c call) (out []string) {
		for _, i := range c.on {
			out = append(out, i.Name+" "+i.Prefix.String())
		}
		return out
	}
	expect := func(want ...string) call {
		t.Helper()
		c := next(t, calls, "serving")
		if got := addresses(c); !slices.Equal(got, want) {
			t.Fatalf("serves on %q, want %q", got, want)
		}
		return c
	}
	next(t, waiting, "waiting for an interface")
	l.lease("wan", "203.0.113.5/24", false)
	next(t, waiting, "waiting for an interface that serves")
	l.lease("eth0", "192.0.2.10/24", true)
	first := expect("eth0 192.0.2.10/24")

	l.lease("wan", "203.0.113.6/24", false) // clients are not served there
	l.lease("eth0", "192.0.2.10/24", true)  // renewed, and the same
	if first.ctx.Err() != nil {
		t.Error("what serves was ended by a change that is none to it")
	}
	l.lease("eth0", "192.0.2.77/24", true)
	second := expect("eth0 192.0.2.77/24")
	if first.ctx.Err() == nil {
		t.Error("what serves on the old address goes on")
	}
	l.lease("eth1", "198.51.100.1/24", true)
	third := expect("eth0 192.0.2.77/24", "eth1 198.51.100.1/24")
	if second.ctx.Err() == nil {
		t.Error("what serves on one interface goes on beside its successor")
	}
	l.lease("eth1", "", true)
	l.lease("eth0", "", true)
	for third.ctx.Err() == nil {
		<-third.ctx.Done()
	}
	// Depending on which change was seen, eth0 may have been served alone in between.
	for waited := false; !waited; {
		select {
		case <-waiting:
			waited = true
		case <-calls:
		case <-time.After(10 * time.Second):
			t.Fatal("it does not wait for an interface again")
		}
	}
	l.lease("eth0", "192.0.2.10/24", true)
	last := expect("eth0 192.0.2.10/24")
	broken := errors.New("broken")
	last.end <- broken
	if err := next(t, ended, "the end"); !errors.Is(err, broken) {
		t.Errorf("ended with %v, want what serving ended with", err)
	}
}

func TestServingEndsWithItsContext(t *testing.T) {
	l := testLinks("eth0", "eth1")
	l.lease("eth0", "192.0.2.10/24", true)
	ctx, cancel := context.WithCancel(t.Context())
	waiting, ended := make(chan bool, 1), make(chan error, 1)
	go func() {
		ended <- l.onServing(ctx, []string{"eth1"}, func() { waiting <- true }, func(context.Context, []pxe.Interface) error {
			t.Error("served on an interface that the role does not name")
			return nil
		})
	}()
	next(t, waiting, "waiting for eth1")
	cancel()
	if err := next(t, ended, "the end"); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestDiscoverStartsCardsThatAppearLater(t *testing.T) {
	pauses := 0
	l := testLinks()
	l.sleep = func(ctx context.Context, _ time.Duration) error {
		if pauses++; pauses > 3 {
			return context.Canceled
		}
		return ctx.Err()
	}
	var started []string
	l.discover(t.Context(), func() ([]network.Link, error) {
		return []network.Link{{Name: "eth0"}, {Name: "usb0"}}[:max(pauses-1, 0)], nil
	}, func(_ context.Context, c provisioning.ApplianceInterface) {
		if !c.DHCP {
			t.Errorf("%s is not configured by DHCP", c.Name)
		}
		started = append(started, c.Name)
	})
	if !slices.Equal(started, []string{"eth0", "usb0"}) {
		t.Errorf("started %q, want each card once, as it appeared", started)
	}
}

// TestDiscoverForgetsCards: one that goes and comes back is a new one, and nothing is left of the old.
func TestDiscoverForgetsCards(t *testing.T) {
	l := testLinks()
	eth, usb := network.Link{Name: "eth0"}, network.Link{Name: "usb0"}
	rounds := []struct {
		found []network.Link
		err   error
		order []string
	}{
		{[]network.Link{eth, usb}, nil, []string{"eth0", "usb0"}},
		{nil, errors.New("not now"), []string{"eth0", "usb0"}}, // says nothing of the cards
		{[]network.Link{eth}, nil, []string{"eth0"}},
		{[]network.Link{eth, usb}, nil, []string{"eth0", "usb0"}},
	}
	round := 0
	l.sleep = func(context.Context, time.Duration) error {
		if !slices.Equal(l.order, rounds[round].order) {
			t.Errorf("round %d: %q, want %q", round, l.order, rounds[round].order)
		}
		if round++; round == len(rounds) {
			return context.Canceled
		}
		return nil
	}
	started := map[string][]context.Context{}
	l.discover(t.Context(), func() ([]network.Link, error) { return rounds[round].found, rounds[round].err },
		func(ctx context.Context, c provisioning.ApplianceInterface) {
			started[c.Name] = append(started[c.Name], ctx)
			l.order = append(l.order, c.Name)
			l.lease(c.Name, "192.0.2.10/24", true)
		})
	if e, u := started["eth0"], started["usb0"]; len(e) != 1 || e[0].Err() != nil || len(u) != 2 || u[0].Err() == nil || u[1].Err() != nil {
		t.Errorf("eth0 was started %d times, usb0 %d times; or the one that went goes on, or another has ended", len(e), len(u))
	}
}

// TestCardsAreWatched: an interface whose card goes, or comes back as another, is down, and is configured anew.
func TestCardsAreWatched(t *testing.T) {
	address := netip.MustParsePrefix("192.0.2.10/24")
	here := []netip.Prefix{netip.MustParsePrefix("fe80::1/64"), address}
	static := provisioning.ApplianceInterface{Name: "eth0", Address: address.String()}
	dhcp := provisioning.ApplianceInterface{Name: "eth0", DHCP: true}
	for _, c := range []struct {
		name  string
		of    provisioning.ApplianceInterface
		then  card
		err   error
		holds bool
	}{
		{"nothing happens", static, card{7, here}, nil, true},
		{"nobody knows", static, card{}, errors.New("interrupted"), true},
		{"gone", static, card{}, nil, false},
		{"another card", static, card{8, here}, nil, false},
		{"address lost", static, card{7, here[:1]}, nil, false},
		{"nothing happens, by DHCP", dhcp, card{7, here}, nil, true},
		{"gone, by DHCP", dhcp, card{}, nil, false},
		{"another card, by DHCP", dhcp, card{8, nil}, nil, false},
		{"address withdrawn by DHCP", dhcp, card{7, nil}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := testLinks("eth0")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var configured []context.Context
			var changed func(network.Status)
			l.configure = func(ctx context.Context, config network.Config, _ *slog.Logger) (network.Status, error) {
				configured, changed = append(configured, ctx), config.Changed
				return network.Status{Interface: "eth0", Address: address}, nil
			}
			looks := 0
			l.look = func(string) (card, error) {
				if looks++; looks == 1 || len(configured) > 1 {
					return card{7, here}, nil
				}
				return c.then, c.err
			}
			var ups []bool
			l.sleep = func(context.Context, time.Duration) error {
				on, _ := l.serving(nil)
				if ups = append(ups, len(on) == 1); len(ups) == 2 && !c.holds {
					changed(network.Status{Interface: "eth0", Address: address}) // of the old card: too late
					if on, _ := l.serving(nil); len(on) != 0 {
						t.Error("what comes of the lease of a card that is gone counts")
					}
				}
				if len(ups) == 3 {
					cancel()
				}
				return ctx.Err()
			}
			l.keep(ctx, "eth0", c.of)
			want, times := []bool{true, true, true}, 1
			if !c.holds {
				want, times = []bool{true, false, true}, 2
			}
			if !slices.Equal(ups, want) || len(configured) != times || !c.holds && configured[0].Err() == nil {
				t.Errorf("up: %v, want %v; configured %d times", ups, want, len(configured))
			}
		})
	}
}

func TestLookAtCard(t *testing.T) {
	c, err := lookAtCard("lo")
	if err != nil || c.index == 0 || !slices.Contains(c.addresses, netip.MustParsePrefix("127.0.0.1/8")) {
		t.Errorf("lo is %+v, %v", c, err)
	}
	if c, err := lookAtCard("no-such-card"); err != nil || c.index != 0 || c.addresses != nil {
		t.Errorf("a card that is not there is %+v, %v", c, err)
	}
}

func TestNetworkItem(t *testing.T) {
	card := network.PCIDevice{Slot: "0000:00:03.0", Vendor: "10ec", Device: "8029", SubsystemVendor: "1af4", SubsystemDevice: "1100"}
	up := linkState{status: network.Status{Interface: "eth0", Address: netip.MustParsePrefix("192.0.2.10/24")}, serves: true, up: true}
	failed := linkState{err: errors.New("no carrier"), serves: true}
	for _, c := range []struct {
		name  string
		order []string
		state map[string]linkState
		cards network.Cards
		want  screen.State
		says  []string
		next  string
	}{
		{name: "no card", want: screen.Problem, says: []string{"no network card was found"}, next: "Add a wired"},
		{name: "no driver", cards: network.Cards{Undriven: []network.PCIDevice{card}}, want: screen.Problem, says: []string{"no driver", "[10ec:8029] subsystem [1af4:1100]"}, next: "servers and rare hardware"},
		{
			name: "configured and no driver", order: []string{"eth0"}, state: map[string]linkState{"eth0": {}}, cards: network.Cards{Undriven: []network.PCIDevice{card}},
			want: screen.Problem, says: []string{"eth0: waiting", "no driver", "10ec:8029"}, next: "Add a network card that has a driver",
		},
		{name: "up", order: []string{"eth0"}, state: map[string]linkState{"eth0": up}, cards: network.Cards{Driven: 1}, want: screen.OK, says: []string{"eth0 192.0.2.10/24"}},
		{
			name: "up beside one without a driver", order: []string{"eth0"}, state: map[string]linkState{"eth0": up}, cards: network.Cards{Driven: 1, Undriven: []network.PCIDevice{card}},
			want: screen.OK, says: []string{"eth0 192.0.2.10/24", "not used", "10ec:8029"}, next: "To use them too",
		},
		{
			name: "failed beside one without a driver", order: []string{"eth0"}, state: map[string]linkState{"eth0": failed}, cards: network.Cards{Driven: 1, Undriven: []network.PCIDevice{card}},
			want: screen.Problem, says: []string{"no carrier", "10ec:8029"}, next: "Check the cable",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			it := networkItem(c.order, c.state, c.cards)
			if it.State != c.want || !strings.Contains(it.Next, c.next) || (c.next == "") != (it.Next == "") {
				t.Errorf("state %q, next %q; want %q, %q", it.State, it.Next, c.want, c.next)
			}
			for _, want := range c.says {
				if !strings.Contains(it.Text, want) {
					t.Errorf("%q is missing in %q", want, it.Text)
				}
			}
		})
	}
	l := testLinks()
	l.setCards(network.Cards{Undriven: []network.PCIDevice{card}})
	if it := l.a.screen.Items()[topicNetwork]; it.State != screen.Problem || !strings.Contains(it.Text, "10ec:8029") {
		t.Errorf("the screen says %+v", it)
	}
}
