package qemutests

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// bitrot damages content on the appliance's data disk behind its back, with central there and with central away: no client
// gets a wrong byte, and what is damaged comes anew from central as soon as that can be reached.
func bitrot(t *testing.T) {
	r := random(t)
	image := newSmallImage(t, *seed, 96<<20)
	s := newSite(t, image.path)
	pcs, disks := map[string]*lab.Machine{}, map[string]string{}
	documents := []string{siteDHCP, osImage, imageOnly, advertisement("desk-mended, desk-waits")}
	for _, name := range []string{"desk-mended", "desk-waits"} {
		disks[name] = s.lab.BlankDisk(name, 112<<20)
		pcs[name] = s.pc(name, lab.BIOS, lab.Disk{Path: disks[name]})
		documents = append(documents, computer(name, pcs[name]))
	}
	s.apply("site.yaml", strings.Join(documents, "---\n"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	s.shutDown()

	s.damage(r, 12)
	off := lastEvent(s.appliance)
	s.appliance.Start()
	s.appliance.WaitEvent(5*time.Minute, "serving", lab.After(off))
	mark := s.appliance.SerialMark()
	pc := pcs["desk-mended"]
	pc.Start()
	pc.WaitEvent(10*time.Minute, "sequence-done", nil)
	s.waitRun("desk-mended")
	s.appliance.WaitSerialAfter(mark, time.Minute, `12 pieces of content were found damaged on the data disk and are replaced from central[^→]*→ .*data disk`)
	pc.PowerCut()
	image.requireWritten(t, disks["desk-mended"])
	s.shutDown()
	chunks(t, filepath.Join(s.lab.FromExt4(s.dataDisk(), "/content/chunks"), "chunks")) // every one is right again

	s.damage(r, 12)
	s.loseCentral()
	off = lastEvent(s.appliance)
	s.appliance.Start()
	s.appliance.WaitEvent(5*time.Minute, "serving", lab.After(off))
	pc = pcs["desk-waits"]
	mark = s.appliance.SerialMark()
	pc.Start()
	pc.WaitEvent(5*time.Minute, "step-start", nil)
	// It says so at once; that it cannot be replaced only once central has been tried for long.
	s.appliance.WaitSerialAfter(mark, 5*time.Minute, `\d+ pieces? of content were found damaged on the data disk`)
	s.appliance.WaitSerialAfter(mark, 5*time.Minute, `the data disk has lost|copying debian-13`)
	pc.QMP("stop", nil, nil)
	image.requireNothingWrong(t, disks["desk-waits"])
	pc.QMP("cont", nil, nil)
	if last := lastEvent(pc); last.Name != "progress" {
		t.Errorf("the client does not wait for what is damaged: %s", last.Raw)
	}
	s.findCentral()
	pc.WaitEvent(10*time.Minute, "sequence-done", nil)
	s.waitRuns("desk-mended", "desk-waits")
	pc.PowerCut()
	image.requireWritten(t, disks["desk-waits"])
	s.shutDown()
	chunks(t, filepath.Join(s.lab.FromExt4(s.dataDisk(), "/content/chunks"), "chunks"))
}

// damage flips a bit in each of n chunks on the appliance's data disk. The appliance must be off.
func (s *site) damage(r *rand.Rand, n int) {
	s.t.Helper()
	lab.ReplayJournal(s.t, s.dataDisk())
	dir := filepath.Join(s.lab.FromExt4(s.dataDisk(), "/content/chunks"), "chunks")
	var files []string
	for id := range chunks(s.t, dir) {
		files = append(files, "/content/chunks/"+id[:4]+"/"+id+".cacnk")
	}
	slices.Sort(files) // a map's order is no seed's
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	for _, f := range files[:n] {
		s.t.Logf("a bit is flipped in %s, byte %d of the disk", f, lab.FlipBit(s.t, s.dataDisk(), f))
	}
}
