package pxe

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// say feeds a sender and writes down what it does.
func said(st step) string {
	s := ""
	if st.oack {
		s = "oack"
	}
	if st.last > 0 {
		s = fmt.Sprintf("%d-%d", st.first, st.last)
	}
	if st.dropped != "" {
		s += "dropped " + st.dropped
	}
	if st.end != "" {
		s += "end " + string(st.end)
	}
	return s
}

func TestSender(t *testing.T) {
	const ms = time.Millisecond
	type event struct {
		after  time.Duration
		packet []byte // nil: the timer
		want   string
	}
	ack := func(after time.Duration, n uint16, want string) event { return event{after, ackPacket(n), want} }
	tick := func(after time.Duration, want string) event { return event{after, nil, want} }
	oack := []byte{0, opOACK}
	for _, c := range []struct {
		name   string
		terms  terms
		size   int64
		start  string
		events []event
	}{
		{"no options", terms{blksize: 512, window: 1}, 1024, "1-1", []event{
			ack(ms, 1, "2-2"), ack(ms, 2, "3-3"), ack(ms, 3, "end sent"),
		}},
		{"empty file", terms{blksize: 512, window: 1}, 0, "1-1", []event{ack(ms, 1, "end sent")}},
		{"options, window", terms{blksize: 512, window: 4, oack: oack}, 5 * 512, "oack", []event{
			ack(ms, 0, "1-4"), ack(ms, 4, "5-6"), ack(ms, 6, "end sent"),
		}},
		{"size probe", terms{blksize: 512, window: 4, oack: oack}, 512, "oack", []event{
			{ms, errorPacket(errorOptions, "User aborted the transfer"), "end size-probe"},
		}},
		{"client gives up", terms{blksize: 512, window: 1}, 5120, "1-1", []event{
			ack(ms, 1, "2-2"), {ms, errorPacket(errorOther, "disk full"), "end aborted"},
		}},
		{"error 8 in the middle is no size probe", terms{blksize: 512, window: 1}, 5120, "1-1", []event{
			ack(ms, 1, "2-2"), {ms, errorPacket(errorOptions, ""), "end aborted"},
		}},
		{"forged address", terms{blksize: 512, window: 1}, 512, "1-1", []event{
			tick(500*ms, ""), tick(500*ms, "1-1"), tick(2*time.Second, "1-1"), tick(2*time.Second, "end never-acknowledged"),
		}},
		{"forged address, options", terms{blksize: 512, window: 9, oack: oack}, 5120, "oack", []event{
			tick(time.Second, "oack"), tick(2*time.Second, "oack"), ack(ms, 1, "dropped stale"), tick(2*time.Second, "end never-acknowledged"),
		}},
		{"block lost", terms{blksize: 512, window: 1}, 2000, "1-1", []event{
			ack(10*ms, 1, "2-2"), tick(100*ms, "2-2"), tick(200*ms, "2-2"), ack(ms, 2, "3-3"),
		}},
		{"the Sorcerer's Apprentice", terms{blksize: 512, window: 1}, 5120, "1-1", []event{
			ack(10*ms, 1, "2-2"), ack(10*ms, 1, "dropped stale"), ack(10*ms, 1, "dropped stale"), ack(10*ms, 2, "3-3"),
		}},
		{"middle of the window lost", terms{blksize: 512, window: 4, oack: oack}, 51200, "oack", []event{
			ack(10*ms, 0, "1-4"), ack(10*ms, 2, "3-6"), ack(10*ms, 6, "7-10"),
		}},
		{"beginning of the window lost", terms{blksize: 512, window: 4, oack: oack}, 51200, "oack", []event{
			ack(10*ms, 0, "1-4"), ack(10*ms, 4, "5-8"), ack(10*ms, 4, "5-8"), ack(10*ms, 4, "dropped stale"), tick(100*ms, "5-8"), ack(10*ms, 4, "5-8"), ack(10*ms, 8, "9-12"),
		}},
		{"an acknowledgement doubled by the network", terms{blksize: 512, window: 4, oack: oack}, 51200, "oack", []event{
			ack(10*ms, 0, "1-4"), ack(10*ms, 4, "5-8"), ack(ms, 4, "dropped stale"), ack(9*ms, 8, "9-12"),
		}},
		{"an older acknowledgement comes late", terms{blksize: 512, window: 4, oack: oack}, 51200, "oack", []event{
			ack(10*ms, 0, "1-4"), ack(10*ms, 4, "5-8"), ack(10*ms, 8, "9-12"), ack(10*ms, 4, "dropped stale"), ack(10*ms, 13, "dropped stale"),
		}},
		{"nothing more comes", terms{blksize: 512, window: 1}, 5120, "1-1", []event{
			ack(10*ms, 1, "2-2"), tick(100*ms, "2-2"), tick(200*ms, "2-2"), tick(400*ms, "2-2"), tick(800*ms, "2-2"), tick(1600*ms, "2-2"),
			tick(3200*ms, "2-2"), tick(4*time.Second, "2-2"), tick(4*time.Second, "2-2"), tick(699*ms, ""), tick(ms, "end stalled"),
		}},
		{"the client's own timeout", terms{blksize: 512, window: 1, timeout: 3 * time.Second, oack: oack}, 5120, "oack", []event{
			ack(10*ms, 0, "1-1"), tick(2999*ms, ""), tick(ms, "1-1"), tick(3*time.Second, "1-1"), ack(ms, 1, "2-2"), tick(3*time.Second, "2-2"),
		}},
		{"what is no acknowledgement", terms{blksize: 512, window: 1}, 5120, "1-1", []event{
			{ms, []byte{}, "dropped malformed"},
			{ms, []byte{0, 4, 0}, "dropped malformed"},
			{ms, []byte{9, 9, 0, 1}, "dropped malformed"},
			{ms, []byte{0, opData, 0, 1, 'x'}, "dropped malformed"},
			{ms, readRequestPacket("x", "octet"), "dropped malformed"},
			ack(ms, 2, "dropped stale"), ack(ms, 0, "dropped stale"), ack(ms, 1, "2-2"),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := start
			s := newSender(c.terms, c.size)
			if got := said(s.start(now)); got != c.start {
				t.Fatalf("start: %q, want %q", got, c.start)
			}
			for i, e := range c.events {
				now = now.Add(e.after)
				var st step
				if e.packet == nil {
					st = s.tick(now)
				} else {
					st = s.packet(e.packet, now)
				}
				if got := said(st); got != e.want {
					t.Fatalf("event %d: %q, want %q", i, got, e.want)
				}
			}
		})
	}
}

