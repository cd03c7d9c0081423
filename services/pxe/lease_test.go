package pxe

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

func testPool(t testing.TB) *pool {
	t.Helper()
	p, err := newPool(&provisioning.DHCPPool{
		RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", Router: "192.0.2.1", DNS: []string{"192.0.2.105", "198.51.100.53"}, LeaseMinutes: 60,
	}, prefix.Masked(), prefix.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewPool(t *testing.T) {
	for _, c := range []struct {
		pool provisioning.DHCPPool
		err  string
		free int
	}{
		{provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109"}, "", 10},
		{provisioning.DHCPPool{RangeStart: "192.0.2.5", RangeEnd: "192.0.2.14"}, "", 9}, // our own address is left out
		{provisioning.DHCPPool{RangeStart: "192.0.2.0", RangeEnd: "192.0.2.255"}, "", 253},
		{provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", Router: "192.0.2.101", DNS: []string{"192.0.2.102"}}, "", 8},
		{provisioning.DHCPPool{RangeStart: "192.0.2.10", RangeEnd: "192.0.2.10"}, "no address left", 0},
		{provisioning.DHCPPool{RangeStart: "192.0.3.100", RangeEnd: "192.0.3.109"}, "outside of 192.0.2.0/24", 0},
		{provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.3.1"}, "outside of 192.0.2.0/24", 0},
		{provisioning.DHCPPool{RangeStart: "192.0.2.109", RangeEnd: "192.0.2.100"}, "lies before", 0},
		{provisioning.DHCPPool{RangeStart: "fe80::1", RangeEnd: "fe80::2"}, "must be IPv4", 0},
		{provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", Router: "192.0.3.1"}, "could not reach", 0},
		{provisioning.DHCPPool{RangeStart: "192.0.2.100", RangeEnd: "192.0.2.109", DNS: []string{"dns"}}, "no IPv4 address", 0},
	} {
		p, err := newPool(&c.pool, prefix.Masked(), prefix.Addr())
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: error %v, want %q", c.pool, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.pool, err)
			continue
		}
		n := 0
		for a := prefix.Masked().Addr(); prefix.Contains(a); a = a.Next() {
			if p.holds(a) {
				n++
			}
		}
		if n != c.free {
			t.Errorf("%v: %d addresses, want %d", c.pool, n, c.free)
		}
	}
	if _, err := newPool(&provisioning.DHCPPool{RangeStart: "10.0.0.0", RangeEnd: "10.9.0.0"}, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("10.200.0.1")); err == nil {
		t.Error("a pool of half a million addresses is accepted")
	}
}

// TestAllocateProperties plays clients, at random but the same every time, and looks after each step whether an
// address is in two hands.
func TestAllocateProperties(t *testing.T) {
	p := testPool(t)
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		table, now := newLeaseTable(p, nil), start
		held := map[netip.Addr]provisioning.MAC{} // what clients believe they have
		until := map[netip.Addr]time.Time{}
		last := map[provisioning.MAC]netip.Addr{}
		for range 500 {
			now = now.Add(time.Duration(rnd.IntN(900)) * time.Second)
			mac := provisioning.MAC(fmt.Sprintf("52:54:00:00:01:%02x", rnd.IntN(14)))
			var w []mod
			if rnd.IntN(3) == 0 {
				w = append(w, wish(fmt.Sprintf("192.0.2.%d", 95+rnd.IntN(20))))
			}
			r := parsed(t, client(t, mac, dhcpv4.MessageTypeDiscover, w...))
			o := dhcpAnswer(table, p, r, nil, true, now)
			table.apply(r, o, now)
			if o.reply == nil {
				continue
			}
			a, _ := addrOf(o.reply.YourIPAddr)
			if !p.holds(a) {
				t.Fatalf("seed %d: %s, outside of the pool, is offered", seed, a)
			}
			if owner := held[a]; owner != "" && owner != mac && now.Before(until[a]) {
				t.Fatalf("seed %d: %s of %s is offered to %s", seed, a, owner, mac)
			}
			if b := last[mac]; b.IsValid() && held[b] == mac && now.Before(until[b]) && a != b {
				t.Fatalf("seed %d: %s has %s and is offered %s", seed, mac, b, a)
			}
			if rnd.IntN(4) == 0 {
				continue // it never asks for what it was offered
			}
			r = parsed(t, client(t, mac, dhcpv4.MessageTypeRequest, chosen("192.0.2.10"), wish(a.String())))
			o = dhcpAnswer(table, p, r, nil, true, now)
			if o.reply == nil || o.reply.MessageType() != dhcpv4.MessageTypeAck {
				t.Fatalf("seed %d: %s asks for %s, which it was offered, and gets %v", seed, mac, a, o)
			}
			table.apply(r, o, now)
			held[a], until[a], last[mac] = mac, now.Add(p.lease), a
			if n := len(table.byAddr); n > 10 || len(table.offers) > 10 || len(table.byMAC) > n {
				t.Fatalf("seed %d: %d leases, %d offers and %d clients for 10 addresses", seed, n, len(table.offers), len(table.byMAC))
			}
		}
	}
}

// TestDHCP plays conversations with the DHCP server; each line is a packet and what it comes to.
func TestDHCP(t *testing.T) {
	const (
		discover = dhcpv4.MessageTypeDiscover
		ask      = dhcpv4.MessageTypeRequest
	)
	us, other := chosen("192.0.2.10"), chosen("192.0.2.20")
	type step struct {
		after time.Duration
		p     *dhcpv4.DHCPv4
		want  string // kind and address of the reply, or "silence"
	}
	for name, steps := range map[string][]step{
		"an address, renewed, rebound, and still the same after it ran out": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, known, ask, us, wish("192.0.2.103")), "ACK 192.0.2.103"},
			{30 * time.Minute, client(t, known, ask, ciaddr("192.0.2.103")), "ACK 192.0.2.103"},
			{52 * time.Minute, client(t, known, ask, ciaddr("192.0.2.103")), "ACK 192.0.2.103"},
			{3 * time.Hour, client(t, known, ask, wish("192.0.2.103")), "ACK 192.0.2.103"},
			{9 * time.Hour, client(t, known, discover), "OFFER 192.0.2.103"},
		},
		"another client's address is refused": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, idle, ask, us, wish("192.0.2.103")), "NAK"},
			{0, client(t, known, ask, us, wish("192.0.2.103")), "ACK 192.0.2.103"},
			{0, client(t, idle, ask, ciaddr("192.0.2.103")), "NAK"},
			{0, client(t, idle, ask, wish("192.0.2.103")), "NAK"},
		},
		"an address of another network is refused": {
			{0, client(t, known, ask, wish("10.0.0.7")), "NAK"},
			{0, client(t, known, ask, ciaddr("10.0.0.7")), "NAK"},
			{0, client(t, known, ask, us, wish("192.0.2.10")), "NAK"},
			{0, client(t, known, ask, us, wish("192.0.2.105")), "NAK"},
			{0, client(t, known, ask, wish("192.0.2.107")), "NAK"}, // free, but never given to it
			{0, client(t, known, ask, ciaddr("192.0.2.107")), "NAK"},
		},
		"an offer that ran out can be another's": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{30 * time.Second, client(t, idle, discover, wish("192.0.2.103")), "OFFER 192.0.2.109"},
			{31 * time.Second, client(t, unknown, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, known, ask, us, wish("192.0.2.103")), "NAK"},
		},
		"the other server's client": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, known, ask, other, wish("192.0.2.199")), "silence"},
			{0, client(t, idle, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
		},
		"released": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, known, ask, us, wish("192.0.2.103")), "ACK 192.0.2.103"},
			{0, client(t, idle, dhcpv4.MessageTypeRelease, us, ciaddr("192.0.2.103")), "silence"},
			{0, client(t, known, dhcpv4.MessageTypeRelease, us, ciaddr("192.0.2.107")), "silence"},
			{0, client(t, known, dhcpv4.MessageTypeRelease, other, ciaddr("192.0.2.103")), "silence"},
			{0, client(t, idle, discover, wish("192.0.2.103")), "OFFER 192.0.2.109"},
			{0, client(t, known, dhcpv4.MessageTypeRelease, us, ciaddr("192.0.2.103")), "silence"},
			{0, client(t, unknown, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
		},
		"declined": {
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
			{0, client(t, known, ask, us, wish("192.0.2.103")), "ACK 192.0.2.103"},
			{0, client(t, idle, dhcpv4.MessageTypeDecline, us, wish("192.0.2.103")), "silence"},
			{0, client(t, known, ask, ciaddr("192.0.2.103")), "ACK 192.0.2.103"},
			{0, client(t, known, dhcpv4.MessageTypeDecline, us, wish("192.0.2.103")), "silence"},
			{0, client(t, known, discover, wish("192.0.2.103")), "OFFER 192.0.2.108"},
			{0, client(t, idle, discover, wish("192.0.2.103")), "OFFER 192.0.2.109"},
			{61 * time.Minute, client(t, unknown, discover, wish("192.0.2.103")), "OFFER 192.0.2.103"},
		},
		"inform": {
			{0, client(t, known, dhcpv4.MessageTypeInform, ciaddr("192.0.2.55")), "ACK 0.0.0.0"},
			{0, client(t, known, dhcpv4.MessageTypeInform, ciaddr("10.0.0.55")), "silence"},
		},
		"nonsense": {
			{0, client(t, known, ask), "silence"},
			{0, client(t, known, ask, us), "silence"},
			{0, client(t, known, dhcpv4.MessageTypeOffer), "silence"},
			{0, client(t, known, dhcpv4.MessageType(200)), "silence"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPool(t)
			table, now := newLeaseTable(p, nil), start
			for i, s := range steps {
				now = now.Add(s.after)
				r := parsed(t, s.p)
				o := dhcpAnswer(table, p, r, nil, true, now)
				table.apply(r, o, now)
				got := "silence"
				if o.reply != nil {
					got = strings.TrimSpace(o.reply.MessageType().String() + " " + o.reply.YourIPAddr.String())
					got = strings.TrimSuffix(strings.Replace(got, "NAK 0.0.0.0", "NAK", 1), " ")
					if o.reply.BootFileName != "" || !o.reply.ServerIPAddr.IsUnspecified() || o.reply.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
						t.Errorf("packet %d: a plain client is told to boot:\n%s", i, text(o.reply))
					}
				}
				if got != s.want {
					t.Fatalf("packet %d: got %s, want %s (%s)", i, got, s.want, o.why)
				}
			}
		})
	}
}

