package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

const (
	// maxHandlers bounds the packets that are being answered, response delays included.
	maxHandlers = 512
	// packetBurst and packetInterval bound the packets of one interface that are looked at at all.
	packetBurst, packetInterval = 1000, 2 * time.Millisecond
	// clientBurst and clientInterval bound those of one MAC address.
	clientBurst, clientInterval = 20, time.Second
	// configBurst and configInterval bound the boot configurations made for one machine.
	configBurst, configInterval = 5, 10 * time.Second
	// bootBurst and bootInterval bound the boots offered to one machine: one that fails and restarts again and again
	// gets to its own disk after some tries.
	bootBurst, bootInterval = 15, 2 * time.Minute
	// maxDelay is the longest response delay.
	maxDelay = 32 * time.Second
)

// Service is a PXE service point.
type Service struct {
	cfg   Config
	deps  Deps
	ready chan struct{}
	slots chan struct{}
	wg    sync.WaitGroup
	// metrics may be used without mu.
	metrics *metrics

	mu          sync.Mutex // guards what follows
	exchanges   *exchanges
	claims      claims
	secrets     *secrets
	packetLimit *limiter[string]
	clientLimit *limiter[provisioning.MAC]
	configLimit *limiter[provisioning.MAC]
	bootLimit   *limiter[provisioning.MAC]
	badLimit    *limiter[string]

	dhcp dhcpServer
	// neighbour finds the MAC address of a client's IP address, where the kernel knows it.
	neighbour func(netip.Addr) (provisioning.MAC, bool)
	// pause waits; false where ctx ends first.
	pause func(ctx context.Context, d time.Duration) bool
}

// port is the UDP port that a packet came in on.
type port int

const (
	portDHCP port = iota
	portBootServer
)

// New checks the configuration. Nothing is opened before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	invalid := func(format string, args ...any) error {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "PXE service point: "+format, args...)
	}
	if deps.Policy == nil || deps.Boots == nil || deps.Files == nil {
		return nil, invalid("policy, boots and files are needed")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Rand == nil {
		deps.Rand = defaultRandom
	}
	if len(cfg.Interfaces) == 0 {
		return nil, invalid("there is no network interface to serve clients on")
	}
	for _, i := range cfg.Interfaces {
		if i.Name == "" || !i.Prefix.IsValid() || !i.Prefix.Addr().Is4() {
			return nil, invalid("interface %q with address %v: a name and an IPv4 address with prefix length are needed", i.Name, i.Prefix)
		}
	}
	if cfg.ResponseDelay < 0 || cfg.ResponseDelay > maxDelay {
		return nil, invalid("response delay %s is not between 0 and %s", cfg.ResponseDelay, maxDelay)
	}
	if cfg.ProbeWait == 0 {
		cfg.ProbeWait = defaultProbeWait
	}
	cfg.Ports = cfg.Ports.orStandard()
	s := &Service{
		cfg: cfg, deps: deps, ready: make(chan struct{}),
		slots:       make(chan struct{}, maxHandlers),
		exchanges:   newExchanges(maxExchanges),
		metrics:     newMetrics(deps.Metrics),
		secrets:     newSecrets(),
		packetLimit: newLimiter[string](packetBurst, packetInterval, len(cfg.Interfaces)),
		clientLimit: newLimiter[provisioning.MAC](clientBurst, clientInterval, maxExchanges),
		configLimit: newLimiter[provisioning.MAC](configBurst, configInterval, maxExchanges),
		bootLimit:   newLimiter[provisioning.MAC](bootBurst, bootInterval, maxExchanges),
		badLimit:    newLimiter[string](10, 10*time.Second, len(cfg.Interfaces)),
		claims:      claims{newLRU[provisioning.MAC, claim](maxClaims)},
		neighbour:   kernelNeighbour,
		pause:       wait,
	}
	switch cfg.Mode {
	case provisioning.PXEModeProxy:
	case provisioning.PXEModeDHCP:
		if cfg.Pool == nil || deps.Leases == nil {
			return nil, invalid("mode dhcp needs a pool of addresses and a place to keep leases")
		}
		i, p, err := choosePool(cfg.Pool, cfg.Interfaces)
		if err != nil {
			return nil, err
		}
		for _, other := range cfg.Interfaces {
			if other.Name != i.Name {
				deps.Log.Warn("interface is not served: the DHCP pool lies outside of its subnet", "interface", other.Name, "subnet", other.Prefix.Masked())
			}
		}
		s.cfg.Interfaces = []Interface{i}
		s.dhcp.pool = p
		s.dhcp.inUse = func(ctx context.Context, a netip.Addr) (provisioning.MAC, error) { return whoUses(ctx, i.Name, a) }
	default:
		return nil, invalid("mode is %q; proxy and dhcp are possible", cfg.Mode)
	}
	return s, nil
}

