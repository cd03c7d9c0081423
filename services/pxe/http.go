package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// Limits of the boot HTTP service, for each interface.
const (
	// httpConnections are enough for 512 machines at once: GRUB opens one connection for each layer, and all of them are
	// being answered until it has read the last. One that stands still has about 60 kB, as files are sent by the kernel.
	httpConnections   = 2048
	httpPerAddress    = 16
	httpHeaderTimeout = 10 * time.Second
	httpIdleTimeout   = 30 * time.Second
	// httpWriteTimeout is how long httpChunk octets may take. GRUB asks for all its files at once and reads one after the
	// other: what it reads last stands still for as long as the others take, which on a slow line is minutes.
	httpWriteTimeout = 15 * time.Minute
	httpChunk        = 1 << 20
	httpHeaderBytes  = 8 << 10
)

// httpFiles are what /boot/files/ holds.
var httpFiles = map[string]bool{
	FileKernel: true, FileBaseLayer: true, FileAgentLayer: true, FileExtraLayer: true,
	FileShim: true, FileGRUB: true, FileMokManager: true, FileUndionly: true,
}

// efiFiles are what httpBootDir holds, and the root: shim asks for GRUB beside itself, or, as "//grubx64.efi", there.
var efiFiles = map[string]bool{FileShim: true, FileGRUB: true, FileMokManager: true}

// grubFirstPaths are where a GRUB that came by HTTP looks for its first configuration: "/grub" is built into Debian's;
// others look beside themselves.
var grubFirstPaths = map[string]bool{httpFirst: true, path.Join(httpBootDir, httpFirst): true, path.Join("/boot", httpFirst): true}

// handler answers HTTP on one interface. Paths:
//
//	/boot/efi/NAME, /NAME   shim, GRUB and MokManager, for UEFI HTTP Boot
//	/grub/grub.cfg          GRUB's first configuration, also below /boot and /boot/efi
//	/boot/files/NAME        kernel, layers, loaders; with ranges
//	/boot/grub/MAC.cfg      GRUB configuration of one boot
//	/boot/ipxe?mac=MAC      iPXE script of one boot
//	/boot/offer/NONCE/N.cfg where entry N of a machine's menu leads; next.cfg, and .ipxe for iPXE
//	/boot/secret/NONCE.cpio that boot's own layer
type handler struct {
	*Service
	iface Interface
}

// server is the address that clients ask.
func (h *handler) server() netip.Addr { return h.iface.Prefix.Addr() }

// ServeHTTP normalises the path itself: shim asks for "//grubx64.efi", and a redirect is more than firmware follows.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := httpConnOf(r); c != nil {
		c.begin()
		defer c.end()
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.metrics.drop(serviceHTTP, "method")
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if r.ContentLength != 0 { // or unknown
		h.metrics.drop(serviceHTTP, "body")
		w.Header().Set("Connection", "close") // what comes behind it is not read
		http.Error(w, "a request with a body", http.StatusBadRequest)
		return
	}
	p := path.Clean("/" + r.URL.Path)
	if name, ok := httpFile(p); ok {
		// What firmware asks first: how large shim is.
		if c := httpConnOf(r); c != nil && name == FileShim && r.Method == http.MethodHead {
			c.l.restarted(c.client, c)
		}
		h.file(w, r, name)
		return
	}
	if grubFirstPaths[p] {
		h.metrics.answer(serviceHTTP, "grub-first")
		h.text(w, r, grubFirst(h.server(), h.cfg.Ports.HTTP, h.deps.Texts()))
		return
	}
	if mac, ok := macOfGRUBPath(p); ok {
		h.config(w, r, mac, loaderGRUB)
		return
	}
	if p == "/boot/ipxe" {
		mac, err := provisioning.ParseMAC(r.URL.Query().Get("mac"))
		if err != nil {
			h.metrics.drop(serviceHTTP, "bad-mac")
			http.Error(w, "mac: "+err.Error(), http.StatusBadRequest)
			return
		}
		h.config(w, r, mac, loaderIPXE)
		return
	}
	if strings.HasPrefix(p, offerPath) {
		h.entry(w, r, p)
		return
	}
	if name, ok := strings.CutPrefix(p, "/boot/secret/"); ok {
		if nonce, ok := strings.CutSuffix(name, ".cpio"); ok {
			h.secret(w, r, nonce)
			return
		}
	}
	h.metrics.answer(serviceHTTP, "not-found") // shim asks for revocations that need not be there
	http.NotFound(w, r)
}

