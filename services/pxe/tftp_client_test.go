package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// tftpClient is a TFTP client with windows (RFC 7440), for tests and for the benchmark. 0 asks for no such option.
type tftpClient struct {
	server              string
	blksize, windowsize int
	tsize               bool
	// buf is where the file goes; it grows as needed.
	buf []byte
}

// fetched is what the client learned beside the file.
type fetched struct {
	body []byte
	// oack are the options the server acknowledged; nil where it sent no option acknowledgement.
	oack map[string]int64
	// packets counts blocks that came in, unneeded ones included.
	packets int
}

// clientTimeout is how long the client waits before it repeats what it sent last.
const clientTimeout = time.Second

func readRequestPacket(name, mode string, options ...string) []byte {
	b := append([]byte{0, opRead}, name...)
	b = append(append(append(b, 0), mode...), 0)
	for _, o := range options {
		b = append(append(b, o...), 0)
	}
	return b
}

func ackPacket(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, opAck}, n) }

// get loads a file.
func (c *tftpClient) get(ctx context.Context, name string) (fetched, error) {
	f := fetched{body: c.buf[:0]}
	server, err := netip.ParseAddrPort(c.server)
	if err != nil {
		return f, err
	}
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return f, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var options []string
	if c.tsize {
		options = append(options, "tsize", "0")
	}
	if c.blksize > 0 {
		options = append(options, "blksize", strconv.Itoa(c.blksize))
	}
	if c.windowsize > 0 {
		options = append(options, "windowsize", strconv.Itoa(c.windowsize))
	}
	last, to := readRequestPacket(name, "octet", options...), server
	say := func(b []byte) error {
		last = b
		_, err := conn.WriteToUDPAddrPort(b, to)
		return err
	}
	if err := say(last); err != nil {
		return f, err
	}
	size, window, inWindow := defaultBlock, 1, 0
	expected, complained := int64(1), int64(0)
	in := make([]byte, maxBlock+tftpHeader+1)
	deadline := time.Time{}
	for {
		if now := time.Now(); deadline.Sub(now) < clientTimeout/2 {
			deadline = now.Add(clientTimeout)
			if err := conn.SetReadDeadline(deadline); err != nil {
				return f, err
			}
		}
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if ctx.Err() != nil {
			return f, context.Cause(ctx)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			deadline = time.Time{}
			if err := say(last); err != nil {
				return f, err
			}
			continue
		}
		if err != nil {
			return f, err
		}
		if to == server {
			to = from
		}
		if from != to || n < tftpHeader {
			continue
		}
		switch binary.BigEndian.Uint16(in) {
		case opOACK:
			if expected > 1 {
				continue
			}
			if f.oack, err = parseOACK(in[2:n]); err != nil {
				return f, err
			}
			if v, ok := f.oack["blksize"]; ok {
				size = int(v)
			}
			if v, ok := f.oack["windowsize"]; ok {
				window = int(v)
			}
			if err := say(ackPacket(0)); err != nil {
				return f, err
			}
		case opData:
			f.packets++
			ahead := int16(binary.BigEndian.Uint16(in[2:]) - uint16(expected))
			if ahead > 0 && complained < expected { // something is missing: say so, once
				complained, inWindow = expected, 0
				if err := say(ackPacket(uint16(expected - 1))); err != nil {
					return f, err
				}
			}
			if ahead == -1 && inWindow == 0 && expected > 1 { // our acknowledgement was lost
				if err := say(last); err != nil {
					return f, err
				}
			}
			if ahead != 0 {
				continue
			}
			f.body = append(f.body, in[tftpHeader:n]...)
			expected++
			inWindow++
			done := n-tftpHeader < size
			if done || inWindow == window {
				inWindow = 0
				if err := say(ackPacket(uint16(expected - 1))); err != nil {
					return f, err
				}
			}
			if done {
				return f, nil
			}
		case opError:
			return f, fmt.Errorf("error %d: %s", binary.BigEndian.Uint16(in[2:]), bytes.TrimRight(in[tftpHeader:n], "\x00"))
		}
	}
}

func parseOACK(b []byte) (map[string]int64, error) {
	words := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if len(words)%2 != 0 {
		return nil, fmt.Errorf("option acknowledgement %q", b)
	}
	out := map[string]int64{}
	for i := 0; i < len(words); i += 2 {
		n, err := strconv.ParseInt(words[i+1], 10, 64)
		if err != nil {
			return nil, err
		}
		out[words[i]] = n
	}
	return out, nil
}