// TestBesideAnother: where another server may have lent an address, what nothing is known of is not refused.
func TestBesideAnother(t *testing.T) {
	ask := dhcpv4.MessageTypeRequest
	us := chosen("192.0.2.10")
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	for _, c := range []struct {
		name string
		p    *dhcpv4.DHCPv4
		want string
	}{
		{"starts again with a free address", client(t, idle, ask, wish("192.0.2.107")), "silence"},
		{"rebinds one", client(t, idle, ask, ciaddr("192.0.2.107")), "silence"},
		{"outside of our pool", client(t, idle, ask, wish("192.0.2.199")), "silence"},
		{"a name server's", client(t, idle, ask, wish("192.0.2.105")), "silence"},
		{"in use by somebody, perhaps by it", client(t, idle, ask, wish("192.0.2.103")), "silence"},
		{"offered to another", client(t, idle, ask, wish("192.0.2.104")), "silence"},
		{"not the one it has of us", client(t, known, ask, wish("192.0.2.107")), "silence"},
		{"the one it has of us", client(t, known, ask, wish("192.0.2.101")), "ACK"},
		{"another network's", client(t, idle, ask, wish("10.0.0.7")), "NAK"},
		{"lent to another", client(t, idle, ask, wish("192.0.2.101")), "NAK"},
		{"our own", client(t, idle, ask, wish("192.0.2.10")), "NAK"},
		{"names us", client(t, idle, ask, us, wish("192.0.2.107")), "NAK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := testPool(t)
			table := newLeaseTable(p, []provisioning.Lease{
				{Address: a("192.0.2.101"), MAC: known, State: provisioning.LeaseBound, Expires: start.Add(time.Hour)},
				*declined(a("192.0.2.103"), start),
			})
			table.remember(third, a("192.0.2.104"), false, start)
			got := "silence"
			o := dhcpAnswer(table, p, parsed(t, c.p), nil, false, start)
			if o.reply != nil {
				got = o.reply.MessageType().String()
			}
			if got != c.want || o.dropOffer || got != "ACK" && o.save != nil {
				t.Errorf("got %s, want %s (%+v)", got, c.want, o)
			}
		})
	}
}