// TestSenderTotal: a client that acknowledges one block every ten seconds does not hold its place for ever.
func TestSenderTotal(t *testing.T) {
	now := start
	s := newSender(terms{blksize: 8, window: 1}, 1<<20)
	st := s.start(now)
	for n := uint16(1); st.end == ""; n++ {
		now = now.Add(10 * time.Second)
		st = s.packet(ackPacket(n), now)
	}
	if st.end != endTooLong || now.Sub(start) > tftpTotal+20*time.Second {
		t.Errorf("%s after %s", st.end, now.Sub(start))
	}
}

// TestSenderAcrossWAN: one block for each round trip, as firmware without options has it, gets there however many there are.
func TestSenderAcrossWAN(t *testing.T) {
	const blocks, roundTrip = 6000, 150 * time.Millisecond
	now := start
	s := newSender(terms{blksize: 512, window: 1}, (blocks-1)*512)
	st := s.start(now)
	for n := uint16(1); st.end == ""; n++ {
		now = now.Add(roundTrip)
		st = s.packet(ackPacket(n), now)
	}
	if st.end != endSent || now.Sub(start) != blocks*roundTrip {
		t.Errorf("%s after %s", st.end, now.Sub(start))
	}
}

// network is a receiver (RFC 7440) behind a link that loses, doubles and overtakes, in time of its own.
type network struct {
	rng                     *rand.Rand
	loss, double, overtaken float64
	now                     time.Time
	queue                   inFlight
	order                   int
}

