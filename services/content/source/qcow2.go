package source

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"branchpoint/provisioning"
)

// The library decompresses a cluster anew for every short read, so clusters are given in one piece.
func init() {
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		return whole{flate.NewReader(r)}, nil
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return whole{d.IOReadCloser()}, nil
	})
}

// whole reads as much as was asked for.
type whole struct{ io.ReadCloser }

func (w whole) Read(p []byte) (int, error) { return io.ReadFull(w.ReadCloser, p) }

// Fields and limits of the header (QEMU's docs/interop/qcow2.rst).
const (
	incompatibleDirty        = 1 << 0
	incompatibleCorrupt      = 1 << 1
	incompatibleExternalData = 1 << 2
	incompatibleCompression  = 1 << 3
	incompatibleExtendedL2   = 1 << 4

	maxVirtual = 64 << 40 // bytes; no branch PC has a larger disk
	maxL1      = 4 << 20  // entries; QEMU's own limit of 32 MiB
)

// qcow is a qcow2 image. Its clusters are read through the library; that every one of them lies inside the file is
// checked here, before anything is read.
type qcow struct {
	*file
	img     *qcow2.Qcow2
	virtual int64
	off     int64
	extent  image.Extent // the one that off is in; empty at the beginning
}

func openQcow2(f *file, name string) (Source, error) {
	virtual, err := checkQcow2(f.File, name, f.size())
	if err != nil {
		return nil, err
	}
	img, err := qcow2.Open(f.File, nil)
	if err == nil {
		err = img.Readable()
	}
	if err != nil {
		return nil, refuse(name, "try to convert it: qemu-img convert -O qcow2 FILE NEW.qcow2", "it cannot be read as a qcow2 image: %w", err)
	}
	if err := checkDisk(name, img, virtual); err != nil {
		return nil, err
	}
	return &qcow{file: f, img: img, virtual: virtual}, nil
}

// checkQcow2 checks the header and that all tables and clusters lie inside the file; it returns the disk's size.
func checkQcow2(f io.ReaderAt, name string, size int64) (int64, error) {
	be := binary.BigEndian
	var h [112]byte
	if n, err := f.ReadAt(h[:], 0); n < 72 {
		if err != io.EOF {
			return 0, unreadable(name, err)
		}
		return 0, cutOff(name)
	}
	version, bits := be.Uint32(h[4:]), be.Uint32(h[20:])
	virtual, l1Size, l1Offset := be.Uint64(h[24:]), be.Uint32(h[36:]), be.Uint64(h[40:])
	var features uint64
	if version == 3 {
		features = be.Uint64(h[72:])
	}
	switch {
	case version != 2 && version != 3:
		return 0, refuse(name, convert, "it is a qcow2 image of the unknown version %d", version)
	case be.Uint64(h[8:]) != 0:
		return 0, refuse(name, "join them: qemu-img convert -O qcow2 FILE NEW.qcow2", "it holds only the differences to another image (a backing file)")
	case be.Uint32(h[32:]) != 0:
		return 0, refuse(name, "decrypt it: qemu-img convert -O qcow2 with its secret", "it is encrypted")
	case features&incompatibleExternalData != 0:
		return 0, refuse(name, convert, "it keeps its data in another file")
	case features&incompatibleDirty != 0:
		return 0, refuse(name, "shut down the virtual machine that uses it, then: qemu-img check -r all FILE", "it was not closed cleanly")
	case features&incompatibleCorrupt != 0:
		return 0, refuse(name, "qemu-img check -r all FILE, or make it again", "it is marked as damaged")
	case features&^(incompatibleDirty|incompatibleCompression|incompatibleExtendedL2) != 0:
		return 0, refuse(name, convert, "it uses unknown features of qcow2 (%#x)", features)
	case bits < 9 || bits > 21 || virtual == 0 || virtual > maxVirtual || l1Size > maxL1:
		return 0, refuse(name, nextAgain, "its qcow2 header makes no sense")
	}
	w := clusterWalk{f: f, name: name, size: size, virtual: int64(virtual), bits: bits, entry: 8}
	if features&incompatibleExtendedL2 != 0 {
		w.entry = 16
	}
	return int64(virtual), w.walk(l1Offset, int64(l1Size))
}

