package steps

import (
	"fmt"
	"strings"

	"branchpoint/provisioning"
)

const mib = 1 << 20

// Extent is where a partition lies, in bytes from the disk's beginning.
type Extent struct{ Start, Size int64 }

// gptTypes are the GPT partition types (UEFI specification 2.10 table 5.7, the Discoverable Partitions Specification,
// and GRUB's manual for the BIOS boot partition).
var gptTypes = map[provisioning.PartitionType]string{
	"":                             "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
	provisioning.PartitionData:     "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
	provisioning.PartitionESP:      "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
	provisioning.PartitionBIOSBoot: "21686148-6449-6E6F-744E-656564454649",
	provisioning.PartitionRoot:     "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
	provisioning.PartitionSwap:     "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
}

// mbrTypes are the MBR partition types.
var mbrTypes = map[provisioning.PartitionType]string{
	"": "83", provisioning.PartitionData: "83", provisioning.PartitionRoot: "83",
	provisioning.PartitionESP: "ef", provisioning.PartitionSwap: "82",
}

// minimum is the smallest size in bytes that a partition's file system can have: FAT32 needs 65,525 clusters of a
// sector (Microsoft's FAT specification); the others are what their tools accept.
func minimum(p provisioning.Partition, sector int64) int64 {
	switch p.FileSystem {
	case provisioning.FileSystemVFAT:
		return alignUp(65525*sector+sector*(32+2*((65527*4+sector-1)/sector)), mib)
	case provisioning.FileSystemExt4:
		return 8 * mib
	}
	return mib
}

func alignUp(n, to int64) int64   { return (n + to - 1) / to * to }
func alignDown(n, to int64) int64 { return n / to * to }

// Layout places the partitions on a disk of size bytes with sectors of sector bytes, at whole MiB. It fails with
// CodeNoSpace where they do not fit.
func Layout(d provisioning.PartitionDisk, size, sector int64) ([]Extent, error) {
	if sector < 512 || sector > mib || mib%sector != 0 {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "the disk's sector size is %d bytes", sector)
	}
	// The second copy of a GPT takes 16 KiB of entries and a sector at the end (UEFI specification 2.10 section 5.3.2).
	end := size - 16<<10 - sector
	if d.Table == provisioning.TableMBR {
		end = min(size, (1<<32-1)*sector) // sector numbers have 32 bits
	}
	free := alignDown(end, mib) - mib
	tooSmall := func(what string) error {
		return provisioning.Errorf(provisioning.CodeNoSpace, "Make partitions smaller in the task sequence, or use a larger disk.",
			"%s do not fit on the disk, which has room for %d MiB", what, max(free, 0)/mib)
	}
	if free < mib {
		return nil, tooSmall("partitions")
	}
	sizes := make([]provisioning.PartitionSize, len(d.Partitions))
	left := free
	for i, p := range d.Partitions {
		s, err := provisioning.ParsePartitionSize(p.Size)
		if err != nil {
			return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "partition %d: %w", i+1, err)
		}
		if s.Rest && i != len(d.Partitions)-1 {
			return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "partition %d: only the last partition can take the rest", i+1)
		}
		sizes[i] = s
		if s.Bytes > left {
			return nil, tooSmall("the partitions' fixed sizes")
		}
		left -= s.Bytes
	}
	extents := make([]Extent, len(sizes))
	at, room := int64(mib), left
	for i, s := range sizes {
		n := s.Bytes
		switch {
		case s.Percent > 0:
			n = alignDown(left/100*s.Percent+left%100*s.Percent/100, mib)
			room -= n
		case s.Rest:
			n = room
		}
		if room < 0 {
			return nil, tooSmall("the partitions' percentages")
		}
		if least := minimum(d.Partitions[i], sector); n < least {
			return nil, provisioning.Errorf(provisioning.CodeNoSpace, "Make the partition larger in the task sequence, or use a larger disk.",
				"partition %d would have %d MiB, but needs at least %d MiB", i+1, n/mib, least/mib)
		}
		extents[i] = Extent{Start: at, Size: n}
		at += n
	}
	return extents, nil
}

// Script is what sfdisk reads to make the partitions (sfdisk(8), "Named-fields format").
func Script(d provisioning.PartitionDisk, extents []Extent, sector int64) string {
	var b strings.Builder
	types, label := gptTypes, "gpt"
	if d.Table == provisioning.TableMBR {
		types, label = mbrTypes, "dos"
	}
	fmt.Fprintf(&b, "label: %s\nunit: sectors\nsector-size: %d\n\n", label, sector)
	bootable := activePartition(d)
	for i, p := range d.Partitions {
		fmt.Fprintf(&b, "start=%d, size=%d, type=%s", extents[i].Start/sector, extents[i].Size/sector, types[p.Type])
		if label == "gpt" {
			if name := partitionName(p); name != "" {
				fmt.Fprintf(&b, ", name=\"%s\"", name)
			}
		} else if i == bootable {
			b.WriteString(", bootable")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// activePartition is the MBR partition to mark active: some BIOSes start no disk without one. -1 is none.
func activePartition(d provisioning.PartitionDisk) int {
	root := -1
	for i, p := range d.Partitions {
		switch {
		case p.Mount == "/boot":
			return i
		case p.Mount == "/" || (root < 0 && p.Type == provisioning.PartitionRoot):
			root = i
		}
	}
	return root
}

// partitionName is a partition's GPT name: the given one, else what it is for.
func partitionName(p provisioning.Partition) string {
	if p.Name != "" {
		return p.Name
	}
	return string(p.Type)
}
