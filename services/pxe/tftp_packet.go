package pxe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"time"
)

// TFTP operation codes (RFC 1350 section 5, RFC 2347).
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// TFTP error codes (RFC 1350 appendix, RFC 2347).
const (
	errorOther      = 0
	errorNotFound   = 1
	errorForbidden  = 2
	errorUnknownTID = 5
	errorOptions    = 8
)

const (
	// tftpHeader is what stands before a block's octets: operation code and block number.
	tftpHeader = 4
	// maxReadRequest is the longest request, in octets (RFC 2347 section 2).
	maxReadRequest = 512
	// defaultBlock is the block size where none was asked for; minBlock and maxBlock are the ends of RFC 2348's range.
	defaultBlock, minBlock, maxBlock = 512, 8, 65464
	// maxWindow and maxWindowOctets bound how much is on its way at once: what is sent in one go and not paced must fit
	// into the buffers of switches and of small clients.
	maxWindow, maxWindowOctets = 64, 96 << 10
	// maxTimeout is the longest retransmission timeout a client may ask for, in seconds. RFC 2349 allows 255, in which a
	// client that is gone would hold its place for half an hour.
	maxTimeout = 10
	// ipAndUDP is what IPv4 and UDP headers take of the MTU.
	ipAndUDP = 20 + 8
)

// readRequest is a request for a file. Numbers are 0 where the client did not ask for the option, or not for a value
// that RFC 2348, 2349 and 7440 allow: such options are left out of the answer, as RFC 2347 has it.
type readRequest struct {
	name     string
	netascii bool
	// blksize is in octets, windowsize in blocks, timeout in seconds.
	blksize, windowsize, timeout int
	tsize                        bool
}

// requestError is why a packet to the TFTP port is not looked into; its text is a label of the metrics. answer, where
// it is set, goes to the sender of the packet.
type requestError struct {
	reason string
	answer []byte
}

func (e *requestError) Error() string { return e.reason }

var (
	errOversized  = &requestError{reason: "oversized"}
	errMalformed  = &requestError{reason: "malformed"}
	errUnexpected = &requestError{reason: "unexpected"}
	errWrite      = &requestError{reason: "write", answer: errorPacket(errorForbidden, "files can only be read")}
)

// parseReadRequest reads a packet as it came to the TFTP port. Errors are *requestError. Octets of 0 behind the last
// option are ignored: some firmware pads its packet.
func parseReadRequest(b []byte) (readRequest, error) {
	var r readRequest
	if len(b) > maxReadRequest {
		return r, errOversized
	}
	if len(b) < 2 {
		return r, errMalformed
	}
	switch binary.BigEndian.Uint16(b) {
	case opRead:
	case opWrite:
		return r, errWrite
	case opData, opAck, opError, opOACK: // of a transfer, and therefore not for this port
		return r, errUnexpected
	default:
		return r, errMalformed
	}
	rest := b[2:]
	text := func() (s string, ok bool) {
		v, after, ok := bytes.Cut(rest, []byte{0})
		rest = after
		return string(v), ok
	}
	name, ok1 := text()
	mode, ok2 := text()
	if !ok1 || !ok2 {
		return r, errMalformed
	}
	r.name = name
	switch strings.ToLower(mode) {
	case "octet":
	case "netascii":
		r.netascii = true
	default:
		return r, errMalformed
	}
	for len(bytes.Trim(rest, "\x00")) > 0 {
		option, ok1 := text()
		value, ok2 := text()
		if !ok1 || !ok2 {
			return r, errMalformed
		}
		r.option(option, value)
	}
	return r, nil
}

// option takes up one option. Unknown ones are ignored (RFC 2347 section 2).
func (r *readRequest) option(name, value string) {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return
	}
	in := func(low, high int) int {
		if int(n) < low || int(n) > high {
			return 0
		}
		return int(n)
	}
	switch strings.ToLower(name) {
	case "blksize":
		r.blksize = in(minBlock, maxBlock)
	case "windowsize":
		r.windowsize = in(1, 65535)
	case "timeout":
		r.timeout = in(1, maxTimeout)
	case "tsize":
		r.tsize = true
	}
}

// terms are what a transfer keeps to.
type terms struct {
	// blksize is in octets, window in blocks.
	blksize, window int
	// timeout is the client's; 0 leaves it to us.
	timeout time.Duration
	// oack is the packet that tells the client of it; nil where it asked for nothing.
	oack []byte
}

// negotiate fixes the terms for a file of size octets. Blocks are no longer than one packet on a network of this MTU
// carries: firmware does not always put fragments together again.
func negotiate(r *readRequest, size int64, mtu int) terms {
	t := terms{blksize: defaultBlock, window: 1}
	oack := []byte{0, opOACK}
	add := func(name string, value int64) {
		oack = append(append(oack, name...), 0)
		oack = append(strconv.AppendInt(oack, value, 10), 0)
	}
	if r.blksize > 0 {
		t.blksize = max(minBlock, min(r.blksize, mtu-ipAndUDP-tftpHeader))
		add("blksize", int64(t.blksize))
	}
	if r.tsize {
		add("tsize", size)
	}
	if r.timeout > 0 {
		t.timeout = time.Duration(r.timeout) * time.Second
		add("timeout", int64(r.timeout))
	}
	if r.windowsize > 0 {
		t.window = max(1, min(r.windowsize, maxWindow, maxWindowOctets/t.blksize))
		add("windowsize", int64(t.window))
	}
	if len(oack) > 2 {
		t.oack = oack
	}
	return t
}

// errorPacket is an ERROR. What it says is for a person before the client's screen.
func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, code)
	return append(append(b, text...), 0)
}

// isError reports whether b is an ERROR, which is never answered by another one.
func isError(b []byte) bool { return len(b) >= 2 && binary.BigEndian.Uint16(b) == opError }

// reasonOf is the label for an error of parseReadRequest, and what is answered.
func reasonOf(err error) (reason string, answer []byte) {
	if e, ok := errors.AsType[*requestError](err); ok {
		return e.reason, e.answer
	}
	return "malformed", nil
}
