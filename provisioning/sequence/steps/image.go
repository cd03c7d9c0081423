package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// applyImage puts an operating system onto the disk.
func (r *Runner) applyImage(ctx context.Context, a provisioning.ApplyOperatingSystemImage, progress func(sequence.Progress)) sequence.Result {
	ref, ok := r.images[a.Image]
	if !ok {
		return failed(provisioning.Errorf(provisioning.CodeNotFound, "Look at the image's package on the central site.", "the branch gave no content for operating system image %q", a.Image))
	}
	var text string
	var err error
	switch ref.Format {
	case provisioning.FormatDiskImage:
		text, err = r.applyDiskImage(ctx, a, ref, progress)
	case provisioning.FormatRootFileSystem:
		text, err = r.applyArchive(ctx, a, ref, progress)
	default:
		err = provisioning.Errorf(provisioning.CodeInvalid, "Update the appliance: its boot image is older than the content.", "package %s has format %q, which this boot image does not know", ref.Package, ref.Format)
	}
	if err != nil {
		res := failed(err)
		if p, ok := errors.AsType[*programError](err); ok {
			res.ExitCode, res.Output = p.exit.Code, p.exit.Output
		}
		return res
	}
	r.installed = true
	return sequence.Result{Text: text}
}

// applyDiskImage writes a whole-disk image, lets it use the whole disk, and mounts it for the steps that follow.
func (r *Runner) applyDiskImage(ctx context.Context, a provisioning.ApplyOperatingSystemImage, ref provisioning.ContentRef, progress func(sequence.Progress)) (string, error) {
	if err := r.Close(ctx); err != nil {
		return "", err
	}
	disk, err := r.choose(ctx, a.Disk)
	if err != nil {
		return "", err
	}
	if ref.Size > disk.Size {
		return "", provisioning.Errorf(provisioning.CodeNoSpace, "Use a larger disk or a smaller image.", "image %s has %s, which does not fit on disk %s", a.Image, Bytes(ref.Size), describe(disk))
	}
	r.disk, r.volumes = nil, nil // what Partition Disk made is overwritten now
	r.bootDisk = disk.Path
	text := "Writing " + a.Image + " to " + disk.Path
	err = r.content.WriteDisk(ctx, ref, disk.Path, func(done, total int64) {
		progress(sequence.Progress{Text: text, Done: done, Total: total})
	})
	if err != nil {
		return "", fmt.Errorf("write image %s to %s: %w", a.Image, disk.Path, err)
	}
	progress(sequence.Progress{Text: "Growing the image to the disk's size"})
	table, grown, err := r.grow(ctx, disk)
	if err != nil {
		return "", err
	}
	progress(sequence.Progress{Text: "Mounting the installed system"})
	if err := r.mountInstalled(ctx, table); err != nil {
		return "", err
	}
	return fmt.Sprintf("Image %s, version %d, was written to disk %s. %s", a.Image, ref.Version, describe(disk), grown), nil
}

// grow moves the backup GPT to the disk's end and lets the last partition, if it is a Linux one with ext4, use the rest.
func (r *Runner) grow(ctx context.Context, disk Disk) (Table, string, error) {
	table, err := r.readTable(ctx, disk.Path)
	if err != nil {
		return table, "", fmt.Errorf("the image that was written: %w", err)
	}
	quiet := []string{"sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"}
	if table.Label == "gpt" {
		if _, err := r.exec(ctx, Command{Args: append(slices.Clone(quiet), "--relocate", "gpt-bak-std", disk.Path)}); err != nil {
			return table, "", fmt.Errorf("move the backup GPT: %w", err)
		}
	}
	if err := r.system.RereadPartitions(ctx, disk.Path, table); err != nil {
		return table, "", err
	}
	last, ok := table.Growable()
	if !ok {
		return table, "Its last partition is of no kind that can grow.", nil
	}
	if fsi, ok := r.probe(last.Node); !ok || fsi.Type != "ext4" {
		return table, "Its last partition holds no ext4 file system and was left as it is.", nil
	}
	if _, err := r.exec(ctx, Command{
		Args:  append(slices.Clone(quiet), "--partno", fmt.Sprint(PartitionNumber(last.Node)), disk.Path),
		Stdin: ", +\n",
	}); err != nil {
		return table, "", fmt.Errorf("grow partition %s: %w", last.Node, err)
	}
	if table, err = r.readTable(ctx, disk.Path); err != nil {
		return table, "", err
	}
	if err := r.system.RereadPartitions(ctx, disk.Path, table); err != nil {
		return table, "", err
	}
	// 1: errors were corrected; 2: and a mounted file system would need a restart, which this one is not (e2fsck(8)).
	if _, err := r.exec(ctx, Command{Args: []string{"e2fsck", "-f", "-p", last.Node}}, 1, 2); err != nil {
		return table, "", fmt.Errorf("check the image's file system: %w", err)
	}
	if _, err := r.exec(ctx, Command{Args: []string{"resize2fs", last.Node}}); err != nil {
		return table, "", fmt.Errorf("grow the image's file system: %w", err)
	}
	return table, fmt.Sprintf("Partition %d was grown to the disk's end.", PartitionNumber(last.Node)), nil
}

