package lab

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BootROM stands in for a machine's firmware where a test boots the machine more often than firmware has time for: it asks
// on the switch as the machine's boot ROM does, with the machine's MAC address and GUID, and reads over HTTP. The machine
// then starts the kernel directly. It needs root, and must be used only while the machine is off.
type BootROM struct {
	ns *Namespace
	m  *Machine
}

// BootROM adds a boot ROM for the machine's NIC 0, with an IPv4 address of its own ("10.1.0.200/24").
func (l *Lab) BootROM(m *Machine, address string) *BootROM {
	l.t.Helper()
	n := l.Namespace(m.name+"-rom", m.config.NICs[0].Switch, address)
	if err := n.setMAC(m.MAC(0)); err != nil {
		l.t.Fatalf("boot ROM of machine %s: %v", m.name, err)
	}
	n.port.Unplug()
	return &BootROM{n, m}
}

// setMAC gives the namespace's interface another hardware address.
func (n *Namespace) setMAC(mac net.HardwareAddr) error {
	var err error
	n.Do(func() {
		var h *netlink.Handle
		if h, err = netlink.NewHandle(); err != nil {
			return
		}
		defer h.Close()
		var eth netlink.Link
		if eth, err = h.LinkByName(InterfaceName); err == nil {
			err = h.LinkSetHardwareAddr(eth, mac)
		}
	})
	if err != nil {
		return fmt.Errorf("set the hardware address: %w", err)
	}
	n.mac = mac
	return nil
}

// Boot asks until a boot server answers, and calls f with a client that reads from it and the server's address. Nothing of
// this boot ROM reaches the switch outside of the call, so that it is no second machine with the same address.
func (b *BootROM) Boot(limit time.Duration, f func(c *http.Client, server net.IP) error) error {
	ctx, cancel := b.ns.lab.limit(limit)
	defer cancel()
	b.ns.port.Plug()
	defer b.ns.port.Unplug()
	server, err := b.discover(ctx)
	if err != nil {
		return fmt.Errorf("boot ROM of machine %s: %w", b.m.name, err)
	}
	return f(b.ns.HTTPClient(limit), server)
}

// discover sends DISCOVERs as a BIOS boot ROM (PXE 2.1 section 2.2.1) until an offer names a boot file.
func (b *BootROM) discover(ctx context.Context) (net.IP, error) {
	guid, err := wireGUID(b.m.UUID())
	if err != nil {
		return nil, err
	}
	d, err := dhcpv4.NewDiscovery(b.m.MAC(0), dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0}),
		dhcpv4.WithGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 2, 1}),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, guid...)))
	if err != nil {
		return nil, fmt.Errorf("make a DISCOVER: %w", err)
	}
	var c net.PacketConn
	b.ns.Do(func() {
		lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var serr error
			err := raw.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), InterfaceName) })
			return errors.Join(err, serr)
		}}
		c, err = lc.ListenPacket(ctx, "udp4", ":68")
	})
	if err != nil {
		return nil, fmt.Errorf("listen as a boot ROM: %w", err)
	}
	defer c.Close()
	buf := make([]byte, 2048)
	for again := 2 * time.Second; ; {
		if _, err := c.WriteTo(d.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return nil, fmt.Errorf("send a DISCOVER: %w", err)
		}
		if err := c.SetReadDeadline(time.Now().Add(again)); err != nil {
			return nil, err
		}
		for {
			n, _, err := c.ReadFrom(buf)
			if ctx.Err() != nil {
				return nil, errors.New("no boot server has answered")
			}
			if err != nil {
				break // the time for this try is over
			}
			if o, err := dhcpv4.FromBytes(buf[:n]); err == nil && o.TransactionID == d.TransactionID && o.BootFileName != "" {
				return o.ServerIPAddr, nil
			}
		}
	}
}

// wireGUID is a UUID as option 97 carries it: the first three fields little-endian (RFC 4578 section 2.3, SMBIOS 7.2.1).
func wireGUID(uuid string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%q is no UUID", uuid)
	}
	return append([]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}, b[8:]...), nil
}

// Fetch returns what is at a URL, which must answer with 200.
func Fetch(c *http.Client, url string) ([]byte, error) {
	res, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("GET %s: %s", url, res.Status), err)
	}
	return b, nil
}

// SetInitrd replaces the layers of a machine that starts its kernel directly, for its next start, and adds one more from
// memory if that is not empty.
func (m *Machine) SetInitrd(more []byte, layers ...string) {
	m.lab.t.Helper()
	last := filepath.Join(m.dir, "last.cpio")
	err := os.WriteFile(last, more, 0o600)
	if err == nil {
		err = concatenateLayers(filepath.Join(m.dir, "initrd"), append(append([]string(nil), layers...), last))
		err = errors.Join(err, os.Remove(last))
	}
	if err != nil {
		m.lab.t.Fatalf("machine %s: %v", m.name, err)
	}
}
