package qemutests

import (
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
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
