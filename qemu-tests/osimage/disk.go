package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Fixed identities: every copy of the image has them, as every copy of a master image has.
const (
	diskID   = "0b7c1f5e-13d0-4d13-9d1a-6f2d8c5e1300"
	biosPart = "0b7c1f5e-13d0-4d13-9d1a-6f2d8c5e1301"
	espPart  = "0b7c1f5e-13d0-4d13-9d1a-6f2d8c5e1302"
	rootPart = "0b7c1f5e-13d0-4d13-9d1a-6f2d8c5e1303"
	rootUUID = "0b7c1f5e-13d0-4d13-9d1a-6f2d8c5e13ff"
	espID    = "13D0E5B0" // FAT volume serial number; udev shows it as 13D0-E5B0
)

const (
	sector = 512
	mib    = 1 << 20

	biosStart = 1 * mib // BIOS boot partition, 1 MiB: GRUB's core image
	espStart  = 2 * mib
	espSize   = 64 * mib
	rootStart = espStart + espSize
	tail      = 1 * mib // backup GPT
)

// disk assembles the whole-disk image. Nothing is mounted and no loop device is used: the file systems are made from the
// tree, and put where the partition table says.
func (b build) disk(ctx context.Context, tree string) error {
	image := filepath.Join(b.work, imageName)
	kernel, err := kernelVersion(tree)
	if err != nil {
		return err
	}
	core, err := b.bootFiles(ctx, tree, kernel)
	if err != nil {
		return err
	}
	if err := settleTimes(tree, b.index.date); err != nil {
		return err
	}
	used, err := treeBytes(tree)
	if err != nil {
		return err
	}
	// Room for the file system's own structures, the journal, and for what a deployment adds before it grows it.
	rootSize := (used + used/8 + 96*mib + 16*mib - 1) / (16 * mib) * (16 * mib)
	root := filepath.Join(b.work, "root.ext4")
	if err := b.makeRoot(ctx, tree, root, rootSize); err != nil {
		return err
	}
	esp := filepath.Join(b.work, "esp.fat")
	if err := b.makeESP(ctx, tree, esp); err != nil {
		return err
	}
	if err := truncate(image, rootStart+rootSize+tail); err != nil {
		return err
	}
	if err := partition(ctx, image, rootSize); err != nil {
		return err
	}
	boot, err := os.ReadFile(filepath.Join(tree, "usr/lib/grub/i386-pc/boot.img"))
	if err != nil {
		return fmt.Errorf("read GRUB's boot sector: %w", err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	if err := installBIOS(f, boot, core); err != nil {
		return err
	}
	if err := copySparse(f, espStart, esp); err != nil {
		return err
	}
	if err := copySparse(f, rootStart, root); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	// 4 KiB blocks of nothing become holes.
	return command(ctx, nil, "fallocate", "--dig-holes", image)
}

// kernelVersion is the version of the one kernel in the tree.
func kernelVersion(tree string) (string, error) {
	names, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil {
		return "", fmt.Errorf("look for the kernel: %w", err)
	}
	if len(names) != 1 {
		return "", fmt.Errorf("look for the kernel: found %d in /boot, want 1", len(names))
	}
	return strings.TrimPrefix(filepath.Base(names[0]), "vmlinuz-"), nil
}

// bootFiles writes what only a whole disk has into the tree: fstab, GRUB's modules and configuration. It gives GRUB's
// core image for BIOS, made by the tree's own tools.
func (b build) bootFiles(ctx context.Context, tree, kernel string) ([]byte, error) {
	files := map[string]string{
		"etc/fstab": "UUID=" + rootUUID + " / ext4 errors=remount-ro 0 1\n" +
			"UUID=" + espID[:4] + "-" + espID[4:] + " /boot/efi vfat umask=0077,nofail 0 1\n",
		"boot/grub/grub.cfg": grubConfig(kernel),
		"tmp/load.cfg":       "search.fs_uuid " + rootUUID + " root\nset prefix=($root)'/boot/grub'\n",
	}
	if err := os.MkdirAll(filepath.Join(tree, "boot/efi"), 0o700); err != nil {
		return nil, fmt.Errorf("make mount point: %w", err)
	}
	modules := filepath.Join(tree, "boot/grub/i386-pc")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return nil, fmt.Errorf("make directory for GRUB: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	for _, pattern := range []string{"*.mod", "*.lst"} {
		names, err := filepath.Glob(filepath.Join(tree, "usr/lib/grub/i386-pc", pattern))
		if err != nil {
			return nil, fmt.Errorf("list GRUB's modules: %w", err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				return nil, fmt.Errorf("copy GRUB's modules: %w", err)
			}
			if err := os.WriteFile(filepath.Join(modules, filepath.Base(name)), data, 0o644); err != nil {
				return nil, fmt.Errorf("copy GRUB's modules: %w", err)
			}
		}
	}
	if err := command(ctx, b.env(), "chroot", tree, "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", "/tmp/load.cfg", "-o", "/tmp/core.img",
		"biosdisk", "part_gpt", "ext2", "search_fs_uuid"); err != nil {
		return nil, err
	}
	core, err := os.ReadFile(filepath.Join(tree, "tmp/core.img"))
	if err != nil {
		return nil, fmt.Errorf("read GRUB's core image: %w", err)
	}
	for _, name := range []string{"tmp/core.img", "tmp/load.cfg"} {
		if err := os.Remove(filepath.Join(tree, name)); err != nil {
			return nil, fmt.Errorf("tidy up: %w", err)
		}
	}
	return core, nil
}

// grubConfig is what update-grub would write for this tree, without its menus.
func grubConfig(kernel string) string {
	return `serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
set timeout=0
set gfxpayload=keep
search --no-floppy --fs-uuid --set=root ` + rootUUID + `
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux --class gnu --class os {
	linux /boot/vmlinuz-` + kernel + ` root=UUID=` + rootUUID + ` ro console=tty0 console=ttyS0,115200
	initrd /boot/initrd.img-` + kernel + `
}
`
}

// makeRoot makes the ext4 file system of the tree, with the tree's own mke2fs: the result does not depend on the host.
func (b build) makeRoot(ctx context.Context, tree, name string, size int64) error {
	if err := truncate(name, size); err != nil {
		return err
	}
	env := append(b.env(), "MKE2FS_CONFIG="+filepath.Join(tree, "etc/mke2fs.conf"))
	loader := []string{"--library-path", filepath.Join(tree, "usr/lib/x86_64-linux-gnu"), "--argv0"}
	run := func(program string, args ...string) error {
		all := append(append([]string{}, loader...), program, filepath.Join(tree, "usr/sbin", program))
		return command(ctx, env, filepath.Join(tree, "usr/lib64/ld-linux-x86-64.so.2"), append(all, args...)...)
	}
	// Features that older readers of ext4 do not know are off.
	if err := run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "debian-root", "-U", rootUUID, "-E", "hash_seed="+rootUUID+",root_owner=0:0,lazy_itable_init=1",
		"-O", "^metadata_csum_seed,^orphan_file", "-m", "1", "-d", tree, name); err != nil {
		return err
	}
	return run("e2fsck", "-f", "-n", name)
}

// makeESP makes the EFI system partition: shim and Debian's signed GRUB under their own names and under the removable
// path. fbx64.efi stays away: it would write boot entries and restart.
func (b build) makeESP(ctx context.Context, tree, name string) error {
	if err := truncate(name, espSize); err != nil {
		return err
	}
	cfg := filepath.Join(b.work, "esp-grub.cfg")
	text := "search.fs_uuid " + rootUUID + " root\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
	if err := os.WriteFile(cfg, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write GRUB's first configuration: %w", err)
	}
	if err := os.Chtimes(cfg, b.index.date, b.index.date); err != nil {
		return fmt.Errorf("write GRUB's first configuration: %w", err)
	}
	if err := command(ctx, b.env(), "mformat", "-i", name, "-F", "-c", "1", "-N", espID, "-v", "EFI", "::"); err != nil {
		return err
	}
	if err := command(ctx, b.env(), "mmd", "-i", name, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"); err != nil {
		return err
	}
	const (
		shim = "usr/lib/shim/shimx64.efi.signed"
		mok  = "usr/lib/shim/mmx64.efi.signed"
		grub = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
	)
	for _, c := range [][2]string{
		{filepath.Join(tree, shim), "::/EFI/BOOT/BOOTX64.EFI"},
		{filepath.Join(tree, mok), "::/EFI/BOOT/mmx64.efi"},
		{filepath.Join(tree, grub), "::/EFI/BOOT/grubx64.efi"},
		{filepath.Join(tree, shim), "::/EFI/debian/shimx64.efi"},
		{filepath.Join(tree, mok), "::/EFI/debian/mmx64.efi"},
		{filepath.Join(tree, grub), "::/EFI/debian/grubx64.efi"},
		{cfg, "::/EFI/debian/grub.cfg"},
	} {
		if err := command(ctx, b.env(), "mcopy", "-m", "-i", name, c[0], c[1]); err != nil {
			return err
		}
	}
	return nil
}

// partition writes the GPT. The root partition is the last one, so that it can grow.
func partition(ctx context.Context, image string, rootSize int64) error {
	script := fmt.Sprintf(`label: gpt
label-id: %s
unit: sectors
first-lba: 34
start=%d, size=%d, type=21686148-6449-6E6F-744E-656564454649, uuid=%s, name="bios"
start=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=%s, name="esp"
start=%d, size=%d, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=%s, name="root"
`, diskID, biosStart/sector, (espStart-biosStart)/sector, biosPart, espStart/sector, espSize/sector, espPart, rootStart/sector, rootSize/sector, rootPart)
	cmd := exec.CommandContext(ctx, "sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", image)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("partition the image: %w\n%s", err, out)
	}
	return nil
}

