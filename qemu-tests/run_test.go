package qemutests

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// TestRun is make run: the whole line once, before somebody's eyes, kept running until Ctrl-C (with CI=1 it ends).
func TestRun(t *testing.T) {
	if !*demo {
		t.Skip("the demonstration of make run: it needs -args -demo")
	}
	started := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("[%4.0f s] %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	say("starting central, and adding the Debian 13 image to its content")
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	pc := s.pc("desk-1", lab.UEFISecureBoot, lab.Disk{Path: s.lab.BlankDisk("desk-1", 8<<30)})
	s.apply("site.yaml", siteDHCP+"---\n"+computer("desk-1", pc)+"---\n"+osImage+"---\n"+wholeDisk+"---\n"+advertisement("desk-1"))
	say("starting the appliance from branchpoint.img, as a USB disk under UEFI with Secure Boot")
	s.startAppliance(lab.UEFISecureBoot)
	s.appliance.WaitEvent(4*time.Minute, "appliance-ready", nil)
	say("the appliance is ready; it has claimed its blank disk, and copies the image from central")
	s.appliance.WaitEvent(10*time.Minute, "serving", nil)
	say("the appliance serves; switching on desk-1: a blank disk, Secure Boot on, network first")
	pc.Start()
	done := make(chan struct{})
	go narrate(pc, say, done)
	pc.WaitEvent(20*time.Minute, "sequence-done", nil)
	close(done)
	say("the task sequence is done; desk-1 restarts into its own disk")
	e := pc.WaitEvent(8*time.Minute, "os-ready", nil)
	pc.WaitSerial(3*time.Minute, `desk-1 login:`)
	say("Debian's login prompt: host name %s, Secure Boot %s, root file system %s bytes", e.String("hostname"), e.String("secureboot"), e.String("root_size"))
	s.waitRun("desk-1")
	fmt.Printf("\n$ branchpoint status\n%s\n", s.must("status"))
	fmt.Printf("central:   https://%s  (admin file %s)\nappliance: serial log %s/serial.log\ndesk-1:    serial log %s/serial.log\n",
		s.central, s.admin, s.appliance.Dir(), pc.Dir())
	if os.Getenv("CI") == "1" || os.Getenv("CI") == "true" {
		return
	}
	fmt.Println("\nRunning until Ctrl-C.")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
}

// narrate says what the agent reports, until done.
func narrate(pc *lab.Machine, say func(string, ...any), done <-chan struct{}) {
	seen := 0
	for {
		events := pc.Events()
		for _, e := range events[seen:] {
			switch e.Name {
			case "agent-ready":
				say("desk-1: the boot image is up")
			case "agent-registered":
				say("desk-1: registered at the branch")
			case "step-start":
				say("desk-1: step %s of %s: %s", e.String("step"), e.String("steps"), e.String("title"))
			case "progress":
				done, _ := e.Int("done")
				if total, _ := e.Int("total"); total > 0 {
					say("desk-1: %3d %% of %d MB written", done*100/total, total/1e6)
				}
			}
		}
		seen = len(events)
		select {
		case <-done:
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}
