package pxe

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestClaims(t *testing.T) {
	a, b := relayed("198.51.100.1"), relayed("198.51.100.2")
	discover, ask := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	for name, steps := range map[string][]struct {
		after time.Duration
		p     *dhcpv4.DHCPv4
		want  bool
	}{
		"heard directly first": {
			{0, client(t, known, discover), true},
			{0, client(t, known, discover, a), false},
			{time.Second, client(t, known, discover), true}, // again
			{time.Second, client(t, known, ask), true},
			{0, client(t, known, ask, a), false},
			{0, client(t, idle, discover, a), true}, // somebody else
		},
		"two relay agents": {
			{0, client(t, known, discover, b), true},
			{0, client(t, known, discover, a), false},
			{0, client(t, known, discover), false},
			{4 * time.Second, client(t, known, discover, b), true},
		},
		"the next transaction": {
			{0, client(t, known, discover, b), true},
			{0, client(t, known, discover, a, xid(1)), true},
			{0, client(t, known, discover, b, xid(1)), false},
		},
		"a way that is gone": {
			{0, client(t, known, discover, b), true},
			{claimTime, client(t, known, discover, a), true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, now := claims{newLRU[provisioning.MAC, claim](10)}, start
			for i, s := range steps {
				now = now.Add(s.after)
				if got := c.take("eth0", parsed(t, s.p), now); got != s.want {
					t.Errorf("packet %d: answered %t, want %t", i, got, s.want)
				}
			}
		})
	}
}

// TestClaimOfInterface: two interfaces in one network hear the same packets; one answers.
func TestClaimOfInterface(t *testing.T) {
	c := claims{newLRU[provisioning.MAC, claim](10)}
	r := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover))
	for i, want := range []bool{true, false, true} {
		if got := c.take([]string{"eth0", "eth1"}[i%2], r, start); got != want {
			t.Errorf("packet %d: answered %t, want %t", i, got, want)
		}
	}
}

// TestDirectWins has the same DISCOVER come through a relay agent first and directly while the relayed one is thought
// about: one answer, and to the client itself.
func TestDirectWins(t *testing.T) {
	s, _, _, _ := newTestService(t)
	conn := &fakeConn{}
	answer := func(mods ...mod) {
		r := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, append([]mod{ovmf(7)}, mods...)...))
		s.reply(t.Context(), arrival{conn: conn}, r, proxyOffer(r, serverAddr, FileShim))
	}
	s.pause = func(context.Context, time.Duration) bool { answer(); return true }
	answer(relayed("198.51.100.1"))
	if got := conn.destinations(); got != "255.255.255.255:68" {
		t.Errorf("answers to %s", got)
	}
	s.pause = func(context.Context, time.Duration) bool { return true }
	answer(relayed("198.51.100.1"), xid(2))
	if got := conn.destinations(); got != "255.255.255.255:68 198.51.100.1:67" {
		t.Errorf("answers to %s", got)
	}
}

func TestRelayOf(t *testing.T) {
	for giaddr, want := range map[string]string{
		"198.51.100.1": "198.51.100.1", "0.0.0.0": "invalid IP", "127.0.0.1": "no host", "224.0.0.1": "no host",
		"255.255.255.255": "no host", "0.0.0.7": "no host", "250.1.1.1": "no host",
	} {
		r, err := parseRequest(client(t, known, dhcpv4.MessageTypeDiscover, relayed(giaddr)).ToBytes())
		got := r.relay.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("giaddr %s: %s, want %s", giaddr, got, want)
		}
	}
	if _, err := parseRequest(client(t, known, dhcpv4.MessageTypeDiscover, option(82, make([]byte, 256)...)).ToBytes()); err == nil {
		t.Error("an option 82 of 256 octets is accepted")
	}
}

// TestRelayedConfiguration: who may have the configuration of a machine that asked through a relay agent.
func TestRelayedConfiguration(t *testing.T) {
	const far, farther, near = "203.0.113.7", "203.0.113.8", "127.0.0.9" // the service's subnet is 127.0.0.0/8
	for _, c := range []struct {
		name, giaddr, client string
		table                map[string]provisioning.MAC // the ARP table
		want                 bool
	}{
		{"from behind the router", "203.0.113.1", far, nil, true},
		{"from another address there", "203.0.113.1", farther, nil, true}, // the router hides who it is
		{"from our own segment", "203.0.113.1", near, nil, false},
		{"relay agent on our own segment", "127.0.0.1", near, map[string]provisioning.MAC{near: known}, true},
		{"relay agent on our own segment, another machine", "127.0.0.1", near, map[string]provisioning.MAC{near: idle}, false},
		{"heard directly", "", near, map[string]provisioning.MAC{near: known}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, now, log := newTestService(t)
			s.neighbour = func(a netip.Addr) (provisioning.MAC, bool) { m, ok := c.table[a.String()]; return m, ok }
			mods := []mod{ovmf(7)}
			if c.giaddr != "" && c.giaddr != "127.0.0.1" {
				mods = append(mods, relayed(c.giaddr))
			}
			r := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, mods...))
			if c.giaddr == "127.0.0.1" { // no host's address on a wire, but that of the service's only interface here
				r.relay = netip.MustParseAddr("127.0.0.2")
			}
			if _, ok := s.bootFor(t.Context(), s.deps.Log, s.cfg.Interfaces[0], r, false); !ok {
				t.Fatal("no offer")
			}
			// The boot server port is asked by the client itself, across the router: the way it came stays.
			*now = now.Add(decisionTime)
			b := parsed(t, client(t, known, dhcpv4.MessageTypeRequest, ovmf(9), ciaddr(c.client)))
			b.machine.Arch = r.machine.Arch
			if _, ok := s.bootFor(t.Context(), s.deps.Log, s.cfg.Interfaces[0], b, true); !ok {
				t.Fatal("no answer of the boot server")
			}
			got := get(s, c.client, "/boot/grub/"+string(known)+".cfg").Body.String()
			if (got != grubNothing) != c.want {
				t.Errorf("configuration handed out: %t, want %t\n%s", !c.want, c.want, log)
			}
		})
	}
}
