package steps

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// Table is a disk's partition table as `sfdisk --json` prints it. Positions are in sectors.
type Table struct {
	// Label is "gpt" or "dos".
	Label string `json:"label"`
	// Unit is "sectors"; SectorSize is in bytes.
	Unit       string `json:"unit"`
	SectorSize int64  `json:"sectorsize"`
	LastLBA    int64  `json:"lastlba"`

	Partitions []TablePartition `json:"partitions"`
}

// TablePartition is one partition of a Table.
type TablePartition struct {
	// Node is its device node.
	Node  string `json:"node"`
	Start int64  `json:"start"`
	Size  int64  `json:"size"`
	// Type is a GUID in upper case (gpt) or hexadecimal number (dos); UUID the partition's own id.
	Type string `json:"type"`
	UUID string `json:"uuid"`
	Name string `json:"name"`
}

// ParseTable reads the output of `sfdisk --json`.
func ParseTable(b []byte) (Table, error) {
	var doc struct {
		Table *Table `json:"partitiontable"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return Table{}, provisioning.Errorf(provisioning.CodeCorrupt, "", "read sfdisk's output: %w", err)
	}
	t := doc.Table
	if t == nil || (t.Label != "gpt" && t.Label != "dos") {
		return Table{}, provisioning.Errorf(provisioning.CodeInvalid, "", "the disk has neither a GPT nor an MBR partition table")
	}
	if t.SectorSize == 0 {
		t.SectorSize = 512
	}
	if t.SectorSize < 512 || t.SectorSize > mib {
		return Table{}, provisioning.Errorf(provisioning.CodeCorrupt, "", "sfdisk speaks of sectors of %d bytes", t.SectorSize)
	}
	for _, p := range t.Partitions {
		if !strings.HasPrefix(p.Node, "/dev/") || p.Start < 0 || p.Size <= 0 || PartitionNumber(p.Node) == 0 {
			return Table{}, provisioning.Errorf(provisioning.CodeCorrupt, "", "sfdisk describes partition %q strangely", p.Node)
		}
	}
	return *t, nil
}

// PartitionNumber is the number at the end of a partition's device node, 0 if there is none.
func PartitionNumber(node string) int {
	digits := node[len(strings.TrimRight(node, "0123456789")):]
	n := 0
	if len(digits) == 0 || len(digits) > 4 {
		return 0
	}
	fmt.Sscanf(digits, "%d", &n)
	return n
}

// linuxTypes are the partition types that may hold a Linux file system which is worth growing.
var linuxTypes = []string{
	"0FC63DAF-8483-4772-8E79-3D69D8477DE4", // Linux data
	"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", // Linux root, x86-64
	"933AC7E1-2EB4-4F13-B844-0E14E2AEF915", // Linux home
	"3B8F8425-20E0-4F3B-907F-1A25A76F98E8", // Linux srv
	"4D21B016-B534-45C2-A9FB-5C16E091FD2D", // Linux var
	"83",
}

// Growable gives the partition that may grow to the disk's end: the last on the disk, of a Linux type, and not inside
// an extended partition.
func (t Table) Growable() (TablePartition, bool) {
	if len(t.Partitions) == 0 {
		return TablePartition{}, false
	}
	last := slices.MaxFunc(t.Partitions, func(a, b TablePartition) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	if t.Label == "dos" && PartitionNumber(last.Node) > 4 {
		return TablePartition{}, false
	}
	return last, slices.Contains(linuxTypes, strings.ToUpper(last.Type))
}
