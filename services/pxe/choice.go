package pxe

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

const (
	// menuTime is how long a menu may stand on a client's screen until something is chosen.
	menuTime = 30 * time.Minute
	// maxMenus bounds the table; the oldest go first.
	maxMenus = 1024
	// maxChoices bounds a menu's entries, besides the one that goes on to the next boot device: what fits a screen.
	maxChoices = 18
	// passTime is how long a client that had to restart to reach its next boot device is shown no menu again: longer than
	// the slowest firmware takes to ask again, also by HTTP Boot after PXE.
	passTime = 10 * time.Minute
	// offerPath is where the menus' entries lead: /boot/offer/NONCE/next.cfg, /boot/offer/NONCE/1.ipxe.
	offerPath = "/boot/offer/"
	// entryNext is the entry that goes on to the next boot device; others are numbers, from 1.
	entryNext = "next"
)

// openMenu is one menu, for the one address that fetched it.
type openMenu struct {
	machine provisioning.Machine
	client  netip.Addr
	relay   netip.Addr
	// account is whose budget of boots the menu was taken out of.
	account string
	// choices are the names of the advertisements, in the order of the menu.
	choices []string
	expires time.Time
	// passed is true once the machine went on to its next boot device.
	passed bool
}

// menus are the menus that stand on clients' screens, by nonce, and the machines that went on without choosing. Not safe
// for concurrent use.
type menus struct {
	byNonce *lru[string, *openMenu]
	passed  *lru[provisioning.MAC, time.Time]
}

func newMenus() *menus {
	return &menus{newLRU[string, *openMenu](maxMenus), newLRU[provisioning.MAC, time.Time](maxExchanges)}
}

// put remembers a menu and returns its nonce. random is a source of cryptographic randomness.
func (o *menus) put(x *openMenu, random io.Reader) (string, error) {
	var n [16]byte
	if _, err := io.ReadFull(random, n[:]); err != nil {
		return "", fmt.Errorf("make a nonce: %w", err)
	}
	nonce := hex.EncodeToString(n[:])
	o.byNonce.put(nonce, x)
	return nonce, nil
}

// find returns the menu of a nonce to the client it was made for.
func (o *menus) find(nonce string, client netip.Addr, now time.Time) (*openMenu, bool) {
	x, ok := o.byNonce.get(nonce)
	if !ok || x.client != client || !now.Before(x.expires) {
		return nil, false
	}
	return x, true
}

// leftAlone says until when a machine is shown no menu, as it goes on to its next boot device; false where it is shown one.
func (o *menus) leftAlone(mac provisioning.MAC, now time.Time) (time.Time, bool) {
	at, ok := o.passed.get(mac)
	// Never for longer than passTime: the clock may have been set back.
	return at.Add(passTime), ok && now.Before(at.Add(passTime)) && !now.Before(at.Add(-passTime))
}

// menuEntry is one line of a menu.
type menuEntry struct {
	// Title is plain: letters, digits, spaces and the signs . _ : - ( ).
	Title string
	// Path is where its configuration is.
	Path string
}

// menuTitle keeps what means nothing to GRUB and iPXE.
func menuTitle(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" ._:-()", r) {
			return r
		}
		return '_'
	}, s)
}

// menuOf makes the entries of a menu; extension is ".cfg" or ".ipxe".
func menuOf(nonce, extension string, choices []policy.Choice) (next menuEntry, entries []menuEntry) {
	to := func(entry string) string { return offerPath + nonce + "/" + entry + extension }
	for i, c := range choices {
		title := fmt.Sprintf("%d  %s (%s)", i+1, c.Advertisement, c.TaskSequence)
		entries = append(entries, menuEntry{menuTitle(title), to(strconv.Itoa(i + 1))})
	}
	return menuEntry{"Start from the next boot device", to(entryNext)}, entries
}

// getsAnswer reports whether a decision lets a machine have an answer: a boot, or a menu.
func getsAnswer(d policy.Decision) bool { return d.Action == policy.Boot || d.Action == policy.Offer }

