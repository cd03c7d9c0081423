package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// portQueue is how many frames wait for a slow receiver before frames are lost, as in a real switch. TCP windows of several
// connections fit into it.
const portQueue = 4096

// Port is a socket of a switch: the cable of a NIC, of a namespace, or of the test itself.
type Port struct {
	name  string
	sw    *Switch
	queue chan []byte
	done  chan struct{}
	once  sync.Once
	stop  func()

	connected atomic.Bool
	unplugged atomic.Bool
	unseen    atomic.Bool

	in, out, inBytes, outBytes, dropped atomic.Uint64
}

// Counters are what a port has carried. In is from the attached device into the switch.
type Counters struct {
	In, Out           uint64 // frames
	InBytes, OutBytes uint64
	// Dropped counts frames that were malformed, filtered, sent while unplugged, or lost to a full queue.
	Dropped uint64
}

func (s *Switch) newPort(name string, stop func()) *Port {
	p := &Port{name: name, sw: s, queue: make(chan []byte, portQueue), done: make(chan struct{}), stop: stop}
	s.addPort(p)
	return p
}

// Attach gives the test its own port, on which it sends and receives frames.
func (s *Switch) Attach(name string) *Port {
	p := s.newPort(name, nil)
	p.connected.Store(true)
	return p
}

// Name returns the name of the port, which is that of the attached device.
func (p *Port) Name() string { return p.name }

// Send puts a frame into the switch.
func (p *Port) Send(frame []byte) error {
	if len(frame) < minFrame || len(frame) > MaxFrame {
		return fmt.Errorf("send a frame of %d bytes: a frame has %d to %d", len(frame), minFrame, MaxFrame)
	}
	select {
	case <-p.done:
		return net.ErrClosed
	default:
	}
	p.enter(append([]byte(nil), frame...))
	return nil
}

// Receive returns the next frame that the switch forwards to this port.
func (p *Port) Receive(ctx context.Context) ([]byte, error) {
	select {
	case f := <-p.queue:
		return f, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Unplug pulls the cable: nothing passes in either direction until Plug. The device sees no change of its link.
func (p *Port) Unplug() { p.unplugged.Store(true) }

// Plug puts the cable back in.
func (p *Port) Plug() { p.unplugged.Store(false) }

// SetCaptured says whether what the attached device sends is captured, and its DHCP messages remembered, as they are from the
// beginning. Counters count it in any case. A flood is better left out: it would push out what it is meant to disturb.
func (p *Port) SetCaptured(on bool) { p.unseen.Store(!on) }

// Counters returns what the port has carried so far.
func (p *Port) Counters() Counters {
	return Counters{
		In: p.in.Load(), Out: p.out.Load(), InBytes: p.inBytes.Load(), OutBytes: p.outBytes.Load(), Dropped: p.dropped.Load(),
	}
}

// Close takes the port out of its switch.
func (p *Port) Close() {
	p.once.Do(func() {
		close(p.done)
		p.sw.removePort(p)
		if p.stop != nil {
			p.stop()
		}
	})
}

// enter brings a frame of the attached device, which the switch then owns.
func (p *Port) enter(frame []byte) {
	if p.unplugged.Load() {
		p.dropped.Add(1)
		return
	}
	p.in.Add(1)
	p.inBytes.Add(uint64(len(frame)))
	p.sw.forward(p, frame)
}

// deliver queues a frame for the attached device. It never blocks: the switch is locked.
func (p *Port) deliver(frame []byte) {
	if !p.connected.Load() || p.unplugged.Load() {
		p.dropped.Add(1)
		return
	}
	select {
	case p.queue <- frame:
		p.out.Add(1)
		p.outBytes.Add(uint64(len(frame)))
	default:
		p.dropped.Add(1)
	}
}

func (p *Port) drain() {
	for {
		select {
		case <-p.queue:
		default:
			return
		}
	}
}

// carry connects the port to a device until the device ends or the port is closed: read returns the device's next frame,
// write gives it one. Neither end's leaving is an error to anyone.
func (p *Port) carry(read func() ([]byte, error), write func([]byte) error, hangUp func()) error {
	p.drain()
	p.connected.Store(true)
	gone := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer hangUp()
		for {
			select {
			case <-gone:
				return
			case <-p.done:
				return
			case f := <-p.queue:
				if write(f) != nil {
					return
				}
			}
		}
	})
	var err error
	for {
		var f []byte
		if f, err = read(); err != nil {
			break
		}
		p.enter(f)
	}
	p.connected.Store(false)
	close(gone)
	hangUp()
	wg.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// readStreamFrame reads a frame of QEMU's stream format: 4 bytes of length, big-endian, and the frame.
func readStreamFrame(r io.Reader) ([]byte, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("the stream announces a frame of %d bytes, more than %d", n, MaxFrame)
	}
	f := make([]byte, n)
	if _, err := io.ReadFull(r, f); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return f, nil
}

// streamPort is a port for a `-netdev stream,server=off` at the socket path. After QEMU has gone another one may come.
func (s *Switch) streamPort(name, path string) (p *Port, accepted <-chan struct{}, err error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	p = s.newPort(name, func() { ln.Close() })
	acc := make(chan struct{}, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			select {
			case acc <- struct{}{}:
			default:
			}
			s.carryStream(p, c)
		}
	}()
	return p, acc, nil
}

func (s *Switch) carryStream(p *Port, c net.Conn) {
	stop := context.AfterFunc(portContext{p.done}, func() { c.Close() })
	defer stop()
	br := bufio.NewReaderSize(c, 256<<10)
	var buf []byte
	err := p.carry(
		func() ([]byte, error) { return readStreamFrame(br) },
		func(f []byte) error {
			buf = binary.BigEndian.AppendUint32(buf[:0], uint32(len(f)))
			buf = append(buf, f...)
			_, err := c.Write(buf)
			return err
		},
		func() { c.Close() },
	)
	if err != nil && !isConnectionEnd(err) {
		s.lab.logf("switch %s: port %s: %v", s.name, p.name, err)
	}
}
