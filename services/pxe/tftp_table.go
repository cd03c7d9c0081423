package pxe

import (
	"container/list"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// tftpTransfers is how many transfers one interface serves at once; each has a goroutine, a socket and a buffer.
	tftpTransfers = 256
	// tftpWaiting is how many requests have been answered and wait for the client's first packet; each has about 1 kB.
	tftpWaiting = 16384
	// tftpEnded is how many transfers are remembered that are over.
	tftpEnded = 1024
	// tftpPerAddress is how many of both one address may have: firmware has one, besides those it gave up in silence.
	tftpPerAddress = 8
)

// place is one client's place in the table.
type place struct {
	client netip.AddrPort
	// tid is the port that it was answered from.
	tid *net.UDPConn
	// request is the packet as it came: the same one again is no new transfer.
	request string
	name    string
	ascii   bool
	terms   terms
	// first answers the request: an option acknowledgement or the first block.
	first  []byte
	sender *sender
	size   int64

	// waiting is the place's element among those of whom nothing has come yet; nil once something has. turnedAway is true
	// where something came, while there were as many transfers as there may be.
	waiting    *list.Element
	turnedAway bool
	// stop ends the transfer; nil while there is none.
	stop func()
}

// transferTable holds the clients of one interface, and decides who gets a place. Whoever has acknowledged something has
// shown that the address is its own, and keeps its place; of the others, the oldest makes room for who comes next. So
// requests with forged addresses drive out each other, and a client that answers within milliseconds stays.
type transferTable struct {
	mu       sync.Mutex
	byClient map[netip.AddrPort]*place
	perAddr  map[netip.Addr][]*place // the oldest first
	waiting  *list.List              // of *place, the oldest in front
	// ended are the ports of transfers that are over or had no place, the last tftpEnded ones: what comes late from their clients is no
	// error, and one in answer would be taken for the transfer's.
	ended   map[netip.AddrPort]*net.UDPConn
	endings []netip.AddrPort
}

func newTransferTable() *transferTable {
	return &transferTable{
		byClient: map[netip.AddrPort]*place{}, perAddr: map[netip.Addr][]*place{}, waiting: list.New(), ended: map[netip.AddrPort]*net.UDPConn{},
	}
}

// admit gives p a place and starts its sender. A reason is why not; evicted had to go for it.
func (t *transferTable) admit(p *place, now time.Time) (evicted *place, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.byClient[p.client]; ok {
		// Our answer is on its way or comes again by itself, or it was the network that repeated the request. Later, the
		// client has started anew: firmware counts its ports from the same number each time.
		if old.request == p.request && (old.waiting != nil || now.Sub(old.sender.begun) < unprovenTime) {
			return nil, "repeated"
		}
		t.drop(old)
	}
	switch {
	case len(t.perAddr[p.client.Addr()]) >= tftpPerAddress:
		if evicted = t.oldestOf(p.client.Addr()); evicted == nil {
			return nil, "too-many-from-address"
		}
	case t.waiting.Len() >= tftpWaiting:
		evicted = t.waiting.Front().Value.(*place)
	}
	if evicted != nil {
		t.drop(evicted)
	}
	t.byClient[p.client] = p
	t.perAddr[p.client.Addr()] = append(t.perAddr[p.client.Addr()], p)
	p.waiting = t.waiting.PushBack(p)
	p.sender.start(now) // which says to send p.first
	return evicted, ""
}

// oldestOf is the place of an address that has waited longest; nil where none waits.
func (t *transferTable) oldestOf(a netip.Addr) *place {
	for _, p := range t.perAddr[a] {
		if p.waiting != nil {
			return p
		}
	}
	return nil
}

// packet takes what came from a client to port tid before it has a transfer of its own. Where that is now to be started,
// transfer is true and the place is the client's for good. A nil place: there is none for this client at this port, and
// where the step is empty, too, there has been none lately.
func (t *transferTable) packet(client netip.AddrPort, tid *net.UDPConn, b []byte, now time.Time) (p *place, st step, transfer bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p = t.byClient[client]
	switch {
	case (p == nil || p.tid != tid) && t.ended[client] == tid:
		return nil, step{dropped: "stale"}, false
	case p == nil || p.tid != tid:
		return nil, step{}, false
	case p.waiting == nil: // it came while the transfer's own socket was being opened
		return p, step{dropped: "stale"}, false
	case len(t.byClient)-t.waiting.Len() >= tftpTransfers && !isError(b):
		p.turnedAway = true
		return p, step{dropped: "too-many"}, false // it asks again, or is asked, while there may be a place
	}
	st = p.sender.packet(b, now)
	if st.end != "" {
		t.unwait(p)
		t.drop(p)
		return p, st, false
	}
	if p.sender.proven {
		t.unwait(p)
		transfer = true
	}
	return p, st, transfer
}

// begun notes how a transfer is stopped, and whether it still has its place.
func (t *transferTable) begun(p *place, stop func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.stop = stop
	return t.byClient[p.client] == p
}

// tick returns who is to be answered again, and how many have waited in vain.
func (t *transferTable) tick(now time.Time) (again []*place, gone int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next *list.Element
	for el := t.waiting.Front(); el != nil; el = next {
		next = el.Next()
		p := el.Value.(*place)
		if p.sender.due.After(now) {
			continue
		}
		if p.sender.tick(now).end != "" {
			t.drop(p)
			gone++
		} else {
			again = append(again, p)
		}
	}
	return again, gone
}

// leave gives the place up.
func (t *transferTable) leave(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(p)
}

// drop takes p out and stops it. It may have been dropped before, and its client have another place by now.
func (t *transferTable) drop(p *place) {
	if p.stop != nil {
		p.stop()
	}
	answered := p.waiting == nil || p.turnedAway
	t.unwait(p)
	if t.byClient[p.client] != p {
		return
	}
	if answered {
		t.remember(p)
	}
	delete(t.byClient, p.client)
	a := p.client.Addr()
	if i := slices.Index(t.perAddr[a], p); len(t.perAddr[a]) > 1 {
		t.perAddr[a] = slices.Delete(t.perAddr[a], i, i+1)
	} else {
		delete(t.perAddr, a)
	}
}

func (t *transferTable) remember(p *place) {
	if len(t.endings) == tftpEnded {
		delete(t.ended, t.endings[0])
		t.endings = append(t.endings[:0], t.endings[1:]...)
	}
	t.ended[p.client] = p.tid
	t.endings = append(t.endings, p.client)
}

func (t *transferTable) unwait(p *place) {
	if p.waiting != nil {
		t.waiting.Remove(p.waiting)
		p.waiting = nil
	}
}
