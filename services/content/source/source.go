// Package source reads what an administrator hands in as an operating system: a disk image (raw or qcow2, raw also
// compressed) or the tar of a root file system (plain or compressed). It finds out by content which it is, refuses what
// cannot be deployed, and gives the uncompressed bytes in order, passing over what is known to be zeros.
package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"branchpoint/provisioning"
)

// Block is the unit, in bytes, in which zeros are passed over: SkipZeros returns multiples of it, except at the end.
const Block = 64 << 10

// Source is one opened source. Read gives the uncompressed bytes and, instead of io.EOF, the reason why what was read is
// not a complete image. Its errors carry a code and a next step.
type Source interface {
	io.ReadCloser
	// Format is what it is.
	Format() provisioning.Format
	// SkipZeros passes over zeros at the current position without reading them, and returns how many bytes that was.
	// The position must be a multiple of Block.
	SkipZeros() (int64, error)
	// Position is how much of the source has been dealt with, and how much there is, in bytes of the source.
	Position() (done, total int64)
}

// headSize is how much of the beginning is looked at: the last magic, btrfs's, is at 65600.
const headSize = 128 << 10

// Open opens the file at path, which must be a regular one, and checks what can be checked before reading it.
func Open(path string) (Source, error) {
	name := filepath.Base(path)
	f, err := openRegular(path, name)
	if err != nil {
		return nil, err
	}
	s, err := open(f, name)
	if err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	return s, nil
}

func openRegular(path, name string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hold us up
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "check the path", "%s does not exist", path)
	case errors.Is(err, os.ErrPermission):
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "make it readable for this user, or run the command as root", "%s cannot be read: permission denied", path)
	case err != nil:
		return nil, fmt.Errorf("open the image: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		switch {
		case info.IsDir():
			err = refuse(name, "pack the root file system first: tar -C "+path+" --xattrs --acls --numeric-owner -cf NAME.tar .", "it is a directory")
		case !info.Mode().IsRegular():
			err = refuse(name, nextKinds, "it is not a regular file")
		case info.Size() == 0:
			err = refuse(name, "fetch or make it again", "it is empty")
		}
	}
	if err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	return &file{File: f, name: name, info: info}, nil
}

// file is the opened file, with what it was like at the beginning.
type file struct {
	*os.File
	name string
	info os.FileInfo
	read int64
}

func (f *file) size() int64 { return f.info.Size() }

// Read counts what is read in order, and makes read errors say which file.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.read += int64(n)
	if err != nil && err != io.EOF {
		err = unreadable(f.name, err)
	}
	return n, err
}

// unchanged reports whether the file is still the one that was opened: an image that is written to meanwhile is none.
func (f *file) unchanged() error {
	now, err := f.Stat()
	if err != nil {
		return unreadable(f.name, err)
	}
	if now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime()) {
		return provisioning.Errorf(provisioning.CodeConflict, "wait until it is complete, or stop the virtual machine that uses it, then add it again",
			"%s changed while it was read", f.name)
	}
	return nil
}

// nextKinds says what can be handed in.
const nextKinds = "give a disk image (raw or qcow2; raw also as .zst, .gz or .xz) or a tar of a root file system (also .zst, .gz or .xz)"

// nextAgain is what to do about an incomplete file.
const nextAgain = "fetch or make it again and compare its checksum with the publisher's"

func refuse(name, next, format string, args ...any) error {
	return provisioning.Errorf(provisioning.CodeInvalid, next, "%s: %w", name, fmt.Errorf(format, args...))
}

func unreadable(name string, err error) error {
	return provisioning.Errorf(provisioning.CodeInvalid, "check the disk that holds it, or fetch it again", "%s cannot be read: %w", name, err)
}

func open(f *file, name string) (Source, error) {
	head, err := readHead(io.NewSectionReader(f, 0, headSize))
	if err != nil {
		return nil, unreadable(name, err)
	}
	if c := compressionOf(head); c != nil {
		return openCompressed(f, name, c)
	}
	switch kind, err := detect(name, head); {
	case err != nil:
		return nil, err
	case kind == kindQcow2:
		return openQcow2(f, name)
	case kind == kindTar:
		return newTar(f, name, f), nil
	default:
		return openRaw(f, name)
	}
}

// readHead reads up to headSize bytes.
func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}

type kind int

const (
	kindDisk kind = iota
	kindQcow2
	kindTar
)

// magics are the beginnings of what is often mistaken for a disk image, each with what it is and what to do.
var magics = []struct {
	offset      int
	magic, what string
	next        string
}{
	{32769, "CD001", "it is a CD image (ISO 9660), not an installed operating system", "install from it onto a disk image first, or take the publisher's cloud or disk image"},
	{0, "KDMV", "it is a VMware disk", convert},
	{0, "# Disk DescriptorFile", "it is a VMware disk's description", convert},
	{0, "conectix", "it is a Virtual PC or Hyper-V disk (VHD)", convert},
	{0, "vhdxfile", "it is a Hyper-V disk (VHDX)", convert},
	{64, "\x7f\x10\xda\xbe", "it is a VirtualBox disk (VDI)", convert},
	{0, "MSWIM\x00\x00\x00", "it is a Windows image (WIM)", nextKinds},
	{0, "PK\x03\x04", "it is a ZIP archive", "unpack it and add the image in it"},
	{0, "7z\xbc\xaf\x27\x1c", "it is a 7-Zip archive", "unpack it and add the image in it"},
	{0, "BZh", "it is compressed with bzip2", "decompress it, or compress it with zstd, gzip or xz instead"},
	{0, "\x04\x22\x4d\x18", "it is compressed with lz4", "decompress it, or compress it with zstd, gzip or xz instead"},
	{0, "hsqs", "it is a squashfs file system", wholeDisk},
	{0, "XFSB", "it is an XFS file system without a partition table", wholeDisk},
	{1080, "\x53\xef", "it is an ext4 file system without a partition table", wholeDisk},
	{3, "NTFS    ", "it is an NTFS file system without a partition table", wholeDisk},
	{54, "FAT1", "it is a FAT file system without a partition table", wholeDisk},
	{82, "FAT32", "it is a FAT file system without a partition table", wholeDisk},
	{65600, "_BHRfS_M", "it is a Btrfs file system without a partition table", wholeDisk},
}

const (
	convert   = "convert it first: qemu-img convert -O qcow2 FILE NEW.qcow2"
	wholeDisk = "give an image of the whole disk, partition table included, or a tar of the root file system"
)

// detect says what uncompressed content is by its beginning. A disk's partition table is not looked into yet.
func detect(name string, head []byte) (kind, error) {
	if bytes.HasPrefix(head, []byte("QFI\xfb")) {
		return kindQcow2, nil
	}
	if isTar(head) {
		return kindTar, nil
	}
	// The boot sectors of ext4, XFS and Btrfs belong to nobody, so a partition table there counts first.
	table := hasTable(head)
	for _, m := range magics {
		if end := m.offset + len(m.magic); len(head) >= end && string(head[m.offset:end]) == m.magic && (!table || m.offset == 32769) {
			return 0, refuse(name, m.next, "%s", m.what)
		}
	}
	if !table {
		return 0, refuse(name, nextKinds, "it is not an operating system image: it has no partition table and is no archive")
	}
	return kindDisk, nil
}
