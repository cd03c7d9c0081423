package pxe

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Machines of the tests. The policy of fakePolicy boots known and is silent to everybody else.
const (
	known   = provisioning.MAC("52:54:00:00:00:01")
	idle    = provisioning.MAC("52:54:00:00:00:02")
	unknown = provisioning.MAC("52:54:00:00:00:03")
	third   = provisioning.MAC("52:54:00:00:00:04")
)

var (
	serverAddr = netip.MustParseAddr("192.0.2.10")
	prefix     = netip.MustParsePrefix("192.0.2.10/24")
	start      = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	// guidWire is SMBIOS GUID 33221100-5544-7766-8899-aabbccddeeff as option 97 carries it.
	guidWire = []byte{0, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
)

type mod = dhcpv4.Modifier

func hw(m provisioning.MAC) mod {
	var b []byte
	for _, s := range strings.Split(string(m), ":") {
		b = append(b, byte(strings.IndexByte("0123456789abcdef", s[0])<<4|strings.IndexByte("0123456789abcdef", s[1])))
	}
	return dhcpv4.WithHwAddr(b)
}

// client is a DHCP packet of a client.
func client(t testing.TB, mac provisioning.MAC, kind dhcpv4.MessageType, mods ...mod) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New(append([]mod{
		dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}), hw(mac), dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ovmf makes a packet look like OVMF's: broadcast flag, options 60, 93, 94, 97, 57.
func ovmf(arch iana.Arch) mod {
	return func(p *dhcpv4.DHCPv4) {
		p.SetBroadcast()
		p.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003000"))
		p.UpdateOption(dhcpv4.OptClientArch(arch))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 0}))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, guidWire))
		p.UpdateOption(dhcpv4.OptMaxMessageSize(1464))
	}
}

// httpBoot makes a packet look like OVMF's for HTTP Boot.
func httpBoot(p *dhcpv4.DHCPv4) {
	ovmf(iana.EFI_X86_64_HTTP)(p)
	p.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient:Arch:00016:UNDI:003000"))
}

// relayInfo is an option 82 with circuit and remote id.
var relayInfo = []byte{1, 4, 'g', 'e', '-', '1', 2, 2, 0xca, 0xfe}

// relayed makes a packet look as it comes from the relay agent giaddr.
func relayed(giaddr string) mod {
	return func(p *dhcpv4.DHCPv4) {
		p.GatewayIPAddr = netip.MustParseAddr(giaddr).AsSlice()
		p.HopCount = 1
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, relayInfo))
	}
}

// ipxe makes a packet look like iPXE's under the given firmware: option 77 without length octets, 175, 61.
func ipxe(arch iana.Arch) mod {
	return func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001"))
		p.UpdateOption(dhcpv4.OptClientArch(arch))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, guidWire))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0xb1, 1, 1}))
		p.UpdateOption(dhcpv4.OptClientIdentifier(append([]byte{1}, p.ClientHWAddr...)))
	}
}

func option(code uint8, b ...byte) mod {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(code), b))
}

func xid(n byte) mod { return dhcpv4.WithTransactionID(dhcpv4.TransactionID{9, 9, 9, n}) }

func wish(s string) mod {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(s).AsSlice()))
}

func chosen(s string) mod {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr(s).AsSlice()))
}
func ciaddr(s string) mod { return dhcpv4.WithClientIP(netip.MustParseAddr(s).AsSlice()) }

