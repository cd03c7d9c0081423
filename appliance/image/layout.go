// Package image makes branchpoint.img, the one file that boots as USB disk and as CD under BIOS, UEFI and UEFI with Secure
// Boot, and writes the settings of a site into a copy of it.
//
// The file is an ISO 9660 file system (kernel, layers, client boot files; never written, always there to fall back to)
// with a hybrid boot sector for BIOS and an EFI system partition appended as second partition of a GPT. Both hold
// site.yaml at a fixed size, so that it is changed in place.
package image

import (
	"bytes"
	"errors"
	"fmt"
)

const (
	// VolumeID names the ISO 9660 file system. The running appliance finds its medium by it.
	VolumeID = "BRANCHPOINT"
	// ESPLabel is the FAT label of the EFI system partition.
	ESPLabel = "BP-ESP"
	// ESPSize is the size of the EFI system partition in bytes. Two update slots fit in, each with kernel, layers and
	// client boot image (about 75 MiB), and half as much again for what they will grow by. Nearly all of it is zeros: a
	// hole where the file lies on a file system that knows holes.
	ESPSize = 256 << 20
	// SiteYAMLSize is the size of site.yaml in the file, in bytes: its content and padding.
	SiteYAMLSize = 16384
	// siteName is its name in both file systems.
	siteName = "site.yaml"
)

// trailer ends the content of site.yaml. It tells a person with an editor why so much nothing follows.
const trailer = "\n# End of the settings. The empty lines below keep this file at its fixed size; they may go when you edit it.\n"

// MaxSiteYAML is the largest content of site.yaml, in bytes.
const MaxSiteYAML = SiteYAMLSize - len(trailer)

// ErrTooLarge says that a site.yaml does not fit.
var ErrTooLarge = fmt.Errorf("site.yaml is larger than %d bytes, which is all the room there is for it", MaxSiteYAML)

// ErrNotImage says that a file is no Branchpoint image.
var ErrNotImage = errors.New("not a Branchpoint image")

// pad brings content to the fixed size.
func pad(content []byte) ([]byte, error) {
	if bytes.IndexByte(content, 0) >= 0 {
		return nil, errors.New("site.yaml holds a zero byte: it is no text file")
	}
	content = unpad(content)
	if len(content) > MaxSiteYAML {
		return nil, ErrTooLarge
	}
	padded := bytes.Repeat([]byte{'\n'}, SiteYAMLSize)
	n := copy(padded, content)
	copy(padded[n:], trailer)
	return padded, nil
}

// unpad takes the trailer and what follows it off. Content without one is given as it is.
func unpad(padded []byte) []byte {
	i := bytes.LastIndex(padded, []byte(trailer))
	if i < 0 || len(bytes.Trim(padded[i+len(trailer):], "\n")) > 0 {
		return padded
	}
	return padded[:i]
}