// choosePool finds the interface in whose subnet the pool lies.
func choosePool(p *provisioning.DHCPPool, ifaces []Interface) (Interface, *pool, error) {
	var first error
	for _, i := range ifaces {
		out, err := newPool(p, i.Prefix)
		if err == nil {
			return i, out, nil
		}
		if first == nil {
			first = fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return Interface{}, nil, first
}

// Ready is closed once every port is open and answers are given.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, which is no error. It is called once. Errors: a port that cannot be opened, leases that
// cannot be read, and, in mode dhcp, another DHCP server on the network (CodeConflict).
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if s.cfg.Mode == provisioning.PXEModeDHCP {
		stored, err := s.deps.Leases.Load(ctx)
		if err != nil {
			return fmt.Errorf("read DHCP leases: %w", err)
		}
		s.dhcp.table = newLeaseTable(s.dhcp.pool, stored)
		for _, i := range s.cfg.Interfaces {
			other, err := findDHCPServer(ctx, i, s.cfg.Ports, s.cfg.ProbeWait, s.deps.Rand)
			if err != nil && ctx.Err() == nil {
				return err
			}
			if other.IsValid() {
				return refuseBeside(i, other)
			}
		}
	}
	var closers []func()
	defer func() {
		for _, c := range closers {
			c()
		}
	}()
	var start []func() error
	for _, i := range s.cfg.Interfaces {
		parts, closeAll, err := s.open(ctx, i)
		closers = append(closers, closeAll)
		if err != nil {
			return err
		}
		start = append(start, parts...)
	}
	for _, f := range start {
		g.Go(f)
	}
	for _, i := range s.cfg.Interfaces {
		s.deps.Log.Info("PXE service point is ready", "interface", i.Name, "address", i.Prefix, "mode", s.cfg.Mode)
	}
	close(s.ready)
	<-ctx.Done()
	for _, c := range closers {
		c()
	}
	closers = nil
	err := g.Wait()
	s.wg.Wait()
	return err
}

// open opens every port of an interface. The functions returned serve them until closeAll is called, which is safe
// after an error, too.
func (s *Service) open(ctx context.Context, i Interface) (serve []func() error, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range closers {
			c()
		}
	}
	for _, u := range []struct {
		number int
		port   port
	}{{s.cfg.Ports.DHCP, portDHCP}, {s.cfg.Ports.BootServer, portBootServer}} {
		c, err := listenUDP(ctx, i, u.number, false)
		if err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, func() { _ = c.Close() })
		serve = append(serve, func() error { return s.serveUDP(ctx, i, c, u.port) })
	}
	ts := s.newTFTP(i)
	tc, err := ts.open(ctx, s.cfg.Ports.TFTP)
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, func() { _ = tc.Close(); ts.close() })
	serve = append(serve, func() error { return ts.serve(ctx, tc) })
	l, err := listenTCP(ctx, i, s.cfg.Ports.HTTP)
	if err != nil {
		return nil, closeAll, err
	}
	l = netutil.LimitListener(l, httpConnections)
	hs := s.httpServer(ctx, i.Prefix.Addr())
	closers = append(closers, func() { _ = hs.Close(); _ = l.Close() })
	serve = append(serve, func() error {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("serve HTTP on %s: %w", i.Name, err)
		}
		return nil
	})
	return serve, closeAll, nil
}

// serveUDP reads packets until c is closed and answers each in its own goroutine, a bounded number of them.
func (s *Service) serveUDP(ctx context.Context, i Interface, c *udpConn, on port) error {
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // the link went down, for one: it comes back
			s.deps.Log.Warn("read a DHCP packet", "interface", i.Name, "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		s.packet(ctx, i, c, on, bytes.Clone(buf[:n]), from)
	}
}

// packet looks at one packet and starts its answer, if it is to be looked into.
func (s *Service) packet(ctx context.Context, i Interface, c *udpConn, on port, b []byte, from netip.AddrPort) {
	now := s.deps.Now()
	s.mu.Lock()
	ok := s.packetLimit.allow(i.Name, now)
	s.mu.Unlock()
	if !ok {
		s.metrics.drop(serviceDHCP, "too-many")
		s.complain(i, "more DHCP packets than can be looked at; some are dropped", now)
		return
	}
	r, err := parseRequest(b)
	if errors.Is(err, errNotForUs) {
		s.deps.Log.Debug("DHCP packet ignored", "interface", i.Name, "from", from, "why", err)
		return
	}
	if err != nil {
		s.complain(i, "DHCP packet ignored", now, "from", from, "err", err)
		return
	}
	if why := s.refuseRelay(&r, on); why != "" {
		s.metrics.drop(serviceDHCP, why)
		s.complain(i, "DHCP packet from a relay agent ignored", now, "from", from, "mac", r.mac, "relay", r.relay, "why", why)
		return
	}
	s.mu.Lock()
	ok = s.clientLimit.allow(r.mac, now)
	s.mu.Unlock()
	if !ok {
		s.complain(i, "a client sends more packets than firmware does; some are dropped", now, "mac", r.mac)
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		s.complain(i, "too many clients at once; a packet is dropped", now, "mac", r.mac)
		return
	}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		s.answer(ctx, i, c, on, &r, from)
	})
}

