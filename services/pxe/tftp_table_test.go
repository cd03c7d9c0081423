package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// ask wants a place for a client; stopped counts how often it was told to end.
func ask(table *transferTable, client, request string) (p, evicted *place, reason string, stopped *int) {
	stopped = new(int)
	p = &place{client: netip.MustParseAddrPort(client), request: request, sender: newSender(terms{blksize: 512, window: 1}, 5120)}
	evicted, reason = table.admit(p, start)
	p.stop = func() { *stopped++ }
	return p, evicted, reason, stopped
}

// check compares the table's parts with each other.
func (t *transferTable) check(tb testing.TB) {
	tb.Helper()
	sum, waiting := 0, 0
	for a, places := range t.perAddr {
		sum += len(places)
		if len(places) < 1 || len(places) > tftpPerAddress {
			tb.Fatalf("an address has %d places", len(places))
		}
		for _, p := range places {
			if p.client.Addr() != a || t.byClient[p.client] != p {
				tb.Fatalf("%s has no place, but is counted among those of %s", p.client, a)
			}
		}
	}
	for _, p := range t.byClient {
		if p.waiting != nil {
			waiting++
		}
	}
	if sum != len(t.byClient) || waiting != t.waiting.Len() || waiting > tftpWaiting || sum-waiting > tftpTransfers {
		tb.Fatalf("%d places, %d by address, %d waiting of %d", len(t.byClient), sum, t.waiting.Len(), waiting)
	}
}

// proved has the client of p acknowledge the first block.
func (t *transferTable) proved(p *place) (reason string, transfer bool) {
	_, st, transfer := t.packet(p.client, p.tid, ackPacket(1), start)
	return st.dropped, transfer
}

