package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// VolumeID is the ISO 9660 volume id of the appliance's file, ESPLabel the FAT label of its EFI system partition.
const (
	VolumeID = "BRANCHPOINT"
	ESPLabel = "BP-ESP"
)

// Where things are in the running appliance.
const (
	mediumDir = "/run/branchpoint/medium"
	espDir    = "/run/branchpoint/esp"
	bootDir   = "/run/branchpoint/boot"
	dataDir   = "/run/branchpoint/data"
)

// bootFiles maps the names of the client boot files, as the PXE service point knows them, to their place on the medium.
// Optional ones may be missing.
var bootFiles = []struct {
	name, path string
	optional   bool
}{
	{"vmlinuz", "boot/vmlinuz", false},
	{"base.cpio.zst", "boot/base.cpio.zst", false},
	{"agent.cpio.zst", "boot/agent.cpio.zst", false},
	{"extra.cpio.zst", "boot/extra.cpio.zst", true},
	{"shimx64.efi", "boot/net/shimx64.efi", false},
	{"grubx64.efi", "boot/net/grubx64.efi", false},
	{"mmx64.efi", "boot/net/mmx64.efi", true},
	{"undionly.kpxe", "boot/net/undionly.kpxe", false},
}

// medium is what the appliance was started from.
type medium struct {
	// Device is the whole disk or CD drive, "/dev/sda".
	Device string
	// Site is the content of site.yaml, and where it was read.
	Site provisioning.File
}

// mediumPath is where a medium that was read is remembered, in memory: when this program is started again, the medium may
// have been pulled out.
const mediumPath = "/run/branchpoint/medium.json"

// save remembers a medium. Its site.yaml holds a secret.
func (m *medium) save(path string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("remember the medium: %w", err)
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("remember the medium: %w", err)
	}
	return nil
}

// loadMedium gives the medium that was saved, fs.ErrNotExist if none was.
func loadMedium(path string) (*medium, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read what the medium held: %w", err)
	}
	m := &medium{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("read what the medium held: %w", err)
	}
	return m, nil
}

// findMedium looks through the block devices for the appliance's own file, reads site.yaml and copies the client boot
// files into RAM. Nothing of the medium is in use afterwards: it may be pulled out.
func findMedium(_ context.Context, sysBlock string) (*medium, error) {
	names, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	var found []string
	for _, n := range names {
		if id, err := volumeID("/dev/" + n.Name()); err == nil && id == VolumeID { // a drive without a disc is no error
			found = append(found, n.Name())
		}
	}
	switch len(found) {
	case 0:
	case 1:
		return readMedium("/dev/"+found[0], filepath.Join(sysBlock, found[0]))
	default:
		// The kernel does not say which one it came from, and another site's settings are no guess to make.
		return nil, provisioning.Errorf(provisioning.CodeConflict, "Pull out all but the one of this site.", "several Branchpoint media are attached: %s", strings.Join(found, ", "))
	}
	return nil, provisioning.Errorf(provisioning.CodeNotFound, "Start the computer from the stick or CD again, and leave it in until the screen says that it is ready.",
		"the medium this appliance was started from was not found")
}

// volumeID reads the volume identifier of an ISO 9660 file system (ECMA-119 section 8.4.7: 32 octets at offset 40 of the
// primary volume descriptor in sector 16).
func volumeID(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 72)
	if _, err := f.ReadAt(b, 16*2048); err != nil {
		return "", err
	}
	if b[0] != 1 || string(b[1:6]) != "CD001" {
		return "", errors.New("no ISO 9660")
	}
	return strings.TrimRight(string(b[40:72]), " "), nil
}

func readMedium(device, sys string) (*medium, error) {
	m := &medium{Device: device}
	if err := mounted(device, mediumDir, "iso9660", func() error {
		b, err := readSmall(filepath.Join(mediumDir, "site.yaml"))
		if err != nil {
			return err
		}
		m.Site = provisioning.File{Name: "site.yaml", Text: b}
		return copyBootFiles(mediumDir, bootDir)
	}); err != nil {
		return nil, fmt.Errorf("read the medium %s: %w", device, err)
	}
	esp, err := findESP(sys)
	if err != nil || esp == "" {
		return m, err
	}
	// The EFI system partition's copy is the one a person can edit, so it wins where it can be read.
	err = mounted(esp, espDir, "vfat", func() error {
		b, err := readSmall(filepath.Join(espDir, "site.yaml"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			m.Site = provisioning.File{Name: "site.yaml", Text: b}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read site.yaml on %s: %w", esp, err)
	}
	return m, nil
}

// mounted calls f with a file system mounted read-only.
func mounted(device, dir, fsType string, f func() error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, fsType, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	err := f()
	if uerr := unix.Unmount(dir, 0); err == nil && uerr != nil {
		err = fmt.Errorf("unmount %s: %w", device, uerr)
	}
	return err
}

// maxSite bounds what is read of site.yaml, in bytes. It is padded to 16 KiB, and a person's editor may make it longer.
const maxSite = 1 << 20

// readSmall reads site.yaml without trusting its size.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSite+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSite {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "Shorten it.", "site.yaml has more than %d bytes", maxSite)
	}
	return bytes.TrimRight(b, "\n\x00"), nil
}

func copyBootFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, f := range bootFiles {
		err := copyFile(filepath.Join(from, filepath.FromSlash(f.path)), filepath.Join(to, f.name))
		if errors.Is(err, fs.ErrNotExist) && f.optional {
			continue
		}
		if err != nil {
			return fmt.Errorf("copy %s into memory: %w", f.path, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// findESP returns the partition of the medium that carries ESPLabel, "" if there is none, as on a CD.
func findESP(sys string) (string, error) {
	parts, err := filepath.Glob(filepath.Join(sys, "*", "partition"))
	if err != nil {
		return "", err
	}
	for _, p := range parts {
		device := "/dev/" + filepath.Base(filepath.Dir(p))
		if label, err := fatLabel(device); err == nil && label == ESPLabel {
			return device, nil
		}
	}
	return "", nil
}

// fatLabel reads the volume label in a FAT boot sector (Microsoft's FAT specification, BS_VolLab: offset 71 for FAT32,
// 43 for FAT12 and FAT16).
func fatLabel(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, 0); err != nil {
		return "", err
	}
	switch {
	case string(b[82:87]) == "FAT32":
		return strings.TrimRight(string(b[71:82]), " "), nil
	case string(b[54:57]) == "FAT":
		return strings.TrimRight(string(b[43:54]), " "), nil
	}
	return "", errors.New("no FAT")
}