// complain logs what hostile or broken clients do, without letting them fill the log.
func (s *Service) complain(i Interface, msg string, now time.Time, args ...any) {
	s.mu.Lock()
	ok := s.badLimit.allow(i.Name, now)
	s.mu.Unlock()
	if ok {
		s.deps.Log.Warn(msg, append([]any{"interface", i.Name}, args...)...)
	}
}

// answer does what is to be done about one request.
func (s *Service) answer(ctx context.Context, i Interface, c *udpConn, on port, r *request, from netip.AddrPort) {
	log := s.deps.Log.With("interface", i.Name, "mac", r.mac)
	send := func(b []byte, to netip.AddrPort) {
		if err := c.send(b, to); err != nil && ctx.Err() == nil {
			log.Error("answer a client", "err", err)
		}
	}
	if on == portBootServer {
		kind, ok := bootServerKind(r.kind)
		if !ok || !r.firmware || r.http || from.Addr().IsUnspecified() {
			return
		}
		if file, ok := s.bootFor(ctx, log, i, r, true); ok {
			s.metrics.answer(serviceBootServer, "ack")
			send(bootServerAck(r, kind, i.Prefix.Addr(), file).ToBytes(), from)
		}
		return
	}
	var b *boot
	if r.firmware && asks(r.kind) {
		if s.cfg.Mode == provisioning.PXEModeProxy && !isDiscover(r) {
			return // for the DHCP server that it chose
		}
		file, ok := s.bootFor(ctx, log, i, r, false)
		if !ok || isDiscover(r) && !s.pause(ctx, s.cfg.ResponseDelay) {
			return
		}
		b = &boot{file}
	}
	if s.cfg.Mode == provisioning.PXEModeProxy {
		if b != nil {
			s.reply(ctx, r, proxyOffer(r, i.Prefix.Addr(), b.file), send)
		}
		return
	}
	reply, err := s.dhcp.answer(ctx, log, r, b, &s.deps)
	if err != nil {
		log.Error("answer a DHCP client", "err", err)
		return
	}
	if reply != nil {
		s.reply(ctx, r, reply, send)
	}
}

// bootFor decides about a boot ROM, once for each exchange, and logs the decision. False is silence.
func (s *Service) bootFor(ctx context.Context, log *slog.Logger, i Interface, r *request, bootServer bool) (file string, ok bool) {
	now := s.deps.Now()
	hold := decisionTime + s.cfg.ResponseDelay
	s.mu.Lock()
	d, known := s.exchanges.decision(r.machine, r.packet.TransactionID, bootServer, hold, now)
	s.mu.Unlock()
	if !known {
		d = s.deps.Policy.Decide(ctx, r.machine)
		if d.Action == policy.Boot {
			if why := s.cannotBoot(r, i, now); why != "" {
				d.Action = policy.Silent
				d.Reasons = append(slices.Clip(d.Reasons), policy.Reason{Rule: "service point", Text: why})
			}
		}
		s.mu.Lock()
		relay := s.relayFor(r, bootServer, now)
		s.exchanges.put(r.machine, r.packet.TransactionID, d, now).relay = relay
		s.mu.Unlock()
		log.Info("boot ROM asks", "guid", r.machine.GUID, "arch", r.machine.Arch.String(), "ipxe", r.ipxe,
			"action", d.Action, "computer", d.Computer, "why", d.Why())
	}
	if d.Action != policy.Boot {
		return "", false
	}
	file, err := bootFile(r, i.Prefix.Addr(), s.cfg.Ports.HTTP)
	return file, err == nil
}

// cannotBoot says why a machine that is to boot is better left alone; "" where it is not.
func (s *Service) cannotBoot(r *request, i Interface, now time.Time) string {
	if _, err := bootFile(r, i.Prefix.Addr(), s.cfg.Ports.HTTP); err != nil {
		return err.Error()
	}
	if err := bootable(s.deps.Files, r); err != nil {
		return err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.bootLimit.allow(r.mac, now) {
		return fmt.Sprintf("it was offered its boot more than %d times in a row and asks again; it is left alone for %s", bootBurst, bootInterval)
	}
	return ""
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
