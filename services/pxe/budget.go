package pxe

import (
	"time"

	"branchpoint/provisioning"
)

// What is looked at, for each interface. Known machines have a budget of their own, so that a flood of made-up addresses
// takes nothing from them. Measured on a core of 2.4 GHz (BenchmarkPacket), a packet over the budget costs 5 µs, and one
// that is decided about and answered or passed over in silence 30 µs, to which the policy's search through a site's
// computers comes. So unknown machines may take about a tenth of one core, and known ones as much as there is.
const (
	knownBurst, knownInterval     = 5000, 20 * time.Microsecond
	unknownBurst, unknownInterval = 2000, time.Millisecond
	// knownHandlers and unknownHandlers bound the packets that are being answered, response delays included.
	knownHandlers, unknownHandlers = 1024, 256
	// clientBurst and clientInterval bound those of one client; see account.
	clientBurst, clientInterval = 20, time.Second
	// maxServed bounds the clients that are known because they were given something.
	maxServed = 1 << 16
	// complaintBurst and complaintInterval bound the log lines of one kind about one interface; there are fewer than
	// maxComplaints kinds.
	complaintBurst, complaintInterval, maxComplaints = 10, 10 * time.Second, 32
	// silentBurst and silentInterval bound the log lines about machines that get nothing.
	silentBurst, silentInterval = 200, time.Second
	// bootLineBurst and bootLineInterval bound those about machines that boot.
	bootLineBurst, bootLineInterval = 1000, 10 * time.Millisecond
)

// budget is what one kind of clients may use: known ones, or all others. Not safe for concurrent use.
type budget struct {
	packets *limiter[string]
	clients *limiter[string]
	slots   chan struct{}
	// tooMany and busy are what metrics call a packet over the budget.
	tooMany, busy string
}

func newBudget(burst int, interval time.Duration, handlers, interfaces int, tooMany, busy string) *budget {
	return &budget{
		packets: newLimiter[string](burst, interval, interfaces),
		clients: newLimiter[string](clientBurst, clientInterval, maxExchanges),
		slots:   make(chan struct{}, handlers), tooMany: tooMany, busy: busy,
	}
}

// take reports why a packet of the client with the given account is over the budget; "" where it is not. It then occupies
// one of the slots.
func (b *budget) take(iface, account string, now time.Time) (why string) {
	if !b.clients.allow(account, now) {
		return dropClientTooMany
	}
	if !b.packets.allow(iface, now) {
		return b.tooMany
	}
	select {
	case b.slots <- struct{}{}:
		return ""
	default:
		return b.busy
	}
}

// account is under what a client's packets and boots are counted: its MAC address; but its GUID, where that alone is what
// the site's configuration knows of it. MAC addresses to go with that could be made up without end.
func (s *Service) account(r *request) string {
	if g := r.machine.GUID; g != "" && s.deps.Known != nil && !s.deps.Known(r.mac, "") && s.deps.Known(r.mac, g) {
		return string(g)
	}
	return string(r.mac)
}

// admit takes r, which came in as in says, out of the budget that it belongs to: slots is to be read once when it is
// answered. why says, in the metrics' words, why it is not to be answered; "" where it is.
func (s *Service) admit(in arrival, r *request, now time.Time) (slots chan struct{}, why string) {
	configured := s.deps.Known != nil && s.deps.Known(r.mac, r.machine.GUID)
	account := s.account(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.unknown
	if _, served := s.served.get(r.mac); configured || served {
		b, r.known = s.known, true
	}
	if !r.known && in.waited > maxWaitedUnknown {
		return nil, dropLateUnknown
	}
	return b.slots, b.take(in.iface.Name, account, now)
}

// rememberServed makes the clients of stored leases known ones.
func (s *Service) rememberServed(stored []provisioning.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range stored {
		if l.MAC != "" && s.deps.Now().Before(l.Expires) {
			s.served.put(l.MAC, struct{}{})
		}
	}
}
