package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// File types and permissions as cpio and stat(2) write them.
const (
	typeMask   = 0o170000
	typeDir    = 0o040000
	typeFile   = 0o100000
	typeLink   = 0o120000
	typeDevice = 0o020000 // character device
)

// entry is one object of a layer.
type entry struct {
	mode         uint32
	content      []byte // of a file, or a link's target
	major, minor uint32 // of a device
}

// layer is a RAM file system in the making. Paths are relative, without leading slash. All belong to root.
type layer struct {
	name    string
	entries map[string]entry
	// notes say where paths come from, for the listing: package, or "ours".
	notes map[string]string
}

func newLayer(name string) *layer {
	return &layer{name: name, entries: map[string]entry{}, notes: map[string]string{}}
}

// add puts an entry at a path and directories above it where missing.
func (l *layer) add(file string, e entry, note string) {
	file = strings.TrimPrefix(path.Clean(file), "/")
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		if _, ok := l.entries[dir]; !ok {
			l.entries[dir] = entry{mode: typeDir | 0o755}
		}
	}
	l.entries[file] = e
	if note != "" {
		l.notes[file] = note
	}
}

func (l *layer) dir(path string, mode uint32) { l.add(path, entry{mode: typeDir | mode}, "") }

func (l *layer) link(path, target string) {
	l.add(path, entry{mode: typeLink | 0o777, content: []byte(target)}, "")
}

func (l *layer) file(path string, mode uint32, content []byte, note string) {
	l.add(path, entry{mode: typeFile | mode, content: content}, note)
}

// writeCPIO writes the layer as the kernel's initramfs format "newc" (Documentation/driver-api/early-userspace/
// buffer-format.rst): sorted, with one time stamp for everything, so that equal layers are equal bytes.
func (l *layer) writeCPIO(w io.Writer, mtime uint32) error {
	b := bufio.NewWriterSize(w, 1<<20)
	// The kernel reads inode numbers to find hard links, which there are none of.
	inode := uint32(1)
	put := func(name string, e entry) {
		links := 1
		if e.mode&typeMask == typeDir {
			links = 2
		}
		fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, e.mode, 0, 0, links, mtime, len(e.content), 0, 0, e.major, e.minor, len(name)+1, 0, name)
		inode++
		pad(b, 110+len(name)+1)
		b.Write(e.content)
		pad(b, len(e.content))
	}
	for _, name := range sortedKeys(l.entries) {
		e := l.entries[name]
		if len(e.content) > 1<<31-1 {
			return fmt.Errorf("%s: %d bytes do not fit a cpio", name, len(e.content))
		}
		put(name, e)
	}
	inode = 0
	put("TRAILER!!!", entry{})
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write layer %s: %w", l.name, err)
	}
	return nil
}

func pad(b *bufio.Writer, length int) {
	for ; length%4 != 0; length++ {
		// Errors stay in the writer until Flush.
		_ = b.WriteByte(0)
	}
}

// size is the sum of all contents in bytes.
func (l *layer) size() int64 {
	var sum int64
	for _, e := range l.entries {
		sum += int64(len(e.content))
	}
	return sum
}

// listing is one line per entry: mode, size, path, link target, origin.
func (l *layer) listing() string {
	var s strings.Builder
	for _, name := range sortedKeys(l.entries) {
		e := l.entries[name]
		kind := map[uint32]string{typeDir: "d", typeFile: "-", typeLink: "l", typeDevice: "c"}[e.mode&typeMask]
		fmt.Fprintf(&s, "%s%04o %10d %s", kind, e.mode&0o7777, len(e.content), name)
		if kind == "l" {
			fmt.Fprintf(&s, " -> %s", e.content)
		}
		if n := l.notes[name]; n != "" {
			fmt.Fprintf(&s, "  (%s)", n)
		}
		s.WriteByte('\n')
	}
	return s.String()
}