func TestDHCPPackets(t *testing.T) {
	p := testPool(t)
	table := newLeaseTable(p, nil)
	for _, c := range []struct {
		name string
		p    *dhcpv4.DHCPv4
		b    *boot
	}{
		{"dhcp-offer-plain", client(t, idle, dhcpv4.MessageTypeDiscover, option(61, 1, 2, 3), wish("192.0.2.102")), nil},
		{"dhcp-offer-ovmf", client(t, known, dhcpv4.MessageTypeDiscover, ovmf(iana.EFI_BC), wish("192.0.2.101")), &boot{FileShim}},
		{"dhcp-ack-ovmf", client(t, known, dhcpv4.MessageTypeRequest, ovmf(iana.EFI_BC), chosen("192.0.2.10"), wish("192.0.2.101")), &boot{FileShim}},
		{"dhcp-ack-renew", client(t, known, dhcpv4.MessageTypeRequest, ciaddr("192.0.2.101")), nil},
		{"dhcp-nak", client(t, unknown, dhcpv4.MessageTypeRequest, ciaddr("192.0.2.101")), nil},
	} {
		r := parsed(t, c.p)
		o := dhcpAnswer(table, p, r, c.b, true, start)
		table.apply(r, o, start)
		if o.reply == nil {
			t.Fatalf("%s: silence", c.name)
		}
		golden(t, c.name, fmt.Sprintf("to %s\n%s", replyAddress(o.reply, r, Ports{}.orStandard()), text(onWire(t, o.reply))))
	}
}

