package pxe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"branchpoint/provisioning"

	"golang.org/x/sync/errgroup"
)

const (
	// configBurst and configInterval bound the boot configurations made for one machine at one address; at all addresses
	// together there are maxAskers times as many.
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
	wg    sync.WaitGroup
	// metrics may be used without mu.
	metrics *metrics

	mu        sync.Mutex // guards what follows
	exchanges *exchanges
	claims    claims
	secrets   *secrets
	menus     *menus
	// served are the clients that were given something: a boot, or an address. They are known, whatever the site's
	// configuration says.
	served         *lru[provisioning.MAC, struct{}]
	known, unknown *budget
	askerLimit     *limiter[asker]
	configLimit    *limiter[provisioning.MAC]
	bootLimit      *limiter[string] // by account
	badLimit       *limiter[string]
	silentLimit    *limiter[string]
	// bootLines bounds the log lines about machines that boot.
	bootLines *limiter[string]
	// clientLines bounds those about what one address loads.
	clientLines *limiter[netip.Addr]
	// bootableAt is when the files that clients load were last found to be all there, by the first of them.
	bootableAt map[string]time.Time
	otherLimit *limiter[string]

	dhcp dhcpServer
	// neighbour finds the MAC address of a client's IP address, where the kernel knows it.
	neighbour func(netip.Addr) (provisioning.MAC, bool)
	// pause waits; false where ctx ends first.
	pause func(ctx context.Context, d time.Duration) bool
	// wakeLines bounds the log lines about packets that could not be sent one way; wake alone uses it.
	wakeLines *limiter[string]
	// sendWake sends a magic packet one way.
	sendWake func(ctx context.Context, way wakeWay, packet []byte) error
}

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
	if deps.Texts == nil {
		deps.Texts = func() provisioning.ShownTexts { return provisioning.ShownTexts{} }
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
	if cfg.ProbeEvery == 0 {
		cfg.ProbeEvery = defaultProbeEvery
	}
	cfg.Ports = cfg.Ports.orStandard()
	s := &Service{
		cfg: cfg, deps: deps, ready: make(chan struct{}),
		exchanges:   newExchanges(maxExchanges),
		metrics:     newMetrics(deps.Metrics),
		secrets:     newSecrets(),
		menus:       newMenus(),
		served:      newLRU[provisioning.MAC, struct{}](maxServed),
		known:       newBudget(knownBurst, knownInterval, knownHandlers, len(cfg.Interfaces), dropTooMany, dropBusy),
		unknown:     newBudget(unknownBurst, unknownInterval, unknownHandlers, len(cfg.Interfaces), dropTooManyUnknown, dropBusyUnknown),
		askerLimit:  newLimiter[asker](configBurst, configInterval, maxExchanges),
		configLimit: newLimiter[provisioning.MAC](maxAskers*configBurst, configInterval/maxAskers, maxExchanges),
		bootLimit:   newLimiter[string](bootBurst, bootInterval, maxExchanges),
		badLimit:    newLimiter[string](complaintBurst, complaintInterval, maxComplaints*len(cfg.Interfaces)),
		silentLimit: newLimiter[string](silentBurst, silentInterval, 1),
		bootLines:   newLimiter[string](bootLineBurst, bootLineInterval, 1),
		clientLines: newLimiter[netip.Addr](clientLineBurst, clientLineInterval, maxExchanges),
		bootableAt:  map[string]time.Time{},
		otherLimit:  newLimiter[string](1, complaintInterval, len(cfg.Interfaces)),
		claims:      claims{newLRU[provisioning.MAC, claim](maxClaims)},
		neighbour:   kernelNeighbour,
		pause:       wait,
		wakeLines:   newLimiter[string](complaintBurst, complaintInterval, maxComplaints),
		sendWake:    sendMagicPacket,
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
		s.dhcp.pool, s.dhcp.iface = p, i.Name
		if s.dhcp.relayed, err = relayedPools(cfg.Pool, p); err != nil {
			return nil, err
		}
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
		out, err := newPool(p, i.Prefix.Masked(), i.Prefix.Addr())
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
		s.dhcp.load(stored)
		s.rememberServed(stored)
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
		if s.cfg.Mode == provisioning.PXEModeDHCP {
			start = append(start, func() error { s.watchServers(ctx, i); return nil })
		}
	}
	if s.deps.Waker != nil {
		start = append(start, func() error { s.wake(ctx); return nil })
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
	limited := limitHTTP(l, s.metrics)
	l, ts.restarted = limited, func(a netip.Addr) { limited.restarted(a, nil) }
	hs := s.httpServer(ctx, i)
	closers = append(closers, func() { _ = hs.Close(); _ = l.Close() })
	serve = append(serve, func() error {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return fmt.Errorf("serve HTTP on %s: %w", i.Name, err)
		}
		return nil
	})
	return serve, closeAll, nil
}
