package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"branchpoint/provisioning"
)

// bootLoaderTimeout bounds each of the boot loader's tools: they take seconds, a minute on an emulated processor.
const bootLoaderTimeout = 20 * time.Minute

// loaderDir is where boot loaders stand in the installed system.
const loaderDir = "/boot/efi/EFI/"

// installBootLoader has the installed system install GRUB with its own tools, so that what boots is what its own
// updates will maintain. Entries in the firmware's memory are not made: the removable-media path, which every UEFI
// starts from a disk without entries (UEFI specification 2.10 section 3.5.1.1), works on any machine the disk is put in.
func (r *Runner) installBootLoader(ctx context.Context, disk string) error {
	target := r.system.Target()
	if !anyProgram(target, "grub-install") {
		return provisioning.Errorf(provisioning.CodeInvalid,
			"Build the image with GRUB in it; on Debian: grub2-common with grub-pc-bin for BIOS, and grub-efi-amd64-signed with shim-signed for UEFI.",
			"the image has no grub-install")
	}
	run := func(args ...string) error {
		_, err := r.exec(ctx, Command{Args: args, InTarget: true, Timeout: bootLoaderTimeout})
		return err
	}
	if fw := r.system.Firmware(); fw.UEFI {
		if err := r.installUEFI(target, run, fw.SecureBoot); err != nil {
			return err
		}
	} else if err := run("grub-install", "--target=i386-pc", "--recheck", disk); err != nil {
		return err
	}
	if anyProgram(target, "update-grub") {
		return run("update-grub")
	}
	return run("grub-mkconfig", "-o", "/boot/grub/grub.cfg")
}

// installUEFI installs GRUB onto the EFI system partition, signed where the image has it signed.
func (r *Runner) installUEFI(target Files, run func(...string) error, secureBoot bool) error {
	signed := anyFile(target, "/usr/lib/shim/shimx64.efi.signed") && anyFile(target, "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
	if secureBoot && !signed {
		return provisioning.Errorf(provisioning.CodeInvalid, "Build the image with shim-signed and grub-efi-amd64-signed, or turn Secure Boot off in the firmware.",
			"Secure Boot is on, and the image has no signed boot loader")
	}
	id, err := distributor(target)
	if err != nil {
		return err
	}
	args := []string{"grub-install", "--target=x86_64-efi", "--efi-directory=/boot/efi", "--bootloader-id=" + id, "--no-nvram", "--recheck"}
	if signed {
		args = append(args, "--uefi-secure-boot")
	}
	if err := run(args...); err != nil {
		return err
	}
	own, removable := loaderDir+id, loaderDir+"BOOT"
	copies := map[string]string{"grubx64.efi": "BOOTX64.EFI"}
	if signed {
		copies = map[string]string{"shimx64.efi": "BOOTX64.EFI", "grubx64.efi": "grubx64.efi", "mmx64.efi": "mmx64.efi"}
	}
	// shim started from there runs fbx64.efi where it finds it, which would write entries and restart.
	for _, name := range []string{"fbx64.efi", "FBX64.EFI"} {
		if err := target.Remove(removable + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	if err := target.Mkdir(removable, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", removable, err)
	}
	for from, to := range copies {
		if from == "mmx64.efi" && !anyFile(target, own+"/"+from) {
			continue // only for enrolling keys by hand
		}
		if err := run("cp", own+"/"+from, removable+"/"+to); err != nil {
			return fmt.Errorf("copy %s to the removable-media path: %w", from, err)
		}
	}
	return nil
}

var distributorForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

// distributor is the directory that the image's signed GRUB looks into: the system's ID of os-release(5).
func distributor(target Files) (string, error) {
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := target.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", name, err)
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "ID="); ok {
				if v = strings.Trim(v, `"'`); distributorForm.MatchString(v) {
					return v, nil
				}
			}
		}
	}
	return "", provisioning.Errorf(provisioning.CodeInvalid, "Check the image's /etc/os-release.", "the image does not say which system it is (ID in /etc/os-release)")
}

// anyProgram reports whether the tree has the program in one of the usual places.
func anyProgram(target Files, name string) bool {
	return anyFile(target, "/usr/sbin/"+name, "/usr/bin/"+name, "/sbin/"+name, "/bin/"+name)
}

// anyFile reports whether one of the files is there.
func anyFile(target Files, names ...string) bool {
	for _, n := range names {
		if _, err := target.Stat(n); err == nil {
			return true
		}
	}
	return false
}
