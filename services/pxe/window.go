package pxe

import (
	"encoding/binary"
	"time"
)

const (
	// firstTimeout is how long the first answer is waited for; later the round-trip times say it (RFC 6298), within
	// minTimeout and maxBackoff.
	firstTimeout, minTimeout, maxBackoff = time.Second, 100 * time.Millisecond, 4 * time.Second
	// unprovenTime ends a transfer of which nothing was ever acknowledged: a forged source address, or a client that has
	// lost interest. It holds three tries; where the client has named a longer timeout (RFC 2349), it is as long as three of
	// those, but no longer than maxUnproven.
	unprovenTime, maxUnproven = 5 * time.Second, 30 * time.Second
	// stallTime ends a transfer in which nothing new was acknowledged for so long, or for three timeouts of the client's.
	stallTime = 15 * time.Second
	// tftpTotal ends any transfer, with tftpPace for each block that was acknowledged: the largest loader has 3 MB, which
	// across a slow line and without options are 6000 round trips.
	tftpTotal, tftpPace = 3 * time.Minute, 200 * time.Millisecond
)

// ending is how a transfer ended; "" is not yet. They are labels of the metrics.
type ending string

const (
	endSent     ending = "sent"
	endAborted  ending = "aborted"
	endProbed   ending = "size-probe"
	endUnproven ending = "never-acknowledged"
	endStalled  ending = "stalled"
	endTooLong  ending = "too-long"
)

// step is what is to be done after an event.
type step struct {
	// oack sends the option acknowledgement; else blocks first to last are sent, none where both are 0. Blocks count from 1
	// and do not wrap around here.
	oack        bool
	first, last int64
	end         ending
	// dropped is why the packet had no effect, for the metrics.
	dropped string
}

// sender is the sending side of one TFTP transfer (RFC 1350, 2347, 7440) as a state machine: it is told what came in and
// when, and says what goes out. It does no I/O and looks at no clock.
type sender struct {
	blocks  int64 // the last is shorter than the block size, and may be empty
	window  int64
	fixed   time.Duration // the client's own timeout, or 0
	options bool          // the option acknowledgement is on its way

	acked, sent int64 // the last block acknowledged, and the last one sent
	// proven is true once the client has answered: its address is its own.
	proven bool
	// resent is true where the window behind acked went out because of a repeated acknowledgement, already.
	resent bool

	begun, progress, due time.Time
	timeout              time.Duration
	// timed is the last block of the window on its way, sentAt when it went out. Its acknowledgement tells the
	// round-trip time where the window is fresh: sent once (Karn's rule).
	timed            int64
	sentAt           time.Time
	fresh            bool
	smooth, variance time.Duration // RFC 6298; smooth is 0 before the first round trip
}

// newSender makes the sender of a file of size octets.
func newSender(t terms, size int64) *sender {
	s := &sender{blocks: size/int64(t.blksize) + 1, window: int64(t.window), fixed: t.timeout, options: t.oack != nil, timeout: firstTimeout}
	if s.fixed > 0 {
		s.timeout = s.fixed
	}
	return s
}

// start begins the transfer.
func (s *sender) start(now time.Time) step {
	s.begun, s.progress = now, now
	return s.send(now, true)
}

// send sends what comes next: the option acknowledgement, or the window behind the last block acknowledged. fresh is
// false where any of it went out before.
func (s *sender) send(now time.Time, fresh bool) step {
	s.sentAt, s.fresh = now, fresh
	s.plan(now)
	if s.options {
		return step{oack: true}
	}
	s.timed = min(s.acked+s.window, s.blocks)
	s.sent = max(s.sent, s.timed)
	return step{first: s.acked + 1, last: s.timed}
}

// plan sets when tick is to be called.
func (s *sender) plan(now time.Time) {
	s.due = now.Add(s.timeout)
	limits := []time.Time{s.begun.Add(s.total()), s.progress.Add(s.patience())}
	if !s.proven {
		limits = append(limits, s.begun.Add(s.unproven()))
	}
	for _, l := range limits {
		if l.Before(s.due) {
			s.due = l
		}
	}
}

