package qemutests

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// look is a task sequence that writes nothing: it tells which driver the computer's network card has.
const look = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - name: Look at the network card
      runCommandLine: {in: boot-image, command: "grep -q DRIVER=%driver% /sys/class/net/eth0/device/uevent"}
`

// nicModels boots computers with network cards of several makers from one appliance, whose own card is one of them.
func nicModels(t *testing.T) {
	s := newBareSite(t)
	s.model = "e1000"
	models := []struct {
		name, model, driver string
		firmware            lab.Firmware
	}{
		{"nic-virtio", "virtio-net-pci", "virtio_net", lab.UEFI},
		{"nic-e1000", "e1000", "e1000", lab.BIOS},
		{"nic-rtl8139", "rtl8139", "8139cp", lab.BIOS},
		{"nic-vmxnet3", "vmxnet3", "vmxnet3", lab.BIOS},
	}
	documents := []string{siteDHCP, look}
	var names []string
	pcs := map[string]*lab.Machine{}
	for _, m := range models {
		pc := s.lab.Machine(lab.Config{
			Name: m.name, Firmware: m.firmware, MemoryMB: 1024,
			NICs: []lab.NIC{{Model: m.model, Switch: s.office, Boot: 1}},
		})
		names, pcs[m.name] = append(names, m.name), pc
		documents = append(documents, computer(m.name, pc)+"  variables: {driver: "+m.driver+"}\n")
	}
	s.apply("site.yaml", strings.Join(append(documents, advertisement(strings.Join(names, ", "))), "---\n"))
	s.startAppliance(lab.UEFI)
	s.waitServing()
	for i, m := range models {
		pc := pcs[m.name]
		pc.Start()
		e := pc.WaitEvent(5*time.Minute, "agent-ready", nil)
		if e.String("mac") != pc.MAC(0).String() {
			t.Errorf("%s: the boot image uses the card %s, not %s", m.name, e.String("mac"), pc.MAC(0))
		}
		pc.WaitEvent(time.Minute, "agent-registered", nil)
		e = pc.WaitEvent(2*time.Minute, "step-end", nil)
		if code, ok := e.Int("exit_code"); !ok || code != 0 {
			t.Fatalf("%s: the card's driver is not %s: %v", m.name, m.driver, e.Fields)
		}
		s.waitRuns(names[:i+1]...)
		pc.PowerCut()
	}
}

// undriven is a card that only the extra layer has a driver for: NE2000 on PCI.
const undriven = "ne2k_pci"

// noDriver starts an appliance and a boot image on machines whose only network card has no driver, and the appliance again in
// the way that its screen names.
func noDriver(t *testing.T) {
	l := lab.New(t)
	lone := l.Machine(lab.Config{
		Name: "lone", Firmware: lab.BIOS, MemoryMB: 1536,
		Disks: []lab.Disk{{Path: lab.Artifact(t, "build/branchpoint.img"), Bus: lab.USB, Boot: 1, Snapshot: true}},
		NICs:  []lab.NIC{{Model: undriven, WAN: &lab.WAN{}}},
	})
	lone.Start()
	lone.WaitEvent(4*time.Minute, "network-no-driver", namesCard)
	lone.WaitSerial(time.Minute, words("no driver for the network cards with the PCI ids")+`\s+\S+\s+\[10ec:8029\]\s+subsystem\s+\[1af4:1100\]`)
	lone.WaitSerial(time.Minute, `→ .*`+words("Add a network card that has a driver"))
	lone.WaitSerial(time.Minute, words("Branchpoint with drivers for servers and rare hardware"))
	lone.PowerCut()

	told := len(lone.Events())
	mark := lone.SerialMark()
	lone.Start()
	mark = chooseExtra(t, lone, mark)
	lone.WaitSerialAfter(mark, 4*time.Minute, `eth0 10\.0\.2\.15/24`)
	for _, e := range lone.Events()[told:] {
		if e.Name == "network-no-driver" {
			t.Errorf("with the extra layer the card still has no driver: %s", e.Raw)
		}
	}
	lone.PowerCut()

	// The boot image without the extra layer, which a site may leave out.
	pc := l.Machine(lab.Config{
		Name: "pc", Firmware: lab.BIOS, MemoryMB: 1024,
		Kernel: lab.Artifact(t, "build/boot/vmlinuz"), CommandLine: "console=ttyS0,115200 console=tty0",
		Initrd: []string{lab.Artifact(t, "build/boot/base.cpio.zst"), lab.Artifact(t, "build/boot/agent.cpio.zst")},
		NICs:   []lab.NIC{{Model: undriven, WAN: &lab.WAN{}}},
	})
	pc.Start()
	pc.WaitEvent(4*time.Minute, "network-no-driver", namesCard)
	pc.WaitSerial(time.Minute, words("There is no driver for this computer's network cards. Their PCI ids are")+`\s+\S+\s+\[10ec:8029\]\s+subsystem\s+\[1af4:1100\]`)
	pc.WaitSerial(time.Minute, words("Add a network card that has a driver"))
	for _, e := range pc.Events() {
		if e.Name == "agent-ready" {
			t.Errorf("without a driver: %s", e.Raw)
		}
	}
}

// namesCard accepts the event that names the undriven card by its PCI ids, as the only one.
func namesCard(e lab.Event) bool {
	ids, _ := e.Fields["pci"].([]any)
	driven, ok := e.Int("driven")
	return len(ids) == 1 && strings.Contains(ids[0].(string), "[10ec:8029]") && ok && driven == 0
}

// words is a pattern for a text that a screen may have broken into lines.
func words(text string) string {
	parts := strings.Fields(text)
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return strings.Join(parts, `\s+`)
}

// chooseExtra holds Esc while GRUB starts, and chooses the system with all drivers. It returns the mark of the serial
// console after which that starts.
func chooseExtra(t *testing.T, m *lab.Machine, mark int) int {
	t.Helper()
	const entry = "Branchpoint with drivers for servers and rare hardware"
	deadline := time.Now().Add(2 * time.Minute)
	for {
		m.SendSerial("\x1b")
		_, _, err := m.AwaitSerial(mark, 200*time.Millisecond, entry)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	// Ctrl-N is the next entry. Behind an Esc that has not been read yet, it is an unknown key.
	for {
		m.SendSerial("\x0e")
		_, chosen, err := m.AwaitSerial(mark, 15*time.Second, `\*`+entry)
		if err == nil {
			m.SendSerial("\r")
			return chosen
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Addresses of deploy-relay's second network, and of the router between the two.
const (
	routerOffice = "10.77.0.254"
	routerAnnexe = "10.78.0.254"
	annexe       = "10.78.0.0/24"
)

// deployRelay deploys a computer in another network than the appliance and the foreign DHCP server are in: all it has of
// both goes through a router and its DHCP relay agent.
func deployRelay(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	s.gateway = routerOffice
	far := s.lab.Switch("annexe")
	router := s.lab.Router("router", lab.Leg{Switch: s.office, Address: routerOffice + "/24"}, lab.Leg{Switch: far, Address: routerAnnexe + "/24"})
	server := s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{
		Range: "10.78.0.100,10.78.0.199,255.255.255.0,1h", Args: []string{"--dhcp-option=option:router," + routerAnnexe},
	})
	server.AddRoute(annexe, routerOffice)
	s.lab.DHCPRelay(router, routerAnnexe, server.Addr(), netip.MustParseAddr(applianceAddr))
	pc := s.lab.Machine(lab.Config{
		Name: "pc", Firmware: lab.UEFISecureBoot, MemoryMB: 1024,
		Disks: []lab.Disk{{Path: s.lab.BlankDisk("pc", 6<<30), Serial: "PC0001", Boot: 2}},
		NICs:  []lab.NIC{{Switch: far, Boot: 1}},
	})
	s.apply("site.yaml", siteProxy+"---\n"+computer("desk-far", pc)+"---\n"+osImage+"---\n"+wholeDisk+"---\n"+advertisement("desk-far"))
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()
	pc.Start()
	e := pc.WaitEvent(5*time.Minute, "agent-ready", nil)
	if a, err := netip.ParsePrefix(e.String("address")); err != nil || !netip.MustParsePrefix(annexe).Contains(a.Addr()) {
		t.Errorf("the computer's address is %q", e.String("address"))
	}
	if !strings.Contains(server.Leases(), pc.MAC(0).String()) {
		t.Errorf("the foreign DHCP server has not given it:\n%s", server.Leases())
	}
	relayed(t, s, far, router, pc)
	pc.WaitEvent(15*time.Minute, "sequence-done", nil)
	deployed(t, pc, "desk-far", "uefi", "true", 5<<30)
	steps(t, pc, "applyOperatingSystemImage", "applyNetworkSettings", "applyOperatingSystemSettings", "runCommandLine", "restart")
	s.waitRun("desk-far")
}

// relayed requires that the computer's DHCP has gone through the relay agent, and that the appliance has answered each of
// its transactions at most once.
func relayed(t *testing.T, s *site, far *lab.Switch, router *lab.Router, pc *lab.Machine) {
	t.Helper()
	for _, m := range far.DHCP() {
		if m.Message.OpCode == dhcpv4.OpcodeBootReply && m.From != router.LegPort(1).Name() {
			t.Errorf("%s answers in the annexe", m.From)
		}
	}
	answers := map[dhcpv4.TransactionID]int{}
	for _, m := range s.office.DHCP() {
		if !lab.DHCPAnswers(pc.MAC(0))(m) || m.From != s.appliance.Port(0).Name() {
			continue
		}
		if m.Message.GatewayIPAddr.String() != routerAnnexe || m.Packet.DstIP.String() != routerAnnexe {
			t.Errorf("the appliance's answer for relay agent %s goes to %s", m.Message.GatewayIPAddr, m.Packet.DstIP)
		}
		if !m.Message.YourIPAddr.IsUnspecified() {
			t.Errorf("beside a DHCP server the appliance offers the address %s", m.Message.YourIPAddr)
		}
		answers[m.Message.TransactionID]++
	}
	if len(answers) == 0 {
		t.Error("the appliance has answered nothing that was relayed")
	}
	for xid, n := range answers {
		if n > 1 {
			t.Errorf("the appliance has answered transaction %s %d times", xid, n)
		}
	}
}

// httpBootOnly are OVMF's settings for a machine that does HTTP Boot and no PXE.
var httpBootOnly = map[string]string{"opt/org.tianocore/IPv4PXESupport": "no", "opt/org.tianocore/IPv6PXESupport": "no"}

// deployHTTPBoot deploys by UEFI HTTP Boot beside a foreign DHCP server; then that server goes, the appliance becomes the
// site's, and another computer boots.
func deployHTTPBoot(t *testing.T) {
	s := newSite(t, lab.Artifact(t, "build/os/debian-13.img"))
	server := s.lab.DNSMasq("foreign-dhcp", s.office, foreignDHCP, lab.DNSMasqOptions{})
	pc := func(name string) *lab.Machine {
		return s.lab.Machine(lab.Config{
			Name: name, Firmware: lab.UEFISecureBoot, MemoryMB: 1024, FWCfg: httpBootOnly,
			Disks: []lab.Disk{{Path: s.lab.BlankDisk(name, 6<<30), Serial: "PC0001", Boot: 2}},
			NICs:  []lab.NIC{{Switch: s.office, Boot: 1}},
		})
	}
	first, second := pc("first"), pc("second")
	rest := computer("desk-http", first) + "---\n" + computer("desk-two", second) + "---\n" + osImage + "---\n" + wholeDisk + "---\n" +
		advertisement("desk-http, desk-two")
	s.apply("site.yaml", siteProxy+"---\n"+rest)
	s.startAppliance(lab.UEFISecureBoot)
	s.waitServing()
	first.Start()
	bootedByHTTP(t, s, first)
	first.WaitEvent(15*time.Minute, "sequence-done", nil)
	deployed(t, first, "desk-http", "uefi", "true", 5<<30)
	steps(t, first, "applyOperatingSystemImage", "applyNetworkSettings", "applyOperatingSystemSettings", "runCommandLine", "restart")
	s.waitRun("desk-http")
	first.PowerCut()

	server.Stop()
	events := s.appliance.Events()
	s.apply("site.yaml", siteDHCP+"---\n"+rest)
	s.appliance.WaitEvent(2*time.Minute, "serving", lab.After(events[len(events)-1]))
	second.Start()
	bootedByHTTP(t, s, second)
	for _, m := range s.office.DHCP() {
		if lab.DHCPAnswers(second.MAC(0))(m) && m.From != s.appliance.Port(0).Name() {
			t.Errorf("%s has answered the second computer", m.From)
		}
	}
}

// bootedByHTTP waits for the boot image, and requires that the firmware has asked for it by HTTP and nothing by TFTP, with
// Secure Boot on.
func bootedByHTTP(t *testing.T, s *site, pc *lab.Machine) {
	t.Helper()
	e := pc.WaitEvent(5*time.Minute, "agent-ready", nil)
	if e.String("secureboot") != "true" {
		t.Errorf("the boot image says secureboot is %q", e.String("secureboot"))
	}
	offers := 0
	for _, m := range s.office.DHCP() {
		if !lab.DHCPAnswers(pc.MAC(0))(m) || m.From != s.appliance.Port(0).Name() {
			continue
		}
		if want := "http://" + applianceAddr + "/boot/efi/shimx64.efi"; m.Message.ClassIdentifier() == "HTTPClient" && m.Message.BootFileNameOption() == want {
			offers++
		} else if m.Message.ClassIdentifier() != "" {
			t.Errorf("the appliance offers %s to class %q", m.Message.BootFileNameOption(), m.Message.ClassIdentifier())
		}
	}
	if offers == 0 {
		t.Error("the appliance has not offered HTTP Boot")
	}
	if by := s.loadedBy(pc); by != "HTTP Boot" {
		t.Error("the firmware has not asked for shim by HTTP")
	}
	if n := s.office.CountFrames(t, func(p lab.Packet) bool {
		return p.Src.String() == pc.MAC(0).String() && p.Protocol == lab.ProtocolUDP && p.DstPort == 69
	}); n != 0 {
		t.Errorf("%d requests by TFTP", n)
	}
}
