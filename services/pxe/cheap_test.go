package pxe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestBootable: that every file is there holds for a second; that one is missing is noticed, and noticed to be mended, at
// once.
func TestBootable(t *testing.T) {
	s, _, _, _ := newTestService(t)
	files := bootFiles()
	s.deps.Files = files
	uefi := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)))
	bios := parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(0)))
	want := func(r *request, after time.Duration, ok bool) {
		t.Helper()
		if err := s.bootableNow(r, start.Add(after)); (err == nil) != ok {
			t.Errorf("after %s: %v", after, err)
		}
	}
	grub := files[FileGRUB]
	delete(files, FileGRUB)
	want(uefi, 0, false)
	want(bios, 0, true)
	want(uefi, 0, false)
	files[FileGRUB] = grub
	want(uefi, 0, true)
	delete(files, FileGRUB)
	want(uefi, bootableTime-1, true)
	want(uefi, bootableTime, false)
	want(bios, -time.Hour, true) // the clock was set
	delete(files, FileUndionly)
	want(bios, -2*time.Hour, false)
}

// TestBootLines: machines that boot do not fill the log, and are decided about all the same.
func TestBootLines(t *testing.T) {
	s, p, now, log := newTestService(t)
	ask := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			mac := provisioning.MAC(fmt.Sprintf("52:54:02:00:%02x:%02x", n>>8, n&255))
			p.set(mac, true)
			r := parsed(t, client(t, mac, dhcpv4.MessageTypeDiscover, ovmf(7)))
			if _, ok := s.bootFor(t.Context(), s.deps.Log, s.cfg.Interfaces[0], r, false); !ok {
				t.Fatalf("machine %d gets no offer", n)
			}
		}
	}
	ask(0, bootLineBurst+500)
	if n := strings.Count(log.String(), "boot ROM asks"); n != bootLineBurst {
		t.Errorf("%d lines, want %d", n, bootLineBurst)
	}
	*now = now.Add(bootLineInterval)
	ask(2*bootLineBurst, 2*bootLineBurst+5)
	if n := strings.Count(log.String(), "boot ROM asks"); n != bootLineBurst+1 {
		t.Errorf("%d lines a moment later, want %d", n, bootLineBurst+1)
	}
}
