package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a host of its own on a switch, in a network namespace with one interface, where the test runs real programs.
// It needs root. It has no name in the system and is gone with the test process, whatever ends that.
type Namespace struct {
	lab  *Lab
	name string
	port *Port
	work chan func()
	addr netip.Prefix
	mac  net.HardwareAddr
}

// InterfaceName is the name of a namespace's only interface besides lo.
const InterfaceName = "eth0"

// Namespace adds a host with an IPv4 address ("10.1.0.1/24") to a switch. The test fails without root.
func (l *Lab) Namespace(name string, s *Switch, address string) *Namespace {
	l.t.Helper()
	n, err := l.newNamespace(name, s, address)
	if err != nil {
		l.t.Fatalf("namespace %s: %v", name, err)
	}
	return n
}

func (l *Lab) newNamespace(name string, s *Switch, address string) (*Namespace, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run the tests as root")
	}
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	h := derive("namespace", l.t.Name(), name)
	n := &Namespace{
		lab: l, name: name, work: make(chan func()), addr: prefix,
		mac: net.HardwareAddr{0x52, 0x54, 0x01, h[0], h[1], h[2]},
	}
	// The namespace is that of one thread, which is never given back to Go: it ends with its goroutine, and takes with it
	// the namespace and, by their parent-death signal, the programs in it.
	entered := make(chan error, 1)
	onOwnThread(func() {
		err := unix.Unshare(unix.CLONE_NEWNET)
		entered <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	})
	if err := <-entered; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	l.onClose(func() { close(n.work) })
	n.Do(func() { err = setLoopbackUp() })
	if err != nil {
		return nil, err
	}
	n.port, err = n.attach(s, name, InterfaceName, n.mac, prefix)
	return n, err
}

// attach makes an interface of the namespace and connects it to a port of the switch.
func (n *Namespace) attach(s *Switch, portName, ifName string, mac net.HardwareAddr, prefix netip.Prefix) (*Port, error) {
	var tap *os.File
	var err error
	n.Do(func() { tap, err = makeInterface(ifName, mac, prefix) })
	if err != nil {
		return nil, err
	}
	port := s.newPort(portName, func() { tap.Close() })
	go func() {
		buf := make([]byte, MaxFrame)
		err := port.carry(
			func() ([]byte, error) {
				k, err := tap.Read(buf)
				return append([]byte(nil), buf[:k]...), err
			},
			func(f []byte) error {
				_, err := tap.Write(f)
				if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
					return nil // the interface is down, or the frame larger than it takes
				}
				return err
			},
			func() { tap.Close() },
		)
		if err != nil {
			n.lab.logf("namespace %s: %v", n.name, err)
		}
	}()
	return port, nil
}

// setLoopbackUp runs in the namespace.
func setLoopbackUp() error {
	h, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// makeInterface makes a tap device in the namespace that it runs in, with its addresses, up.
func makeInterface(name string, mac net.HardwareAddr, prefix netip.Prefix) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a tap device: %w", err)
	}
	tap := os.NewFile(uintptr(fd), "tap") // only now: a tun file that is not attached cannot be polled
	if err := setInterfaceUp(name, mac, prefix); err != nil {
		tap.Close()
		return nil, fmt.Errorf("set up the interface: %w", err)
	}
	return tap, nil
}

// setInterfaceUp runs in the namespace.
func setInterfaceUp(name string, mac net.HardwareAddr, prefix netip.Prefix) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	eth, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetHardwareAddr(eth, mac); err != nil {
		return err
	}
	mask := net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())
	if err := h.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: mask}}); err != nil {
		return err
	}
	return h.LinkSetUp(eth)
}

// Do calls f in the namespace: sockets that f makes belong to it. f must not start goroutines that make sockets.
func (n *Namespace) Do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

// Addr returns the host's address.
func (n *Namespace) Addr() netip.Addr { return n.addr.Addr() }

// MAC returns the hardware address of the host's interface.
func (n *Namespace) MAC() net.HardwareAddr { return n.mac }

// Port returns the switch's port that the host hangs on.
func (n *Namespace) Port() *Port { return n.port }

// Run runs a program in the namespace until it ends, or is killed at the time limit, and returns its output and error output.
func (n *Namespace) Run(limit time.Duration, argv ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	p, err := startProcess(n.work, cmd)
	if err != nil {
		return "", "", err
	}
	ctx, cancel := n.lab.limit(limit)
	defer cancel()
	if p.wait(ctx) != nil {
		p.kill()
		return out.String(), errOut.String(), fmt.Errorf("%s did not end within %v", argv[0], limit)
	}
	if p.err != nil {
		return out.String(), errOut.String(), fmt.Errorf("%s: %w: %s", argv[0], p.err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.String(), errOut.String(), nil
}

// Start starts a program in the namespace that runs until the test ends, or stop is called. Its output goes to <log> in the
// lab's directory.
func (n *Namespace) Start(log string, argv ...string) (stop func(), err error) {
	p, err := n.startLogged(log, argv...)
	if err != nil {
		return nil, err
	}
	return p.kill, nil
}

func (n *Namespace) startLogged(log string, argv ...string) (*process, error) {
	out, err := os.Create(n.lab.Path(log))
	if err != nil {
		return nil, fmt.Errorf("create log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = n.lab.dir
	p, err := startProcess(n.work, cmd)
	if err != nil {
		return nil, err
	}
	n.lab.onClose(p.kill)
	return p, nil
}

// DialContext connects from the namespace to an address that is not a name.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial from namespace %s: %w", n.name, err)
	}
	// The socket is made on the namespace's thread, the connecting does not hold it up.
	type result struct {
		c   net.Conn
		err error
	}
	var r result
	n.Do(func() {
		var d net.Dialer
		r.c, r.err = d.DialContext(ctx, network, address)
	})
	return r.c, r.err
}

// HTTPClient returns a client in the namespace, which has its own connections.
func (n *Namespace) HTTPClient(limit time.Duration) *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
}
