package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// TestMagicPacket holds the packet against its bytes.
func TestMagicPacket(t *testing.T) {
	got, err := magicPacket("52:54:00:a1:b2:c3")
	if err != nil {
		t.Fatal(err)
	}
	want := "ffffffffffff" +
		"525400a1b2c3525400a1b2c3525400a1b2c3525400a1b2c3" + "525400a1b2c3525400a1b2c3525400a1b2c3525400a1b2c3" +
		"525400a1b2c3525400a1b2c3525400a1b2c3525400a1b2c3" + "525400a1b2c3525400a1b2c3525400a1b2c3525400a1b2c3"
	if hex.EncodeToString(got) != want {
		t.Errorf("the packet is %x", got)
	}
	for _, wrong := range []provisioning.MAC{"", "52:54:00:a1:b2", "02:00:5e:10:00:00:00:01"} {
		if p, err := magicPacket(wrong); err == nil {
			t.Errorf("of %q there is a packet: %x", wrong, p)
		}
	}
}

// TestWakeWays: each interface, and each subnet of the site that is on none of them.
func TestWakeWays(t *testing.T) {
	interfaces := []Interface{{"lan0", netip.MustParsePrefix("192.0.2.10/24")}, {"lan1", netip.MustParsePrefix("10.2.0.1/16")}}
	for _, c := range []struct{ subnet, want string }{
		{"192.0.2.0/24", ""},   // it is lan0's
		{"192.0.2.128/25", ""}, // a part of it
		{"10.2.3.0/24", ""},    // a part of lan1's
		{"198.51.100.0/24", "198.51.100.255"},
		{"198.51.100.77/26", "198.51.100.127"}, // not written as its first address
		{"10.0.0.0/8", "10.255.255.255"},       // more than lan1's
		{"203.0.113.4/30", "203.0.113.7"},
		{"203.0.113.4/31", ""}, // these have no broadcast
		{"203.0.113.4/32", ""},
		{"0.0.0.0/0", ""}, // no subnet of anybody
		{"2001:db8::/64", ""},
	} {
		ways := wakeWays(interfaces, []netip.Prefix{netip.MustParsePrefix(c.subnet)})
		var got []string
		for _, w := range ways {
			got = append(got, fmt.Sprint(w, " ", w.to))
		}
		want := []string{"lan0 255.255.255.255", "lan1 255.255.255.255"}
		if c.want != "" {
			want = append(want, c.want+" "+c.want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with subnet %s the ways are %q, want %q", c.subnet, got, want)
		}
	}
}

// wakers answers a service that asks whom to wake: one list each time, and nobody after the last.
type wakers struct {
	mu    sync.Mutex
	lists [][]policy.Wake
	err   error // of the first answer
}

func (w *wakers) Wake(context.Context) ([]policy.Wake, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.err; err != nil {
		w.err = nil
		return nil, err
	}
	if len(w.lists) == 0 {
		return nil, nil
	}
	out := w.lists[0]
	w.lists = w.lists[1:]
	return out, nil
}

func (w *wakers) Boundaries() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.0/24")}
}

func sleeper(computer string, macs ...provisioning.MAC) policy.Wake {
	return policy.Wake{Woken: provisioning.Woken{Computer: computer, Advertisement: "rollout", Tries: 1}, MACs: macs}
}