func parsed(t testing.TB, p *dhcpv4.DHCPv4) *request {
	t.Helper()
	r, err := parseRequest(p.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// fakePolicy boots the machines in boots; changed by tests while it runs.
type fakePolicy struct {
	mu    sync.Mutex
	boots map[provisioning.MAC]bool
	// choices are offered to machines that do not boot.
	choices map[provisioning.MAC][]policy.Choice
	asked   map[provisioning.MAC]int
	seen    chan provisioning.Machine
}

func newFakePolicy() *fakePolicy {
	return &fakePolicy{boots: map[provisioning.MAC]bool{known: true}, asked: map[provisioning.MAC]int{}, seen: make(chan provisioning.Machine, 100)}
}

func (f *fakePolicy) Decide(_ context.Context, m provisioning.Machine) policy.Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[m.MAC]++
	select {
	case f.seen <- m:
	default:
	}
	if f.boots[m.MAC] {
		return policy.Decision{Action: policy.Boot, Computer: "pc1", TaskSequence: "install", Reasons: []policy.Reason{{Rule: "required", Text: "required"}}}
	}
	if c := f.choices[m.MAC]; len(c) > 0 {
		return policy.Decision{Action: policy.Offer, Computer: "pc1", Choices: c, Reasons: []policy.Reason{{Rule: "available", Text: "available"}}}
	}
	return policy.Decision{Action: policy.Silent, Reasons: []policy.Reason{{Rule: "identity", Text: "not known"}}}
}

// times is how often the policy was asked about m.
func (f *fakePolicy) times(m provisioning.MAC) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[m]
}

func (f *fakePolicy) set(m provisioning.MAC, boot bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boots[m] = boot
}

// offer makes the advertisements available to m, each with the task sequence "install".
func (f *fakePolicy) offer(m provisioning.MAC, advertisements ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []policy.Choice
	for _, a := range advertisements {
		out = append(out, policy.Choice{Advertisement: a, TaskSequence: "install"})
	}
	f.choices = map[provisioning.MAC][]policy.Choice{m: out}
}

const secretText = "s3cret-of-this-boot"

type fakeBoots struct{ err error }

func (f fakeBoots) BootConfig(_ context.Context, m provisioning.Machine, d policy.Decision, server netip.Addr) ([]byte, error) {
	return []byte(`{"secret":"` + secretText + `","mac":"` + string(m.MAC) + `","server":"` + server.String() + `","advertisement":"` + d.Advertisement + `"}`), f.err
}

// fakeLeases is a store in memory.
type fakeLeases struct {
	mu     sync.Mutex
	leases map[netip.Addr]provisioning.Lease
	broken bool
}

func (f *fakeLeases) Load(context.Context) ([]provisioning.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []provisioning.Lease
	for _, l := range f.leases {
		out = append(out, l)
	}
	return out, nil
}

func (f *fakeLeases) Save(_ context.Context, l provisioning.Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return errors.New("disk full")
	}
	if f.leases == nil {
		f.leases = map[netip.Addr]provisioning.Lease{}
	}
	f.leases[l.Address] = l
	return nil
}

func (f *fakeLeases) Delete(_ context.Context, a netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leases, a)
	return nil
}

func bootFiles() fstest.MapFS {
	fs := fstest.MapFS{}
	for _, n := range []string{FileShim, FileGRUB, FileMokManager, FileUndionly, FileKernel, FileBaseLayer, FileAgentLayer, "site.yaml"} { // site.yaml is nobody's business
		fs[n] = &fstest.MapFile{Data: bytes.Repeat([]byte(n+"|"), 5000), ModTime: start}
	}
	return fs
}

// lockedBuffer is a log that goroutines write to and tests read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// fakeConn keeps the answers that a service sends.
type fakeConn struct {
	mu      sync.Mutex
	to      []netip.AddrPort
	packets [][]byte
	err     error
}

func (f *fakeConn) send(b []byte, to netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to, f.packets = append(f.to, to), append(f.packets, bytes.Clone(b))
	return f.err
}

func (f *fakeConn) destinations() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, a := range f.to {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

// newTestService is a service in mode proxy on lo that has not been started; now can be moved.
func newTestService(t *testing.T) (s *Service, p *fakePolicy, now *time.Time, log *lockedBuffer) {
	t.Helper()
	p, log = newFakePolicy(), &lockedBuffer{}
	clock := start
	s, err := New(Config{Interfaces: []Interface{{"lo", netip.MustParsePrefix("127.0.0.1/8")}}, Mode: provisioning.PXEModeProxy}, Deps{
		Policy: p, Boots: fakeBoots{}, Files: bootFiles(), Now: func() time.Time { return clock },
		Log: testLog(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, p, &clock, log
}

func testLog(to *lockedBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