func TestTransferTable(t *testing.T) {
	table := newTransferTable()
	first, _, reason, stopped := ask(table, "192.0.2.1:1000", "a")
	if reason != "" || *stopped != 0 {
		t.Fatalf("first: %q", reason)
	}
	if _, _, reason, _ := ask(table, "192.0.2.1:1000", "a"); reason != "repeated" {
		t.Errorf("the same again: %q", reason)
	}
	if _, _, reason, _ := ask(table, "192.0.2.1:1000", "b"); reason != "" || *stopped != 1 {
		t.Errorf("another file from the same port: %q, the first is stopped %d times", reason, *stopped)
	}
	table.leave(first) // its goroutine ends, and takes nothing from its successor
	table.check(t)
	if len(table.byClient) != 1 {
		t.Error("the second has lost its place")
	}
	second := table.byClient[first.client]
	if p, _, transfer := table.packet(first.client, &net.UDPConn{}, ackPacket(1), start); p != nil || transfer {
		t.Error("a packet to another port is taken for this transfer's")
	}
	table.proved(second)
	table.proved(second)
	if _, _, reason, _ := ask(table, "192.0.2.1:1000", "b"); reason != "repeated" || table.byClient[first.client] != second {
		t.Errorf("the same, doubled by the network, after it was acknowledged: %q", reason)
	}
	second.sender.begun = start.Add(-unprovenTime)
	if _, _, reason, _ := ask(table, "192.0.2.1:1000", "b"); reason != "" || table.byClient[first.client] == second {
		t.Errorf("the same from a client that has started anew: %q", reason)
	}
	if p, st, _ := table.packet(first.client, &net.UDPConn{}, ackPacket(9), start); p != nil || st.dropped != "" {
		t.Errorf("a packet to a port that was never its: %v", st)
	}
	table.leave(table.byClient[first.client])
	if _, st, _ := table.packet(first.client, nil, ackPacket(9), start); st.dropped != "stale" {
		t.Errorf("a late packet of a transfer that is over: %+v", st)
	}
	for i := range 2 * tftpEnded {
		p, _, _, _ := ask(table, fmt.Sprintf("10.9.%d.%d:69", i/256, i%256), "a")
		table.proved(p)
		table.leave(p)
	}
	if len(table.ended) != tftpEnded || len(table.endings) != tftpEnded {
		t.Errorf("%d transfers that are over are remembered", len(table.ended))
	}

	// One address: the oldest that has acknowledged nothing goes; where all have, nobody comes in.
	table = newTransferTable()
	var all []*place
	for i := range tftpPerAddress {
		p, evicted, reason, _ := ask(table, fmt.Sprintf("192.0.2.2:%d", 2000+i), "a")
		if evicted != nil || reason != "" {
			t.Fatalf("%d: %q", i, reason)
		}
		all = append(all, p)
	}
	table.proved(all[0])
	p, evicted, reason, _ := ask(table, "192.0.2.2:3000", "a")
	if evicted != all[1] || reason != "" {
		t.Errorf("one more: %v has to go: %q", evicted, reason)
	}
	table.check(t)
	for _, p := range append(all, p) {
		table.proved(p) // the one that has gone, too
	}
	if _, evicted, reason, _ := ask(table, "192.0.2.2:3001", "a"); evicted != nil || reason != "too-many-from-address" {
		t.Errorf("one more than may be: %v, %q", evicted, reason)
	}
	if _, _, reason, _ := ask(table, "192.0.2.3:3001", "a"); reason != "" {
		t.Errorf("another address: %q", reason)
	}
	table.check(t)

	// Everybody: those who wait make room, those who load do not.
	table = newTransferTable()
	all = nil
	for i := range tftpTransfers {
		p, evicted, reason, _ := ask(table, fmt.Sprintf("10.0.%d.%d:69", i/256, i%256), "a")
		if evicted != nil || reason != "" {
			t.Fatalf("%d: %q", i, reason)
		}
		if reason, transfer := table.proved(p); reason != "" || !transfer {
			t.Fatalf("%d: %q", i, reason)
		}
		all = append(all, p)
	}
	var waiting []*place
	for i := range 3 * tftpWaiting {
		p, evicted, reason, _ := ask(table, fmt.Sprintf("10.1.%d.%d:69", i/256, i%256), "a")
		if (evicted != nil) != (i >= tftpWaiting) || evicted != nil && evicted != waiting[i-tftpWaiting] || reason != "" {
			t.Fatalf("%d: %q", i, reason)
		}
		waiting = append(waiting, p)
	}
	table.check(t)
	last := waiting[len(waiting)-1]
	if reason, transfer := table.proved(last); reason != "too-many" || transfer {
		t.Errorf("one more than may be: %q, %t", reason, transfer)
	}
	// Another one has waited for so long that its place is gone: what it sends is dropped as before, as an error would end
	// its boot.
	late := waiting[len(waiting)-2]
	late.tid = &net.UDPConn{}
	table.proved(late)
	table.leave(late)
	if reason, transfer := table.proved(late); reason != "stale" || transfer {
		t.Errorf("one that was turned away too long: %q, %t", reason, transfer)
	}
	table.check(t)
	table.leave(all[0])
	if reason, transfer := table.proved(last); reason != "" || !transfer {
		t.Errorf("there is a place, and it asks again: %q, %t", reason, transfer)
	}
	if reason, transfer := table.proved(last); reason != "stale" || transfer {
		t.Errorf("a second packet: %q, %t", reason, transfer)
	}
	table.check(t)
	for _, p := range table.byClient {
		table.leave(p)
		table.leave(p)
	}
	table.check(t)
	if len(table.byClient) != 0 || len(table.perAddr) != 0 {
		t.Errorf("%d places and %d addresses are left", len(table.byClient), len(table.perAddr))
	}
}

func TestTransferTableTick(t *testing.T) {
	table := newTransferTable()
	p, _, _, _ := ask(table, "192.0.2.1:1000", "a")
	for _, c := range []struct {
		at          time.Duration
		again, gone int
	}{{500 * time.Millisecond, 0, 0}, {time.Second, 1, 0}, {1100 * time.Millisecond, 0, 0}, {3 * time.Second, 1, 0}, {4900 * time.Millisecond, 0, 0}, {5 * time.Second, 0, 1}, {6 * time.Second, 0, 0}} {
		again, gone := table.tick(start.Add(c.at))
		if len(again) != c.again || gone != c.gone {
			t.Errorf("after %s: %d again, %d gone", c.at, len(again), gone)
		}
	}
	if table.begun(p, func() {}) || len(table.byClient) != 0 {
		t.Error("it still has its place")
	}
}