func TestStoredLeases(t *testing.T) {
	p := testPool(t)
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	later := start.Add(time.Hour)
	table := newLeaseTable(p, []provisioning.Lease{
		{Address: a("192.0.2.101"), MAC: known, State: provisioning.LeaseBound, Expires: later},
		{Address: a("192.0.2.102"), MAC: known, State: provisioning.LeaseBound, Expires: start},
		{Address: a("192.0.2.103"), State: provisioning.LeaseDeclined, Expires: later},
		{Address: a("192.0.2.105"), MAC: idle, State: provisioning.LeaseBound, Expires: later},   // the name server's now
		{Address: a("198.51.100.1"), MAC: third, State: provisioning.LeaseBound, Expires: later}, // another pool's
	})
	if l, ok := table.leased(known); !ok || l.Address != a("192.0.2.101") {
		t.Errorf("%s has %v", known, l)
	}
	for _, m := range []provisioning.MAC{idle, third} {
		if l, ok := table.leased(m); ok {
			t.Errorf("%s has %v", m, l)
		}
	}
	if table.freeFor(p, unknown, a("192.0.2.101"), start) || table.freeFor(p, unknown, a("192.0.2.103"), start) || !table.freeFor(p, unknown, a("192.0.2.102"), start) {
		t.Error("stored leases are not kept")
	}
}
