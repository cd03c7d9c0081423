package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"branchpoint/initramfs/debian"
)

// manifestPart is what the boot loaders' packages are called in build/manifest.json.
const manifestPart = "branchpoint.img"

// loaderPackages bring what boots; their files are used as Debian signed them.
var loaderPackages = []string{"shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed", "grub-pc-bin", "ipxe"}

// toolPackages bring grub-mkimage and the libraries it runs with; base-files the licence texts that Debian's copyright
// files refer to.
var toolPackages = []string{"grub-common", "libc6", "liblzma5", "libdevmapper1.02.1", "libselinux1", "libudev1", "libpcre2-8-0", "libcap2", "base-files"}

// parts are the unpacked packages.
type parts struct {
	packages []debian.Package
	trees    map[string]string
}

// fetchParts gets the packages through the private apt root.
func fetchParts(ctx context.Context, root *debian.Root) (*parts, error) {
	packages, err := root.Fetch(ctx, append(append([]string{}, loaderPackages...), toolPackages...)...)
	if err != nil {
		return nil, fmt.Errorf("fetch boot loaders: %w", err)
	}
	p := &parts{trees: map[string]string{}}
	for _, pkg := range packages {
		tree, err := root.Tree(ctx, &pkg)
		if err != nil {
			return nil, fmt.Errorf("unpack boot loaders: %w", err)
		}
		p.trees[pkg.Name] = tree
		p.packages = append(p.packages, pkg)
	}
	return p, nil
}

// file gives the path of a package's file on the build host.
func (p *parts) file(pkg, name string) string { return filepath.Join(p.trees[pkg], name) }

// loaders maps a name to the file that Debian ships for it.
func (p *parts) loaders() map[string]string {
	return map[string]string{
		"shimx64.efi":   p.file("shim-signed", "usr/lib/shim/shimx64.efi.signed"),
		"mmx64.efi":     p.file("shim-helpers-amd64-signed", "usr/lib/shim/mmx64.efi.signed"),
		"gcdx64.efi":    p.file("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"),
		"grubx64.efi":   p.file("grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
		"undionly.kpxe": p.file("ipxe", "usr/lib/ipxe/undionly.kpxe"),
		"hybrid.img":    p.file("grub-pc-bin", "usr/lib/grub/i386-pc/boot_hybrid.img"),
	}
}

// biosModules are in GRUB's core image for BIOS: everything grub.cfg uses, so that no module is loaded from the medium.
var biosModules = []string{
	"biosdisk", "iso9660", "part_gpt", "part_msdos", "fat", "search", "search_label", "normal", "configfile", "linux",
	"serial", "terminal", "echo", "test", "loadenv", "minicmd", "sleep", "halt", "reboot", "ls", "cat", "all_video", "gfxterm",
}

// biosCore runs Debian 13's grub-mkimage, with its own libraries, whatever the build host is.
func (p *parts) biosCore(ctx context.Context, work string) (string, error) {
	// The medium that the BIOS started from is tried first: another one may be plugged in.
	cfg := filepath.Join(work, "load.cfg")
	text := "search --no-floppy --set=root --label " + VolumeID + " --hint $root\nset prefix=($root)/boot/grub\n"
	if err := os.WriteFile(cfg, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write configuration of GRUB's core image: %w", err)
	}
	var libraries []string
	for _, tree := range p.trees {
		libraries = append(libraries, filepath.Join(tree, "usr/lib/x86_64-linux-gnu"))
	}
	core := filepath.Join(work, "eltorito.img")
	args := []string{
		"--library-path", strings.Join(libraries, ":"), p.file("grub-common", "usr/bin/grub-mkimage"),
		"--directory", p.file("grub-pc-bin", "usr/lib/grub/i386-pc"), "--format", "i386-pc-eltorito", "--prefix", "/boot/grub",
		"--config", cfg, "--output", core,
	}
	if err := command(ctx, nil, p.file("libc6", "usr/lib64/ld-linux-x86-64.so.2"), append(args, biosModules...)...); err != nil {
		return "", fmt.Errorf("make GRUB's core image for BIOS: %w", err)
	}
	return core, nil
}
