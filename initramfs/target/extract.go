package target

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// maxDirectories bounds how many directories an archive may have: their times are set at the end, so each is kept in
// memory until then.
const maxDirectories = 4 << 20

// maxNamedACLs bounds, for the same reason, ACLs that name users or groups.
const maxNamedACLs = 1 << 20

// extractor unpacks one archive.
type extractor struct {
	root int // the tree's directory, O_PATH
	// The directory of the entry before, which most entries share.
	dir     *os.File
	dirName string
	dirs    []dirTime
	acls    []acl
	buf     []byte
}

type dirTime struct {
	name string
	time time.Time
}

// Extract unpacks an uncompressed tar into the tree. No entry can reach outside of it: not by "..", which is refused,
// and not through symbolic links, which are resolved with the tree as their root.
func (t Tree) Extract(ctx context.Context, archive io.Reader, read func(int64)) error {
	root, err := unix.Open(t.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", t.dir, err)
	}
	x := &extractor{root: root, buf: make([]byte, 1<<20)}
	defer func() {
		unix.Close(root)
		x.dir.Close()
	}()
	in := &counter{ctx: ctx, r: archive, read: read}
	r := tar.NewReader(in)
	entries := 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return corrupt(ctx, in, fmt.Errorf("read the archive after %d entries: %w", entries, err))
		}
		if err := x.entry(h, r); err != nil {
			return corrupt(ctx, in, fmt.Errorf("unpack %q: %w", h.Name, err))
		}
		entries++
	}
	if entries == 0 {
		return provisioning.Errorf(provisioning.CodeInvalid, "Add the image's content again from a tar archive of a root file system.", "the archive is empty, or no tar archive")
	}
	// What follows the end mark is padding; reading it lets the source verify the whole.
	if _, err := io.CopyBuffer(io.Discard, in, x.buf); err != nil {
		return fmt.Errorf("read the archive's end: %w", err)
	}
	return x.finish(t.accounts())
}

// corrupt gives the error of the archive's source, where there is one, before what followed from it.
func corrupt(ctx context.Context, in *counter, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case in.err != nil:
		return in.err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		return provisioning.Errorf(provisioning.CodeCorrupt, "Add the image's content again from a complete tar archive.", "%w", err)
	case errors.Is(err, unix.ENOSPC):
		return provisioning.Errorf(provisioning.CodeNoSpace, "Make the partition larger in the task sequence, or use a larger disk.", "%w", err)
	}
	return err
}

