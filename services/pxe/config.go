package pxe

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/prometheus/client_golang/prometheus"
)

// Interface is a network interface that clients are served on.
type Interface struct {
	// Name is the kernel's: "eth0".
	Name string
	// Prefix is the appliance's own IPv4 address on it, with the length of the subnet: 192.0.2.10/24.
	Prefix netip.Prefix
}

// Ports are where the service point listens. 0 is the standard's port; others are for tests.
type Ports struct {
	DHCP       int // UDP, 67
	DHCPClient int // UDP, 68: where answers to clients without address go
	BootServer int // UDP, 4011 (PXE 2.1 section 2.2.3)
	TFTP       int // UDP, 69
	HTTP       int // TCP, 80
}

func (p Ports) orStandard() Ports {
	for _, d := range []struct {
		port     *int
		standard int
	}{{&p.DHCP, 67}, {&p.DHCPClient, 68}, {&p.BootServer, 4011}, {&p.TFTP, 69}, {&p.HTTP, 80}} {
		if *d.port == 0 {
			*d.port = d.standard
		}
	}
	return p
}

// Config says how the service point works. It does not change while Run runs: a new configuration is a new Service.
type Config struct {
	// Interfaces are served; at least one. In mode dhcp, those whose subnet the pool does not lie in are left out.
	Interfaces []Interface
	Mode       provisioning.PXEMode
	// ResponseDelay is how long to wait before a boot ROM's DISCOVER is answered, so that another PXE server can be
	// faster; 0 to 32 s.
	ResponseDelay time.Duration
	// Pool is needed in mode dhcp and unused in mode proxy.
	Pool  *provisioning.DHCPPool
	Ports Ports
	// ProbeWait is how long another DHCP server is waited for before a DHCP server starts; 0 means 5 s.
	ProbeWait time.Duration
	// ProbeEvery is how often another DHCP server is looked for while this one runs; 0 means once a minute. The first
	// such look begins at once and lasts as long, and until one has found none, what only another server could have lent
	// is not refused.
	ProbeEvery time.Duration
}

// Deps are what the service point needs of the rest of the appliance. Log, Now and Rand have defaults.
type Deps struct {
	// Policy decides what a machine gets.
	Policy interface {
		Decide(ctx context.Context, m provisioning.Machine) policy.Decision
	}
	// Known reports whether the site's configuration names a computer of this MAC address, or of this SMBIOS GUID ("":
	// none was said). It is asked for every packet, and must be cheap. Machines that it knows, and clients that were
	// given something already, are answered however many others ask; nil knows nobody.
	Known func(provisioning.MAC, provisioning.GUID) bool
	// OtherServer, where it is set, is told of another DHCP server that answers on interface iface, or that clients there
	// take addresses from, while this one runs, in mode dhcp: at most once in ten seconds for each interface.
	OtherServer func(iface string, server netip.Addr)
	// Boots makes the JSON document of one boot, which holds a secret; it becomes /etc/branchpoint/boot.json, mode 0600,
	// in the client's RAM file system. It is called once for each configuration handed out, at most a few times for
	// one boot. serverAddr is the appliance's address on the client's network.
	Boots interface {
		BootConfig(ctx context.Context, m provisioning.Machine, d policy.Decision, serverAddr netip.Addr) ([]byte, error)
	}
	// Waker says which computers are to be woken; nil is nobody. It is asked every wakeEvery, and must be cheap where nothing has
	// changed.
	Waker interface {
		// Wake returns those that are to be woken now, and has noted that they are.
		Wake(ctx context.Context) ([]policy.Wake, error)
		// Boundaries are the subnets of the site, of either version of IP.
		Boundaries() []netip.Prefix
	}
	// Texts are what the site shows to the people at clients now; nil is nothing. It must be cheap.
	Texts func() provisioning.ShownTexts
	// Files holds the boot files by the names of the File constants; they can be read from any offset, as those of
	// os.DirFS can.
	Files fs.FS
	// Leases keeps leases over a restart. Needed in mode dhcp only.
	Leases interface {
		// Load returns all leases.
		Load(ctx context.Context) ([]provisioning.Lease, error)
		// Save stores a lease, in place of an earlier one of the same address. It has reached the disk on return.
		Save(ctx context.Context, l provisioning.Lease) error
		// Delete forgets the lease of an address; that there is none is no error.
		Delete(ctx context.Context, a netip.Addr) error
	}
	// Metrics is where counters are registered; nil: nowhere.
	Metrics prometheus.Registerer
	Log     *slog.Logger
	Now     func() time.Time
	Rand    io.Reader
}
