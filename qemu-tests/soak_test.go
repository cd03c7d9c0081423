package qemutests

import (
	"crypto/sha512"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"

	"github.com/klauspost/compress/zstd"
)

var (
	cuts       = flag.Int("cuts", 0, "how many power cuts TestSoak makes on small guests")
	debianCuts = flag.Int("debian-cuts", 0, "how many power cuts TestSoakDebian makes while a real operating system is written")
)

// soakSize is the size of the image that is copied and written in each round: several times what appliance and client
// have in memory only, at one time, of what they copy and write.
const soakSize = 96 << 20

// manyCuts are so many that some must have come when part of the image was in its place.
const manyCuts = 20

// TestSoak cuts machines off at random moments, again and again: half of the times an appliance that copies a package, half
// a client that writes it to its disk. Each next boot must go on, each round must end, and then every byte must be right.
// Both start the real programs in the real layers, with the kernel started directly rather than by firmware.
func TestSoak(t *testing.T) {
	if *cuts == 0 {
		t.Skip("a campaign of power cuts: it needs -args -cuts=200")
	}
	cutOff(t, *cuts)
}

// soakSample is a few cuts of the campaign, at moments that -seed chooses.
func soakSample(t *testing.T) { cutOff(t, 3) }

func cutOff(t *testing.T, cuts int) {
	k := &soak{site: newBareSite(t), r: random(t)}
	k.lab.DNSMasq("foreign-dhcp", k.office, foreignDHCP, lab.DNSMasqOptions{})
	copying, writing := k.plan(cuts/2), k.plan(cuts-cuts/2)
	var names []string
	documents := []string{siteProxy, osImage, imageOnly}
	for i := range writing {
		pc := k.client(fmt.Sprintf("pc-%d", i))
		k.clients = append(k.clients, pc)
		names = append(names, pc.name)
		documents = append(documents, computer(pc.name, pc.Machine))
	}
	k.addVersion()
	k.apply("site.yaml", strings.Join(append(documents, advertisement(strings.Join(names, ", "))), "---\n"))
	k.newAppliance()
	for i, n := range copying {
		if i > 0 {
			k.appliance.PowerCut()
			k.verifyContent()
			k.addVersion()
		}
		k.copyRound(n)
	}
	if len(copying) == 0 {
		k.appliance.Start()
	}
	k.appliance.WaitEvent(10*time.Minute, "serving", lab.After(k.off))
	for i, n := range writing {
		k.writeRound(k.clients[i], n, i%3 == 2)
	}
	k.waitRuns(names...)
	k.appliance.PowerCut()
	k.verifyContent()
	t.Logf("%d cuts in %d rounds of copying and %d of writing; %d MB of what was copied and %d MB of what was written were gone on with rather than fetched again",
		k.made, len(copying), len(writing), k.copyResumed/1e6, k.writeResumed/1e6)
	if cuts >= manyCuts && (k.copyResumed == 0 || k.writeResumed == 0) {
		t.Error("nothing was ever gone on with")
	}
}

type soak struct {
	*site
	r       *rand.Rand
	clients []*soakClient
	image   smallImage // the newest version
	version int
	off     lab.Event // the appliance's last before it was cut off

	made int
	// What was there already when it was gone on with, in bytes: of copying, and of writing.
	copyResumed, writeResumed int64
}

// plan divides cuts among rounds of one to eight, which leaves each machine well within the boots that it is offered in a row.
func (k *soak) plan(cuts int) (rounds []int) {
	for cuts > 0 {
		n := min(cuts, 1+k.r.IntN(8))
		rounds = append(rounds, n)
		cuts -= n
	}
	return rounds
}

// addVersion adds a new version of the package, which shares nothing with the last but its zeros.
func (k *soak) addVersion() {
	k.t.Helper()
	if k.image.path != "" {
		if err := os.Remove(k.image.path); err != nil {
			k.t.Fatal(err)
		}
	}
	k.version++
	k.image = newSmallImage(k.t, *seed+uint64(k.version), soakSize)
	k.must("content", "add", "debian-13", k.image.path)
}

// layers are build artifacts.
func (k *soak) layers(names ...string) (paths []string) {
	for _, n := range names {
		paths = append(paths, lab.Artifact(k.t, "build/boot/"+n))
	}
	return paths
}

// newAppliance makes the appliance, whose kernel is started directly; its medium is there all the same.
func (k *soak) newAppliance() {
	k.t.Helper()
	c := k.applianceConfig(lab.BIOS)
	c.Disks[0].Bus, c.Disks[0].Boot = lab.Virtio, 0
	c.Disks = append(c.Disks, lab.Disk{Path: k.lab.BlankDisk("data", 16<<30), Serial: "DATA0001"})
	c.Kernel, c.Initrd = lab.Artifact(k.t, "build/boot/vmlinuz"), k.layers("base.cpio.zst", "appliance.cpio.zst")
	c.CommandLine = "console=ttyS0,115200 console=tty0 quiet"
	k.appliance = k.lab.Machine(c)
}

