package qemutests

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var floodTime = flag.Duration("flood", time.Minute, "how long the scenario flood floods the appliance")

const (
	// floodRate is how many frames a second the flood has: what leaves an emulated processor, of which the appliance has one,
	// some time for the machine that boots. What the service point stands without an emulator, its own tests say.
	floodRate = 450
	// floodConnections are how many TCP connections it holds open.
	floodConnections = 100
	// floodMemory is how much memory in bytes the appliance's program may have at any time.
	floodMemory = 200e6
	// floodGoroutines are how many goroutines it may have at any time, floodLeft how many more than before once the flood is
	// over.
	floodGoroutines, floodLeft = 4000, 50
)

// flooded boots machines while the appliance is flooded with what a hostile or broken network can send it.
func flooded(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	// One machine every three minutes, and one afterwards.
	boots := 1 + int(*floodTime/(3*time.Minute))
	documents := []string{siteProxy, look}
	var names []string
	var pcs []*lab.Machine
	for i := range boots + 1 {
		name := fmt.Sprintf("pc-%d", i)
		pc := s.lab.Machine(lab.Config{
			Name: name, Firmware: []lab.Firmware{lab.UEFISecureBoot, lab.BIOS}[i%2], MemoryMB: 1024,
			NICs: []lab.NIC{{Switch: s.office, Boot: 1}},
		})
		names, pcs = append(names, name), append(pcs, pc)
		documents = append(documents, computer(name, pc)+"  variables: {driver: virtio_net}\n")
	}
	s.apply("site.yaml", strings.Join(append(documents, advertisement(strings.Join(names, ", "))), "---\n"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	watch := watchMetrics(t, s)
	before := watch.fetch()

	f := startFlood(t, s)
	for i, pc := range pcs[:boots] {
		f.waitUntil(*floodTime * time.Duration(i) / time.Duration(boots))
		pc.Start()
		pc.WaitEvent(8*time.Minute, "agent-registered", nil)
		s.waitRuns(names[:i+1]...)
		pc.PowerCut()
		t.Logf("%s has booted by %s, %v after the flood began", names[i], s.loadedBy(pc), time.Since(f.began).Round(time.Second))
	}
	f.waitUntil(*floodTime)
	f.stop()

	last := pcs[boots]
	last.Start()
	last.WaitEvent(5*time.Minute, "agent-registered", nil)
	s.waitRuns(names...)
	watch.stop()
	after := watch.settled(before.goroutines() + floodLeft)
	t.Logf("%v of flood: %s", time.Since(f.began).Round(time.Second), f)
	t.Logf("memory: %.1f MB before, %.1f MB at most of %d samples, %.1f MB after", before.memory()/1e6, watch.memory/1e6, watch.samples, after.memory()/1e6)
	t.Logf("goroutines: %.0f before, %.0f at most, %.0f after", before.goroutines(), watch.goroutines, after.goroutines())
	t.Logf("processor time: %.0f s", after["process_cpu_seconds_total"]-before["process_cpu_seconds_total"])
	rose := after.dropsSince(before)
	for _, d := range slices.Sorted(keys(rose)) {
		t.Logf("dropped: %s %.0f", d, rose[d])
	}
	for _, want := range floodDrops {
		if rose[want] == 0 {
			t.Errorf("nothing was dropped as %s", want)
		}
	}
	if watch.memory > floodMemory {
		t.Errorf("the appliance's program had %.1f MB of memory, more than %.0f", watch.memory/1e6, floodMemory/1e6)
	}
	if watch.goroutines > floodGoroutines {
		t.Errorf("the appliance's program had %.0f goroutines, more than %d", watch.goroutines, floodGoroutines)
	}
	if want := int(*floodTime / (10 * time.Second)); watch.samples < want {
		t.Errorf("memory was seen %d times only, want %d at least", watch.samples, want)
	}
}

// loadedBy tells by what the firmware has loaded its boot loader: where it fails by one, OVMF tries the other.
func (s *site) loadedBy(pc *lab.Machine) string {
	n := s.office.CountFrames(s.t, func(p lab.Packet) bool {
		return p.Src.String() == pc.MAC(0).String() && p.Protocol == lab.ProtocolTCP && strings.HasPrefix(string(p.Payload), "GET /boot/efi/shimx64.efi ")
	})
	if n > 0 {
		return "HTTP Boot"
	}
	return "PXE"
}

// floodDrops are the services and reasons that a flood must be dropped for.
var floodDrops = []string{
	"dhcp malformed", "dhcp spoofed-relay", "dhcp nothing-to-boot", "bootserver nothing-to-boot", "tftp malformed", "http driven-out",
}

// flood is what hits the appliance.
type flood struct {
	t      *testing.T
	began  time.Time
	cancel context.CancelFunc
	wg     sync.WaitGroup

	port *lab.Port
	// from and to are the frames' hardware addresses: switches bring them to the appliance alone, so that it is the
	// appliance that is flooded and not the firmware of the machine that boots.
	from, to net.HardwareAddr

	mu          sync.Mutex
	sent        map[string]int
	connections int
}

// kinds are what the flood consists of. None speaks in the name of the machine that boots: on its own segment anybody can
// keep a machine from booting who does so.
var kinds = []struct {
	name string
	make func(f *flood, r *rand.Rand) []byte
}{
	{"DISCOVERs of unknown boot ROMs", func(f *flood, r *rand.Rand) []byte { return f.dhcp(anyone, discover(r)) }},
	{"DISCOVERs of unknown boot ROMs for HTTP Boot", func(f *flood, r *rand.Rand) []byte {
		return f.dhcp(anyone, discover(r, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003000")),
			dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64_HTTP))))
	}},
	{"DISCOVERs with spoofed relay agents", func(f *flood, r *rand.Rand) []byte {
		relays := []net.IP{{10, 77, 0, 2}, {127, 0, 0, 1}, {224, 0, 0, 1}, {255, 255, 255, 255}, address(r), {198, 51, 100, byte(r.Intn(256))}}
		return f.dhcp(anyone, discover(r, dhcpv4.WithGatewayIP(relays[r.Intn(len(relays))])))
	}},
	{"DHCP packets cut off", func(f *flood, r *rand.Rand) []byte {
		b := discover(r).ToBytes()
		return f.udp(anyone, 67, b[:r.Intn(len(b))])
	}},
	{"DHCP packets with noise", func(f *flood, r *rand.Rand) []byte {
		b := append(discover(r).ToBytes(), noise(r, 1000)...)
		for range 1 + r.Intn(8) {
			b[r.Intn(len(b))] = byte(r.Int())
		}
		return f.udp(anyone, 67, b)
	}},
	{"boot server requests from spoofed addresses", func(f *flood, r *rand.Rand) []byte {
		return f.udp(spoofed(r, 68), 4011, discover(r, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)).ToBytes())
	}},
	{"TFTP requests from spoofed addresses", func(f *flood, r *rand.Rand) []byte {
		return f.udp(spoofed(r, 1024+r.Intn(60000)), 69, []byte("\x00\x01shimx64.efi\x00octet\x00blksize\x001468\x00windowsize\x0064\x00"))
	}},
	{"TFTP packets with noise", func(f *flood, r *rand.Rand) []byte {
		return f.udp(spoofed(r, 1024+r.Intn(60000)), 69, append([]byte{0, byte(r.Intn(8))}, noise(r, 600)...))
	}},
	{"TCP SYNs from spoofed addresses", func(f *flood, r *rand.Rand) []byte {
		to := netip.AddrPortFrom(netip.MustParseAddr(applianceAddr), []uint16{80, 443}[r.Intn(2)])
		return lab.SYNFrame(f.from, f.to, spoofed(r, 1024+r.Intn(60000)), to, r.Uint32())
	}},
}

