package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxPacket bounds the DHCP packets that are looked at, in octets: nobody needs more than an Ethernet frame holds.
const maxPacket = 2048

// For how long a packet may have waited to be read. Where more comes in than can be looked at, all that is read would be old
// else, and every answer too late, as long as it lasts: iPXE takes the offers that it has after 3 s (measured), and asks
// twice meanwhile. Unknown machines' packets are passed over much earlier, and cheaply. So the queue stays short, and
// leaves the time to known ones', on any computer: the budgets are made for one of 2.4 GHz.
const (
	maxWaited        = 2 * time.Second
	maxWaitedUnknown = 100 * time.Millisecond
)

// port is the UDP port that a packet came in on.
type port int

const (
	portDHCP port = iota
	portBootServer
)

// service is the port's name among the metrics.
func (p port) service() string {
	if p == portBootServer {
		return serviceBootServer
	}
	return serviceDHCP
}

// arrival is how a packet came in.
type arrival struct {
	iface Interface
	conn  replier
	port  port
	reception
	// turn is the reader's.
	turn *turn
}

// turn is a packet's turn with the reader of its port. Most packets are answered within it, which is several times cheaper
// than to hand each to a goroutine of its own. Whoever may have to wait, be it for a clock, a disk, a lock that is held
// meanwhile or the log, leaves first: then another reads on, and the packets behind do not wait, too.
type turn struct {
	next func() // has another read on
	left bool
}

// leave gives the turn up, once. A nil turn is nobody's.
func (t *turn) leave() {
	if t != nil && !t.left {
		t.left = true
		t.next()
	}
}

// replier sends the answers: a socket.
type replier interface {
	send(b []byte, to netip.AddrPort) error
}

// Why packets are dropped, as metrics name it.
const (
	dropLate           = "late"
	dropLateUnknown    = "late-unknown"
	dropOversized      = "oversized"
	dropSource         = "spoofed-source"
	dropSpoofedRelay   = "spoofed-relay"
	dropMalformed      = "malformed"
	dropNoRequest      = "not-a-request"
	dropNoPool         = "relayed-without-pool"
	dropTooMany        = "too-many"
	dropTooManyUnknown = "too-many-unknown"
	dropClientTooMany  = "client-too-many"
	dropBusy           = "busy"
	dropBusyUnknown    = "busy-unknown"
	dropNothing        = "nothing-to-boot"
	dropOtherServer    = "for-another-server"
	dropOtherWay       = "answered-otherwise"
	dropNoBootServer   = "not-for-boot-server"
	dropFailed         = "failed"
)

// serveUDP reads packets and answers them, until c is closed or another goroutine reads on: see turn. The number of those
// that still answer is bounded by the budgets' slots.
func (s *Service) serveUDP(ctx context.Context, i Interface, c *udpConn, on port) error {
	buf := make([]byte, maxPacket+1)
	for {
		n, r, err := c.receive(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // the link went down, for one: it comes back
			s.deps.Log.Warn("read a DHCP packet", "interface", i.Name, "err", err)
			if !wait(ctx, time.Second) {
				return nil
			}
			continue
		}
		t := &turn{next: func() { s.wg.Go(func() { _ = s.serveUDP(ctx, i, c, on) }) }} // it returns no error
		if s.packet(ctx, arrival{i, c, on, r, t}, buf[:n]); t.left {
			return nil
		}
	}
}

