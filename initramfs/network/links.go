package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Link is a wired network interface.
type Link struct {
	Name    string
	MAC     net.HardwareAddr
	Driver  string // "" for those without a device, such as VLANs
	Up      bool   // administratively
	Carrier bool   // a cable with somebody at the other end; false as well while the link is down
	Speed   int    // megabits per second, 0 if not known
}

// Links returns the machine's wired interfaces, sorted by name: those with hardware behind them.
func Links() ([]Link, error) { return readLinks("/sys") }

func readLinks(sysfs string) ([]Link, error) {
	dir := filepath.Join(sysfs, "class/net")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var links []Link
	for _, e := range entries {
		base := filepath.Join(dir, e.Name())
		// Type 1 is ARPHRD_ETHER (linux/if_arp.h); Wi-Fi is of that type, too.
		if readText(base, "type") != "1" || exists(base, "wireless") || exists(base, "phy80211") || !exists(base, "device") {
			continue
		}
		l := Link{Name: e.Name(), Carrier: readText(base, "carrier") == "1"}
		if mac, err := net.ParseMAC(readText(base, "address")); err == nil {
			l.MAC = mac
		}
		if target, err := os.Readlink(filepath.Join(base, "device/driver")); err == nil {
			l.Driver = filepath.Base(target)
		}
		// Bit 0 is IFF_UP (linux/if.h).
		if flags, err := strconv.ParseUint(readText(base, "flags"), 0, 32); err == nil {
			l.Up = flags&1 != 0
		}
		if speed, err := strconv.Atoi(readText(base, "speed")); err == nil && speed > 0 {
			l.Speed = speed
		}
		links = append(links, l)
	}
	sort.Slice(links, func(i, j int) bool { return links[i].Name < links[j].Name })
	return links, nil
}

// choose returns the links that the selector means: a name, a MAC address, or empty for all.
func choose(links []Link, selector string) []Link {
	if selector == "" {
		return links
	}
	mac, err := net.ParseMAC(selector)
	var chosen []Link
	for _, l := range links {
		if l.Name == selector || (err == nil && bytes.Equal(l.MAC, mac)) {
			chosen = append(chosen, l)
		}
	}
	return chosen
}

func readText(parts ...string) string {
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		return "" // attributes vanish with their device, and carrier cannot be read while the link is down
	}
	return strings.TrimSpace(string(b))
}

func exists(parts ...string) bool {
	_, err := os.Stat(filepath.Join(parts...))
	return err == nil
}

// waitFor asks ten times a second whether something has come about, until the context ends.
func waitFor(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
