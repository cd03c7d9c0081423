package pxe

import (
	"container/list"
	"net/netip"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const (
	// decisionTime is how long one decision holds for the packets of one exchange, the response delay not counted: long
	// enough for OFFER and boot server request, too short to outlive a restart of the client.
	decisionTime = 20 * time.Second
	// exchangeTime is how long after its last DHCP packet a client may ask for its boot configuration. Slow firmware
	// loads loaders for minutes.
	exchangeTime = 10 * time.Minute
	// maxExchanges bounds the table; the oldest go first.
	maxExchanges = 4096
)

// exchange is the last time a boot ROM asked.
type exchange struct {
	machine provisioning.Machine
	xid     dhcpv4.TransactionID
	// relay is the relay agent it asked through; the zero address where it was heard directly.
	relay    netip.Addr
	decision policy.Decision
	// decided is when the policy was asked, seen when the last packet came.
	decided, seen time.Time
}

// exchanges are the boot ROMs that asked lately, by MAC. Not safe for concurrent use.
type exchanges struct {
	max   int
	byMAC map[provisioning.MAC]*list.Element // of exchange
	order *list.List                         // by seen, oldest first
}

func newExchanges(limit int) *exchanges {
	return &exchanges{limit, map[provisioning.MAC]*list.Element{}, list.New()}
}

// decision is what was decided for this machine, if that is still the same exchange: the transaction's own decision, or
// for a request to the boot server port, which EDK2 sends with a transaction id of its own, the MAC's last one. hold is
// how long decisions hold. A machine that describes itself differently is another machine.
func (e *exchanges) decision(m provisioning.Machine, xid dhcpv4.TransactionID, bootServer bool, hold time.Duration, now time.Time) (policy.Decision, bool) {
	el, ok := e.byMAC[m.MAC]
	if !ok {
		return policy.Decision{}, false
	}
	x := el.Value.(*exchange)
	if x.machine != m || !now.Before(x.decided.Add(hold)) || !bootServer && x.xid != xid {
		return policy.Decision{}, false
	}
	x.seen = now
	e.order.MoveToBack(el)
	return x.decision, true
}

// put records a decision, and returns the exchange.
func (e *exchanges) put(m provisioning.Machine, xid dhcpv4.TransactionID, d policy.Decision, now time.Time) *exchange {
	if el, ok := e.byMAC[m.MAC]; ok {
		e.order.Remove(el)
	}
	x := &exchange{machine: m, xid: xid, decision: d, decided: now, seen: now}
	e.byMAC[m.MAC] = e.order.PushBack(x)
	for e.order.Len() > e.max {
		oldest := e.order.Front()
		delete(e.byMAC, oldest.Value.(*exchange).machine.MAC)
		e.order.Remove(oldest)
	}
	return x
}

// recent is the exchange of mac, if it asked within exchangeTime.
func (e *exchanges) recent(mac provisioning.MAC, now time.Time) (exchange, bool) {
	el, ok := e.byMAC[mac]
	if !ok {
		return exchange{}, false
	}
	x := el.Value.(*exchange)
	return *x, now.Before(x.seen.Add(exchangeTime))
}