// TestWakeLoop lets a service wake on a clock of the test: every card every way, paced, and what fails stops nothing else.
func TestWakeLoop(t *testing.T) {
	w := &wakers{
		err:   errors.New("the disk is full"),
		lists: [][]policy.Wake{{sleeper("desk-1", known, idle), sleeper("desk-2", third)}, nil, {sleeper("desk-3", unknown)}},
	}
	reg, log := prometheus.NewRegistry(), &lockedBuffer{}
	s, err := New(Config{
		Interfaces: []Interface{{"gone0", netip.MustParsePrefix("203.0.113.1/24")}, {"lan0", netip.MustParsePrefix("192.0.2.10/24")}}, Mode: provisioning.PXEModeProxy,
	}, Deps{Policy: newFakePolicy(), Boots: fakeBoots{}, Files: bootFiles(), Waker: w, Metrics: reg, Log: testLog(log)})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	s.pause = func(_ context.Context, d time.Duration) bool {
		lines = append(lines, d.String())
		return len(lines) < 32
	}
	s.sendWake = func(_ context.Context, way wakeWay, packet []byte) error {
		hw := net.HardwareAddr(packet[6:12])
		lines = append(lines, fmt.Sprintf("%s by %s to %s", hw, way, way.to))
		if way.via.Name == "gone0" {
			return errors.New("no such device")
		}
		return nil
	}
	s.wake(t.Context())
	computer := func(mac provisioning.MAC) []string {
		return []string{
			string(mac) + " by gone0 to 255.255.255.255", "20ms", string(mac) + " by lan0 to 255.255.255.255", "20ms",
			string(mac) + " by 198.51.100.255 to 198.51.100.255", "20ms",
		}
	}
	want := slices.Concat([]string{"5s"}, computer(known), computer(idle), computer(third), []string{"5s", "5s"}, computer(unknown), []string{"5s", "5s", "5s", "5s", "5s"})
	if !slices.Equal(lines, want) {
		t.Errorf("it did\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP branchpoint_pxe_wake_packets_total Wake-on-LAN packets, by result: sent, or failed to be.
# TYPE branchpoint_pxe_wake_packets_total counter
branchpoint_pxe_wake_packets_total{result="failed"} 4
branchpoint_pxe_wake_packets_total{result="sent"} 8
# HELP branchpoint_pxe_wakes_total Computers that were woken by Wake-on-LAN, each time that they were.
# TYPE branchpoint_pxe_wakes_total counter
branchpoint_pxe_wakes_total 3
`), "branchpoint_pxe_wake_packets_total", "branchpoint_pxe_wakes_total"); err != nil {
		t.Error(err)
	}
	for _, says := range []string{"the disk is full", "no such device", "computer=desk-1", "computer=desk-2", "computer=desk-3 mac=[52:54:00:00:00:03] advertisement=rollout"} {
		if !strings.Contains(log.String(), says) {
			t.Errorf("the log does not say %q:\n%s", says, log)
		}
	}
}

// TestWakeEndsWithItsService: in the middle of a list, too.
func TestWakeEndsWithItsService(t *testing.T) {
	s, _, _, _ := newTestService(t)
	s.deps.Waker = &wakers{lists: [][]policy.Wake{{sleeper("desk-1", known), sleeper("desk-2", idle)}}}
	sent := 0
	s.sendWake = func(context.Context, wakeWay, []byte) error { sent++; return nil }
	s.pause = func(context.Context, time.Duration) bool { return false }
	s.wake(t.Context())
	if sent != 1 {
		t.Errorf("%d packets were sent after the end", sent-1)
	}
}

// TestWakeInNetwork sends real packets: one that everybody on the segment hears, and one that a router passes on into the other
// subnet of the site.
func TestWakeInNetwork(t *testing.T) {
	inNetwork(t, func(t *testing.T, n sites) {
		// Directed broadcasts are passed on where a router is told to (RFC 2644), into the network and out of it.
		for _, of := range []string{"all", "r0", "r1"} {
			if out, err := exec.Command("ip", "netns", "exec", n.router, "sysctl", "-qw", "net.ipv4.conf."+of+".bc_forwarding=1").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		near, far := capture(t, n.client), capture(t, n.far)
		w := &wakers{lists: [][]policy.Wake{{sleeper("desk-1", third)}}}
		stop, log, err := run(t, provisioning.PXEModeProxy, newFakePolicy(), nil, func(_ *Config, d *Deps) { d.Waker = w })
		if err != nil {
			t.Fatal(err)
		}
		want, err := magicPacket(third)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			frames <-chan []byte
			to     string
			mac    string // the frame's destination
		}{
			"on the segment":    {near, "255.255.255.255", "ff:ff:ff:ff:ff:ff"},
			"behind the router": {far, "198.51.100.255", "ff:ff:ff:ff:ff:ff"},
		} {
			frame := magicFrame(t, c.frames, want, log)
			if got := net.HardwareAddr(frame[:6]).String(); got != c.mac {
				t.Errorf("%s the frame goes to %s", name, got)
			}
			if from, to := net.IP(frame[26:30]).String(), net.IP(frame[30:34]).String(); from != us || to != c.to {
				t.Errorf("%s the packet goes from %s to %s", name, from, to)
			}
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// magicFrame waits for a frame of UDP to port 9 with the given payload.
func magicFrame(t *testing.T, frames <-chan []byte, payload []byte, log *lockedBuffer) []byte {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case f := <-frames:
			if len(f) >= 42 && f[23] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(f[36:38]) == wakePort && bytes.Equal(f[42:min(len(f), 42+len(payload))], payload) {
				return f
			}
		case <-deadline:
			t.Fatalf("no magic packet arrives; log:\n%s", log)
		}
	}
}

// capture hears every IPv4 frame of c0 in a namespace.
func capture(t *testing.T, namespace string) <-chan []byte {
	t.Helper()
	out := make(chan []byte, 1000)
	fd := -1
	in(t, namespace, func() error {
		ifi, err := net.InterfaceByName("c0")
		if err != nil {
			return err
		}
		ethIP := uint16(unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8) // in network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(ethIP)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ethIP, Ifindex: ifi.Index})
	})
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer func() { _ = unix.Close(fd) }()
		buf := make([]byte, 2048)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			select {
			case <-done:
				return
			default:
			}
			if err != nil {
				continue // nothing came in time
			}
			select {
			case out <- bytes.Clone(buf[:n]):
			default:
			}
		}
	}()
	return out
}

// TestWakePause: what takes long is asked for seldom, whatever the clock does meanwhile.
func TestWakePause(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, 10 * time.Millisecond: 5 * time.Second, time.Second: 20 * time.Second, 13 * time.Second: 260 * time.Second,
		time.Hour: 5 * time.Minute, -time.Hour: 5 * time.Second,
	} {
		if got := wakePause(took); got != want {
			t.Errorf("%v after %v, want %v", got, took, want)
		}
	}
}