// anyone is the source of who has no address yet.
var anyone = netip.MustParseAddrPort("0.0.0.0:68")

// spoofed is an address of the office that nobody has, neither the machines nor the servers, or one from elsewhere.
func spoofed(r *rand.Rand, port int) netip.AddrPort {
	a, _ := netip.AddrFromSlice(address(r))
	return netip.AddrPortFrom(a, uint16(port))
}

func address(r *rand.Rand) net.IP {
	if r.Intn(4) == 0 {
		return net.IP{203, 0, 113, byte(r.Intn(256))}
	}
	return net.IP{10, 77, 0, byte(201 + r.Intn(50))}
}

func noise(r *rand.Rand, most int) []byte {
	b := make([]byte, r.Intn(most))
	_, _ = r.Read(b) // never fails
	return b
}

// discover is what the firmware of a machine sends that nobody knows, with another address each time.
func discover(r *rand.Rand, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(mac[2:], r.Uint32())
	guid := append([]byte{0}, make([]byte, 16)...)
	_, _ = r.Read(guid[1:])
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithHwAddr(mac), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000")), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_BC)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, guid),
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{byte(r.Int()), byte(r.Int()), byte(r.Int()), byte(r.Int())}),
	}, mods...)...)
	if err != nil {
		panic(err) // of constants
	}
	return p
}