// copyRound cuts the appliance off n times while it copies the newest version, and lets it finish. It leaves it running.
func (k *soak) copyRound(n int) {
	k.t.Helper()
	total := k.image.size - smallDataAt
	for range n {
		k.off = lastEvent(k.appliance)
		_, from := k.wan.Bytes()
		at, waits := k.r.Int64N(total), time.Duration(k.r.Int64N(int64(15*time.Second)))
		byTime := k.r.IntN(4) == 0 // somewhere in the boot, or in what follows it
		k.appliance.Start()
		began := time.Now()
		poll(k.t, 10*time.Minute, "the moment of the cut", func() bool {
			_, down := k.wan.Bytes()
			return byTime && time.Since(began) > waits || !byTime && down-from >= at || k.copied()
		})
		k.appliance.PowerCut()
		k.made++
	}
	k.off = lastEvent(k.appliance)
	_, from := k.wan.Bytes()
	k.appliance.Start()
	poll(k.t, 10*time.Minute, "the appliance has the package", k.copied)
	_, down := k.wan.Bytes()
	k.copyResumed += max(0, total-(down-from))
	k.t.Logf("version %d: %d cuts; then %s were fetched", k.version, n, percent(down-from, total))
}

// copied says whether the appliance has told, since it was started, that it has the newest version.
func (k *soak) copied() bool {
	for _, e := range k.appliance.Events() {
		if e.Seq > k.off.Seq && e.Name == "content-installed" && e.String("version") == strconv.Itoa(k.version) {
			return true
		}
	}
	return false
}

// verifyContent looks at every chunk on the appliance's data disk: each must be what its name says, and there must be all that
// central has. The appliance must be off, and have had the newest version.
func (k *soak) verifyContent() {
	k.t.Helper()
	here := chunks(k.t, filepath.Join(k.lab.FromExt4(k.dataDisk(), "/content/chunks"), "chunks"))
	for id := range chunks(k.t, filepath.Join(k.data, "content", "chunks")) {
		if !here[id] {
			k.t.Errorf("the appliance lacks chunk %s", id)
		}
	}
}

