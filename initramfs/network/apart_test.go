package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestTwoInterfacesInOneNetwork: who asks for the address of one interface hears of that one only.
func TestTwoInterfacesInOneNetwork(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// Before the interfaces are there, as where the network is first brought up. That this one is missing is no matter.
	_, _ = configure(t.Context(), Config{Interface: "none", Address: netip.MustParsePrefix("10.8.0.9/24"), Timeout: time.Millisecond}, slog.New(slog.DiscardHandler), os.DevNull)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	attrs := func(name string) netlink.LinkAttrs { a := netlink.NewLinkAttrs(); a.Name = name; return a }
	bridge := &netlink.Bridge{LinkAttrs: attrs("lan")}
	must(netlink.LinkAdd(bridge))
	must(netlink.LinkSetUp(bridge))
	want := map[string]bool{} // "address is at MAC"
	for n, name := range []string{"a", "b"} {
		must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs(name), PeerName: name + "-lan"}))
		port, err := netlink.LinkByName(name + "-lan")
		must(err)
		must(netlink.LinkSetMaster(port, bridge))
		must(netlink.LinkSetUp(port))
		link, err := netlink.LinkByName(name)
		must(err)
		ip := net.IPv4(10, 8, 0, byte(n+1))
		must(netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}))
		must(netlink.LinkSetUp(link))
		want[fmt.Sprintf("%s is at %s", ip, link.Attrs().HardwareAddr)] = true
	}
	dev, err := net.InterfaceByName("lan")
	must(err)
	c, err := packet.Listen(dev, packet.Datagram, unix.ETH_P_ARP, nil)
	must(err)
	defer c.Close()
	heard, buf := map[string]bool{}, make([]byte, 128)
	for deadline := time.Now().Add(30 * time.Second); len(heard) < len(want); {
		if time.Now().After(deadline) {
			t.Fatalf("heard %v", heard)
		}
		for n := range byte(2) { // in this order: when b answers for its own address, it has passed over a's
			ask := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, dev.HardwareAddr...) // RFC 826: Ethernet, IPv4, lengths, request
			ask = append(ask, 10, 8, 0, 9, 0, 0, 0, 0, 0, 0, 10, 8, 0, n+1)
			_, err := c.WriteTo(ask, &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
			must(err)
		}
		must(c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)))
		for { // all that is said
			n, _, err := c.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			must(err)
			if n >= 28 && buf[7] == 2 {
				said := fmt.Sprintf("%s is at %s", net.IP(buf[14:18]), net.HardwareAddr(buf[8:14]))
				if heard[said] = true; !want[said] {
					t.Fatalf("%s; want %v", said, want)
				}
			}
		}
	}
}