// total is how long the transfer may take in all, going by how far it has come.
func (s *sender) total() time.Duration { return tftpTotal + time.Duration(s.acked)*tftpPace }

// unproven is how long nothing need be acknowledged at the beginning.
func (s *sender) unproven() time.Duration {
	return max(unprovenTime, min(3*s.fixed, maxUnproven))
}

func (s *sender) patience() time.Duration { return max(stallTime, 3*s.fixed) }

// tick is called when due has come. It may be called earlier.
func (s *sender) tick(now time.Time) step {
	switch {
	case !s.proven && now.Sub(s.begun) >= s.unproven():
		return step{end: endUnproven}
	case now.Sub(s.begun) >= s.total():
		return step{end: endTooLong}
	case now.Sub(s.progress) >= s.patience():
		return step{end: endStalled}
	case now.Before(s.due):
		return step{}
	}
	if s.fixed == 0 {
		s.timeout = min(2*s.timeout, maxBackoff)
	}
	s.resent = false
	return s.send(now, false)
}

// packet takes a packet of the client's.
func (s *sender) packet(b []byte, now time.Time) step {
	if now.Sub(s.begun) >= s.total() {
		return step{end: endTooLong}
	}
	if len(b) < tftpHeader {
		return step{dropped: "malformed"}
	}
	switch binary.BigEndian.Uint16(b) {
	case opAck:
		return s.ack(binary.BigEndian.Uint16(b[2:]), now)
	case opError:
		// Firmware asks for the size first, and aborts the transfer with error 8 when it knows.
		if binary.BigEndian.Uint16(b[2:]) == errorOptions && s.acked == 0 {
			return step{end: endProbed}
		}
		return step{end: endAborted}
	}
	return step{dropped: "malformed"}
}

// ack takes an acknowledgement. n is the block's number modulo 65536; a window is so much smaller that it is clear
// which block is meant.
func (s *sender) ack(n uint16, now time.Time) step {
	if s.options {
		if n != 0 {
			return step{dropped: "stale"}
		}
		if s.fresh {
			s.measure(now.Sub(s.sentAt))
		}
		s.options = false
		return s.advance(now)
	}
	ahead := int64(n - uint16(s.acked))
	if ahead == 0 {
		return s.again(now)
	}
	if ahead > s.sent-s.acked {
		return step{dropped: "stale"}
	}
	s.acked += ahead
	if s.acked == s.blocks {
		s.proven = true
		return step{end: endSent}
	}
	if s.fresh && s.acked >= s.timed {
		s.measure(now.Sub(s.sentAt))
	}
	return s.advance(now)
}

// advance goes on after something new was acknowledged. Where it was a part of the window only, the rest was lost or
// overtaken, and is sent again (RFC 7440 section 4).
func (s *sender) advance(now time.Time) step {
	s.proven, s.resent, s.progress = true, false, now
	return s.send(now, s.acked == s.sent)
}

// again answers a repeated acknowledgement: the client has missed the first block of the window. With a window of one
// block only the timeout sends again (RFC 1123 section 4.2.3.1: the Sorcerer's Apprentice), and with a larger one this
// happens once for each window, and only when the window can have reached the client: a repetition that comes earlier is
// about the window before. Else, one packet that the network doubles would double all that follow.
func (s *sender) again(now time.Time) step {
	if s.window == 1 || s.acked == s.sent || s.resent || !s.proven || now.Sub(s.sentAt) < s.smooth/2 {
		return step{dropped: "stale"}
	}
	s.resent = true
	return s.send(now, false)
}

// measure takes the time of one round trip (RFC 6298 section 2).
func (s *sender) measure(d time.Duration) {
	d = max(d, time.Microsecond)
	if s.smooth == 0 {
		s.smooth, s.variance = d, d/2
	} else {
		s.variance += ((s.smooth - d).Abs() - s.variance) / 4
		s.smooth += (d - s.smooth) / 8
	}
	if s.fixed == 0 {
		s.timeout = min(max(s.smooth+4*s.variance, minTimeout), maxBackoff)
	}
}