// counter counts what is read, ends with its context, and keeps the source's error.
type counter struct {
	ctx  context.Context
	r    io.Reader
	n    int64
	read func(int64)
	err  error
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.read != nil {
		c.read(c.n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// clean gives an entry's name below the root.
func clean(name string) (string, error) {
	if strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Do not use this archive: its names point outside of it.", "name %q is not allowed in an archive", name)
	}
	return path.Clean("/" + name), nil
}

// into opens the directory that name stands in, making it where the archive does not hold it.
func (x *extractor) into(name string) (at int, base string, err error) {
	dir, base := path.Split(name)
	if x.dir != nil && x.dirName == dir {
		return int(x.dir.Fd()), base, nil
	}
	f, err := openIn(x.root, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) && dir != "/" {
		up, b, err2 := x.into(path.Clean(dir))
		if err2 != nil {
			return 0, "", err2
		}
		if err := unix.Mkdirat(up, b, 0o755); err != nil {
			return 0, "", fmt.Errorf("make directory %s: %w", dir, err)
		}
		f, err = openIn(x.root, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return 0, "", err
	}
	x.dir.Close()
	x.dir, x.dirName = f, dir
	return int(f.Fd()), base, nil
}

// forget drops the remembered directory: the entry may have replaced it or something above it.
func (x *extractor) forget() {
	x.dir.Close()
	x.dir, x.dirName = nil, ""
}

// entry unpacks one entry.
func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if name == "/" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the archive's root is no directory")
		}
		f, err := openIn(x.root, "/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return x.directory(name, procPath(f, ""), h)
	}
	at, base, err := x.into(name)
	if err != nil {
		return err
	}
	p := procPath(x.dir, base)
	if h.Typeflag == tar.TypeDir {
		err := unix.Mkdirat(at, base, 0o700)
		if errors.Is(err, unix.EEXIST) {
			var st unix.Stat_t
			if err = unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				x.forget()
				if at, base, err = x.into(name); err == nil {
					err = errors.Join(unix.Unlinkat(at, base, 0), unix.Mkdirat(at, base, 0o700))
				}
				p = procPath(x.dir, base)
			}
		}
		if err != nil {
			return err
		}
		return x.directory(name, p, h)
	}
	switch err := unix.Unlinkat(at, base, 0); {
	case err == nil:
		x.dirName = "" // the remembered directory may have been reached through what was just removed
	case !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("make room: %w", err)
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := x.file(at, base, r); err != nil {
			return err
		}
	case tar.TypeLink:
		return x.link(at, base, h.Linkname)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, at, base); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		if err := unix.Mknodat(at, base, kind|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	default:
		return provisioning.Errorf(provisioning.CodeInvalid, "Make the archive with GNU tar or bsdtar.", "entries of kind %q are not known", h.Typeflag)
	}
	// The owner first: changing it clears set-user-id bits and file capabilities.
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(at, base, mode, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if err := x.attributes(p, name, h); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(at, base, times(h.ModTime), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// directory sets what a directory has; its time comes at the end.
func (x *extractor) directory(name, p string, h *tar.Header) error {
	if len(x.dirs) >= maxDirectories {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the archive has more than %d directories", maxDirectories)
	}
	if err := unix.Lchown(p, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Chmod(p, uint32(h.Mode&0o7777)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := x.attributes(p, name, h); err != nil {
		return err
	}
	x.dirs = append(x.dirs, dirTime{name, h.ModTime})
	return nil
}

// attributes sets an entry's extended attributes, or remembers them for the end.
func (x *extractor) attributes(p, name string, h *tar.Header) error {
	later, err := attributes(p, name, h)
	x.acls = append(x.acls, later...)
	if len(x.acls) > maxNamedACLs {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the archive has more than %d ACLs with names", maxNamedACLs)
	}
	return err
}

// finish sets what had to wait for the archive's end: ACLs with names, then the times of directories.
func (x *extractor) finish(number func(kind, name string) (uint32, bool)) error {
	for _, a := range x.acls {
		value, err := ParseACL(a.text, number)
		if err != nil {
			return fmt.Errorf("%s: %w", a.path, err)
		}
		dir, base := path.Split(a.path)
		f, err := openIn(x.root, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("set ACL: %w", err)
		}
		err = unix.Lsetxattr(procPath(f, base), a.attribute, value, 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("set ACL of %s: %w", a.path, err)
		}
	}
	// Deepest first, so that no time is changed by work below it.
	for _, d := range slices.Backward(x.dirs) {
		f, err := openIn(x.root, d.name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("set the time of %s: %w", d.name, err)
		}
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(f, ""), times(d.time), 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("set the time of %s: %w", d.name, err)
		}
	}
	return nil
}

// file writes a regular file. Whole blocks of zeros become holes.
func (x *extractor) file(at int, base string, r io.Reader) error {
	fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	size := int64(0)
	for {
		n, err := io.ReadFull(r, x.buf)
		if n > 0 {
			if werr := writeSparse(f, x.buf[:n], size); werr != nil {
				f.Close()
				return werr
			}
			size += int64(n)
		}
		if errors.Is(err, io.EOF) || (errors.Is(err, io.ErrUnexpectedEOF) && isEnd(r)) {
			break
		}
		if err != nil {
			f.Close()
			return err
		}
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// isEnd tells the end of an entry from the end of an archive that was cut off: the tar reader gives io.EOF for the one
// and io.ErrUnexpectedEOF for the other.
func isEnd(r io.Reader) bool {
	n, err := r.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

var zeros = make([]byte, 64<<10)

// writeSparse writes b at the offset, leaving out 64 KiB blocks of zeros.
func writeSparse(f *os.File, b []byte, at int64) error {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if n < len(zeros) || !bytes.Equal(b[:n], zeros) {
			if _, err := f.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// link makes a hard link to an entry that came before.
func (x *extractor) link(at int, base, to string) error {
	name, err := clean(to)
	if err != nil {
		return err
	}
	dir, b := path.Split(name)
	f, err := openIn(x.root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", to, err)
	}
	defer f.Close()
	if err := unix.Linkat(int(f.Fd()), b, at, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", to, err)
	}
	return nil
}

// procPath is a path to base in the open directory f, for calls that take paths only. base itself is not followed by the
// calls that are made with it on anything that could be a link.
func procPath(f *os.File, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), base)
}

func times(t time.Time) []unix.Timespec {
	ts := unix.NsecToTimespec(t.UnixNano())
	return []unix.Timespec{ts, ts}
}