func (f *flood) dhcp(from netip.AddrPort, p *dhcpv4.DHCPv4) []byte {
	return f.udp(from, 67, p.ToBytes())
}

func (f *flood) udp(from netip.AddrPort, port uint16, payload []byte) []byte {
	to := netip.MustParseAddr(applianceAddr)
	if from == anyone {
		to = netip.AddrFrom4([4]byte{255, 255, 255, 255}) // the kernel takes what comes from no address if it is for everybody
	}
	return lab.UDPFrame(f.from, f.to, from, netip.AddrPortFrom(to, port), payload)
}

// startFlood floods until stop, or the test's end.
func startFlood(t *testing.T, s *site) *flood {
	ctx, cancel := context.WithCancel(t.Context())
	f := &flood{
		t: t, began: time.Now(), cancel: cancel, port: s.office.Attach("flood"), sent: map[string]int{},
		from: net.HardwareAddr{0x02, 0xf1, 0, 0, 0, 1}, to: s.appliance.MAC(0),
	}
	f.port.SetCaptured(false)
	f.wg.Go(func() { f.frames(ctx) })
	crowd := s.lab.Namespace("crowd", s.office, "10.77.0.21/24")
	crowd.Port().SetCaptured(false)
	f.wg.Go(func() { f.connect(ctx, crowd) })
	t.Cleanup(f.stop)
	return f
}

// frames sends frames of all kinds by turns.
func (f *flood) frames(ctx context.Context) {
	const every = 20 * time.Millisecond
	seed := time.Now().UnixNano()
	f.t.Logf("the flood's seed is %d", seed)
	r := rand.New(rand.NewSource(seed))
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range int(floodRate * every / time.Second) {
			k := kinds[n%len(kinds)]
			n++
			if f.port.Send(k.make(f, r)) != nil {
				return
			}
			f.mu.Lock()
			f.sent[k.name]++
			f.mu.Unlock()
		}
	}
}

// connect holds connections to the appliance's TCP ports open, and makes new ones when it closes them: some silent, some
// that begin a request and never end it, some with noise, some that ask for a large file and never read it.
func (f *flood) connect(ctx context.Context, from *lab.Namespace) {
	r := rand.New(rand.NewSource(f.began.UnixNano()))
	slots := make(chan struct{}, floodConnections)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		port := []string{"80", "443"}[r.Intn(2)]
		say := [][]byte{nil, []byte("GET /boot/files/vmlinuz HTTP/1.1\r\nHost: x"), noise(r, 4000), []byte("GET /boot/files/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n")}[r.Intn(4)]
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		c, err := from.DialContext(try, "tcp4", net.JoinHostPort(applianceAddr, port))
		cancel()
		if err != nil { // it refuses; it is asked again
			<-slots
			continue
		}
		f.mu.Lock()
		f.connections++
		f.mu.Unlock()
		wg.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			_, _ = c.Write(say)
			hold(ctx, c)
		})
	}
}

// hold keeps a connection until the other side has closed it, which trying to write shows. What comes is not read.
func hold(ctx context.Context, c net.Conn) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := c.Write([]byte{'x'}); err != nil {
				return
			}
		}
	}
}

// waitUntil waits until the flood has lasted that long.
func (f *flood) waitUntil(d time.Duration) {
	select {
	case <-time.After(time.Until(f.began.Add(d))):
	case <-f.t.Context().Done():
	}
}

func (f *flood) stop() {
	f.cancel()
	f.wg.Wait()
}

// String says what was sent.
func (f *flood) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var parts []string
	for _, k := range kinds {
		parts = append(parts, fmt.Sprintf("%d %s", f.sent[k.name], k.name))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d TCP connections", f.connections)), ", ")
}
