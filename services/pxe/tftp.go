package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/pin/tftp/v3"
)

// Limits of the TFTP server, for each interface.
const (
	tftpTransfers = 64
	tftpTimeout   = 2 * time.Second
	tftpRetries   = 5
	// tftpTotal ends a transfer that does not get on: the largest file has 3 MB.
	tftpTotal = 3 * time.Minute
	// tftpMaxFile bounds what is handed out by TFTP; everything large goes by HTTP.
	tftpMaxFile = 32 << 20
)

// tftpFiles are the loaders; grub/grub.cfg is made on request. Nothing else is handed out.
var tftpFiles = map[string]bool{FileShim: true, FileGRUB: true, FileMokManager: true, FileUndionly: true}

// tftpServer hands out loaders on one interface, read only.
type tftpServer struct {
	*Service
	server netip.Addr
	slots  chan struct{}
}

func (s *Service) newTFTP(server netip.Addr) (*tftpServer, *tftp.Server) {
	t := &tftpServer{s, server, make(chan struct{}, tftpTransfers)}
	srv := tftp.NewServer(t.read, nil)
	srv.SetTimeout(tftpTimeout)
	srv.SetRetries(tftpRetries)
	return t, srv
}

// read answers one read request.
func (t *tftpServer) read(name string, rf io.ReaderFrom) error {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	default:
		return fmt.Errorf("too many transfers at once (%d)", tftpTransfers)
	}
	client := ""
	out, ok := rf.(tftp.OutgoingTransfer)
	if ok {
		a := out.RemoteAddr()
		client = a.String()
	}
	log := t.deps.Log.With("client", client, "file", printable(name))
	body, size, err := t.open(cleanPath(name))
	if err != nil {
		// shim and GRUB try names that need not exist: revocations_sku.efi, grub/x86_64-efi/command.lst.
		if errors.Is(err, fs.ErrNotExist) {
			log.Debug("TFTP: no such file")
			return errors.New("no such file")
		}
		log.Error("TFTP: read a boot file", "err", err)
		return errors.New("the file cannot be read; the appliance's log says why")
	}
	defer body.Close()
	if ok {
		out.SetSize(size)
	}
	ctx, cancel := context.WithTimeout(t.ctx, tftpTotal)
	defer cancel()
	start := t.deps.Now()
	n, err := rf.ReadFrom(&contextReader{ctx, body})
	if err != nil {
		log.Debug("TFTP: transfer ended early", "octets", n, "err", err) // a size probe ends like this, too
		return err
	}
	log.Info("TFTP: sent", "octets", n, "took", t.deps.Now().Sub(start).Round(time.Millisecond).String())
	return nil
}

// open returns a file by its clean name.
func (t *tftpServer) open(name string) (io.ReadCloser, int64, error) {
	if name == "grub/grub.cfg" {
		s := grubFirst(t.server, t.cfg.Ports.HTTP)
		return io.NopCloser(strings.NewReader(s)), int64(len(s)), nil
	}
	if !tftpFiles[name] {
		return nil, 0, fs.ErrNotExist
	}
	f, err := t.deps.Files.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && name != FileMokManager {
			return nil, 0, fmt.Errorf("boot file %s is missing", name)
		}
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > tftpMaxFile) {
		err = fmt.Errorf("%s is no file of at most %d octets", name, tftpMaxFile)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// cleanPath makes a name from a client one below the root: firmware writes "/shimx64.efi", "//grubx64.efi" and, now
// and then, backslashes.
func cleanPath(name string) string {
	return path.Clean("/" + strings.ReplaceAll(name, `\`, "/"))[1:]
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