// httpFile is the boot file that a clean path names.
func httpFile(p string) (name string, ok bool) {
	if name, ok := strings.CutPrefix(p, "/boot/files/"); ok {
		return name, httpFiles[name]
	}
	if name, ok := strings.CutPrefix(p, httpBootDir); ok {
		return name, efiFiles[name]
	}
	name = strings.TrimPrefix(p, "/")
	return name, efiFiles[name]
}

// text answers with a configuration, which is made anew each time.
func (h *handler) text(w http.ResponseWriter, r *http.Request, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(body))
}

func (h *handler) file(w http.ResponseWriter, r *http.Request, name string) {
	f, err := h.deps.Files.Open(name)
	if errors.Is(err, fs.ErrNotExist) && name == FileMokManager { // which need not be there
		h.metrics.answer(serviceHTTP, "not-found")
		http.NotFound(w, r)
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		h.metrics.drop(serviceHTTP, "unreadable")
		h.warn("a boot file is missing", "file", name, "client", r.RemoteAddr)
		http.NotFound(w, r)
		return
	}
	if err == nil {
		defer f.Close()
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil {
			s, ok := f.(io.ReadSeeker)
			if ok && info.Mode().IsRegular() {
				h.metrics.answer(serviceHTTP, "file")
				w.Header().Set("Content-Type", "application/octet-stream")
				http.ServeContent(&steadyWriter{w, http.NewResponseController(w)}, r, "", info.ModTime(), s)
				return
			}
			err = errors.New("not a file that can be read from any offset")
		}
	}
	h.metrics.drop(serviceHTTP, "unreadable")
	h.warn("read a boot file", "file", name, "client", r.RemoteAddr, "err", err)
	http.Error(w, "the boot file cannot be read; the appliance's log says why", http.StatusInternalServerError)
}

// config answers with the configuration of one boot where the machine asked by DHCP a short while ago, was to be answered
// then and is to be answered now: with a boot, or with a menu. Else with the one that goes on to the next boot device.
func (h *handler) config(w http.ResponseWriter, r *http.Request, mac provisioning.MAC, l loader) {
	body := l.nothing
	client, err := clientAddr(r)
	if err == nil && r.Method == http.MethodGet {
		var c string
		if c, err = h.bootConfig(r.Context(), mac, client, l); err == nil && c != "" {
			body = c
		}
	}
	if err != nil {
		h.warn("prepare the configuration of a boot", "mac", mac, "client", r.RemoteAddr, "err", err)
	}
	h.text(w, r, body)
}

// bootConfig is "" where the machine gets nothing.
func (h *handler) bootConfig(ctx context.Context, mac provisioning.MAC, client netip.Addr, l loader) (string, error) {
	now := h.deps.Now()
	h.mu.Lock()
	x, ok := h.exchanges.recent(mac, now)
	h.mu.Unlock()
	if !ok {
		h.warn("configuration refused: this machine has not asked by DHCP lately", "mac", mac, "client", client)
		return "", nil
	}
	if !getsAnswer(x.decision) {
		h.warn("configuration refused: this machine was not to boot", "mac", mac, "client", client, "why", x.decision.Why())
		return "", nil
	}
	if why := h.impostor(mac, client, x.relay); why != "" {
		h.warn("configuration refused: another machine asks for it", "mac", mac, "client", client, "why", why)
		return "", nil
	}
	if !h.mayAsk(mac, client, now) {
		return "", errors.New("it asks for its configuration too often")
	}
	d := h.deps.Policy.Decide(ctx, x.machine)
	switch d.Action {
	case policy.Boot:
		return h.boot(ctx, x.machine, client, d, l, now)
	case policy.Offer:
		return h.menu(x, client, d, l, now)
	}
	h.bootLine(client, "configuration: nothing to do any more", h.told(x.machine, client, d)...)
	return "", nil
}

