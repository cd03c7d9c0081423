// Package target is the computer as the steps of a task sequence change it: its disks, its programs, and the file tree
// of the operating system that is being installed. It implements steps.System.
package target

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning/sequence/steps"
)

// Tree is a file tree below a directory. Every path is resolved by the kernel with that directory as its root
// (openat2(2), RESOLVE_IN_ROOT): a symbolic link in the tree cannot lead out of it, whatever it says.
type Tree struct{ dir string }

var _ steps.Files = Tree{}

// NewTree gives the tree below dir, which need not exist yet.
func NewTree(dir string) Tree { return Tree{dir} }

// open opens name in the tree.
func (t Tree) open(name string, flags int, mode uint32) (*os.File, error) {
	root, err := unix.Open(t.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: t.dir, Err: err}
	}
	defer unix.Close(root)
	return openIn(root, name, flags, mode)
}

// openIn opens name with root as its root.
func openIn(root int, name string, flags int, mode uint32) (*os.File, error) {
	if strings.ContainsRune(name, 0) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	how := &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, path.Clean("/"+name), how)
		// EAGAIN: something was renamed meanwhile, and the kernel could not rule out an escape.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// parent opens the directory that name stands in, and gives its last element.
func (t Tree) parent(name string) (*os.File, string, error) {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	f, err := t.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	return f, base, err
}

// maxRead bounds ReadFile, in bytes.
const maxRead = 1 << 20

// ReadFile reads a regular file of at most 1 MiB.
func (t Tree) ReadFile(name string) ([]byte, error) {
	f, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRead {
		return nil, &fs.PathError{Op: "read", Path: name, Err: unix.EFBIG}
	}
	return b, nil
}

// temporary is the name under which a file is made before it takes the place of base.
func temporary(base string) string { return ".branchpoint-new-" + base[:min(len(base), 200)] }

// WriteFile replaces the file, all or nothing.
func (t Tree) WriteFile(name string, data []byte, mode fs.FileMode) error {
	if err := t.Mkdir(path.Dir(path.Clean("/"+name)), 0o755); err != nil {
		return err
	}
	dir, base, err := t.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	tmp, at := temporary(base), int(dir.Fd())
	if err := unix.Unlinkat(at, tmp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	fd, err := unix.Openat(at, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = unix.Renameat(at, tmp, at, base)
	}
	if err != nil {
		unix.Unlinkat(at, tmp, 0)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Mkdir makes the directory and missing ones above it.
func (t Tree) Mkdir(name string, mode fs.FileMode) error {
	name = path.Clean("/" + name)
	d, err := t.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		return d.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) || name == "/" {
		return err
	}
	if err := t.Mkdir(path.Dir(name), 0o755); err != nil {
		return err
	}
	dir, base, err := t.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	at := int(dir.Fd())
	if err := unix.Mkdirat(at, base, uint32(mode.Perm())); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return t.Chmod(name, mode) // whatever the umask
}

// Symlink makes name a symbolic link to target.
func (t Tree) Symlink(target, name string) error {
	dir, base, err := t.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	tmp, at := temporary(base), int(dir.Fd())
	if err := unix.Unlinkat(at, tmp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	err = unix.Symlinkat(target, at, tmp)
	if err == nil {
		err = unix.Renameat(at, tmp, at, base)
	}
	if err != nil {
		unix.Unlinkat(at, tmp, 0)
		return &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	return nil
}

// Readlink gives a symbolic link's target.
func (t Tree) Readlink(name string) (string, error) {
	dir, base, err := t.parent(name)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), base, b)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(b[:n]), nil
}

// Remove removes a file, link or empty directory.
func (t Tree) Remove(name string) error {
	dir, base, err := t.parent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Unlinkat(int(dir.Fd()), base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// Rename renames a file.
func (t Tree) Rename(from, to string) error {
	a, abase, err := t.parent(from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, bbase, err := t.parent(to)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := unix.Renameat(int(a.Fd()), abase, int(b.Fd()), bbase); err != nil {
		return &fs.PathError{Op: "rename", Path: from, Err: err}
	}
	return nil
}

// Stat follows links.
func (t Tree) Stat(name string) (fs.FileInfo, error) { return t.stat(name, 0) }

// Lstat does not follow the last link.
func (t Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat(name, unix.O_NOFOLLOW) }

func (t Tree) stat(name string, flags int) (fs.FileInfo, error) {
	f, err := t.open(name, unix.O_PATH|flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ReadDir gives the names in a directory, sorted.
func (t Tree) ReadDir(name string) ([]string, error) {
	f, err := t.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Chmod changes the permissions of a file or directory.
func (t Tree) Chmod(name string, mode fs.FileMode) error {
	f, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(mode)
}

// Chown changes the owner of a file or directory.
func (t Tree) Chown(name string, uid, gid int) error {
	f, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chown(uid, gid)
}
