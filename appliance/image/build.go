package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"branchpoint/initramfs/debian"
)

// bootFiles are what initramfs made, in build/boot. All are needed.
var bootFiles = []string{"vmlinuz", "base.cpio.zst", "appliance.cpio.zst", "agent.cpio.zst", "extra.cpio.zst"}

// netLoaders are put beside them, for the PXE service point.
var netLoaders = []string{"shimx64.efi", "mmx64.efi", "grubx64.efi", "undionly.kpxe"}

// Builder makes branchpoint.img.
type Builder struct {
	// Build is the directory of built artifacts: boot/ is read, branchpoint.img and branchpoint.json are written, and
	// manifest.json gains the boot loaders' packages.
	Build string
	// Version is the product's, as recorded in the image.
	Version string
	// SiteYAML is the content of site.yaml.
	SiteYAML []byte
	// Time is what every date in the image is set to, whole seconds, 1980 or later.
	Time time.Time
	// Licences are further licence texts by name, such as those of linked libraries.
	Licences map[string][]byte
	Log      *slog.Logger
}

// Image makes the file and gives its path. The same inputs, with the same versions of xorriso and mtools, give the same
// bytes.
func (b *Builder) Image(ctx context.Context) (string, error) {
	if err := b.check(); err != nil {
		return "", err
	}
	root, err := debian.Open(ctx, filepath.Join(b.Build, "cache", "debian"), b.Log)
	if err != nil {
		return "", err
	}
	p, err := fetchParts(ctx, root)
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(b.Build, ".image-")
	if err != nil {
		return "", fmt.Errorf("make work directory: %w", err)
	}
	defer os.RemoveAll(work)
	if err := debian.RecordPart(filepath.Join(b.Build, "manifest.json"), manifestPart, p.packages); err != nil {
		return "", err
	}
	for _, name := range netLoaders {
		if err := copyFile(filepath.Join(b.Build, "boot", name), p.loaders()[name]); err != nil {
			return "", err
		}
	}
	site, err := pad(b.SiteYAML)
	if err != nil {
		return "", err
	}
	esp := filepath.Join(work, "esp.img")
	if err := b.makeESP(ctx, p, site, work, esp); err != nil {
		return "", fmt.Errorf("make EFI system partition: %w", err)
	}
	stage := filepath.Join(work, "iso")
	if err := b.stage(ctx, p, site, work, stage); err != nil {
		return "", err
	}
	made := filepath.Join(work, "branchpoint.img")
	if err := b.xorriso(ctx, p, stage, esp, made); err != nil {
		return "", fmt.Errorf("make image: %w", err)
	}
	if err := command(ctx, nil, "fallocate", "--dig-holes", made); err != nil {
		return "", err
	}
	if err := b.verify(made); err != nil {
		return "", err
	}
	final := filepath.Join(b.Build, "branchpoint.img")
	if err := copyFile(filepath.Join(b.Build, "branchpoint.json"), filepath.Join(stage, "manifest.json")); err != nil {
		return "", err
	}
	if err := os.Rename(made, final); err != nil {
		return "", fmt.Errorf("put image in place: %w", err)
	}
	return final, nil
}

// check names everything that is missing at once.
func (b *Builder) check() error {
	var problems []error
	for _, name := range bootFiles {
		if _, err := os.Stat(filepath.Join(b.Build, "boot", name)); err != nil {
			problems = append(problems, fmt.Errorf("%s is missing: build the layers first", filepath.Join(b.Build, "boot", name)))
		}
	}
	for tool, pkg := range map[string]string{"xorriso": "xorriso", "mformat": "mtools", "mcopy": "mtools", "mmd": "mtools", "fallocate": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			problems = append(problems, fmt.Errorf("program %s is missing: install Debian's package %s", tool, pkg))
		}
	}
	if b.Time.Year() < 1980 { // the first year FAT can say
		problems = append(problems, fmt.Errorf("the image's date %s is before 1980", b.Time.Format(time.RFC3339)))
	}
	return errors.Join(problems...)
}