// installBIOS does what grub-bios-setup does for a BIOS boot partition: the boot sector goes into the first sector
// beside the partition table, and is told where the core image begins; the core image's own first sector is told where
// the rest is. Offsets are those of GRUB's i386/pc/boot.h.
func installBIOS(image interface {
	io.ReaderAt
	io.WriterAt
}, boot, core []byte,
) error {
	const (
		codeEnd       = 0x1b8 // disk signature and partition table stay
		bpbStart      = 0x03  // BIOS parameter block: left as it is on the disk
		bpbEnd        = 0x5a
		kernelSector  = 0x5c
		driveCheck    = 0x66
		firstListAt   = sector - 12 // of the core image's first sector: start (8), length (2), segment (2)
		coreFirstSect = biosStart / sector
	)
	if len(boot) != sector {
		return fmt.Errorf("GRUB's boot sector has %d bytes, want %d", len(boot), sector)
	}
	if len(core) < 2*sector || len(core) > espStart-biosStart {
		return fmt.Errorf("GRUB's core image has %d bytes, which does not fit the BIOS boot partition", len(core))
	}
	mbr := make([]byte, sector)
	if _, err := image.ReadAt(mbr, 0); err != nil {
		return fmt.Errorf("read the image's first sector: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return errors.New("the image has no partition table")
	}
	copy(mbr[:bpbStart], boot[:bpbStart])
	copy(mbr[bpbEnd:codeEnd], boot[bpbEnd:codeEnd])
	binary.LittleEndian.PutUint64(mbr[kernelSector:], coreFirstSect)
	// Some BIOSes do not pass the boot drive's number: the check for it becomes two no-operations, as for every hard
	// disk.
	mbr[driveCheck], mbr[driveCheck+1] = 0x90, 0x90

	core = bytes.Clone(core)
	binary.LittleEndian.PutUint64(core[firstListAt:], coreFirstSect+1)
	if got, want := int(binary.LittleEndian.Uint16(core[firstListAt+8:])), (len(core)+sector-1)/sector-1; got != want {
		return fmt.Errorf("GRUB's core image says it has %d more sectors, but it has %d", got, want)
	}
	if _, err := image.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	if _, err := image.WriteAt(core, biosStart); err != nil {
		return fmt.Errorf("write core image: %w", err)
	}
	return nil
}

// truncate makes an empty sparse file of size bytes.
func truncate(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(name), err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make %s: %w", filepath.Base(name), err)
	}
	return nil
}

// copySparse copies a file to an offset of the image, leaving out blocks of zeros: the image is new, so they are zero
// already.
func copySparse(image io.WriterAt, at int64, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open file system: %w", err)
	}
	defer f.Close()
	buf := make([]byte, mib)
	zero := make([]byte, mib)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := image.WriteAt(buf[:n], at); err != nil {
				return fmt.Errorf("write file system into the image: %w", err)
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read file system: %w", err)
		}
	}
}
