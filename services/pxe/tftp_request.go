package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strings"

	"github.com/pin/tftp/v3/netascii"
)

const (
	// tftpMaxFile bounds what is handed out by TFTP, in octets; everything large goes by HTTP.
	tftpMaxFile = 64 << 20
	// netasciiMaxFile bounds what is turned into netascii: that is done in memory, and for text.
	netasciiMaxFile = 64 << 10
	// grubFirstFile is the one configuration that Debian's signed network GRUB reads by TFTP. It is made on request.
	grubFirstFile = "grub/grub.cfg"
)

// tftpFiles is what is handed out; nothing else is.
var tftpFiles = map[string]bool{FileShim: true, FileGRUB: true, FileMokManager: true, FileUndionly: true, grubFirstFile: true}

// Answers to requests that cannot be served.
var (
	answerNotFound   = errorPacket(errorNotFound, "no such file")
	answerNoText     = errorPacket(errorOther, "this file is no text; ask for mode octet")
	answerUnreadable = errorPacket(errorOther, "the file cannot be read; the appliance's log says why")
	answerUnknownTID = errorPacket(errorUnknownTID, "this is another transfer's port")
)

// request looks at one packet to the TFTP port and answers it, from there with the error returned, or from another port
// with the beginning of a transfer. What is malformed gets no answer.
func (t *tftpServer) request(b []byte, from netip.AddrPort) []byte {
	if a := from.Addr(); from.Port() == 0 || a.IsUnspecified() || a.IsMulticast() {
		t.metrics.drop(serviceTFTP, "bad-source")
		return nil
	}
	r, err := parseReadRequest(b)
	if err != nil {
		reason, answer := reasonOf(err)
		t.metrics.drop(serviceTFTP, reason)
		return answer
	}
	name := cleanPath(r.name)
	if !tftpFiles[name] {
		// shim and GRUB try names that need not exist: revocations_sku.efi, grub/x86_64-efi/command.lst.
		t.deps.Log.Debug("TFTP: no such file", "client", from, "file", printable(r.name))
		t.metrics.answer(serviceTFTP, "no-such-file")
		return answerNotFound
	}
	p := &place{client: from, request: string(b), name: name, ascii: r.netascii, tid: t.ports[t.turn.Add(1)%tftpPorts]}
	if answer := t.prepare(p, &r); answer != nil {
		return answer
	}
	evicted, reason := t.table.admit(p, t.deps.Now())
	if evicted != nil {
		t.metrics.drop(serviceTFTP, "driven-out")
	}
	if reason != "" {
		t.tooMany(reason, from)
		return nil // firmware asks again, where an error would end its boot
	}
	_, _ = p.tid.WriteToUDPAddrPort(p.first, from)
	return nil
}

// tooMany counts a packet for which there is no place, and complains where that is more than a repetition.
func (t *tftpServer) tooMany(reason string, from netip.AddrPort) {
	t.metrics.drop(serviceTFTP, reason)
	if strings.HasPrefix(reason, "too-many") {
		t.complain(t.iface, "TFTP: as many transfers at once as there may be; a packet is dropped", t.deps.Now(), "client", from, "why", reason)
	}
}

// prepare fixes the terms of a transfer and what it begins with; an answer is an error. The file is closed again: before
// its client has shown itself, a place costs memory only.
func (t *tftpServer) prepare(p *place, r *readRequest) (answer []byte) {
	c, err := t.content(p.name, p.ascii)
	if err != nil {
		return t.unreadable(p, err)
	}
	defer c.Close()
	p.size = c.size
	p.terms = negotiate(r, c.size, t.mtu())
	p.sender = newSender(p.terms, c.size)
	if p.first = p.terms.oack; p.first != nil {
		return nil
	}
	p.first = make([]byte, tftpHeader+min(c.size, int64(p.terms.blksize)))
	if n, err := c.ReadAt(p.first[tftpHeader:], 0); n < len(p.first)-tftpHeader {
		return t.unreadable(p, err)
	}
	putHeader(p.first, 1)
	return nil
}

// putHeader makes a packet of block n of b. The number wraps around after 65535.
func putHeader(b []byte, n int64) {
	binary.BigEndian.PutUint16(b, opData)
	binary.BigEndian.PutUint16(b[2:], uint16(n))
}

