package client

import "fmt"

// blockSize is in what pieces a disk is written, in bytes: a multiple of every page and erase block size, so that the
// kernel need not read what is only partly overwritten.
const blockSize = 1 << 20

// block gathers what is to be written into blocks.
type block struct {
	t    Target
	from int64
	buf  []byte
}

func (b *block) write(p []byte, off int64) error {
	if len(b.buf) > 0 && b.from+int64(len(b.buf)) != off {
		if err := b.flush(); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		if b.buf == nil {
			b.buf = make([]byte, 0, blockSize)
		}
		if len(b.buf) == 0 {
			b.from = off
		}
		n := min(int64(len(p)), blockSize-(off%blockSize))
		b.buf = append(b.buf, p[:n]...)
		p, off = p[n:], off+n
		if off%blockSize == 0 {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *block) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	if _, err := b.t.WriteAt(b.buf, b.from); err != nil {
		return diskError(fmt.Sprintf("write to the disk at byte %d", b.from), err)
	}
	b.buf = b.buf[:0]
	return nil
}