type flying struct {
	at       time.Time
	order    int
	toClient bool
	block    int64
	oack     bool
}

type inFlight []flying

func (q inFlight) Len() int { return len(q) }
func (q inFlight) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q inFlight) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *inFlight) Push(x any)   { *q = append(*q, x.(flying)) }
func (q *inFlight) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

func (n *network) send(f flying) {
	if n.rng.Float64() < n.loss {
		return
	}
	copies := 1
	if n.rng.Float64() < n.double {
		copies = 2
	}
	for range copies {
		f.at = n.now.Add(500 * time.Microsecond)
		if n.rng.Float64() < n.overtaken {
			f.at = f.at.Add(time.Millisecond)
		}
		n.order++
		f.order = n.order
		heap.Push(&n.queue, f)
	}
}

// transferOver runs a whole transfer and returns how many blocks were sent; the receiver checks their order.
func (n *network) transferOver(t *testing.T, te terms, size int64) (sent int, took time.Duration, end ending) {
	t.Helper()
	n.now = start
	s := newSender(te, size)
	var expected, inWindow int64 = 1, 0
	var complained int64
	last := flying{}
	clientDue := n.now.Add(time.Hour)
	reply := func(block int64) {
		last = flying{block: block}
		clientDue = n.now.Add(time.Second)
		n.send(last)
	}
	do := func(st step) {
		if st.oack {
			n.send(flying{toClient: true, oack: true})
		}
		for b := st.first; b > 0 && b <= st.last; b++ {
			sent++
			n.send(flying{toClient: true, block: b})
		}
		end = st.end
	}
	do(s.start(n.now))
	for end == "" {
		next := s.due
		if clientDue.Before(next) {
			next = clientDue
		}
		if len(n.queue) == 0 || n.queue[0].at.After(next) {
			n.now = next
			if next.Equal(s.due) {
				do(s.tick(n.now))
			} else {
				reply(last.block)
			}
			continue
		}
		f := heap.Pop(&n.queue).(flying)
		n.now = f.at
		switch {
		case !f.toClient:
			do(s.packet(ackPacket(uint16(f.block)), n.now))
		case f.oack:
			if expected == 1 {
				reply(0)
			}
		case f.block == expected:
			expected++
			inWindow++
			if inWindow == te.window64() || f.block == s.blocks {
				inWindow = 0
				reply(f.block)
			}
		case f.block > expected && complained < expected:
			complained, inWindow = expected, 0
			reply(expected - 1)
		case f.block == expected-1 && inWindow == 0: // its acknowledgement was lost
			reply(f.block)
		}
	}
	if expected != s.blocks+1 {
		t.Errorf("%s, but the client has %d of %d blocks", end, expected-1, s.blocks)
	}
	return sent, n.now.Sub(start), end
}

func (t terms) window64() int64 { return int64(t.window) }

func TestSenderOverBadNetwork(t *testing.T) {
	for _, window := range []int{1, 2, 4, 16, 64} {
		for _, blocks := range []int64{1, 2, 63, 64, 65, 1000, 70000} {
			for seed := range uint64(5) {
				n := &network{rng: rand.New(rand.NewPCG(seed, uint64(window))), loss: 0.05, double: 0.05, overtaken: 0.1}
				te := terms{blksize: 512, window: window}
				if window > 1 {
					te.oack = []byte{0, opOACK}
				}
				if blocks > 1000 { // each loss of a window's last block costs a timeout: more takes longer than a transfer may
					n.loss, n.overtaken = 0.001*float64(window)/4, 0.01
				}
				sent, took, end := n.transferOver(t, te, (blocks-1)*512+100)
				if end != endSent {
					t.Errorf("window %d, %d blocks, seed %d: %s after %s", window, blocks, seed, end, took)
				}
				// What is behind a loss is sent once more, and what was overtaken counts as lost.
				if limit := 20 + int(blocks)*(3+window/4); sent > limit {
					t.Errorf("window %d, %d blocks, seed %d: %d sent", window, blocks, seed, sent)
				}
				if testing.Verbose() && seed == 0 {
					t.Logf("window %d: %d blocks, %d sent in %s", window, blocks, sent, took)
				}
			}
		}
	}
}

