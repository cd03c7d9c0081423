package pxe

import (
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// Files that the service point hands out, by the names they have in Deps.Files. ExtraLayer may be missing.
const (
	FileShim       = "shimx64.efi"
	FileGRUB       = "grubx64.efi"
	FileMokManager = "mmx64.efi"
	FileUndionly   = "undionly.kpxe"
	FileKernel     = "vmlinuz"
	FileBaseLayer  = "base.cpio.zst"
	FileAgentLayer = "agent.cpio.zst"
	FileExtraLayer = "extra.cpio.zst"
)

// httpBootDir is where firmware finds by HTTP what it else loads by TFTP: the directory of shim and GRUB.
const httpBootDir = "/boot/efi/"

// httpFirst is what GRUB reads first after HTTP Boot: "/grub" is built into it, and the server is the one it came from.
const httpFirst = "/grub/grub.cfg"

// bootFile chooses what a client's firmware is told to load, for the "file" field of the BOOTP header (at most 127
// octets). httpPort is where the boot service listens at server.
//
//	BIOS ROM           undionly.kpxe by TFTP, which asks again as iPXE
//	iPXE under BIOS    a script by HTTP
//	UEFI x64, any ROM  shim by TFTP, which loads GRUB from the same directory
//	UEFI HTTP Boot x64 the same two by HTTP
func bootFile(r *request, server netip.Addr, httpPort int) (string, error) {
	if r.http {
		if r.machine.Arch == provisioning.ArchHTTPBootx64 || r.machine.Arch.Supported() && r.machine.Arch.UEFI() {
			return fmt.Sprintf("http://%s%s", hostPort(server, httpPort), httpBootDir+FileShim), nil
		}
		return "", fmt.Errorf("there is no boot loader for HTTP Boot of %s", r.machine.Arch)
	}
	switch r.machine.Arch {
	case provisioning.ArchBIOS:
		if r.ipxe {
			return fmt.Sprintf("http://%s/boot/ipxe?mac=%s", hostPort(server, httpPort), r.mac), nil
		}
		return FileUndionly, nil
	case provisioning.ArchUEFIx64, provisioning.ArchUEFIx64Alt:
		return FileShim, nil
	}
	return "", fmt.Errorf("there is no boot loader for %s", r.machine.Arch)
}

// hostPort is the authority part of an HTTP URL; the port is left out where it is 80.
func hostPort(a netip.Addr, port int) string {
	if port == 80 {
		return a.String()
	}
	return a.String() + ":" + strconv.Itoa(port)
}

// bootImage returns the layers of the boot image in the order in which they are unpacked; an error where kernel or
// layers are missing.
func bootImage(files fs.FS) ([]string, error) {
	layers := []string{FileBaseLayer, FileAgentLayer}
	for _, n := range append([]string{FileKernel}, layers...) {
		if _, err := fs.Stat(files, n); err != nil {
			return nil, fmt.Errorf("the boot image is incomplete: %w", err)
		}
	}
	if _, err := fs.Stat(files, FileExtraLayer); err == nil {
		layers = append(layers, FileExtraLayer)
	}
	return layers, nil
}

// loaders are the files that a client's firmware loads before it asks for its configuration.
func loaders(r *request) []string {
	switch {
	case r.machine.Arch.UEFI():
		return []string{FileShim, FileGRUB}
	case r.ipxe:
		return nil
	}
	return []string{FileUndionly}
}

// bootableTime is how long it holds that the files are there.
const bootableTime = time.Second

// bootableNow is bootable, without looking again for bootableTime after everything was there: looking costs more than
// the rest of an answer. That something is missing is looked at every time.
func (s *Service) bootableNow(r *request, now time.Time) error {
	var first string // iPXE's clients load nothing but the image
	if names := loaders(r); len(names) > 0 {
		first = names[0]
	}
	s.mu.Lock()
	at, ok := s.bootableAt[first]
	s.mu.Unlock()
	if age := now.Sub(at); ok && age >= 0 && age < bootableTime {
		return nil
	}
	if err := bootable(s.deps.Files, r); err != nil {
		return err
	}
	s.mu.Lock()
	s.bootableAt[first] = now
	s.mu.Unlock()
	return nil
}

// bootable reports why a client cannot be booted although it is to be; nil where everything is there.
func bootable(files fs.FS, r *request) error {
	for _, n := range loaders(r) {
		if _, err := fs.Stat(files, n); err != nil {
			return fmt.Errorf("the boot loader is missing: %w", err)
		}
	}
	_, err := bootImage(files)
	return err
}