// chunks reads every chunk below a directory (XXXX/ID.cacnk: zstd, named by SHA-512/256 of what it holds) and returns their
// names. The test fails if one is not what its name says.
func chunks(t testing.TB, dir string) map[string]bool {
	t.Helper()
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	found := map[string]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		id := strings.TrimSuffix(d.Name(), ".cacnk")
		plain, err := decoder.DecodeAll(b, nil)
		if sum := sha512.Sum512_256(plain); err != nil || hex.EncodeToString(sum[:]) != id {
			t.Errorf("chunk %s is damaged: %d bytes, %v", id, len(plain), err)
		}
		found[id] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// soakClient is a client whose firmware is a lab.BootROM.
type soakClient struct {
	*lab.Machine
	name, disk string
	rom        *lab.BootROM
}

func (k *soak) client(name string) *soakClient {
	disk := k.lab.BlankDisk(name, soakSize+16<<20)
	m := k.lab.Machine(lab.Config{
		Name: name, MemoryMB: 768, Disks: []lab.Disk{{Path: disk, Serial: "PC0001"}}, NICs: []lab.NIC{{Switch: k.office}},
		Kernel: lab.Artifact(k.t, "build/boot/vmlinuz"), Initrd: k.layers("base.cpio.zst", "agent.cpio.zst"),
		CommandLine: "console=ttyS0,115200 console=tty0 quiet",
	})
	return &soakClient{Machine: m, name: name, disk: disk}
}

// bootLayer finds the boot's own layer in the script of a boot.
var bootLayer = regexp.MustCompile(`(?m)^initrd --name boot\.cpio (http://\S+)`)

// boot asks the appliance for a boot, as firmware would, and starts the machine with what it gets.
func (k *soak) boot(c *soakClient) {
	k.t.Helper()
	err := c.rom.Boot(3*time.Minute, func(h *http.Client, server net.IP) error {
		script, err := lab.Fetch(h, fmt.Sprintf("http://%s/boot/ipxe?mac=%s", server, c.MAC(0)))
		if err != nil {
			return err
		}
		m := bootLayer.FindSubmatch(script)
		if m == nil {
			return fmt.Errorf("the script names no layer for this boot:\n%s", script)
		}
		layer, err := lab.Fetch(h, string(m[1]))
		if err == nil {
			c.SetInitrd(layer, k.layers("base.cpio.zst", "agent.cpio.zst")...)
		}
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	c.Start()
}

// writeRound cuts a client off n times while it writes the image, and lets it finish. On a disk that was not blank it must
// get rid of what was there.
func (k *soak) writeRound(c *soakClient, n int, used bool) {
	k.t.Helper()
	c.rom = k.lab.BootROM(c.Machine, fmt.Sprintf("10.77.0.%d/24", 200+k.made%50))
	if used {
		old := newSmallImage(k.t, *seed+1000+uint64(k.made), soakSize)
		k.overwrite(c.disk, old.path)
	}
	for range n {
		have, all := k.image.inPlace(k.t, c.disk)
		at, waits := k.r.Int64N((all-have)*9/10+1), time.Duration(k.r.Int64N(int64(15*time.Second)))
		byTime := k.r.IntN(4) == 0
		k.boot(c)
		began, from := time.Now(), c.Port(0).Counters().OutBytes
		poll(k.t, 10*time.Minute, "the moment of the cut", func() bool {
			return byTime && time.Since(began) > waits || !byTime && int64(c.Port(0).Counters().OutBytes-from) >= at || c.done()
		})
		if c.done() { // before the moment came
			break
		}
		c.PowerCut()
		k.made++
		if !used {
			k.image.requireNothingWrong(k.t, c.disk)
		}
	}
	if !c.done() {
		have, all := k.image.inPlace(k.t, c.disk)
		last := lastEvent(c.Machine)
		k.boot(c)
		from := c.Port(0).Counters().OutBytes
		c.WaitEvent(10*time.Minute, "sequence-done", lab.After(last))
		fetched := int64(c.Port(0).Counters().OutBytes - from)
		k.writeResumed += max(0, all-fetched)
		k.t.Logf("%s: %d cuts, %s in place; then %s were fetched", c.name, n, percent(have, all), percent(fetched, all))
		if want := all - have; fetched > want+want/10+overhead {
			k.t.Errorf("%s had %d bytes of %d in place and fetched %d", c.name, have, all, fetched)
		}
	}
	// Switched off before the branch has noted its end, the run would be gone on with.
	poll(k.t, 2*time.Minute, "central knows that "+c.name+" has succeeded", func() bool {
		return slices.ContainsFunc(k.runs(), func(r run) bool { return r.Computer == c.name && r.State == "succeeded" })
	})
	c.PowerCut()
	k.image.requireWritten(k.t, c.disk)
}

// done says whether the client has told that its sequence is done.
func (c *soakClient) done() bool {
	for _, e := range c.Events() {
		if e.Name == "sequence-done" {
			return true
		}
	}
	return false
}

// overwrite puts the contents of a file at the beginning of a disk.
func (k *soak) overwrite(disk, with string) {
	k.t.Helper()
	b, err := os.ReadFile(with)
	if err != nil {
		k.t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	_, err = f.WriteAt(b, 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// TestSoakDebian cuts a client off again and again while it deploys a real operating system, network boot by its firmware
// and all, and then lets it finish: the system must come up as if nothing had been.
func TestSoakDebian(t *testing.T) {
	if *debianCuts == 0 {
		t.Skip("a campaign of power cuts: it needs -args -debian-cuts=10")
	}
	if *debianCuts > 12 {
		t.Fatal("-debian-cuts: a machine is offered its boot 15 times in a row, and restarts by itself, too: at most 12")
	}
	r := random(t)
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	disk := s.lab.BlankDisk("pc", 4<<30)
	pc := s.pc("pc", lab.BIOS, lab.Disk{Path: disk})
	s.apply("site.yaml", strings.Join([]string{siteDHCP, computer("desk-soak", pc), osImage, wholeDisk, advertisement("desk-soak")}, "---\n"))
	s.startAppliance(lab.BIOS)
	s.waitServing()
	image := allocated(t, lab.Artifact(t, "build/os/debian-13.img"))
	over := func() bool {
		return slices.ContainsFunc(pc.Events(), func(e lab.Event) bool { return e.Name == "sequence-done" })
	}
	made := 0
	for made < *debianCuts {
		have := allocated(t, disk)
		at, waits := have+r.Int64N(max(1, (image-have)/2)), time.Duration(r.Int64N(int64(2*time.Minute)))
		byTime := r.IntN(3) == 0 || have >= image
		pc.Start()
		began := time.Now()
		poll(t, 20*time.Minute, "the moment of the cut", func() bool {
			return byTime && time.Since(began) > waits || !byTime && allocated(t, disk) >= at || over()
		})
		if over() {
			break
		}
		pc.PowerCut()
		made++
		t.Logf("cut %d: %s are allocated on the disk", made, percent(allocated(t, disk), image))
	}
	if !over() {
		pc.Start()
	}
	pc.WaitEvent(20*time.Minute, "sequence-done", nil)
	deployed(t, pc, "desk-soak", "bios", "", 3<<30)
	s.waitRun("desk-soak")
	t.Logf("%d cuts", made)
}
