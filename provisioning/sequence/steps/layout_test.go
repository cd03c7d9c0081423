package steps

import (
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

func parts(list ...provisioning.Partition) []provisioning.Partition { return list }

func TestLayout(t *testing.T) {
	const gib = 1 << 30
	type P = provisioning.Partition
	for name, c := range map[string]struct {
		table  provisioning.PartitionTable
		parts  []P
		size   int64
		sector int64
		want   []Extent // in MiB
		fails  provisioning.Code
	}{
		"usual": {
			parts: parts(P{Type: "bios-boot", Size: "1MiB"}, P{Type: "esp", Size: "512MiB", FileSystem: "vfat"}, P{Size: "rest", FileSystem: "ext4"}),
			size:  20 * gib, sector: 512, want: []Extent{{1, 1}, {2, 512}, {514, 20480 - 514 - 1}},
		},
		"no size is the rest":     {parts: parts(P{}), size: gib, sector: 512, want: []Extent{{1, 1022}}},
		"percent of what is left": {parts: parts(P{Size: "24MiB"}, P{Size: "50%"}, P{Size: "25%"}, P{}), size: 1050 << 20, sector: 512, want: []Extent{{1, 24}, {25, 512}, {537, 256}, {793, 256}}},
		"percent alone":           {parts: parts(P{Size: "50%"}), size: 202 << 20, sector: 512, want: []Extent{{1, 100}}},
		"100 percent":             {parts: parts(P{Size: "100%"}), size: 202 << 20, sector: 512, want: []Extent{{1, 200}}},
		"mbr uses the end":        {table: "mbr", parts: parts(P{}), size: gib, sector: 512, want: []Extent{{1, 1023}}},
		"mbr ends at 2 TiB":       {table: "mbr", parts: parts(P{}), size: 3 << 40, sector: 512, want: []Extent{{1, 2<<20 - 2}}},
		"gpt goes on":             {parts: parts(P{}), size: 3 << 40, sector: 512, want: []Extent{{1, 3<<20 - 2}}},
		"4 KiB sectors":           {parts: parts(P{}), size: gib, sector: 4096, want: []Extent{{1, 1022}}},
		"odd size":                {parts: parts(P{}), size: 10<<20 + 512*77, sector: 512, want: []Extent{{1, 9}}},
		"too large":               {parts: parts(P{Size: "21GiB"}), size: 20 * gib, sector: 512, fails: provisioning.CodeNoSpace},
		"exactly the disk":        {parts: parts(P{Size: "20GiB"}), size: 20 * gib, sector: 512, fails: provisioning.CodeNoSpace},
		"sum too large":           {parts: parts(P{Size: "15GiB"}, P{Size: "15GiB"}), size: 20 * gib, sector: 512, fails: provisioning.CodeNoSpace},
		"sum overflows":           {parts: parts(P{Size: "4000000TiB"}, P{Size: "4000000TiB"}, P{Size: "4000000TiB"}), size: 20 * gib, sector: 512, fails: provisioning.CodeNoSpace},
		"nothing left":            {parts: parts(P{Size: "1022MiB"}, P{}), size: gib, sector: 512, fails: provisioning.CodeNoSpace},
		"percentages too many":    {parts: parts(P{Size: "60%"}, P{Size: "60%"}), size: gib, sector: 512, fails: provisioning.CodeNoSpace},
		"rest in the middle":      {parts: parts(P{}, P{Size: "1MiB"}), size: gib, sector: 512, fails: provisioning.CodeInvalid},
		"fat too small":           {parts: parts(P{Size: "32MiB", FileSystem: "vfat"}), size: gib, sector: 512, fails: provisioning.CodeNoSpace},
		"fat large enough":        {parts: parts(P{Size: "33MiB", FileSystem: "vfat"}), size: gib, sector: 512, want: []Extent{{1, 33}}},
		"fat on 4 KiB sectors":    {parts: parts(P{Size: "200MiB", FileSystem: "vfat"}), size: gib, sector: 4096, fails: provisioning.CodeNoSpace},
		"ext4 too small":          {parts: parts(P{Size: "4MiB", FileSystem: "ext4"}), size: gib, sector: 512, fails: provisioning.CodeNoSpace},
		"no disk":                 {parts: parts(P{}), size: 0, sector: 512, fails: provisioning.CodeNoSpace},
		"tiny disk":               {parts: parts(P{}), size: 2 << 20, sector: 512, fails: provisioning.CodeNoSpace},
		"strange sector":          {parts: parts(P{}), size: gib, sector: 0, fails: provisioning.CodeInvalid},
		"bad size":                {parts: parts(P{Size: "many"}), size: gib, sector: 512, fails: provisioning.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Layout(provisioning.PartitionDisk{Table: c.table, Partitions: c.parts}, c.size, c.sector)
			if provisioning.CodeOf(err) != c.fails {
				t.Fatalf("%v, %v", got, err)
			}
			var want []Extent
			for _, w := range c.want {
				want = append(want, Extent{w.Start << 20, w.Size << 20})
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		})
	}
}

func TestScript(t *testing.T) {
	d := provisioning.PartitionDisk{Partitions: parts(
		provisioning.Partition{Type: provisioning.PartitionESP, Name: "EFI system"}, provisioning.Partition{Type: provisioning.PartitionRoot}, provisioning.Partition{},
	)}
	e := []Extent{{1 << 20, 2 << 20}, {3 << 20, 4 << 20}, {7 << 20, 1 << 20}}
	want := `label: gpt
unit: sectors
sector-size: 512

start=2048, size=4096, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI system"
start=6144, size=8192, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="root"
start=14336, size=2048, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
`
	if got := Script(d, e, 512); got != want {
		t.Errorf("got\n%s", got)
	}
	d.Table = provisioning.TableMBR
	want = "label: dos\nunit: sectors\nsector-size: 4096\n\nstart=256, size=512, type=ef\nstart=768, size=1024, type=83, bootable\nstart=1792, size=256, type=83\n"
	if got := Script(d, e, 4096); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestChooseDisk(t *testing.T) {
	a := Disk{Path: "/dev/sda", Size: 500e9, Model: "One", Serial: "S1"}
	b := Disk{Path: "/dev/sdb", Size: 1e12, Model: "Two", Serial: "S2"}
	twin := Disk{Path: "/dev/sdc", Size: 1e12, Serial: "S2"}
	far := Disk{Path: "/dev/sdaa", Size: 1e12, Serial: "S3"}
	usb := Disk{Path: "/dev/sdd", Size: 1e12, Serial: "USB", Bus: "usb"}
	stick := Disk{Path: "/dev/sde", Size: 1e9, Serial: "STICK", Bus: "usb", Removable: true}
	cd := Disk{Path: "/dev/sr0", Size: 1e9, CD: true}
	ro := Disk{Path: "/dev/sdf", Size: 1e9, Serial: "RO", ReadOnly: true}
	used := Disk{Path: "/dev/sdg", Size: 1e9, Serial: "USED", InUse: true}
	reader := Disk{Path: "/dev/mmcblk9", Bus: "usb", Removable: true}
	worn := Disk{Path: "/dev/sda", Size: 500e9, Model: "One", Serial: "S1", ReadOnly: true}
	gone := Disk{Path: "/dev/sda", Model: "One"}
	brokenTwin := Disk{Path: "/dev/sdc", Serial: "S2"}
	n := func(i int) provisioning.DiskSelector { return provisioning.DiskSelector{Number: &i} }
	s := func(v string) provisioning.DiskSelector { return provisioning.DiskSelector{Serial: v} }
	for name, c := range map[string]struct {
		disks []Disk
		sel   provisioning.DiskSelector
		want  string // path; "" is an error
		says  []string
	}{
		"the only one":               {disks: []Disk{stick, cd, a, usb}, want: "/dev/sda"},
		"two":                        {disks: []Disk{a, b}, says: []string{"2 fixed disks", "500.0 GB", "One", "S1", "1.0 TB", "S2"}},
		"none":                       {disks: []Disk{stick, cd}, says: []string{"no fixed disk", "removable"}},
		"no disks at all":            {says: []string{"no disks at all"}},
		"only behind USB":            {disks: []Disk{usb}, says: []string{"no fixed disk"}},
		"number":                     {disks: []Disk{far, b, a}, sel: n(1), want: "/dev/sdb"},
		"number counts like people":  {disks: []Disk{far, b, a}, sel: n(2), want: "/dev/sdaa"},
		"number leaves out USB":      {disks: []Disk{usb, a}, sel: n(1), says: []string{"no fixed disk number 1"}},
		"number leaves out cards":    {disks: []Disk{reader, b, a}, sel: n(0), want: "/dev/sda"},
		"number negative":            {disks: []Disk{a}, sel: n(-1), says: []string{"number -1"}},
		"serial":                     {disks: []Disk{a, b}, sel: s("S2"), want: "/dev/sdb"},
		"serial of two":              {disks: []Disk{a, b, twin}, sel: s("S2"), says: []string{"2 disks have the serial"}},
		"serial of none":             {disks: []Disk{a}, sel: s("S2"), says: []string{`"S2"`}},
		"serial names USB":           {disks: []Disk{a, usb}, sel: s("USB"), want: "/dev/sdd"},
		"serial of a stick":          {disks: []Disk{a, stick}, sel: s("STICK"), says: []string{"no fixed disk"}},
		"serial of a used one":       {disks: []Disk{a, used}, sel: s("USED"), says: []string{"/dev/sdg", "in use"}},
		"serial of a read-only one":  {disks: []Disk{a, ro}, sel: s("RO"), says: []string{"/dev/sdf", "read only"}},
		"serial beside a broken one": {disks: []Disk{worn, gone, b}, sel: s("S2"), want: "/dev/sdb"},
		"serial of a broken twin":    {disks: []Disk{b, brokenTwin}, sel: s("S2"), says: []string{"2 disks have the serial"}},

		// What is meant does not change when a disk fails: the data on the next one would be erased.
		"the only one is read only":  {disks: []Disk{stick, worn}, says: []string{"only fixed disk", "/dev/sda", "read only"}},
		"the only one has no size":   {disks: []Disk{gone}, says: []string{"only fixed disk", "/dev/sda", "no size"}},
		"the only one is in use":     {disks: []Disk{used}, says: []string{"only fixed disk", "in use"}},
		"two, one is read only":      {disks: []Disk{worn, b}, says: []string{"2 fixed disks", "/dev/sda", "read only", "S2"}},
		"two, one has no size":       {disks: []Disk{gone, b}, says: []string{"2 fixed disks", "/dev/sda, 0 bytes", "S2"}},
		"two, one is in use":         {disks: []Disk{b, used}, says: []string{"2 fixed disks", "/dev/sdg"}},
		"number of a read-only one":  {disks: []Disk{b, worn}, sel: n(0), says: []string{"number 0, /dev/sda", "read only"}},
		"number of one of no size":   {disks: []Disk{b, gone}, sel: n(0), says: []string{"number 0, /dev/sda", "no size"}},
		"number of one in use":       {disks: []Disk{a, used}, sel: n(1), says: []string{"number 1, /dev/sdg", "in use"}},
		"number behind a broken one": {disks: []Disk{worn, b}, sel: n(1), want: "/dev/sdb"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ChooseDisk(c.disks, c.sel)
			if got.Path != c.want || (err != nil) != (c.want == "") {
				t.Fatalf("%v %v", got, err)
			}
			for _, w := range c.says {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if err != nil && provisioning.NextOf(err) == "" {
				t.Error("no next step")
			}
		})
	}
}

func TestTable(t *testing.T) {
	const head = `{"partitiontable":{"label":"gpt","unit":"sectors","sectorsize":512,"partitions":[`
	ok, err := ParseTable([]byte(head + `{"node":"/dev/nvme0n1p2","start":4096,"size":2048,"type":"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},{"node":"/dev/nvme0n1p1","start":2048,"size":2048,"type":"C12A7328-F81F-11D2-BA4B-00A0C93EC93B"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if p, can := ok.Growable(); !can || p.Node != "/dev/nvme0n1p2" || PartitionNumber(p.Node) != 2 {
		t.Errorf("%+v %v", p, can)
	}
	for _, bad := range []string{
		"", "{}", "[]", `{"partitiontable":{"label":"sun"}}`, head + `{"node":"x","start":1,"size":1}]}}`, head + `{"node":"/dev/sda","start":1,"size":1}]}}`,
		head + `{"node":"/dev/sda1","start":-1,"size":1}]}}`, head + `{"node":"/dev/sda1","start":1,"size":0}]}}`, `{"partitiontable":{"label":"gpt","sectorsize":7}}`,
	} {
		if got, err := ParseTable([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
	for label, last := range map[string]TablePartition{
		"dos": {Node: "/dev/sda5", Start: 9, Type: "83"}, "gpt": {Node: "/dev/sda3", Start: 9, Type: "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"},
	} {
		tab := Table{Label: label, Partitions: []TablePartition{{Node: "/dev/sda1", Start: 1, Type: "83"}, last}}
		if p, can := tab.Growable(); can {
			t.Errorf("%s: %+v may grow", label, p)
		}
	}
	if _, can := (Table{Label: "gpt"}).Growable(); can {
		t.Error("no partition may grow")
	}
}