func cutOff(name string) error {
	return refuse(name, nextAgain, "it is cut off: parts of the qcow2 image lie beyond its end")
}

// clusterWalk goes over all of an image's tables.
type clusterWalk struct {
	f             io.ReaderAt
	name          string
	size, virtual int64
	bits          uint32
	entry         int64 // bytes of an L2 entry
}

// offsetMask are the bits of a table entry that hold an offset into the file.
const offsetMask = 0x00fffffffffffe00

func (w *clusterWalk) walk(l1Offset uint64, l1Size int64) error {
	cluster := int64(1) << w.bits
	perTable := cluster / w.entry
	if need := (w.virtual + cluster*perTable - 1) / (cluster * perTable); l1Size < need {
		return refuse(w.name, nextAgain, "its tables cover only a part of the disk")
	}
	l1, err := w.read(l1Offset, l1Size*8)
	if err != nil {
		return err
	}
	buf := l1
	for i := range l1Size {
		offset := binary.BigEndian.Uint64(buf[i*8:]) & offsetMask
		if offset == 0 {
			continue
		}
		l2, err := w.read(offset, cluster)
		if err != nil {
			return err
		}
		for j := range perTable {
			at := (i*perTable + j) * cluster
			if at >= w.virtual {
				break
			}
			if err := w.inside(binary.BigEndian.Uint64(l2[j*w.entry:]), min(cluster, w.virtual-at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside checks that the cluster an L2 entry points to lies in the file; length is how much of it is used.
func (w *clusterWalk) inside(e uint64, length int64) error {
	offset := e & offsetMask
	if e>>62&1 == 1 { // compressed: an offset of 70-bits bits, then the number of further sectors
		offset, length = e&(1<<(70-w.bits)-1), 1
	}
	if offset != 0 && (offset > uint64(w.size) || int64(offset)+length > w.size) {
		return cutOff(w.name)
	}
	return nil
}

func (w *clusterWalk) read(offset uint64, length int64) ([]byte, error) {
	if offset == 0 || offset > uint64(w.size) || int64(offset)+length > w.size {
		return nil, cutOff(w.name)
	}
	b := make([]byte, length)
	if _, err := w.f.ReadAt(b, int64(offset)); err != nil {
		return nil, unreadable(w.name, err)
	}
	return b, nil
}

func (q *qcow) Format() provisioning.Format { return provisioning.FormatDiskImage }

func (q *qcow) Position() (int64, int64) { return q.off, q.virtual }

func (q *qcow) Read(p []byte) (int, error) {
	if q.off >= q.virtual {
		if err := q.unchanged(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), q.virtual-q.off)]
	n, err := q.img.ReadAt(p, q.off)
	q.off += int64(n)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, unreadable(q.name, fmt.Errorf("byte %d of the disk: %w", q.off, err))
}

// SkipZeros passes over clusters that are not allocated, or marked as zeros.
func (q *qcow) SkipZeros() (int64, error) {
	from := q.off
	for q.off < q.virtual {
		// The library takes extents only from a cluster's beginning, so they are followed one after another.
		for q.extent.Start+q.extent.Length <= q.off {
			at := q.extent.Start + q.extent.Length
			e, err := q.img.Extent(at, q.virtual-at)
			if err != nil {
				return 0, unreadable(q.name, err)
			}
			if e.Start != at || e.Length <= 0 {
				return 0, unreadable(q.name, fmt.Errorf("no cluster at byte %d of the disk", at))
			}
			q.extent = e
		}
		if !q.extent.Zero {
			break
		}
		q.off = min(q.extent.Start+q.extent.Length, q.virtual)
	}
	if q.off < q.virtual {
		q.off -= (q.off - from) % Block
	}
	return q.off - from, nil
}