// told is what log lines about a decision say.
func (h *handler) told(m provisioning.Machine, client netip.Addr, d policy.Decision) []any {
	return []any{"mac", m.MAC, "client", client, "guid", m.GUID, "arch", m.Arch.String(), "action", d.Action, "why", d.Why()}
}

// boot makes the configuration of one boot, with a secret of its own.
func (h *handler) boot(ctx context.Context, m provisioning.Machine, client netip.Addr, d policy.Decision, l loader, now time.Time) (string, error) {
	layers, err := bootImage(h.deps.Files)
	if err != nil {
		return "", err
	}
	config, err := h.deps.Boots.BootConfig(ctx, m, d, h.server())
	if err != nil {
		return "", fmt.Errorf("make the boot configuration: %w", err)
	}
	layer, err := bootLayer(config)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	nonce, err := h.secrets.put(m.MAC, client, layer, h.deps.Rand, now)
	h.mu.Unlock()
	if err != nil {
		return "", err
	}
	h.bootLine(client, "configuration: boot", append(h.told(m, client, d), "computer", d.Computer, "sequence", d.TaskSequence)...)
	return l.boot(bootPage{h.server(), h.cfg.Ports.HTTP, layers, "/boot/secret/" + nonce + ".cpio", m.MAC, h.deps.Texts()}), nil
}

// asker is an address that asks in the name of a machine, which nothing speaks against.
type asker struct {
	mac    provisioning.MAC
	client netip.Addr
}

// mayAsk bounds the configurations made for a machine: those at one address, so that one that is not the machine's uses
// up none but its own, and all together.
func (h *handler) mayAsk(mac provisioning.MAC, client netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.askerLimit.allow(asker{mac, client}, now) && h.configLimit.allow(mac, now)
}

// impostor says why client is not the machine mac, as far as can be known: as DHCP server we know who has the address,
// else the kernel knows who answers for it. It keeps apart machines that are mixed up; against one that lies about its
// MAC address nothing on an Ethernet segment helps.
func (h *handler) impostor(mac provisioning.MAC, client, relay netip.Addr) string {
	if why := h.elsewhere(client, relay); why != "" {
		return why
	}
	if h.dhcp.pool != nil && !h.dhcp.lentTo(mac, client, &h.deps) {
		return "the address is not lent to " + string(mac)
	}
	if by, ok := h.neighbour(client); ok && by != mac {
		return "the address is that of " + string(by)
	}
	return ""
}

func (h *handler) secret(w http.ResponseWriter, r *http.Request, nonce string) {
	client, err := clientAddr(r)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	h.mu.Lock()
	layer, mac, ok := h.secrets.take(nonce, client, r.Method == http.MethodGet, h.deps.Now())
	h.mu.Unlock()
	if !ok {
		h.warn("boot layer refused: unknown, run out, fetched too often, or another machine's", "client", client)
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodGet {
		h.bootLine(client, "boot layer handed out", "mac", mac, "client", client)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(layer))
}

func clientAddr(r *http.Request) (netip.Addr, error) {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("client address %q: %w", r.RemoteAddr, err)
	}
	return a.Addr().Unmap(), nil
}

// httpServer is the server for one interface; its log goes to the service's.
func (s *Service) httpServer(ctx context.Context, i Interface) *http.Server {
	return &http.Server{
		Handler:           &handler{s, i},
		ReadHeaderTimeout: httpHeaderTimeout,
		ReadTimeout:       httpHeaderTimeout,
		IdleTimeout:       httpIdleTimeout,
		WriteTimeout:      httpWriteTimeout,
		MaxHeaderBytes:    httpHeaderBytes,
		ErrorLog:          httpErrorLog(s.deps.Log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withHTTPConn,
		ConnState:         noteState,
		// Else net/http would answer "OPTIONS *" by itself.
		DisableGeneralOptionsHandler: true,
	}
}
