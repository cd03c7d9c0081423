package pxe

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"branchpoint/provisioning"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	// arpWait is how long an answer to an ARP probe is waited for, after each of arpProbes probes. RFC 5227 has a client
	// wait longer; what is missed here, the client finds out and declines.
	arpWait   = 200 * time.Millisecond
	arpProbes = 2
	// arpLength is the length of an ARP packet for IPv4 on Ethernet (RFC 826).
	arpLength = 28
)

// arpProbe asks who has a without claiming an address for the asker (RFC 5227 section 2.1.1).
func arpProbe(own [6]byte, a netip.Addr) []byte {
	b := make([]byte, arpLength)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1}) // Ethernet, IPv4, lengths, request
	copy(b[8:], own[:])
	ip := a.As4()
	copy(b[24:], ip[:])
	return b
}

// arpSender is who a packet, request or reply, says has which address.
func arpSender(b []byte) (provisioning.MAC, netip.Addr, bool) {
	if len(b) < arpLength || binary.BigEndian.Uint64(b)>>16 != 0x000108000604 {
		return "", netip.Addr{}, false
	}
	mac, err := provisioning.MACFromBytes(b[8:14])
	return mac, netip.AddrFrom4([4]byte(b[14:18])), err == nil
}

// whoUses asks on interface name who uses address a; "" is nobody. It takes arpProbes × arpWait where nobody does.
func whoUses(ctx context.Context, name string, a netip.Addr) (provisioning.MAC, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return "", fmt.Errorf("look whether %s is in use: %w", a, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return "", fmt.Errorf("look whether %s is in use: %s is no Ethernet interface", a, name)
	}
	c, err := packet.Listen(dev, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return "", fmt.Errorf("look whether %s is in use: %w", a, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 128)
	for range arpProbes {
		to := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
		if _, err := c.WriteTo(arpProbe([6]byte(dev.HardwareAddr), a), to); err != nil {
			return "", fmt.Errorf("look whether %s is in use: %w", a, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(arpWait)); err != nil {
			return "", fmt.Errorf("look whether %s is in use: %w", a, err)
		}
		for ctx.Err() == nil {
			n, _, err := c.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return "", fmt.Errorf("look whether %s is in use: %w", a, err)
			}
			if mac, sender, ok := arpSender(buf[:n]); ok && sender == a {
				return mac, nil
			}
		}
	}
	return "", ctx.Err()
}

// readNeighbour finds the MAC address of a in the kernel's ARP table (format of /proc/net/arp); false where it is not
// there.
func readNeighbour(table io.Reader, a netip.Addr) (provisioning.MAC, bool) {
	for sc := bufio.NewScanner(table); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 4 || f[0] != a.String() {
			continue
		}
		if mac, err := provisioning.ParseMAC(f[3]); err == nil { // zeros: being asked for
			return mac, true
		}
	}
	return "", false
}

// kernelNeighbour is readNeighbour of the running kernel.
func kernelNeighbour(a netip.Addr) (provisioning.MAC, bool) {
	f, err := os.Open("/proc/net/arp")
	if err != nil {
		return "", false
	}
	defer f.Close()
	return readNeighbour(f, a)
}