// probe recognises the file system on a device.
func (r *Runner) probe(device string) (FileSystemInfo, bool) {
	ra, closer, err := r.system.ReadDevice(device)
	if err != nil {
		r.log.Warn("cannot look at partition", "device", device, "error", err)
		return FileSystemInfo{}, false
	}
	defer closer.Close()
	return ProbeFileSystem(ra)
}

// mountInstalled finds the root file system among the disk's partitions and mounts what its fstab names.
func (r *Runner) mountInstalled(ctx context.Context, table Table) error {
	type candidate struct {
		TablePartition
		FileSystemInfo
	}
	var all []candidate
	for _, p := range table.Partitions {
		if fsi, ok := r.probe(p.Node); ok && fsi.Type != "swap" {
			all = append(all, candidate{p, fsi})
		}
	}
	for _, c := range all {
		if c.FileSystemInfo.Type == "vfat" {
			continue
		}
		if err := r.system.Mount(ctx, c.Node, c.FileSystemInfo.Type, "/", false); err != nil {
			r.log.Warn("cannot mount partition", "device", c.Node, "error", err)
			continue
		}
		if !isRoot(r.system.Target()) {
			if err := r.system.Unmount(ctx); err != nil {
				return err
			}
			continue
		}
		fstab, err := r.system.Target().ReadFile("/etc/fstab")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read the image's fstab: %w", err)
		}
		for _, e := range parseFstab(fstab) {
			for _, m := range all {
				if m.Node == c.Node || !e.names(m.FileSystemInfo, m.TablePartition) {
					continue
				}
				err := r.system.Mount(ctx, m.Node, m.FileSystemInfo.Type, e.at, false)
				if err != nil && e.optional {
					r.log.Warn("cannot mount what the image can do without", "at", e.at, "error", err)
				} else if err != nil {
					return fmt.Errorf("mount %s as the image's fstab says: %w", e.at, err)
				}
			}
		}
		return nil
	}
	return provisioning.Errorf(provisioning.CodeInvalid, "Use an image of a Linux system whose root file system is ext4, xfs or btrfs.",
		"no partition of the image holds an operating system (none has /etc/os-release)")
}

// isRoot reports whether a file tree is that of an operating system.
func isRoot(f Files) bool {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if _, err := f.Stat(name); err == nil {
			return true
		}
	}
	return false
}

// applyArchive unpacks a root file system onto the partitions that Partition Disk made and installs its boot loader.
func (r *Runner) applyArchive(ctx context.Context, a provisioning.ApplyOperatingSystemImage, ref provisioning.ContentRef, progress func(sequence.Progress)) (string, error) {
	if a.Disk.Number != nil || a.Disk.Serial != "" {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Remove disk from the step; Partition Disk chooses it.", "image %s is a root file system: it goes onto the partitions that were made, not onto a disk", a.Image)
	}
	mounts := mountOrder(r.volumes)
	if r.disk == nil || len(mounts) == 0 || mounts[0].Mount != "/" {
		return "", provisioning.Errorf(provisioning.CodeConflict, "Put a Partition Disk step with a partition mounted at / before it.", "there is no partition to unpack image %s to", a.Image)
	}
	if err := r.Close(ctx); err != nil {
		return "", err
	}
	for _, v := range mounts {
		if err := r.system.Mount(ctx, v.Device, string(v.FileSystem), v.Mount, false); err != nil {
			return "", fmt.Errorf("mount %s: %w", v.Mount, err)
		}
	}
	archive, total, err := r.content.Archive(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("open image %s: %w", a.Image, err)
	}
	r.bootDisk = r.disk.Path
	text := "Unpacking " + a.Image
	err = r.system.Extract(ctx, archive, func(done int64) {
		progress(sequence.Progress{Text: text, Done: done, Total: total})
	})
	if err := errors.Join(err, archive.Close()); err != nil {
		return "", fmt.Errorf("unpack image %s: %w", a.Image, err)
	}
	target := r.system.Target()
	if !isRoot(target) {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Add the archive of a whole root file system, with its directories at the archive's top.",
			"image %s holds no operating system (it has no /etc/os-release)", a.Image)
	}
	if err := target.WriteFile("/etc/fstab", []byte(Fstab(r.volumes)), 0o644); err != nil {
		return "", fmt.Errorf("write fstab: %w", err)
	}
	progress(sequence.Progress{Text: "Installing the boot loader"})
	if err := r.installBootLoader(ctx, r.disk.Path); err != nil {
		return "", fmt.Errorf("install the boot loader: %w", err)
	}
	return fmt.Sprintf("Image %s, version %d, was unpacked onto disk %s, with its boot loader.", a.Image, ref.Version, describe(*r.disk)), nil
}

// mountOrder gives the volumes that are mounted, those above others first.
func mountOrder(volumes []Volume) []Volume {
	out := slices.DeleteFunc(slices.Clone(volumes), func(v Volume) bool { return v.Mount == "" })
	slices.SortStableFunc(out, func(a, b Volume) int { return strings.Compare(a.Mount, b.Mount) })
	return out
}
