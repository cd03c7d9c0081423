package network

import (
	"fmt"
	"os"
)

// arpSettings have each interface speak for its own addresses alone (arp_ignore, arp_announce of the kernel's
// ip-sysctl.rst). By default Linux answers on any interface for all its addresses: with two of them in one LAN, a client
// then sends to one card what is meant for the other, where services that are bound to their interface do not hear it.
var arpSettings = map[string]string{
	"/proc/sys/net/ipv4/conf/all/arp_ignore":   "1\n",
	"/proc/sys/net/ipv4/conf/all/arp_announce": "2\n",
}

// keepApart makes arpSettings.
func keepApart() error {
	for file, value := range arpSettings {
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return fmt.Errorf("have each network interface answer for its own addresses: %w", err)
		}
	}
	return nil
}
