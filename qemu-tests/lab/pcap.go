package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// The classic pcap format, version 2.4, microseconds, link type Ethernet (draft-ietf-opsawg-pcap).
const (
	pcapMagic      = 0xa1b2c3d4
	pcapLinkType   = 1
	pcapHeaderSize = 24
	pcapRecordSize = 16
)

// Frame is one captured frame. Data may be cut off, Length is what was sent.
type Frame struct {
	Time   time.Time
	Data   []byte
	Length int
}

// capture writes frames to a pcap file. Methods may be called at the same time.
type capture struct {
	path string

	mu      sync.Mutex
	file    *os.File
	w       *bufio.Writer
	written int64
	limit   int64
	err     error
	stop    chan struct{}
}

// captureLimit is the size after which frames are cut to their headers, so that a deployment of gigabytes does not fill the
// disk. DHCP is always captured whole.
const captureLimit = 256 << 20

// headerSnap is what is kept of a frame after that: Ethernet, IPv4 or IPv6, TCP with options.
const headerSnap = 128

func newCapture(path string, limit int64) (*capture, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create capture: %w", err)
	}
	c := &capture{path: path, file: f, w: bufio.NewWriterSize(f, 256<<10), limit: limit, stop: make(chan struct{})}
	var h [pcapHeaderSize]byte
	binary.LittleEndian.PutUint32(h[0:], pcapMagic)
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], MaxFrame)
	binary.LittleEndian.PutUint32(h[20:], pcapLinkType)
	if _, err := c.w.Write(h[:]); err != nil {
		f.Close()
		return nil, fmt.Errorf("write capture: %w", err)
	}
	go func() { // whoever kills the test process still finds what was captured until a second before
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-tick.C:
				_ = c.flush() // kept in c.err
			}
		}
	}()
	return c, nil
}

func (c *capture) write(at time.Time, frame []byte, whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	data := frame
	if !whole && c.written > c.limit && len(data) > headerSnap {
		data = data[:headerSnap]
	}
	var h [pcapRecordSize]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(at.Unix()))
	binary.LittleEndian.PutUint32(h[4:], uint32(at.Nanosecond()/1000))
	binary.LittleEndian.PutUint32(h[8:], uint32(len(data)))
	binary.LittleEndian.PutUint32(h[12:], uint32(len(frame)))
	if _, err := c.w.Write(h[:]); err != nil {
		c.err = err
		return
	}
	if _, err := c.w.Write(data); err != nil {
		c.err = err
		return
	}
	c.written += int64(len(h) + len(data))
}

func (c *capture) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = c.w.Flush()
	}
	return c.err
}

func (c *capture) close() error {
	close(c.stop)
	err := c.flush()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.New("capture is closed")
	return errors.Join(err, c.file.Close())
}

// ReadPcap calls f with each frame of a little-endian classic pcap stream, until the end or until f returns false. A record
// that is cut off at the end of the stream is an error ([io.ErrUnexpectedEOF]), as is one longer than [MaxFrame].
func ReadPcap(r io.Reader, f func(Frame) bool) error {
	br := bufio.NewReaderSize(r, 256<<10)
	var h [pcapHeaderSize]byte
	if _, err := io.ReadFull(br, h[:]); err != nil {
		return fmt.Errorf("read pcap header: %w", err)
	}
	if m := binary.LittleEndian.Uint32(h[0:]); m != pcapMagic {
		return fmt.Errorf("read pcap header: magic number is %#x, not %#x", m, uint32(pcapMagic))
	}
	if lt := binary.LittleEndian.Uint32(h[20:]); lt != pcapLinkType {
		return fmt.Errorf("read pcap header: link type is %d, not Ethernet", lt)
	}
	for n := 0; ; n++ {
		var rec [pcapRecordSize]byte
		if _, err := io.ReadFull(br, rec[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read pcap record %d: %w", n, err)
		}
		size := binary.LittleEndian.Uint32(rec[8:])
		if size > MaxFrame {
			return fmt.Errorf("read pcap record %d: %d bytes are more than a frame has", n, size)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(br, data); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read pcap record %d: %w", n, err)
		}
		at := time.Unix(int64(binary.LittleEndian.Uint32(rec[0:])), int64(binary.LittleEndian.Uint32(rec[4:]))*1000)
		if !f(Frame{Time: at, Data: data, Length: int(binary.LittleEndian.Uint32(rec[12:]))}) {
			return nil
		}
	}
}
