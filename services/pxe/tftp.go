package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

const (
	// tftpPorts is from how many ports requests are answered, by turns: a packet that comes late from one transfer of a
	// client's is none of its next.
	tftpPorts = 8
	// tftpReceiveBuffer is how many octets wait in the kernel while a flood is looked through.
	tftpReceiveBuffer = 1 << 20
	// tftpTick is how often clients that have not answered yet are looked at.
	tftpTick = 250 * time.Millisecond
)

// tftpServer hands out loaders on one interface, read only. One goroutine reads requests, and one each of the ports that
// they are answered from. A client that has acknowledged something has shown that its address is its own: only then it
// gets a goroutine, a socket and an open file.
type tftpServer struct {
	*Service
	iface Interface
	// addr is what sockets are bound to, and device, unless it is "", the network interface. mtu is in octets.
	addr   netip.Addr
	device string
	mtu    func() int
	// restarted, where it is set, is told of each machine that has loaded the first that its firmware loads: it has just
	// been started. That the address is its own is shown by then.
	restarted func(netip.Addr)

	table *transferTable
	ports []*net.UDPConn
	turn  atomic.Uint32
	// running are the goroutines.
	running sync.WaitGroup
}

func (s *Service) newTFTP(i Interface) *tftpServer {
	return &tftpServer{
		Service: s, iface: i, addr: i.Prefix.Addr(), device: i.Name, table: newTransferTable(),
		mtu: held(mtuTime, s.deps.Now, func() int { return mtuOf(i.Name) }),
	}
}

// mtuTime is how long it holds what an interface's MTU is: asking the kernel costs more than the rest of an answer.
const mtuTime = time.Second

// held is f, whose result holds for d.
func held(d time.Duration, now func() time.Time, f func() int) func() int {
	var mu sync.Mutex
	var at time.Time
	var last int
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		if age := now().Sub(at); at.IsZero() || age < 0 || age >= d {
			at, last = now(), f()
		}
		return last
	}
}

// mtuOf is the interface's MTU, or Ethernet's where the kernel does not say.
func mtuOf(name string) int {
	if i, err := net.InterfaceByName(name); err == nil && i.MTU > 0 {
		return i.MTU
	}
	return 1500
}

// listen opens a UDP port at the interface's own address; 0 is any. A request to a broadcast address does not get there,
// and is to be ignored (RFC 1123 section 4.2.3.5).
func (t *tftpServer) listen(ctx context.Context, port int) (*net.UDPConn, error) {
	lc := net.ListenConfig{}
	if t.device != "" {
		lc.Control = bindTo(t.device, false)
	}
	c, err := lc.ListenPacket(ctx, "udp4", net.JoinHostPort(t.addr.String(), strconv.Itoa(port)))
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "see which other program has the port, and that the interface has the address",
			"listen on UDP port %d of %s (%s): %w", port, t.iface.Name, t.addr, err)
	}
	u := c.(*net.UDPConn)
	_ = u.SetReadBuffer(tftpReceiveBuffer)
	return u, nil
}

// share lets others have the port of a socket that is open: before, the kernel might have given us somebody else's.
func share(c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// dial opens a socket for one client at a port that is open already. What this client sends from now on comes to it: the
// kernel prefers a connected socket.
func (t *tftpServer) dial(ctx context.Context, p *place) (*net.UDPConn, error) {
	d := net.Dialer{LocalAddr: p.tid.LocalAddr(), Control: func(_, _ string, c syscall.RawConn) error { return share(c) }}
	if t.device != "" {
		d.Control = bindTo(t.device, true)
	}
	c, err := d.DialContext(ctx, "udp4", p.client.String())
	if err != nil {
		return nil, fmt.Errorf("open a socket for a transfer: %w", err)
	}
	return c.(*net.UDPConn), nil
}

// open opens the TFTP port and those that requests are answered from. It is called once, before serve.
func (t *tftpServer) open(ctx context.Context, port int) (*net.UDPConn, error) {
	c, err := t.listen(ctx, port)
	for range tftpPorts {
		if err != nil {
			break
		}
		var p *net.UDPConn
		if p, err = t.listen(ctx, 0); err != nil {
			break
		}
		t.ports = append(t.ports, p)
		var raw syscall.RawConn
		if raw, err = p.SyscallConn(); err == nil {
			err = share(raw)
		}
	}
	if err != nil {
		t.close()
		if c != nil {
			_ = c.Close()
		}
		return nil, err
	}
	return c, nil
}

func (t *tftpServer) close() {
	for _, p := range t.ports {
		_ = p.Close()
	}
}

// serve answers what comes to c, the TFTP port, until it is closed, and then ends all transfers.
func (t *tftpServer) serve(ctx context.Context, c *net.UDPConn) error {
	ctx, stop := context.WithCancel(ctx)
	defer t.running.Wait()
	defer t.close()
	defer stop()
	for _, p := range t.ports {
		t.running.Go(func() {
			t.read(ctx, p, func(b []byte, from netip.AddrPort) []byte { return t.packet(ctx, p, b, from) })
		})
	}
	t.running.Go(func() { t.again(ctx) })
	t.read(ctx, c, t.request)
	return nil
}

// read hands every packet to handle and sends what it returns, until c is closed.
func (t *tftpServer) read(ctx context.Context, c *net.UDPConn, handle func(b []byte, from netip.AddrPort) []byte) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // the link went down, for one: it comes back
			t.deps.Log.Warn("read a TFTP packet", "interface", t.iface.Name, "err", err)
			if !wait(ctx, time.Second) {
				return
			}
			continue
		}
		if answer := handle(buf[:n], from); answer != nil {
			_, _ = c.WriteToUDPAddrPort(answer, from)
		}
	}
}

// again answers once more those clients of whom nothing has come yet.
func (t *tftpServer) again(ctx context.Context) {
	tick := time.NewTicker(tftpTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		places, gone := t.table.tick(t.deps.Now())
		for _, p := range places {
			_, _ = p.tid.WriteToUDPAddrPort(p.first, p.client)
		}
		for range gone {
			t.metrics.drop(serviceTFTP, string(endUnproven))
		}
	}
}
