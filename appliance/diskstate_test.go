package appliance

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

func TestJudgeDisk(t *testing.T) {
	const gib = 1 << 30
	good := diskSight{Present: true, Free: 5 * gib, Total: 10 * gib}
	with := func(change func(*diskSight)) diskSight { s := good; change(&s); return s }
	full := provisioning.Errorf(provisioning.CodeNoSpace, "", "the disk is full")
	for _, c := range []struct {
		name   string
		before diskState
		sight  diskSight
		want   diskState
		why    string
	}{
		{"good", diskInUse, good, diskInUse, ""},
		{"good again", diskFull, good, diskInUse, ""},
		{"gone", diskInUse, diskSight{}, diskMissing, "gone"},
		{"gone, with errors that say so too", diskInUse, diskSight{Err: unix.EIO}, diskMissing, "gone"},
		{"gone while full", diskFull, diskSight{}, diskMissing, "gone"},
		{"mounted read-only", diskInUse, with(func(s *diskSight) { s.ReadOnly = true }), diskReadOnly, "only be read"},
		{"journal aborted", diskInUse, with(func(s *diskSight) { s.Err = fmt.Errorf("write: %w", unix.EROFS) }), diskReadOnly, "only be read"},
		{"read-only and full", diskFull, with(func(s *diskSight) { s.ReadOnly, s.Free = true, 0 }), diskReadOnly, "only be read"},
		{"bad sector", diskInUse, with(func(s *diskSight) { s.Err = fmt.Errorf("write: %w", unix.EIO) }), diskFailing, "input/output error"},
		{"database damaged", diskInUse, with(func(s *diskSight) { s.Err = errors.New("it is no intact database") }), diskFailing, "no intact database"},
		{"cannot be asked", diskInUse, diskSight{Present: true, Err: unix.EIO}, diskFailing, "input/output error"},
		{"no space for a file", diskInUse, with(func(s *diskSight) { s.Err = fmt.Errorf("write: %w", unix.ENOSPC) }), diskFull, "full"},
		{"no space for the database", diskInUse, with(func(s *diskSight) { s.Err = full }), diskFull, "full"},
		{"just above the floor", diskInUse, with(func(s *diskSight) { s.Free = fullBelow }), diskInUse, ""},
		{"below the floor", diskInUse, with(func(s *diskSight) { s.Free = fullBelow - 1 }), diskFull, "67 MB free"},
		{"above the floor, and not clear of it", diskFull, with(func(s *diskSight) { s.Free = fullUntil - 1 }), diskFull, "needs 101 MB"},
		{"clear of it", diskFull, with(func(s *diskSight) { s.Free = fullUntil }), diskInUse, ""},
		{"that content has no room is no matter here", diskInUse, with(func(s *diskSight) { s.Free = minReserve - 1 }), diskInUse, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			state, why := judgeDisk(c.before, c.sight)
			if state != c.want || !strings.Contains(why, c.why) || (c.why == "") != (why == "") {
				t.Errorf("%s, %q; want %s, %q", state, why, c.want, c.why)
			}
			it := diskItem("/dev/vdb (10 GB, serial X)", state, why, []string{"a note"})
			if problem := it.State == screen.Problem; problem != (state != diskInUse) || problem != (it.Next != "") || !strings.Contains(it.Text, "serial X") || !strings.Contains(it.Text, why) || !strings.Contains(it.Text, "a note") {
				t.Errorf("the screen says %+v", it)
			}
		})
	}
}

func TestRoomForContent(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		bytes, free, total int64
		fits               bool
	}{
		{1, 256 * mib, 2 * gib, false},
		{1, 256*mib + 1, 2 * gib, true},
		{744 * mib, 1000 * mib, 10 * gib, true},
		{745 * mib, 1000 * mib, 10 * gib, false},
		{1, 20 * gib, 1024 * gib, false}, // 2 % of a terabyte
		{1 * gib, 22 * gib, 1024 * gib, true},
		{1, 0, 10 * gib, false},
		{0, 256 * mib, 2 * gib, true},
	} {
		err := roomFor(c.bytes, c.free, c.total)
		if (err == nil) != c.fits || err != nil && (provisioning.CodeOf(err) != provisioning.CodeNoSpace || provisioning.NextOf(err) == "" || !strings.Contains(err.Error(), "needed up to "+sizeText(c.bytes))) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