// FuzzSender: whatever comes in, the sender stays within its window and its times.
func FuzzSender(f *testing.F) {
	// Window, blocks, options; then events of four octets: kind, milliseconds, block number.
	f.Add([]byte{4, 200, 1, 1, 2, 0, 0, 1, 2, 0, 4, 1, 2, 0, 8, 1, 2, 0, 6})
	f.Add([]byte{1, 3, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 2, 1, 1, 0, 3})
	f.Add([]byte{64, 255, 1, 0, 200, 0, 0, 0, 255, 0, 0, 1, 1, 0, 0, 2, 1, 0, 8})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 3 {
			return
		}
		te := terms{blksize: 512, window: int(in[0])%maxWindow + 1}
		if in[2]&1 == 1 {
			te.oack = []byte{0, opOACK}
		}
		if in[2]&2 == 2 {
			te.timeout = time.Second
		}
		s := newSender(te, int64(in[1])*512*300) // up to 76 500 blocks
		now := start
		st := s.start(now)
		for in = in[3:]; ; in = in[4:] {
			if st.first != 0 && (st.first != s.acked+1 || st.last < st.first || st.last > min(s.acked+s.window, s.blocks)) {
				t.Fatalf("blocks %d to %d are sent after %d of %d", st.first, st.last, s.acked, s.blocks)
			}
			if s.acked > s.sent || s.sent > s.acked+s.window || st.oack && s.acked > 0 {
				t.Fatalf("%d sent and %d acknowledged", s.sent, s.acked)
			}
			if (st.end == endSent) != (s.acked == s.blocks) {
				t.Fatalf("%q with %d of %d", st.end, s.acked, s.blocks)
			}
			if st.end != "" {
				return
			}
			// After what had no effect, due may have passed: then tick comes next.
			if active := st.oack || st.last > 0; active && !s.due.After(now) || s.due.Sub(now) > maxTimeout*time.Second ||
				active && (now.Sub(start) >= s.total() || !s.proven && now.Sub(start) >= s.unproven()) {
				t.Fatalf("waits until %s at %s", s.due.Sub(start), now.Sub(start))
			}
			if len(in) < 4 {
				return
			}
			now = now.Add(time.Duration(in[1]) * time.Millisecond)
			acked := s.acked
			switch n := binary.BigEndian.Uint16(in[2:]); in[0] % 4 {
			case 0:
				now = s.due
				st = s.tick(now)
			case 1:
				st = s.packet(ackPacket(uint16(s.acked)+n), now)
			case 2:
				st = s.packet(errorPacket(n, "x"), now)
			case 3:
				st = s.packet(in[:int(in[1])%5], now)
			}
			if s.acked < acked {
				t.Fatalf("acknowledged goes back from %d to %d", acked, s.acked)
			}
		}
	})
}

// TestUnproven: a client that names a timeout of its own is asked again after it, whatever it is, before it is given up.
func TestUnproven(t *testing.T) {
	for fixed, want := range map[time.Duration]struct {
		tries int
		end   time.Duration
	}{
		0:                 {3, unprovenTime}, // after 0, 1 and 3 seconds
		time.Second:       {5, unprovenTime},
		6 * time.Second:   {3, 18 * time.Second},
		20 * time.Second:  {2, maxUnproven},
		255 * time.Second: {1, maxUnproven},
	} {
		s := newSender(terms{blksize: 512, window: 1, timeout: fixed, oack: []byte("x")}, 1)
		s.start(start)
		tries := 1
		for {
			now := s.due
			st := s.tick(now)
			if st.end != "" {
				if st.end != endUnproven || now.Sub(start) != want.end || tries != want.tries {
					t.Errorf("timeout %v: %s after %v and %d tries, want %v and %d", fixed, st.end, now.Sub(start), tries, want.end, want.tries)
				}
				break
			}
			if tries++; !st.oack || tries > 100 {
				t.Fatalf("timeout %v: %+v", fixed, st)
			}
		}
	}
}
