package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Why requests to the DHCP server get no answer, as metrics name it, beside the reasons why packets are dropped.
const (
	dropPoolUsedUp   = "pool-used-up"
	dropForeign      = "another-network"
	dropMaybeAnother = "perhaps-another-servers"
	dropLooking      = "address-being-looked-at"
	dropNeedsNone    = "needs-no-answer"
)

// outcome is what one request to the DHCP server comes to.
type outcome struct {
	// reply is nil where there is silence; drop then is the reason, in the metrics' words.
	reply *dhcpv4.DHCPv4
	drop  string
	// offer is the address to keep for the client for a minute.
	offer netip.Addr
	// save is a lease to store before the reply is sent.
	save *provisioning.Lease
	// dropOffer forgets what the client was offered: it took another server's.
	dropOffer bool
	// why says, for the log, what is out of the ordinary; empty where nothing is.
	why string
}

// boot is what a boot ROM is told to load; nil for everybody else.
type boot struct{ file string }

// dhcpAnswer is what the site's DHCP server does about a request that is to be answered: a plain client's, or that of a
// boot ROM for which the policy says boot. sole is true where no other DHCP server serves this network. It reads t and
// changes nothing that anybody sees; apply does.
func dhcpAnswer(t *leaseTable, p *pool, r *request, b *boot, sole bool, now time.Time) outcome {
	if isDiscover(r) || r.kind == dhcpv4.MessageTypeRequest && forServer(r, p.server) {
		if t.lookingFor(r.mac, now) { // it is answered when that is over
			return outcome{drop: dropLooking}
		}
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		wish, _ := addrOf(r.packet.RequestedIPAddress())
		a, ok := allocate(t, p, r.mac, wish, now)
		if !ok && r.known {
			a, ok = t.takeable(now)
		}
		if !ok {
			return outcome{drop: dropPoolUsedUp, why: fmt.Sprintf("all addresses from %s to %s are in use", p.first, p.last)}
		}
		reply := lend(p, r, dhcpv4.MessageTypeOffer, a)
		withBoot(reply, r, p, b)
		return outcome{reply: reply, offer: a}
	case dhcpv4.MessageTypeRequest:
		return dhcpRequest(t, p, r, b, sole, now)
	case dhcpv4.MessageTypeDecline:
		return dhcpDecline(t, p, r, now)
	case dhcpv4.MessageTypeRelease:
		a, _ := addrOf(r.packet.ClientIPAddr)
		l, ok := t.leased(r.mac)
		if !ok || l.Address != a || !forServer(r, p.server) {
			return outcome{drop: dropNeedsNone}
		}
		l.Expires = now
		return outcome{drop: dropNeedsNone, save: &l}
	case dhcpv4.MessageTypeInform:
		a, ok := addrOf(r.packet.ClientIPAddr)
		if !ok || !p.subnet.Contains(a) {
			return outcome{drop: dropForeign}
		}
		reply := newReply(r.packet, dhcpv4.MessageTypeAck, p.server)
		reply.ClientIPAddr = r.packet.ClientIPAddr
		addNetwork(reply, p)
		copyClientID(reply, r.packet)
		withBoot(reply, r, p, b)
		return outcome{reply: reply}
	}
	return outcome{drop: dropNoRequest}
}

// dhcpRequest answers a REQUEST (RFC 2131 section 4.3.2).
func dhcpRequest(t *leaseTable, p *pool, r *request, b *boot, sole bool, now time.Time) outcome {
	requested, _ := addrOf(r.packet.RequestedIPAddress())
	current, _ := addrOf(r.packet.ClientIPAddr)
	selecting := r.packet.ServerIdentifier() != nil
	if selecting && !forServer(r, p.server) {
		return outcome{drop: dropOtherServer, dropOffer: true, why: fmt.Sprintf("it takes the offer of another DHCP server, %s", r.packet.ServerIdentifier())}
	}
	a := requested
	if !selecting && current.IsValid() && !current.IsUnspecified() {
		a = current // renewing or rebinding
	}
	if !a.IsValid() || a.IsUnspecified() {
		return outcome{drop: dropMalformed, why: "it asks for no address"}
	}
	known := false
	if o, ok := t.offeredTo(r.mac, now); ok && o == a {
		known = true
	}
	if l, ok := t.leased(r.mac); ok && l.Address == a {
		known = true
	}
	if !known || !t.freeFor(p, r.mac, a, now) {
		// An address that is free and that we know nothing of is refused too: as the site's only DHCP server we would
		// know, and the client then asks anew at once and is likely to be offered the same one, looked at first. Where
		// there may be another server, it may be its lease, and silence is due (RFC 2131 section 4.3.2).
		if !selecting && !sole && !t.wrongFor(p, r.mac, a, now) {
			return outcome{drop: dropMaybeAnother, why: fmt.Sprintf("nothing is known of %s; another DHCP server may have lent it", a)}
		}
		return outcome{reply: refuse(p, r), why: fmt.Sprintf("%s is not its address here", a)}
	}
	reply := lend(p, r, dhcpv4.MessageTypeAck, a)
	reply.ClientIPAddr = r.packet.ClientIPAddr
	withBoot(reply, r, p, b)
	return outcome{reply: reply, save: &provisioning.Lease{
		Address: a, MAC: r.mac, HostName: printable(r.packet.HostName()), State: provisioning.LeaseBound, Expires: now.Add(p.lease),
	}}
}

