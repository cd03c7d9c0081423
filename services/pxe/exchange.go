package pxe

import (
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
	// maxExchanges bounds the tables; the oldest go first.
	maxExchanges = 4096
)

// exchange is the last time a boot ROM asked.
type exchange struct {
	machine provisioning.Machine
	xid     dhcpv4.TransactionID
	// relay is the relay agent it asked through; the zero address where it was heard directly.
	relay    netip.Addr
	decision policy.Decision
	// account is whose budget of boots it is taken out of.
	account string
	// decided is when the policy was asked, seen when the last packet came.
	decided, seen time.Time
}

// exchanges are the boot ROMs that asked lately, by MAC. Those that get nothing are kept apart, so that however many of
// them there are, they displace none that boots. Not safe for concurrent use.
type exchanges struct {
	*lru[provisioning.MAC, *exchange] // of machines that boot
	silent                            *lru[provisioning.MAC, *exchange]
}

func newExchanges(limit int) *exchanges {
	return &exchanges{newLRU[provisioning.MAC, *exchange](limit), newLRU[provisioning.MAC, *exchange](limit)}
}

func (e *exchanges) find(mac provisioning.MAC) (*exchange, bool) {
	if x, ok := e.get(mac); ok {
		return x, true
	}
	return e.silent.get(mac)
}

// decision is what was decided for this machine, if that is still the same exchange: the transaction's own decision, or
// for a request to the boot server port, which EDK2 sends with a transaction id of its own, the MAC's last one. hold is
// how long decisions hold. A machine that describes itself differently is another machine.
func (e *exchanges) decision(m provisioning.Machine, xid dhcpv4.TransactionID, bootServer bool, hold time.Duration, now time.Time) (policy.Decision, bool) {
	x, ok := e.find(m.MAC)
	if !ok || x.machine != m || !now.Before(x.decided.Add(hold)) || !bootServer && x.xid != xid {
		return policy.Decision{}, false
	}
	x.seen = now
	return x.decision, true
}

// put records a decision, and returns the exchange.
func (e *exchanges) put(m provisioning.Machine, xid dhcpv4.TransactionID, d policy.Decision, now time.Time) *exchange {
	x := &exchange{machine: m, xid: xid, decision: d, decided: now, seen: now}
	if getsAnswer(d) {
		e.silent.drop(m.MAC)
		e.lru.put(m.MAC, x)
	} else {
		e.drop(m.MAC)
		e.silent.put(m.MAC, x)
	}
	return x
}

// recent is the exchange of mac, if it asked within exchangeTime.
func (e *exchanges) recent(mac provisioning.MAC, now time.Time) (exchange, bool) {
	x, ok := e.find(mac)
	if !ok {
		return exchange{}, false
	}
	return *x, now.Before(x.seen.Add(exchangeTime))
}
