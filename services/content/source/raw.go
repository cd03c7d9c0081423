package source

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// raw is an uncompressed disk image in a regular file.
type raw struct {
	*file
	off int64
}

func openRaw(f *file, name string) (Source, error) {
	if err := checkDisk(name, f, f.size()); err != nil {
		return nil, err
	}
	return &raw{file: f}, nil
}

// checkDisk checks the partition table of a disk image that can be read anywhere.
func checkDisk(name string, r io.ReaderAt, size int64) error {
	head, err := readHead(io.NewSectionReader(r, 0, min(size, headSize)))
	if err != nil {
		return unreadable(name, err)
	}
	if k, err := detect(name, head); err != nil {
		return err
	} else if k != kindDisk {
		return refuse(name, nextKinds, "its content is not a disk with a partition table")
	}
	t, err := readTable(name, head)
	if err != nil {
		return err
	}
	var backup [8]byte
	if size >= t.end {
		if _, err := r.ReadAt(backup[:], t.backup); err != nil {
			return unreadable(name, err)
		}
	}
	return t.check(name, size, backup[:])
}

func (r *raw) Format() provisioning.Format { return provisioning.FormatDiskImage }

func (r *raw) Position() (int64, int64) { return r.off, r.size() }

func (r *raw) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.off)
	r.off += int64(n)
	if err == io.EOF {
		if err := r.unchanged(); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		return 0, io.EOF
	}
	if err != nil {
		return n, unreadable(r.name, err)
	}
	return n, nil
}

// SkipZeros passes over a hole of a sparse file.
func (r *raw) SkipZeros() (int64, error) {
	if r.off >= r.size() {
		return 0, nil
	}
	data, err := unix.Seek(int(r.Fd()), r.off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		data = r.size()
	case err != nil:
		return 0, nil // a file system without holes: everything is read
	}
	n := min(data, r.size()) - r.off
	if data < r.size() {
		n -= n % Block
	}
	r.off += n
	return n, nil
}
