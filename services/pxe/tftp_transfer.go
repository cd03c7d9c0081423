package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxBurst is how many octets the kernel is given at once to send as packets of one size (UDP's own limit).
const maxBurst = 65000

// transfer is one file on its way to one client that has shown itself.
type transfer struct {
	*tftpServer
	*place
	conn    *net.UDPConn
	content content
	buf     []byte // the window on its way
	// segmented is true while the kernel cuts bursts into packets.
	segmented bool
}

// transfer goes on with st, which the client's first packet led to, until the transfer or ctx has ended.
func (t *tftpServer) transfer(ctx context.Context, p *place, st step) {
	defer t.table.leave(p)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !t.table.begun(p, stop) {
		return
	}
	conn, err := t.dial(ctx, p)
	if err != nil {
		t.metrics.drop(serviceTFTP, "no-socket")
		t.complain(t.iface, "TFTP", t.deps.Now(), "client", p.client, "err", err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	x := &transfer{tftpServer: t, place: p, conn: conn}
	x.content, err = t.octetsAgain(p)
	if err == nil {
		defer x.content.Close()
		x.prepareBuffer()
		var end ending
		if end, err = x.loop(ctx, st); err == nil {
			t.ended(p, end)
		}
	}
	if err != nil && ctx.Err() == nil {
		_, _ = conn.Write(t.unreadable(p, err))
	}
}

// octetsAgain opens the file anew; another one that has come in between is an error.
func (t *tftpServer) octetsAgain(p *place) (content, error) {
	c, err := t.content(p.name, p.ascii)
	if err == nil && c.size != p.size {
		_ = c.Close()
		err = fmt.Errorf("%s has changed while a client began to load it", p.name)
	}
	return c, err
}

func (x *transfer) prepareBuffer() {
	packet := tftpHeader + x.terms.blksize
	x.buf = make([]byte, min(x.terms.window, x.perBurst())*packet)
	// Whatever else is sent from this socket is shorter, and stays whole.
	if x.terms.window > 1 && x.terms.blksize >= defaultBlock {
		x.segment(packet)
	}
}

// perBurst is how many packets the kernel takes at once.
func (x *transfer) perBurst() int { return max(1, maxBurst/(x.terms.blksize+tftpHeader)) }

// loop runs the state machine until the transfer has ended; an error is one of the file, or ctx has ended.
func (x *transfer) loop(ctx context.Context, st step) (ending, error) {
	in := make([]byte, maxReadRequest+1)
	var armed time.Time // what the socket's deadline stands for, by the service's clock
	for {
		if st.dropped != "" {
			x.metrics.drop(serviceTFTP, st.dropped)
		}
		if st.end != "" {
			return st.end, nil
		}
		if err := x.send(st); err != nil {
			return "", err
		}
		now := x.deps.Now()
		// A deadline that is too early costs one more turn every now and then; moving it costs at every packet.
		if armed.IsZero() || x.sender.due.Before(armed) {
			armed = x.sender.due
			if err := x.conn.SetReadDeadline(time.Now().Add(armed.Sub(now))); err != nil {
				return "", err
			}
		}
		n, from, err := x.conn.ReadFromUDPAddrPort(in)
		now, st = x.deps.Now(), step{}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			armed = time.Time{}
			st = x.sender.tick(now)
		case errors.Is(err, unix.ECONNREFUSED): // the client has closed its port
			st = step{end: endAborted}
		case err != nil:
			return "", err
		case from != x.client:
			x.stranger(ctx, in[:n], from)
		default:
			st = x.sender.packet(in[:n], now)
		}
	}
}

// stranger passes on what came to this socket before it was this client's alone.
func (x *transfer) stranger(ctx context.Context, b []byte, from netip.AddrPort) {
	if answer := x.packet(ctx, x.tid, b, from); answer != nil {
		_, _ = x.tid.WriteToUDPAddrPort(answer, from)
	}
}

// send does what the state machine says.
func (x *transfer) send(st step) error {
	for first := st.first; first > 0 && first <= st.last; {
		last := min(st.last, first+int64(x.perBurst())-1)
		b, err := x.blocks(first, last)
		if err != nil {
			return err
		}
		x.burst(b)
		first = last + 1
	}
	return nil
}

// blocks returns the packets of blocks first to last, one behind the other. Only the file's last one is shorter.
func (x *transfer) blocks(first, last int64) ([]byte, error) {
	size := int64(x.terms.blksize)
	at := 0
	for n := first; n <= last; n++ {
		putHeader(x.buf[at:], n)
		at += tftpHeader
		offset := (n - 1) * size
		data := x.buf[at : at+int(min(size, x.content.size-offset))]
		if got, err := x.content.ReadAt(data, offset); got < len(data) {
			return nil, fmt.Errorf("read %s from octet %d: %w", x.name, offset, err)
		}
		at += len(data)
	}
	return x.buf[:at], nil
}

// burst sends packets of one size; the last may be shorter. Many at once are one call of the kernel, which cuts them
// where it can; a route or a card for which it cannot gets them one by one. A packet that cannot be sent now is as good
// as one that is lost on its way.
func (x *transfer) burst(b []byte) {
	packet := tftpHeader + x.terms.blksize
	if x.segmented && len(b) > packet {
		if _, err := x.conn.Write(b); err == nil {
			return
		}
		x.segment(0)
	}
	for len(b) > 0 {
		n := min(packet, len(b))
		_, _ = x.conn.Write(b[:n])
		b = b[n:]
	}
}

// segment makes the kernel cut what is sent into packets of n octets (UDP_SEGMENT, udp(7)); 0 ends that.
func (x *transfer) segment(n int) {
	x.segmented = false
	if raw, err := x.conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			x.segmented = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, n) == nil && n > 0
		})
	}
}