// stage fills the directory that becomes the ISO 9660 file system.
func (b *Builder) stage(ctx context.Context, p *parts, site []byte, work, stage string) error {
	manifest := newManifest(b.Version, b.Time)
	loaders := p.loaders()
	for _, name := range bootFiles {
		if err := manifest.place(stage, "boot/"+name, filepath.Join(b.Build, "boot", name)); err != nil {
			return err
		}
	}
	for _, name := range netLoaders {
		if err := manifest.place(stage, "boot/net/"+name, loaders[name]); err != nil {
			return err
		}
	}
	core, err := p.biosCore(ctx, work)
	if err != nil {
		return err
	}
	if err := manifest.place(stage, "boot/grub/eltorito.img", core); err != nil {
		return err
	}
	cd := filepath.Join(work, "efi.img")
	if err := b.makeCDFAT(ctx, p, work, cd); err != nil {
		return fmt.Errorf("make the CD's file system for UEFI: %w", err)
	}
	if err := manifest.place(stage, "boot/grub/efi.img", cd); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"boot/grub/grub.cfg": []byte(isoGRUB),
		siteName:             site,
		// GRUB's build for CDs looks for this file where it finds no configuration beside itself.
		".disk/info": []byte("Branchpoint " + b.Version + "\n"),
	} {
		if err := b.write(filepath.Join(stage, name), data); err != nil {
			return err
		}
	}
	if err := b.licences(p, stage); err != nil {
		return err
	}
	text, err := manifest.encode(filepath.Join(b.Build, "manifest.json"))
	if err != nil {
		return err
	}
	return b.write(filepath.Join(stage, "manifest.json"), text)
}

// xorriso writes the hybrid image: GRUB's hybrid boot sector and El Torito for BIOS; for UEFI a small FAT file system as
// El Torito image on CD, and the EFI system partition as second GPT partition on disk.
func (b *Builder) xorriso(ctx context.Context, p *parts, stage, esp, out string) error {
	date := b.Time.UTC().Format("20060102150405") + "00"
	return command(ctx, b.env(), "xorriso", "-as", "mkisofs", "-o", out, "-V", VolumeID, "-R", "-iso-level", "3",
		"--grub2-mbr", p.loaders()["hybrid.img"],
		"-c", "boot/grub/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info",
		"-eltorito-alt-boot", "-e", "boot/grub/efi.img", "-no-emul-boot",
		"-append_partition", "2", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", esp, "-appended_part_as_gpt",
		"--gpt_disk_guid", "modification-date", "--modification-date="+date, "--set_all_file_dates", date,
		"-uid", "0", "-gid", "0", stage)
}

// verify reads site.yaml back from the made image, by the way personalisation goes.
func (b *Builder) verify(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	defer f.Close()
	sites, err := SiteYAML(f)
	if err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	if !bytes.Equal(sites.ISO, b.SiteYAML) || !bytes.Equal(sites.ESP, b.SiteYAML) {
		return errors.New("verify image: site.yaml does not read back as it was written")
	}
	return nil
}

// env makes the tools deterministic.
func (b *Builder) env() []string {
	return []string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Time.Unix()), "TZ=UTC", "LC_ALL=C.UTF-8", "MTOOLS_SKIP_CHECK=1"}
}

// write makes a file with the image's date.
func (b *Builder) write(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(name), err)
	}
	if err := os.Chtimes(name, b.Time, b.Time); err != nil {
		return fmt.Errorf("set date of %s: %w", filepath.Base(name), err)
	}
	return nil
}

// copyFile copies by way of a new name, so that nobody ever reads half a file.
func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	if old, err := os.ReadFile(to); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.WriteFile(to+".new", data, 0o644); err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		return fmt.Errorf("copy %s: %w", filepath.Base(from), err)
	}
	return nil
}

// command runs a program and puts the end of what it printed into the error.
func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		const keep = 4000
		if len(out) > keep {
			out = out[len(out)-keep:]
		}
		return fmt.Errorf("run %s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}
