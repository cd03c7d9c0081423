package policy

import (
	"fmt"
	"testing"

	"branchpoint/provisioning"
)

// large is a site of 20,000 computers with 200 collections, each of which has a query and an advertisement, and 20,000 runs.
func large() (*provisioning.Snapshot, History) {
	s := &provisioning.Snapshot{
		Epoch: 1, Number: 1, Inventories: map[string]provisioning.Inventory{},
		Site:          provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: &provisioning.PXERole{Mode: provisioning.PXEModeProxy}}},
		TaskSequences: []provisioning.TaskSequence{{Name: "install", Spec: provisioning.TaskSequenceSpec{Steps: []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{}}}}}},
	}
	h := History{Complete: true}
	for i := range 20_000 {
		c := provisioning.Computer{Name: fmt.Sprintf("pc-%05d", i), Spec: provisioning.ComputerSpec{
			MACAddresses: []provisioning.MAC{provisioning.MAC(fmt.Sprintf("52:54:00:%02x:%02x:01", i>>8, i&255))},
			SMBIOSGUID:   provisioning.GUID(fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)),
			Variables:    map[string]string{"department": fmt.Sprint("d", i%50)},
		}}
		s.Computers = append(s.Computers, c)
		s.Inventories[c.Name] = provisioning.Inventory{Manufacturer: "Dell Inc.", Product: "OptiPlex 7090", MemoryMiB: 16384, Firmware: "uefi"}
		h.Runs = append(h.Runs, provisioning.Run{
			ID: fmt.Sprintf("%032x", i), Computer: c.Name, Advertisement: "former", TaskSequence: "install", State: provisioning.RunSucceeded,
			Spent: true, SpentAt: noon.AddDate(0, -1, 0), Machine: provisioning.Machine{MAC: c.Spec.MACAddresses[0], GUID: c.Spec.SMBIOSGUID},
		})
	}
	for i := range 200 {
		name := fmt.Sprintf("c-%03d", i)
		s.Collections = append(s.Collections, provisioning.Collection{Name: name, Spec: provisioning.CollectionSpec{
			Query: fmt.Sprintf(`inventory.manufacturer == "Dell Inc." && computer.variables["department"] == "d%d" && computer.name.startsWith("pc-0")`, i),
		}})
		s.Advertisements = append(s.Advertisements, provisioning.Advertisement{Name: "ad-" + name, Spec: provisioning.AdvertisementSpec{
			TaskSequence: "install", Collection: name, Purpose: provisioning.PurposeRequired,
		}})
	}
	return s, h
}

func BenchmarkDecide(b *testing.B) {
	s, h := large()
	p, err := Compile(s)
	if err != nil {
		b.Fatal(err)
	}
	h = h.Indexed()
	of := func(i int) provisioning.Machine {
		c := &s.Computers[i].Spec
		return provisioning.Machine{MAC: c.MACAddresses[0], GUID: c.SMBIOSGUID, Arch: provisioning.ArchUEFIx64}
	}
	stranger := provisioning.Machine{MAC: "52:54:00:ff:ff:ff", GUID: "ffffffff-0000-4000-8000-000000000000", Arch: provisioning.ArchUEFIx64}
	for name, m := range map[string]provisioning.Machine{"boot": of(49), "nothing": of(19_999), "stranger": stranger} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d := p.Decide(m, h, noon)
				if (d.Action == Boot) != (name == "boot") {
					b.Fatal(d.Lines())
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	s, _ := large()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHistoryWith(b *testing.B) {
	_, h := large()
	h = h.Indexed()
	for name, run := range map[string]provisioning.Run{"changed": h.Runs[10_000], "new": {ID: "new", Computer: "pc-00001"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				h.With(run)
			}
		})
	}
}
