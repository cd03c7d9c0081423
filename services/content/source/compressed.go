package source

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"branchpoint/provisioning"
)

// compression is one way in which a source may be compressed.
type compression struct {
	name, magic string
	open        func(r io.Reader) (io.ReadCloser, error)
}

// maxWindow bounds the memory, in bytes, that a compressed file can ask for: zstd --long=29.
const maxWindow = 512 << 20

var compressions = []compression{
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}},
	{"gzip", "\x1f\x8b\x08", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"xz", "\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		d, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(d), nil
	}},
}

func compressionOf(head []byte) *compression {
	for i, c := range compressions {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return &compressions[i]
		}
	}
	return nil
}

// decompressed gives a compressed file's content and says clearly when that ends too early.
type decompressed struct {
	io.ReadCloser
	name string
	how  string
}

func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = d.failure(err)
	}
	return n, err
}

func (d *decompressed) failure(err error) error {
	if _, ok := errors.AsType[*provisioning.Error](err); ok {
		return err // the file itself could not be read
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return refuse(d.name, nextAgain, "it is cut off: the %s data end too early", d.how)
	}
	return refuse(d.name, nextAgain, "its %s data are damaged: %w", d.how, err)
}

func openCompressed(f *file, name string, c *compression) (Source, error) {
	d := &decompressed{name: name, how: c.name}
	var err error
	if d.ReadCloser, err = c.open(bufio.NewReaderSize(f, 1<<20)); err != nil {
		return nil, d.failure(err)
	}
	head, err := readHead(d)
	if err != nil {
		return nil, err
	}
	if inner := compressionOf(head); inner != nil {
		return nil, refuse(name, "decompress it once and add the result", "it is compressed twice (%s in %s)", inner.name, c.name)
	}
	if len(head) == 0 {
		return nil, refuse(name, "fetch or make it again", "it holds nothing")
	}
	r := &joined{Reader: io.MultiReader(bytes.NewReader(head), d), Closer: d}
	switch kind, err := detect(name, head); {
	case err != nil:
		return nil, err
	case kind == kindQcow2:
		return nil, refuse(name, "decompress it and add the qcow2 image itself", "it is a qcow2 image inside %s compression", c.name)
	case kind == kindTar:
		return newTar(r, name, f), nil
	}
	t, err := readTable(name, head)
	if err != nil {
		return nil, err
	}
	return &stream{joined: r, file: f, name: name, table: t}, nil
}

type joined struct {
	io.Reader
	io.Closer
}

// stream is a compressed raw disk image. Whether it is complete shows at its end.
type stream struct {
	*joined
	file   *file
	name   string
	table  table
	size   int64
	backup [8]byte
}

func (s *stream) Format() provisioning.Format { return provisioning.FormatDiskImage }

func (s *stream) Position() (int64, int64) { return s.file.read, s.file.size() }

func (s *stream) SkipZeros() (int64, error) { return 0, nil }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.joined.Read(p)
	for i := range s.backup { // keep what stands where the backup GPT header belongs
		if at := s.table.backup + int64(i) - s.size; s.table.backup != 0 && at >= 0 && at < int64(n) {
			s.backup[i] = p[at]
		}
	}
	s.size += int64(n)
	if err == io.EOF {
		if err := s.table.check(s.name, s.size, s.backup[:]); err != nil {
			return n, err
		}
		if err := s.file.unchanged(); err != nil {
			return n, err
		}
	}
	return n, err
}

func (s *stream) Close() error {
	_ = s.joined.Close() // a decompressor; it is only read from
	return s.file.Close()
}
