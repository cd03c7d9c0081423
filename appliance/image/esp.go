package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// cdFATSize is the size of the FAT file system that UEFI starts from on a CD: the loaders and half a MiB to spare. El
// Torito says sizes in 16 bits of 512-byte sectors, so the EFI system partition itself cannot be named there: EDK2 takes
// what is larger than 32 MiB for what is left of the ISO 9660 file system, which is nothing, and finds no loader.
const cdFATSize = 6 << 20

// fatFile is a file to put into a FAT file system: data, or the content of the file from.
type fatFile struct {
	name, from string
	data       []byte
}

// efiFiles are the loaders and GRUB's first configuration.
func efiFiles(p *parts) []fatFile {
	loaders := p.loaders()
	return []fatFile{
		{name: "EFI/BOOT/BOOTX64.EFI", from: loaders["shimx64.efi"]},
		{name: "EFI/BOOT/grubx64.efi", from: loaders["gcdx64.efi"]},
		{name: "EFI/BOOT/mmx64.efi", from: loaders["mmx64.efi"]},
		{name: "boot/grub/grub.cfg", data: []byte(espGRUB)},
	}
}

// makeESP makes the file system of the EFI system partition. site.yaml comes first, so that its place does not depend on
// the loaders' sizes. With 4 sectors per cluster there are enough clusters for FAT32.
func (b *Builder) makeESP(ctx context.Context, p *parts, site []byte, work, name string) error {
	files := append([]fatFile{{name: siteName, data: site}}, efiFiles(p)...)
	return b.makeFAT(ctx, name, ESPSize, filepath.Join(work, "esp"), files, "-F", "-c", "4", "-N", "42500001", "-v", ESPLabel)
}

// makeCDFAT makes the file system that UEFI starts from on a CD.
func (b *Builder) makeCDFAT(ctx context.Context, p *parts, work, name string) error {
	return b.makeFAT(ctx, name, cdFATSize, filepath.Join(work, "cd"), efiFiles(p), "-N", "42500002", "-v", "BP-CD")
}

// makeFAT makes a FAT file system of size bytes with mtools, so that nothing is mounted.
func (b *Builder) makeFAT(ctx context.Context, name string, size int64, tree string, files []fatFile, format ...string) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	// Without a geometry mformat wants the size of a known floppy disk.
	geometry := []string{"-i", name, "-T", fmt.Sprint(size / sectorSize), "-h", "16", "-s", "63"}
	if err := command(ctx, b.env(), "mformat", append(append(geometry, format...), "::")...); err != nil {
		return err
	}
	if err := command(ctx, b.env(), "mmd", "-i", name, "::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"); err != nil {
		return err
	}
	for _, file := range files {
		data := file.data
		if file.from != "" {
			if data, err = os.ReadFile(file.from); err != nil {
				return fmt.Errorf("read boot loader: %w", err)
			}
		}
		target := filepath.Join(tree, file.name)
		if err := b.write(target, data); err != nil {
			return err
		}
		if err := command(ctx, b.env(), "mcopy", "-m", "-i", name, target, "::/"+file.name); err != nil {
			return err
		}
	}
	return nil
}
