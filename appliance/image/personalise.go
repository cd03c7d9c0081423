package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
)

// Sites are the two copies of site.yaml in an image, without their padding. In an image of ours they are the same until a
// person edits the one on the EFI system partition.
type Sites struct {
	// ISO is the copy in the ISO 9660 file system.
	ISO []byte
	// ESP is the copy on the EFI system partition. It wins where it can be read.
	ESP []byte
}

// places are where the two copies lie.
type places struct{ iso, esp []extent }

// locate finds both copies, or an error that wraps [ErrNotImage].
func locate(r io.ReaderAt) (places, error) {
	iso, err := findISO(r, siteName)
	if err != nil {
		return places{}, err
	}
	if iso.size != SiteYAMLSize {
		return places{}, fmt.Errorf("%w: its %s has %d bytes, not %d", ErrNotImage, siteName, iso.size, SiteYAMLSize)
	}
	part, err := findESP(r)
	if err != nil {
		return places{}, err
	}
	fat, err := openFAT(r, part)
	if err != nil {
		return places{}, err
	}
	esp, err := fat.findRoot(ESPLabel, siteName)
	if err != nil {
		return places{}, err
	}
	return places{iso: []extent{iso}, esp: esp}, nil
}

// SiteYAML reads both copies of site.yaml from an image. Something that is no image gives an error that wraps
// [ErrNotImage].
func SiteYAML(r io.ReaderAt) (Sites, error) {
	p, err := locate(r)
	if err != nil {
		return Sites{}, err
	}
	iso, err := readExtents(r, p.iso)
	if err != nil {
		return Sites{}, err
	}
	esp, err := readExtents(r, p.esp)
	if err != nil {
		return Sites{}, err
	}
	return Sites{ISO: unpad(iso), ESP: unpad(esp)}, nil
}

// Personalise writes siteYAML into both places of the image file at path, in place, and reads it back. The content is
// taken as it is; more than [MaxSiteYAML] bytes give [ErrTooLarge], a file that is no image an error that wraps
// [ErrNotImage], and in both cases the file stays as it was. It is meant for a copy: a crash in the middle leaves the two
// places different.
func Personalise(ctx context.Context, path string, siteYAML []byte) (err error) {
	padded, err := pad(siteYAML)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("write image %s: %w", path, closeErr)
		}
	}()
	p, err := locate(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, extents := range [][]extent{p.iso, p.esp} {
		rest := padded
		for _, e := range extents {
			if _, err := f.WriteAt(rest[:e.size], e.offset); err != nil {
				return fmt.Errorf("write site.yaml into %s: %w", path, err)
			}
			rest = rest[e.size:]
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write site.yaml into %s: %w", path, err)
	}
	got, err := SiteYAML(f)
	if err != nil {
		return fmt.Errorf("read %s back: %w", path, err)
	}
	if want := unpad(padded); !bytes.Equal(got.ISO, want) || !bytes.Equal(got.ESP, want) {
		return fmt.Errorf("%s does not hold what was written to it: the disk under it is not to be trusted", path)
	}
	return nil
}

func readExtents(r io.ReaderAt, extents []extent) ([]byte, error) {
	var data []byte
	for _, e := range extents {
		at := len(data)
		data = append(data, make([]byte, e.size)...)
		if _, err := r.ReadAt(data[at:], e.offset); err != nil {
			return nil, fmt.Errorf("%w: its site.yaml cannot be read: %w", ErrNotImage, err)
		}
	}
	return data, nil
}