// menu makes the menu of a machine.
func (h *handler) menu(x exchange, client netip.Addr, d policy.Decision, l loader, now time.Time) (string, error) {
	choices := d.Choices[:min(len(d.Choices), maxChoices)]
	o := &openMenu{machine: x.machine, client: client, relay: x.relay, account: x.account, expires: now.Add(menuTime)}
	for _, c := range choices {
		o.choices = append(o.choices, c.Advertisement)
	}
	h.mu.Lock()
	nonce, err := h.menus.put(o, h.deps.Rand)
	h.mu.Unlock()
	if err != nil {
		return "", err
	}
	next, entries := menuOf(nonce, l.extension, choices)
	h.bootLine(client, "configuration: menu", "mac", x.machine.MAC, "client", client, "computer", d.Computer, "choices", o.choices)
	return l.menu(menuPage{h.server(), h.cfg.Ports.HTTP, next, entries, h.deps.Texts()}), nil
}

// errNotChosen is why an entry of a menu leads nowhere.
var errNotChosen = errors.New("there is no such menu, it has stood for too long, or it is another machine's")

// entry answers what an entry of a menu leads to: the next boot device, or the boot that was chosen.
func (h *handler) entry(w http.ResponseWriter, r *http.Request, p string) {
	name, ok := strings.CutPrefix(p, offerPath)
	nonce, file, ok2 := strings.Cut(name, "/")
	entry := strings.TrimSuffix(file, path.Ext(file))
	i := slices.IndexFunc(loadersOfMenus, func(l loader) bool { return l.extension == path.Ext(file) })
	if !ok || !ok2 || i < 0 {
		h.metrics.answer(serviceHTTP, "not-found")
		http.NotFound(w, r)
		return
	}
	l := loadersOfMenus[i]
	client, err := clientAddr(r)
	body := l.nothing
	if err == nil && r.Method == http.MethodGet {
		var text string
		if text, err = h.chosen(r.Context(), nonce, entry, client, l); err == nil {
			body = text
		}
	}
	if err != nil {
		h.warn("a choice from a menu is refused", "client", r.RemoteAddr, "err", err)
	}
	h.text(w, r, body)
}

// chosen is the configuration that an entry of a menu leads to. The decision is made anew: what was chosen must be among
// the choices still, or be what the machine has to go on with.
func (h *handler) chosen(ctx context.Context, nonce, entry string, client netip.Addr, l loader) (string, error) {
	now := h.deps.Now()
	h.mu.Lock()
	o, ok := h.menus.find(nonce, client, now)
	h.mu.Unlock()
	if !ok {
		return "", errNotChosen
	}
	mac := o.machine.MAC
	if entry == entryNext {
		h.pass(o, l, now)
		h.bootLine(client, "menu: on to the next boot device", "mac", mac, "client", client)
		return l.next, nil
	}
	n, err := strconv.Atoi(entry)
	if err != nil || n < 1 || n > len(o.choices) {
		return "", errNotChosen
	}
	if why := h.impostor(mac, client, o.relay); why != "" {
		return "", errors.New(why)
	}
	if !h.mayAsk(mac, client, now) {
		return "", errors.New("it asks for its configuration too often")
	}
	d := h.deps.Policy.Decide(ctx, o.machine)
	if d, ok = choose(d, o.choices[n-1]); !ok {
		return "", fmt.Errorf("advertisement %s is not to be had any more: %s", o.choices[n-1], d.Why())
	}
	return h.boot(ctx, o.machine, client, d, l, now)
}

// choose narrows a decision down to one advertisement, where that is a choice still, or what the machine has to go on with.
func choose(d policy.Decision, advertisement string) (policy.Decision, bool) {
	for _, c := range d.Choices {
		if c.Advertisement == advertisement {
			d.Advertisement, d.TaskSequence = c.Advertisement, c.TaskSequence
			return d, true
		}
	}
	return d, d.Action == policy.Boot && d.Resume != "" && d.Advertisement == advertisement
}

// pass notes that a machine goes on to its next boot device. What it was offered for that counts for nothing, however often
// it passes by; and where it has to start anew for it, it is shown no menu then.
func (h *handler) pass(o *openMenu, l loader, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !o.passed {
		o.passed = true
		h.bootLimit.drop(o.account)
	}
	if l.restarts {
		h.menus.passed.put(o.machine.MAC, now)
	}
}
