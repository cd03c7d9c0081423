package steps

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// partitionDisk erases a disk and makes partitions with their file systems.
func (r *Runner) partitionDisk(ctx context.Context, d provisioning.PartitionDisk, progress func(sequence.Progress)) sequence.Result {
	// What an earlier step mounted would keep the kernel from using the new table.
	if err := r.Close(ctx); err != nil {
		return failed(err)
	}
	disk, err := r.choose(ctx, d.Disk)
	if err != nil {
		return failed(err)
	}
	extents, err := Layout(d, disk.Size, disk.SectorSize)
	if err != nil {
		return failed(fmt.Errorf("disk %s: %w", describe(disk), err))
	}
	if err := r.checkBootLoaderPlace(d); err != nil {
		return failed(err)
	}
	progress(sequence.Progress{Text: "Partitioning " + describe(disk)})
	_, err = r.exec(ctx, Command{
		// The kernel is told afterwards, when the table is complete.
		Args:  []string{"sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", "--no-reread", "--no-tell-kernel", disk.Path},
		Stdin: Script(d, extents, disk.SectorSize),
	})
	if err != nil {
		return failed(err)
	}
	table, err := r.readTable(ctx, disk.Path)
	if err != nil {
		return failed(err)
	}
	if len(table.Partitions) != len(d.Partitions) {
		return failed(provisioning.Errorf(provisioning.CodeInternal, "Check the disk: it may be failing.", "%s has %d partitions after %d were made", disk.Path, len(table.Partitions), len(d.Partitions)))
	}
	if err := r.system.RereadPartitions(ctx, disk.Path, table); err != nil {
		return failed(err)
	}
	r.disk, r.volumes = &disk, nil
	for i, p := range d.Partitions {
		progress(sequence.Progress{Text: fmt.Sprintf("Formatting partition %d of %d", i+1, len(d.Partitions))})
		v := Volume{Device: table.Partitions[i].Node, FileSystem: p.FileSystem, Type: p.Type, Mount: p.Mount}
		if v.UUID, err = r.format(ctx, v.Device, p); err != nil {
			return failed(err)
		}
		r.volumes = append(r.volumes, v)
	}
	return sequence.Result{Text: fmt.Sprintf("Disk %s was partitioned: %d partitions.", describe(disk), len(d.Partitions))}
}

// choose lists the disks and chooses one.
func (r *Runner) choose(ctx context.Context, sel provisioning.DiskSelector) (Disk, error) {
	disks, err := r.system.Disks(ctx)
	if err != nil {
		return Disk{}, fmt.Errorf("list disks: %w", err)
	}
	d, err := ChooseDisk(disks, sel)
	if err != nil {
		return Disk{}, err
	}
	if d.SectorSize == 0 {
		d.SectorSize = 512
	}
	return d, nil
}

// readTable reads a disk's partition table.
func (r *Runner) readTable(ctx context.Context, disk string) (Table, error) {
	e, err := r.exec(ctx, Command{Args: []string{"sfdisk", "--json", disk}})
	if err != nil {
		return Table{}, err
	}
	t, err := ParseTable([]byte(e.Stdout))
	if err != nil {
		return Table{}, fmt.Errorf("disk %s: %w", disk, err)
	}
	return t, nil
}

// checkBootLoaderPlace refuses, before anything is erased, a layout on which the boot loader of a root file system
// archive that comes later could not be installed.
func (r *Runner) checkBootLoaderPlace(d provisioning.PartitionDisk) error {
	archive := false
	for _, s := range r.all {
		if a := s.ApplyOperatingSystemImage; a != nil && r.images[a.Image].Format == provisioning.FormatRootFileSystem {
			archive = true
		}
	}
	if !archive {
		return nil
	}
	root, esp, biosBoot := false, false, false
	for _, p := range d.Partitions {
		root = root || (p.Mount == "/" && p.FileSystem == provisioning.FileSystemExt4)
		esp = esp || (p.Type == provisioning.PartitionESP && p.Mount == "/boot/efi")
		biosBoot = biosBoot || p.Type == provisioning.PartitionBIOSBoot
	}
	const next = "Correct the step's partitions in the task sequence. Nothing was changed on this computer."
	switch uefi := r.system.Firmware().UEFI; {
	case !root:
		return provisioning.Errorf(provisioning.CodeInvalid, next, "no ext4 partition is mounted at /, where the operating system is to go")
	case uefi && !esp:
		return provisioning.Errorf(provisioning.CodeInvalid, next, "this computer has UEFI firmware, but no partition of type esp is mounted at /boot/efi")
	case !uefi && !biosBoot && d.Table != provisioning.TableMBR:
		return provisioning.Errorf(provisioning.CodeInvalid, next, "this computer has BIOS firmware, but the GPT has no partition of type bios-boot for its boot loader")
	}
	return nil
}

// format makes the partition's file system and gives its UUID as fstab writes it, "" where there is none.
func (r *Runner) format(ctx context.Context, device string, p provisioning.Partition) (string, error) {
	args, id, err := formatCommand(device, p, rand.Reader)
	if err != nil || args == nil {
		return id, err
	}
	if _, err := r.exec(ctx, Command{Args: args}); err != nil {
		return "", fmt.Errorf("format %s: %w", device, err)
	}
	return id, nil
}

// formatCommand is the command that makes the partition's file system, with an id taken from random; none where the
// partition stays raw.
func formatCommand(device string, p provisioning.Partition, random io.Reader) (args []string, id string, err error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, "", fmt.Errorf("make a file system's id: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 9562 section 5.4
	uuid := dashed(b[:])
	label := func(option string) []string {
		if p.Label == "" {
			return nil
		}
		return []string{option, p.Label}
	}
	switch p.FileSystem {
	case provisioning.FileSystemNone:
		return nil, "", nil
	case provisioning.FileSystemExt4:
		// Tables are completed by the installed system in the background. Features that GRUB 2.06 and older kernels do
		// not know are off: the operating system may be older than the boot image's tools.
		args = append([]string{"mkfs.ext4", "-q", "-F", "-U", uuid, "-O", "^metadata_csum_seed,^orphan_file", "-E", "lazy_itable_init=1,lazy_journal_init=1"}, label("-L")...)
		return append(args, device), uuid, nil
	case provisioning.FileSystemVFAT:
		n := binary.BigEndian.Uint32(b[:])
		args = append([]string{"mkfs.vfat", "-F", "32", "-i", fmt.Sprintf("%08X", n)}, label("-n")...)
		if p.Label != "" {
			args[len(args)-1] = strings.ToUpper(p.Label)
		}
		return append(args, device), fmt.Sprintf("%04X-%04X", n>>16, n&0xffff), nil
	case provisioning.FileSystemSwap:
		args = append([]string{"mkswap", "-U", uuid}, label("-L")...)
		return append(args, device), uuid, nil
	}
	return nil, "", provisioning.Errorf(provisioning.CodeInvalid, "", "file system %q is not known", p.FileSystem)
}
