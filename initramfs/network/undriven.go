package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// PCIDevice is a device on the PCI bus, by what its maker says it is.
type PCIDevice struct {
	Slot           string // 0000:00:1f.6
	Vendor, Device string // four hexadecimal digits each
	// SubsystemVendor and SubsystemDevice are the card's, as opposed to the chip's; empty where there are none.
	SubsystemVendor, SubsystemDevice string
}

// String is the notation of lspci -nn, by which drivers are looked for, with the subsystem after it where there is one.
func (d PCIDevice) String() string {
	s := fmt.Sprintf("%s [%s:%s]", d.Slot, d.Vendor, d.Device)
	if d.SubsystemVendor != "" && d.SubsystemVendor != "0000" {
		s += fmt.Sprintf(" subsystem [%s:%s]", d.SubsystemVendor, d.SubsystemDevice)
	}
	return s
}

// Undriven returns the network cards that no driver has taken, sorted by slot. sysfs is usually /sys.
func Undriven(sysfs string) ([]PCIDevice, error) {
	dir := filepath.Join(sysfs, "bus/pci/devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a machine without PCI
	}
	if err != nil {
		return nil, fmt.Errorf("list PCI devices: %w", err)
	}
	var devices []PCIDevice
	for _, e := range entries {
		base := filepath.Join(dir, e.Name())
		// Class 0x02 is "network controller" (PCI Code and ID Assignment), 0x0280 its Wi-Fi cards, which are not driven on
		// purpose.
		class := readText(base, "class")
		if !strings.HasPrefix(class, "0x02") || strings.HasPrefix(class, "0x0280") || exists(base, "driver") {
			continue
		}
		id := func(name string) string { return strings.TrimPrefix(readText(base, name), "0x") }
		devices = append(devices, PCIDevice{
			Slot: e.Name(), Vendor: id("vendor"), Device: id("device"),
			SubsystemVendor: id("subsystem_vendor"), SubsystemDevice: id("subsystem_device"),
		})
	}
	return devices, nil
}

// Cards are a machine's wired network cards, as far as drivers go.
type Cards struct {
	// Driven is how many have a driver, on whatever bus.
	Driven int
	// Undriven are those on the PCI bus that have none, by slot.
	Undriven []PCIDevice
}

// ReadCards looks at the cards. sysfs is usually /sys.
func ReadCards(sysfs string) (Cards, error) {
	links, err := readLinks(sysfs)
	if err != nil {
		return Cards{}, err
	}
	undriven, err := Undriven(sysfs)
	return Cards{Driven: len(links), Undriven: undriven}, err
}

// maxIDs bounds how many cards are listed: an adapter with virtual functions has hundreds, all with the same ids.
const maxIDs = 32

// IDs are the cards without a driver, as text, 32 at most.
func (c Cards) IDs() []string {
	ids := []string{} // not nil: it becomes a JSON list
	for _, d := range c.Undriven[:min(len(c.Undriven), maxIDs)] {
		ids = append(ids, d.String())
	}
	return ids
}

// How cards are watched: drivers take seconds to find theirs, and a card is called undriven only when that has settled.
const (
	cardsPoll   = time.Second
	cardsSettle = 3 // polls without a change
)

// WatchCards calls tell whenever the cards have become others than it was told and have stayed so for three seconds, until
// ctx ends. It starts from a machine in which every card has a driver, so tell is not called where that is so and stays so.
func WatchCards(ctx context.Context, look func() (Cards, error), wait func(context.Context, time.Duration) error, tell func(Cards)) {
	var told, last Cards
	for same := 0; ; {
		now, err := look()
		if err == nil { // sysfs changes while it is read
			if same++; now.Driven != last.Driven || !slices.Equal(now.Undriven, last.Undriven) {
				same = 0
			}
			last = now
			changed := !slices.Equal(now.Undriven, told.Undriven) || len(now.Undriven) > 0 && (now.Driven == 0) != (told.Driven == 0)
			if changed && same >= cardsSettle {
				told = now
				tell(now)
			}
		}
		if wait(ctx, cardsPoll) != nil {
			return
		}
	}
}