// packet looks at one packet and answers it, if it is to be answered. b is the caller's again on return.
func (s *Service) packet(ctx context.Context, in arrival, b []byte) {
	now := s.deps.Now()
	drop := func(reason string, args ...any) {
		s.metrics.drop(in.port.service(), reason)
		s.complain(in.iface, "DHCP packet ignored: "+reason, now, append([]any{"from", in.from}, args...)...)
	}
	if in.waited > maxWaited {
		drop(dropLate)
		return
	}
	if len(b) > maxPacket {
		drop(dropOversized)
		return
	}
	if !s.plausibleSource(in) {
		drop(dropSource)
		return
	}
	r, err := parseRequest(bytes.Clone(b))
	if errors.Is(err, errNotForUs) {
		s.metrics.drop(in.port.service(), dropNoRequest)
		return
	}
	if err != nil {
		drop(dropMalformed, "err", err)
		return
	}
	if why := s.refuseRelay(&r, in.port); why != "" {
		drop(why, "mac", r.mac, "relay", r.relay)
		return
	}
	slots, why := s.admit(in, &r, now)
	if why != "" {
		drop(why, "mac", r.mac)
		return
	}
	defer func() { <-slots }()
	r.turn = in.turn
	s.answer(ctx, in, &r)
}

// plausibleSource reports whether an answer can go to where the packet says it comes from, and does not come back to us:
// a client has no address yet or one host's.
func (s *Service) plausibleSource(in arrival) bool {
	a := in.from.Addr().Unmap()
	if in.from.Port() == 0 || !a.Is4() || a.IsLoopback() || a.As4()[0] >= 224 {
		return false
	}
	for _, i := range s.cfg.Interfaces {
		if a == i.Prefix.Addr() || i.Prefix.Bits() < 31 && a == broadcastOf(i.Prefix) {
			return false
		}
	}
	return !a.IsUnspecified() || in.port == portDHCP
}

// complain logs what hostile or broken clients do, without letting them fill the log: each kind of message for itself.
func (s *Service) complain(i Interface, msg string, now time.Time, args ...any) {
	s.mu.Lock()
	ok := s.badLimit.allow(i.Name+" "+msg, now)
	s.mu.Unlock()
	if ok {
		s.deps.Log.Warn(msg, append([]any{"interface", i.Name}, args...)...)
	}
}

// answer does what is to be done about one request.
func (s *Service) answer(ctx context.Context, in arrival, r *request) {
	log := s.deps.Log // each line names interface and client itself: With is dear, and most packets are not worth a line
	drop := func(reason string) { s.metrics.drop(in.port.service(), reason) }
	if in.port == portBootServer {
		s.answerBootServer(ctx, log, in, r)
		return
	}
	var b *boot
	if r.firmware && asks(r.kind) {
		if s.cfg.Mode == provisioning.PXEModeProxy && !isDiscover(r) {
			drop(dropOtherServer) // the DHCP server that it chose
			return
		}
		file, ok := s.bootFor(ctx, log, in.iface, r, false)
		if !ok {
			drop(dropNothing)
			return
		}
		if isDiscover(r) && !s.wait(ctx, r, s.cfg.ResponseDelay) {
			return
		}
		b = &boot{file}
	}
	if s.cfg.Mode == provisioning.PXEModeProxy {
		if b == nil {
			drop(dropOtherServer)
			return
		}
		s.reply(ctx, in, r, proxyOffer(r, in.iface.Prefix.Addr(), b.file))
		return
	}
	s.noticeServer(in, r)
	reply, why, err := s.dhcp.answer(ctx, log, r, b, in.unicast, &s.deps)
	if err != nil {
		log.Error("answer a DHCP client", "interface", in.iface.Name, "mac", r.mac, "err", err)
		drop(dropFailed)
		return
	}
	if reply == nil {
		drop(why)
		return
	}
	if reply.MessageType() == dhcpv4.MessageTypeAck {
		s.mu.Lock()
		s.served.put(r.mac, struct{}{})
		s.mu.Unlock()
	}
	s.reply(ctx, in, r, reply)
}

// answerBootServer answers on port 4011, to where the request came from: also across routers.
func (s *Service) answerBootServer(ctx context.Context, log *slog.Logger, in arrival, r *request) {
	kind, ok := bootServerKind(r.kind)
	if !ok || !r.firmware || r.http {
		s.metrics.drop(serviceBootServer, dropNoBootServer)
		return
	}
	file, ok := s.bootFor(ctx, log, in.iface, r, true)
	if !ok {
		s.metrics.drop(serviceBootServer, dropNothing)
		return
	}
	s.send(ctx, in, bootServerAck(r, kind, in.iface.Prefix.Addr(), file).ToBytes(), in.from, "ack")
}

