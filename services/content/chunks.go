package content

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// errUnreadable is a file that the disk does not give back.
var errUnreadable = errors.New("the disk does not give it back")

// unreadable reports whether an error of reading is the disk's or the file system's, and not of this program or the
// kernel at this moment: too many open files are no damage.
func unreadable(err error) bool {
	for _, e := range []error{syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG, syscall.EREMOTEIO, syscall.ENODATA, syscall.ENXIO, errUnreadable} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// notNow gives an error of reading that is this program's or the kernel's at this moment its code: it may be tried again.
func notNow(err error) error {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return provisioning.Errorf(provisioning.CodeUnavailable, "", "%w", err)
		}
	}
	return err
}

// damaged reports whether an error of reading means that what was read is lost, not only missing.
func damaged(err error) bool {
	return provisioning.CodeOf(err) == provisioning.CodeCorrupt
}

func (s *Store) chunkPath(id caibx.ID) string {
	name := id.String()
	return s.path("chunks", name[:4], name+".cacnk")
}

// HasChunk reports whether the store has a chunk, by its file alone.
func (s *Store) HasChunk(id caibx.ID) bool { return present(s.chunkPath(id)) }

// chunkFile is room for a chunk's file, with what precedes it in an answer of several.
type chunkFile [client.BatchHeader + caibx.MaxStored + sealLength]byte

var chunkFiles = sync.Pool{New: func() any { return new(chunkFile) }}

// chunk is the room for the file.
func (f *chunkFile) chunk() []byte { return f[client.BatchHeader:] }

// framed returns a chunk in its stored form, which most of the time lies in f, after its length; nil is none.
func (f *chunkFile) framed(stored []byte) []byte {
	binary.LittleEndian.PutUint32(f[:], uint32(len(stored)))
	return f[:client.BatchHeader+copy(f.chunk(), stored)]
}

// StoredChunk returns a chunk in its stored form, in buf if that is large enough. It was looked at: what it holds is what
// was put into the store. One that is damaged is an error with CodeCorrupt, one that is not there one with CodeNotFound.
func (s *Store) StoredChunk(id caibx.ID, buf []byte) ([]byte, error) {
	b, err := s.load(id, buf)
	if damaged(err) {
		// The next one to ask is to find it missing, and not damaged again.
		b, err = s.notice(id, false, err)
	}
	return b, err
}

// load reads a chunk's file and looks whether it is whole: by its seal, or where it has none by its name.
func (s *Store) load(id caibx.ID, buf []byte) ([]byte, error) {
	corrupt := func(format string, args ...any) ([]byte, error) {
		return nil, provisioning.Errorf(provisioning.CodeCorrupt, "check the disk", "chunk %s: "+format, append([]any{id}, args...)...)
	}
	b, err := readChunk(s.open, s.chunkPath(id), buf)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no chunk %s", id)
	case unreadable(err):
		return corrupt("%w", errors.Join(errUnreadable, err))
	case err != nil:
		return nil, notNow(fmt.Errorf("read a chunk: %w", err))
	case len(b) > caibx.MaxStored+sealLength:
		return corrupt("its file is larger than any chunk's")
	}
	stored, sealed, whole := unseal(id, b)
	if !sealed {
		if _, err := caibx.Open(id, 0, b, nil); err != nil {
			return nil, err
		}
	} else if !whole {
		return corrupt("its bytes do not match its checksum")
	}
	return stored, nil
}

// openFile is os.Open.
func openFile(path string) (fs.File, error) { return os.Open(path) }

// readChunk reads a file of which no more is wanted than a chunk can have, and one byte.
func readChunk(open func(string) (fs.File, error), path string, buf []byte) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	n := int(min(info.Size(), caibx.MaxStored+sealLength+1))
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	n, err = io.ReadFull(f, buf[:n])
	if err == io.EOF || err == io.ErrUnexpectedEOF { // it became shorter, which the check will tell
		err = nil
	}
	return buf[:n], err
}

// Chunk returns a chunk's uncompressed bytes, checked against its name, in buf if that is large enough.
func (s *Store) Chunk(k caibx.Chunk, buf []byte) ([]byte, error) {
	room := chunkFiles.Get().(*chunkFile)
	defer chunkFiles.Put(room)
	b, err := s.load(k.ID, room.chunk())
	if err != nil {
		return nil, err
	}
	return caibx.Open(k.ID, k.Size, b, buf)
}

// CheckChunk holds a chunk against its name and takes it out of the store if it is damaged: then the store does not have
// it, and gets it anew from wherever it gets its chunks. It reports whether the store has it, whole.
func (s *Store) CheckChunk(id caibx.ID) bool {
	_, err := s.Chunk(caibx.Chunk{ID: id}, nil)
	if damaged(err) {
		_, err = s.notice(id, true, err)
	}
	return err == nil
}

// stage writes a chunk, sealed, to a new file in a directory of the staging area, and returns its path.
func stage(dir string, id caibx.ID, stored []byte) (string, error) {
	f, err := os.CreateTemp(dir, "chunk-")
	if err != nil {
		return "", fmt.Errorf("write a chunk: %w", err)
	}
	_, err = f.Write(stored)
	if err == nil {
		_, err = f.Write(seal(id, stored))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name()) // emptied by Open at the latest
		return "", fmt.Errorf("write a chunk: %w", err)
	}
	return f.Name(), nil
}

// place moves chunks from staging files into the store, after they are on the disk. s.mu is held.
func (s *Store) place(staged map[caibx.ID]string) (placed []caibx.ID, err error) {
	if err := s.flush(); err != nil {
		return nil, err
	}
	for id, from := range staged {
		if s.HasChunk(id) {
			continue
		}
		err := move(from, s.chunkPath(id))
		if err != nil {
			return placed, fmt.Errorf("move a chunk into the store: %w", err)
		}
		placed = append(placed, id)
	}
	names := make([]string, 0, len(staged))
	for id := range staged {
		names = append(names, id.String())
	}
	s.regained(kindChunk, names...)
	return placed, nil
}

// move gives a chunk's file its place, whatever is there.
func move(from, to string) error {
	err := os.Rename(from, to)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.Mkdir(filepath.Dir(to), 0o700); err == nil {
			err = os.Rename(from, to)
		}
	}
	return err
}
