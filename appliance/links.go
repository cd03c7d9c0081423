package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/services/pxe"

	"github.com/vishvananda/netlink"
)

// retryNetwork is the pause before an interface that failed is tried again: a cable may be plugged in at any time. It is
// also how often those that work are looked at: a card may go, and come back as a new one without its address.
const retryNetwork = 5 * time.Second

// links are the appliance's network interfaces, as far as they have addresses.
type links struct {
	a         *appliance
	sleep     func(context.Context, time.Duration) error
	configure func(context.Context, network.Config, *slog.Logger) (network.Status, error)
	look      func(name string) (card, error)

	mu      sync.Mutex
	state   map[string]linkState // by what site.yaml calls the interface
	order   []string
	cards   network.Cards // as far as they lack drivers
	changed chan struct{} // closed and replaced when an interface's state changes
}

// linkState is one interface's.
type linkState struct {
	status network.Status
	serves bool
	err    error
	up     bool
}

func newLinks(a *appliance) *links {
	return &links{a: a, sleep: pause, configure: network.Configure, look: lookAtCard, state: map[string]linkState{}, changed: make(chan struct{})}
}

// startNetwork configures every interface that site.yaml names, or every one there is by DHCP, each by itself and again
// until it works. It returns at once.
func (a *appliance) startNetwork(ctx context.Context, configured []provisioning.ApplianceInterface) *links {
	l := newLinks(a)
	go network.WatchCards(ctx, func() (network.Cards, error) { return network.ReadCards("/sys") }, pause, l.setCards)
	if len(configured) == 0 {
		go l.discover(ctx, network.Links, l.start)
	}
	for _, c := range configured {
		l.start(ctx, c)
	}
	return l
}

// start begins to configure one interface.
func (l *links) start(ctx context.Context, c provisioning.ApplianceInterface) {
	name := c.Name + string(c.MAC)
	l.mu.Lock()
	l.order = append(l.order, name)
	l.mu.Unlock()
	l.set(name, linkState{serves: c.Serves()})
	go l.keep(ctx, name, c)
}

// discover starts every interface there is, and those that appear later: a driver may take its time, and cards behind USB
// are plugged in at any time. One that has gone is forgotten, and started anew when it is back.
func (l *links) discover(ctx context.Context, find func() ([]network.Link, error), start func(context.Context, provisioning.ApplianceInterface)) {
	started := map[string]context.CancelFunc{}
	for {
		found, err := find()
		for name, stop := range started {
			if err == nil && !slices.ContainsFunc(found, func(f network.Link) bool { return f.Name == name }) {
				stop()
				delete(started, name)
				l.forget(name)
			}
		}
		for _, f := range found {
			if started[f.Name] == nil {
				one, stop := context.WithCancel(ctx)
				started[f.Name] = stop
				start(one, provisioning.ApplianceInterface{Name: f.Name, DHCP: true})
			}
		}
		switch {
		case len(started) > 0: // they say themselves how they are
		case err != nil:
			l.a.screen.Set(topicNetwork, problem(err))
		default:
			l.show()
		}
		if l.sleep(ctx, retryNetwork) != nil {
			return
		}
	}
}

// forget takes an interface that there is no more off the list.
func (l *links) forget(name string) {
	l.change(func() {
		l.order = slices.DeleteFunc(l.order, func(n string) bool { return n == name })
		delete(l.state, name)
	})
	l.a.Log.Warn("network interface is gone", "interface", name)
}

// keep configures one interface, again until it works, and whenever its card comes back.
func (l *links) keep(ctx context.Context, name string, c provisioning.ApplianceInterface) {
	config, err := networkConfig(c)
	if err != nil {
		l.set(name, linkState{err: err})
		return
	}
	for {
		err := l.hold(ctx, name, config, c.Serves())
		if ctx.Err() != nil {
			return
		}
		l.set(name, linkState{serves: c.Serves(), err: err})
		if l.sleep(ctx, retryNetwork) != nil {
			return
		}
	}
}

// hold configures an interface and watches over it. It returns why there is no network on it, or none any more.
func (l *links) hold(ctx context.Context, name string, config network.Config, serves bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop() // the lease of a card that is gone
	set := func(s network.Status) {
		if ctx.Err() == nil {
			l.set(name, linkState{status: s, serves: serves, up: s.Address.IsValid()})
		}
	}
	config.Changed = set
	status, err := l.configure(ctx, config, l.a.Log)
	if err != nil {
		return err
	}
	set(status)
	for index := 0; ; {
		now, err := l.look(status.Interface)
		if index == 0 {
			index = now.index
		}
		// DHCP takes its addresses away and sets others by itself.
		if err == nil && (now.index == 0 || now.index != index || !config.DHCP && !slices.Contains(now.addresses, status.Address)) {
			l.a.Log.Warn("network interface is gone or has lost its address", "interface", status.Interface, "address", status.Address)
			return fmt.Errorf("network interface %s is gone, or has lost its address %s", status.Interface, status.Address)
		}
		if err := l.sleep(ctx, retryNetwork); err != nil {
			return err
		}
	}
}

// card is what the kernel has under an interface's name. A card that goes and comes back has another index.
type card struct {
	index     int // 0: none
	addresses []netip.Prefix
}

// lookAtCard asks the kernel. An error says nothing of the card.
func lookAtCard(name string) (card, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return card{}, nil
	}
	if err != nil {
		return card{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return card{}, fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	c := card{index: link.Attrs().Index}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.IPNet.String()); err == nil {
			c.addresses = append(c.addresses, p)
		}
	}
	return c, nil
}

