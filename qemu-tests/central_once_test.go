package qemutests

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// requiredOnce lets what is required run once; again when a person has cleared the computer; and a run that was interrupted
// in the middle go on, although its advertisement has expired since. The computer is switched on by nobody: the appliance wakes it,
// and again when it is cleared. No machine of the lab can be woken, so the scenario switches it on when its network card would.
func requiredOnce(t *testing.T) {
	s := newBareSite(t)
	s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	once := s.pc("once", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("once", smallDisk)})
	broken := s.pc("broken", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("broken", smallDisk)})
	late := s.pc("late", lab.BIOS, lab.Disk{Path: s.lab.BlankDisk("late", smallDisk)}) // is never switched on
	wakes := countWakes(s.office, once)
	rest := joined(siteProxy, computer("desk-once", once), computer("desk-broken", broken), computer("desk-late", late),
		erase("install", "true"), advertised("rollout", "install", "purpose: required, computers: [desk-once], wakeOnLAN: true"),
		// Long enough for a hand on the plug.
		erase("refresh", "sleep 20"))
	const refresh = "purpose: required, computers: [desk-broken, desk-late]"
	s.apply("site.yaml", joined(rest, advertised("refresh", "refresh", refresh)))
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()

	poll(t, time.Minute, "the appliance wakes once", func() bool { return wakes.Load() > 0 })
	once.Start()
	first := once.WaitEvent(5*time.Minute, "sequence-start", nil)
	restart := once.WaitEvent(5*time.Minute, "agent-restart", nil)
	ended := momentOf(once)
	ended.at = restart.Received
	broken.Start() // beside the other's firmware

	waitPassedBy(t, s.office, s.appliance, once, lab.BIOS, ended)
	once.PowerCut()
	steps(t, once, erased...)
	s.waitRun("desk-once")

	// The plug, after the disk was erased and before the end; and then the advertisement's time is over.
	begun := broken.WaitEvent(5*time.Minute, "sequence-start", nil)
	broken.WaitEvent(5*time.Minute, "step-start", lab.Field("action", "runCommandLine"))
	broken.PowerCut()
	cut := lastEvent(broken)
	s.apply("site.yaml", joined(rest, advertised("refresh", "refresh", refresh+`, expires: "2020-01-01T00:00:00Z"`)))
	before := wakes.Load() // none is sent to a computer on which it has run
	s.must("pxe", "clear", "desk-once")
	s.waitInForce("LON", s.appliance)
	requireExplained(t, s.appliance, late, "bios", "advertisement refresh expired at 2020-01-01", "→ silent desk-late")
	broken.Start()
	poll(t, time.Minute, "the appliance wakes once, which was cleared", func() bool { return wakes.Load() > before })
	once.Start()

	again := once.WaitEvent(5*time.Minute, "sequence-start", lab.After(restart))
	if again.String("run") == first.String("run") || again.String("resumed") != "false" {
		t.Errorf("after it was cleared the computer has no new run: %s, then %s", first.Raw, again.Raw)
	}
	once.WaitEvent(5*time.Minute, "agent-restart", lab.After(again)) // central or not, the branch has noted the end
	once.PowerCut()

	resumed := broken.WaitEvent(5*time.Minute, "sequence-start", lab.After(cut))
	if resumed.String("run") != begun.String("run") || resumed.String("resumed") != "true" {
		t.Errorf("the interrupted run does not go on: %s, then %s", begun.Raw, resumed.Raw)
	}
	broken.WaitEvent(5*time.Minute, "agent-restart", lab.After(resumed))
	broken.PowerCut()

	// Each run once, and to its end.
	poll(t, time.Minute, "central knows of two runs of desk-once and one of desk-broken, which have succeeded", func() bool {
		got := map[string]int{}
		for _, r := range s.runs() {
			if r.State == "succeeded" {
				got[r.Computer]++
			}
		}
		return len(s.runs()) == 3 && got["desk-once"] == 2 && got["desk-broken"] == 1
	})
	for _, pc := range []struct {
		*lab.Machine
		firmware string
	}{{once, "bios"}, {broken, "uefi"}} {
		requireExplained(t, s.appliance, pc.Machine, pc.firmware, "→ silent")
	}
}

// countWakes counts the magic packets for a machine that are sent to everybody on a switch from now on.
func countWakes(sw *lab.Switch, pc *lab.Machine) *atomic.Int64 {
	everybody := bytes.Repeat([]byte{0xff}, 6)
	magic := slices.Concat(everybody, bytes.Repeat(pc.MAC(0), 16))
	count := &atomic.Int64{}
	sw.SetFilter(func(_ *lab.Port, p lab.Packet) bool {
		if p.Protocol == lab.ProtocolUDP && p.DstPort == 9 && bytes.Equal(p.Dst, everybody) && bytes.Equal(p.Payload, magic) {
			count.Add(1)
		}
		return true
	})
	return count
}