// send sends one answer and counts it.
func (s *Service) send(ctx context.Context, in arrival, b []byte, to netip.AddrPort, kind string) {
	if err := in.conn.send(b, to); err != nil {
		if ctx.Err() == nil {
			s.metrics.drop(in.port.service(), dropFailed)
			s.complain(in.iface, "an answer could not be sent", s.deps.Now(), "to", to, "err", err)
		}
		return
	}
	s.metrics.answer(in.port.service(), kind)
	if s.deps.Log.Enabled(ctx, slog.LevelDebug) {
		s.deps.Log.Debug("DHCP answer sent", "interface", in.iface.Name, "to", to, "kind", kind)
	}
}

// bootFor decides about a boot ROM, once for each exchange, and logs the decision. False is silence.
func (s *Service) bootFor(ctx context.Context, log *slog.Logger, i Interface, r *request, bootServer bool) (file string, ok bool) {
	now := s.deps.Now()
	hold := decisionTime + s.cfg.ResponseDelay
	s.mu.Lock()
	d, decided := s.exchanges.decision(r.machine, r.packet.TransactionID, bootServer, hold, now)
	s.mu.Unlock()
	if !decided {
		d = s.deps.Policy.Decide(ctx, r.machine)
		if getsAnswer(d) {
			if why := s.cannotBoot(r, d, i, now); why != "" {
				d.Action = policy.Silent
				d.Reasons = append(slices.Clip(d.Reasons), policy.Reason{Rule: "service point", Text: why})
			}
		}
		if s.decided(r, d, bootServer, now) {
			r.turn.leave()
			log.Info("boot ROM asks", "interface", i.Name, "mac", r.mac, "guid", r.machine.GUID, "arch", r.machine.Arch.String(), "ipxe", r.ipxe,
				"relay", relayText(r.relay), "action", d.Action, "computer", d.Computer, "why", d.Why())
		}
	}
	if !getsAnswer(d) {
		return "", false
	}
	file, err := bootFile(r, i.Prefix.Addr(), s.cfg.Ports.HTTP)
	return file, err == nil
}

// decided remembers a decision, and reports whether it is to be logged: only as long as there are not too many of them,
// counted apart for machines that boot and for those that get nothing.
func (s *Service) decided(r *request, d policy.Decision, bootServer bool, now time.Time) bool {
	account := s.account(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	relay := s.relayFor(r, bootServer, now)
	x := s.exchanges.put(r.machine, r.packet.TransactionID, d, now)
	x.relay, x.account = relay, account
	if getsAnswer(d) {
		s.served.put(r.mac, struct{}{})
		return s.bootLines.allow("", now)
	}
	return s.silentLimit.allow("", now)
}

// cannotBoot says why a machine that is to boot is better left alone; "" where it is not.
func (s *Service) cannotBoot(r *request, d policy.Decision, i Interface, now time.Time) string {
	if _, err := bootFile(r, i.Prefix.Addr(), s.cfg.Ports.HTTP); err != nil {
		return err.Error()
	}
	if err := s.bootableNow(r, now); err != nil {
		return err.Error()
	}
	account := s.account(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if until, ok := s.menus.leftAlone(r.mac, now); ok && d.Action == policy.Offer {
		return fmt.Sprintf("it was shown its menu and goes on to its next boot device; it is shown it again from %s", until.UTC().Format(time.RFC3339))
	}
	if !s.bootLimit.allow(account, now) {
		return fmt.Sprintf("it was offered its boot more than %d times in a row and asks again; it is left alone for %s", bootBurst, bootInterval)
	}
	return ""
}

// wait waits for d before r is answered; false where ctx ends first.
func (s *Service) wait(ctx context.Context, r *request, d time.Duration) bool {
	if d == 0 {
		return true
	}
	r.turn.leave()
	return s.pause(ctx, d)
}

// wait waits for d; false where ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