// networkConfig turns site.yaml's words, which were validated, into the network package's.
func networkConfig(c provisioning.ApplianceInterface) (network.Config, error) {
	out := network.Config{Interface: c.Name + string(c.MAC), VLAN: c.VLAN, DHCP: c.DHCP, Hostname: "branchpoint"}
	var err error
	if c.Address != "" {
		if out.Address, err = netip.ParsePrefix(c.Address); err != nil {
			return out, fmt.Errorf("network interface %s: %w", out.Interface, err)
		}
	}
	if c.Gateway != "" {
		if out.Gateway, err = netip.ParseAddr(c.Gateway); err != nil {
			return out, fmt.Errorf("network interface %s: %w", out.Interface, err)
		}
	}
	for _, d := range c.DNS {
		addr, err := netip.ParseAddr(d)
		if err != nil {
			return out, fmt.Errorf("network interface %s: %w", out.Interface, err)
		}
		out.DNS = append(out.DNS, addr)
	}
	return out, nil
}

func (l *links) set(name string, s linkState) { l.change(func() { l.state[name] = s }) }

// change changes what the interfaces are, shows it and tells those who wait for it.
func (l *links) change(f func()) {
	l.mu.Lock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	l.show()
}

// setCards takes in which cards have no driver.
func (l *links) setCards(c network.Cards) {
	l.mu.Lock()
	l.cards = c
	l.mu.Unlock()
	l.a.Log.Warn("network cards without a driver", "pci", c.IDs(), "others", c.Driven)
	l.show()
	l.a.emit("network-no-driver", map[string]any{"pci": c.IDs(), "driven": c.Driven})
}

// show puts the network on the screen.
func (l *links) show() {
	l.mu.Lock()
	defer l.mu.Unlock() // held until it is shown, so that an older state never comes after a newer one
	l.a.screen.Set(topicNetwork, networkItem(l.order, l.state, l.cards))
}

// networkItem says how the interfaces stand, in the given order, and which cards have no driver.
func networkItem(order []string, state map[string]linkState, cards network.Cards) screen.Item {
	it := screen.Item{State: screen.OK}
	var lines []string
	for _, n := range order {
		s, ok := state[n]
		switch {
		case !ok:
		case s.err != nil:
			it.State, it.Next = screen.Problem, "Check the cable and the network settings in site.yaml; it is tried again by itself."
			lines = append(lines, fmt.Sprintf("%s: %v", n, s.err))
		case !s.up:
			if it.State == screen.OK {
				it.State = screen.Busy
			}
			lines = append(lines, n+": waiting for an address")
		default:
			line := fmt.Sprintf("%s %s", s.status.Interface, s.status.Address)
			if !s.serves {
				line += ", clients are not served here"
			}
			lines = append(lines, line)
		}
	}
	const useExtra = "start it from the medium's menu (hold Esc while it starts) as “Branchpoint with drivers for servers and rare hardware”"
	ids := strings.Join(cards.IDs(), ", ")
	switch {
	case len(cards.Undriven) > 0 && cards.Driven == 0:
		it.State = screen.Problem
		it.Next = "Add a network card that has a driver, or " + useExtra + ". If that has none either, report these ids."
		lines = append(lines, "no driver for the network cards with the PCI ids "+ids)
	case len(cards.Undriven) > 0:
		lines = append(lines, "not used, as there is no driver for the network cards with the PCI ids "+ids)
		if it.Next == "" {
			it.Next = "To use them too, " + useExtra + "."
		}
	case len(lines) == 0:
		it.State, it.Next = screen.Problem, "Add a wired network card."
		lines = append(lines, "no network card was found")
	}
	it.Text = strings.Join(lines, "\n")
	return it
}

// serving lists the interfaces that have an address and may serve, narrowed to the given names unless there are none. The
// channel is closed when that may have changed.
func (l *links) serving(names []string) ([]pxe.Interface, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []pxe.Interface
	for _, n := range l.order {
		s := l.state[n]
		if s.up && s.serves && (len(names) == 0 || slices.Contains(names, s.status.Interface)) {
			out = append(out, pxe.Interface{Name: s.status.Interface, Prefix: s.status.Address})
		}
	}
	return out, l.changed
}

// onServing calls serve with the interfaces that serve clients, as soon as there is one, and anew whenever one of them
// comes, goes or has another address: what listens on an address that is gone is deaf. Meanwhile there is none, waiting is
// called. It ends with ctx, or as serve ends where nothing has changed.
func (l *links) onServing(ctx context.Context, names []string, waiting func(), serve func(context.Context, []pxe.Interface) error) error {
	for {
		serving, changed := l.serving(names)
		if len(serving) == 0 {
			waiting()
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err, again := l.whileServing(ctx, names, serving, serve)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !again {
			return err
		}
	}
}

// whileServing calls serve and ends its context when the interfaces are no longer the given ones; again is true then.
func (l *links) whileServing(ctx context.Context, names []string, serving []pxe.Interface, serve func(context.Context, []pxe.Interface) error) (err error, again bool) {
	work, stop := context.WithCancel(ctx)
	watched := make(chan bool, 1)
	defer func() {
		stop()
		again = <-watched
	}()
	go func() {
		defer stop()
		for {
			now, changed := l.serving(names)
			if !slices.Equal(now, serving) {
				watched <- true
				return
			}
			select {
			case <-changed:
			case <-work.Done():
				watched <- false
				return
			}
		}
	}()
	return serve(work, serving), false
}
