package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"branchpoint/provisioning"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// udpConn is a UDP socket bound to one network interface. It gets broadcasts, and sends from the interface's own
// address whatever the routing table says.
type udpConn struct {
	*net.UDPConn
	src netip.Addr
	// from is the control message that has the kernel send from src (IP_PKTINFO of ip(7)).
	from []byte
}

// bindTo makes sockets that hear and send on one interface only.
func bindTo(iface string, reuse bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			if err = unix.BindToDevice(int(fd), iface); err == nil && reuse {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}
}

// listenUDP opens UDP port on interface i. shared lets another program have the same port.
func listenUDP(ctx context.Context, i Interface, port int, shared bool) (*udpConn, error) {
	lc := net.ListenConfig{Control: bindTo(i.Name, shared)}
	c, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:"+strconv.Itoa(port))
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "see which other program has the port, and that the interface is there",
			"listen on UDP port %d of %s: %w", port, i.Name, err)
	}
	src := i.Prefix.Addr()
	u := &udpConn{c.(*net.UDPConn), src, (&ipv4.ControlMessage{Src: src.AsSlice()}).Marshal()}
	err = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst, true)
	if err == nil {
		err = u.prepare()
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on UDP port %d of %s: %w", port, i.Name, err)
	}
	return u, nil
}

// receiveBuffer is what the kernel keeps of packets not yet read, in octets: what a burst brings while the reader is held
// up. Without the right to have as much (CAP_NET_ADMIN), it is what the kernel grants.
const receiveBuffer = 4 << 20

// prepare makes room for receiveBuffer, and has the kernel note when packets come in.
func (c *udpConn) prepare() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var forced, stamps error
	if err := raw.Control(func(fd uintptr) {
		forced = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		stamps = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}); err != nil || stamps != nil {
		return errors.Join(err, stamps)
	}
	if forced != nil {
		return c.SetReadBuffer(receiveBuffer)
	}
	return nil
}

// reception is what is known of a packet beside its bytes.
type reception struct {
	from netip.AddrPort
	// unicast is true where it was sent to one address, and not to everybody.
	unicast bool
	// waited is how long it has waited to be read, by the kernel's clock: a step of that clock meanwhile is part of it.
	waited time.Duration
}

// receive reads one packet of n octets.
func (c *udpConn) receive(b []byte) (n int, r reception, err error) {
	var oob [128]byte
	n, m, _, from, err := c.ReadMsgUDPAddrPort(b, oob[:])
	if err != nil {
		return 0, reception{}, err
	}
	r.from = from
	for rest := oob[:m]; len(rest) > 0; {
		var h unix.Cmsghdr
		var data []byte
		if h, data, rest, err = unix.ParseOneSocketControlMessage(rest); err != nil {
			return n, r, nil //nolint:nilerr // what could be read counts
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// struct in_pktinfo (ip(7)): interface, local address, and last the address in the packet's header.
			r.unicast = netip.AddrFrom4([4]byte(data[8:12])) == c.src
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16:
			// struct timespec (socket(7), SO_TIMESTAMPNS) of a 64-bit system: seconds, nanoseconds.
			r.waited = time.Since(time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:]))))
		}
	}
	return n, r, nil
}

// send writes one packet.
func (c *udpConn) send(b []byte, to netip.AddrPort) error {
	if _, _, err := c.WriteMsgUDPAddrPort(b, c.from, to); err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

// listenTCP opens TCP port on interface i's own address.
func listenTCP(ctx context.Context, i Interface, port int) (net.Listener, error) {
	lc := net.ListenConfig{Control: bindTo(i.Name, false)}
	l, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(i.Prefix.Addr(), uint16(port)).String())
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "see which other program has the port, and that the interface has the address",
			"listen on TCP port %d of %s (%s): %w", port, i.Name, i.Prefix.Addr(), err)
	}
	return l, nil
}

// httpErrorLog turns what net/http complains of, broken clients mostly, into debug lines.
func httpErrorLog(l *slog.Logger) *log.Logger { return slog.NewLogLogger(l.Handler(), slog.LevelDebug) }
