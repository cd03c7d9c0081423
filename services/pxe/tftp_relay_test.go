package pxe

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// trouble is how often packets are lost, doubled and overtaken, from 0 to 1.
type trouble struct{ lost, doubled, overtaken float64 }

// udpRelay stands between TFTP clients and a server and makes trouble in both directions. Each client of the relay has
// its own pair of sockets, so that client and server see a port of its own for each transfer.
type udpRelay struct {
	server netip.AddrPort
	front  *net.UDPConn
	trouble

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	pairs map[netip.AddrPort]*relayPair
	ended bool
}

type relayPair struct {
	client netip.AddrPort
	// toClient is the transfer's port as the client sees it, toServer the client's as the server sees it.
	toClient, toServer *net.UDPConn
	tid                netip.AddrPort // the server's; guarded by the relay's mu
}

// startRelay relays to server and returns its own address.
func startRelay(t testing.TB, server string, tr trouble, seed uint64) string {
	t.Helper()
	r := &udpRelay{server: netip.MustParseAddrPort(server), trouble: tr, rng: rand.New(rand.NewPCG(seed, 7)), pairs: map[netip.AddrPort]*relayPair{}}
	r.front = udpFrom(t, "127.0.0.1:0")
	var running sync.WaitGroup
	running.Go(func() { r.read(r.front, func(b []byte, from netip.AddrPort) { r.request(&running, b, from) }) })
	t.Cleanup(func() {
		r.mu.Lock()
		r.ended = true
		_ = r.front.Close()
		for _, p := range r.pairs {
			_ = p.toClient.Close()
			_ = p.toServer.Close()
		}
		r.mu.Unlock()
		running.Wait()
	})
	return r.front.LocalAddr().String()
}

func (r *udpRelay) read(c *net.UDPConn, f func(b []byte, from netip.AddrPort)) {
	b := make([]byte, 65536)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		f(bytes.Clone(b[:n]), from)
	}
}

// request passes on what a client sends to the TFTP port.
func (r *udpRelay) request(running *sync.WaitGroup, b []byte, from netip.AddrPort) {
	r.mu.Lock()
	p := r.pairs[from]
	if p == nil && !r.ended {
		p = &relayPair{client: from}
		var err1, err2 error
		p.toClient, err1 = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		p.toServer, err2 = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err1 != nil || err2 != nil {
			panic("no sockets")
		}
		r.pairs[from] = p
		running.Go(func() {
			r.read(p.toServer, func(b []byte, from netip.AddrPort) {
				r.mu.Lock()
				p.tid = from
				r.mu.Unlock()
				r.pass(p.toClient, b, p.client)
			})
		})
		running.Go(func() {
			r.read(p.toClient, func(b []byte, _ netip.AddrPort) {
				r.mu.Lock()
				to := p.tid
				r.mu.Unlock()
				r.pass(p.toServer, b, to)
			})
		})
	}
	r.mu.Unlock()
	if p != nil {
		r.pass(p.toServer, b, r.server)
	}
}

// pass sends a packet on, or makes trouble.
func (r *udpRelay) pass(c *net.UDPConn, b []byte, to netip.AddrPort) {
	r.mu.Lock()
	lost, doubled, overtaken := r.rng.Float64() < r.lost, r.rng.Float64() < r.doubled, r.rng.Float64() < r.overtaken
	later := time.Duration(1+r.rng.IntN(3)) * time.Millisecond
	r.mu.Unlock()
	if lost {
		return
	}
	send := func() { _, _ = c.WriteToUDPAddrPort(b, to) }
	if overtaken {
		time.AfterFunc(later, send)
	} else {
		send()
	}
	if doubled {
		send()
	}
}