// packet looks at one packet to a port that requests are answered from.
func (t *tftpServer) packet(ctx context.Context, tid *net.UDPConn, b []byte, from netip.AddrPort) []byte {
	p, st, transfer := t.table.packet(from, tid, b, t.deps.Now())
	switch {
	case p == nil && st.dropped == "": // RFC 1350 section 4
		t.metrics.drop(serviceTFTP, "unknown-tid")
		if isError(b) {
			return nil
		}
		return answerUnknownTID
	case st.dropped != "":
		t.tooMany(st.dropped, from)
	case st.end != "":
		t.ended(p, st.end)
	case transfer:
		t.running.Go(func() { t.transfer(ctx, p, st) })
	}
	return nil
}

// ended logs and counts how a transfer ended.
func (t *tftpServer) ended(p *place, end ending) {
	took := t.deps.Now().Sub(p.sender.begun).String()
	switch end {
	case endSent:
		if t.restarted != nil && (p.name == FileShim || p.name == FileUndionly) {
			t.restarted(p.client.Addr().Unmap())
		}
		t.metrics.answer(serviceTFTP, string(end))
		t.bootLine(p.client.Addr(), "TFTP: sent", "client", p.client, "file", p.name, "octets", p.size, "took", took, "blksize", p.terms.blksize, "windowsize", p.terms.window)
	case endProbed:
		t.metrics.answer(serviceTFTP, string(end))
	case endTooLong:
		t.metrics.drop(serviceTFTP, string(end))
		t.complain(t.iface, "TFTP: a client is too slow; its transfer has ended", t.deps.Now(), "client", p.client, "file", p.name, "took", took)
	default:
		t.metrics.drop(serviceTFTP, string(end))
		t.deps.Log.Debug("TFTP: transfer ended early", "client", p.client, "file", p.name, "why", end, "took", took)
	}
}

// unreadable counts and logs that a file cannot be handed out, and returns what the client is told.
func (t *tftpServer) unreadable(p *place, err error) (answer []byte) {
	switch {
	case errors.Is(err, errNoText):
		t.metrics.drop(serviceTFTP, "netascii")
		return answerNoText
	case errors.Is(err, fs.ErrNotExist) && p.name == FileMokManager: // which need not be there
		t.metrics.answer(serviceTFTP, "no-such-file")
		return answerNotFound
	}
	t.metrics.drop(serviceTFTP, "unreadable")
	t.complain(t.iface, "TFTP: read a boot file", t.deps.Now(), "client", p.client, "file", p.name, "err", err)
	if errors.Is(err, fs.ErrNotExist) {
		return answerNotFound
	}
	return answerUnreadable
}

// content is a file that is handed out, of size octets as they go over the wire.
type content struct {
	io.ReaderAt
	io.Closer
	size int64
}

var errNoText = errors.New("too large for netascii")

// content returns a file by its clean name, in netascii (RFC 764) where that is asked for.
func (t *tftpServer) content(name string, ascii bool) (content, error) {
	c, err := t.octets(name)
	if err != nil || !ascii {
		return c, err
	}
	defer c.Close()
	if c.size > netasciiMaxFile {
		return content{}, errNoText
	}
	b, err := io.ReadAll(netascii.ToReader(io.NewSectionReader(c.ReaderAt, 0, c.size)))
	if err != nil {
		return content{}, fmt.Errorf("turn %s into netascii: %w", name, err)
	}
	return content{bytes.NewReader(b), io.NopCloser(nil), int64(len(b))}, nil
}

func (t *tftpServer) octets(name string) (content, error) {
	if name == grubFirstFile {
		r := strings.NewReader(grubFirst(t.iface.Prefix.Addr(), t.cfg.Ports.HTTP, t.deps.Texts()))
		return content{r, io.NopCloser(nil), r.Size()}, nil
	}
	f, err := t.deps.Files.Open(name)
	if err != nil {
		return content{}, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > tftpMaxFile) {
		err = fmt.Errorf("%s is no file of at most %d octets", name, tftpMaxFile)
	}
	r, ok := f.(io.ReaderAt)
	if err == nil && !ok {
		err = fmt.Errorf("%s cannot be read from any offset", name)
	}
	if err != nil {
		_ = f.Close()
		return content{}, err
	}
	return content{r, f, info.Size()}, nil
}

// cleanPath makes a name from a client one below the root: firmware writes "/shimx64.efi", "//grubx64.efi" and, now
// and then, backslashes.
func cleanPath(name string) string {
	return path.Clean("/" + strings.ReplaceAll(name, `\`, "/"))[1:]
}