// dhcpDecline takes an address out of the pool for a while: the client it was given to saw somebody else use it.
func dhcpDecline(t *leaseTable, p *pool, r *request, now time.Time) outcome {
	a, _ := addrOf(r.packet.RequestedIPAddress())
	l, leased := t.leased(r.mac)
	o, offered := t.offeredTo(r.mac, now)
	if !forServer(r, p.server) || !p.holds(a) || (!leased || l.Address != a) && (!offered || o != a) {
		return outcome{drop: dropNeedsNone}
	}
	return outcome{drop: dropNeedsNone, save: declined(a, now), dropOffer: true, why: fmt.Sprintf("it found %s in use by somebody else", a)}
}

// declined is the record of an address that somebody uses without having been given it.
func declined(a netip.Addr, now time.Time) *provisioning.Lease {
	return &provisioning.Lease{Address: a, State: provisioning.LeaseDeclined, Expires: now.Add(declinedTime)}
}

// apply changes t as o says, and returns the address whose record is to be deleted from the store, if any.
func (t *leaseTable) apply(r *request, o outcome, now time.Time) (freed netip.Addr, ok bool) {
	if o.dropOffer {
		t.dropOffer(r.mac)
	}
	if o.offer.IsValid() {
		t.remember(r.mac, o.offer, r.known, now)
	}
	if o.save != nil {
		return t.set(*o.save)
	}
	return netip.Addr{}, false
}

// forServer reports whether the request names us, or nobody.
func forServer(r *request, server netip.Addr) bool {
	id := r.packet.ServerIdentifier()
	if id == nil {
		return true
	}
	a, ok := addrOf(id)
	return ok && a == server
}

// lend is an OFFER or ACK of address a.
func lend(p *pool, r *request, kind dhcpv4.MessageType, a netip.Addr) *dhcpv4.DHCPv4 {
	reply := newReply(r.packet, kind, p.server)
	reply.YourIPAddr = a.AsSlice()
	reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(p.lease))
	reply.UpdateOption(dhcpv4.OptRenewTimeValue(p.lease / 2))
	reply.UpdateOption(dhcpv4.OptRebindingTimeValue(p.lease * 7 / 8))
	addNetwork(reply, p)
	copyClientID(reply, r.packet)
	return reply
}

// refuse is a NAK.
func refuse(p *pool, r *request) *dhcpv4.DHCPv4 {
	reply := newReply(r.packet, dhcpv4.MessageTypeNak, p.server)
	reply.SetBroadcast() // the client's address is wrong: RFC 2131 section 4.3.2
	copyClientID(reply, r.packet)
	return reply
}

func addNetwork(reply *dhcpv4.DHCPv4, p *pool) {
	reply.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(p.subnet.Bits(), 32)))
	reply.UpdateOption(dhcpv4.OptBroadcastAddress(broadcastOf(p.subnet).AsSlice()))
	if p.router.IsValid() {
		reply.UpdateOption(dhcpv4.OptRouter(p.router.AsSlice()))
	}
	if len(p.dns) > 0 {
		var ips []net.IP
		for _, a := range p.dns {
			ips = append(ips, a.AsSlice())
		}
		reply.UpdateOption(dhcpv4.OptDNS(ips...))
	}
}

// copyClientID returns option 61 to its sender (RFC 6842 section 3).
func copyClientID(reply, p *dhcpv4.DHCPv4) {
	if id := p.GetOneOption(dhcpv4.OptionClientIdentifier); len(id) > 0 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientIdentifier, id))
	}
}

func withBoot(reply *dhcpv4.DHCPv4, r *request, p *pool, b *boot) {
	if b != nil {
		addBoot(reply, r, p.server, b.file)
	}
}

// printable clips a name from the wire for logs and lists.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x21 || r > 0x7e {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 64)]
}
