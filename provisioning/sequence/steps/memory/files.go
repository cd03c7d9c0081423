// Package memory is a steps.System that exists only in memory, for tests of whatever runs steps.
package memory

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"branchpoint/provisioning/sequence/steps"
)

// Files is a file tree in memory.
type Files struct {
	mu    sync.Mutex
	nodes map[string]*node // by clean absolute path
}

type node struct {
	mode     fs.FileMode
	data     []byte
	link     string
	uid, gid int
}

var _ steps.Files = (*Files)(nil)

// NewFiles makes an empty tree.
func NewFiles() *Files { return &Files{nodes: map[string]*node{"/": {mode: fs.ModeDir | 0o755}}} }

// Owner gives a file's owner and group, for tests.
func (f *Files) Owner(name string) (uid, gid int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.resolve(name, true, 0)
	if err != nil || f.nodes[p] == nil {
		return -1, -1
	}
	return f.nodes[p].uid, f.nodes[p].gid
}

// maxLinks is how many symbolic links the kernel follows in one path (path_resolution(7)).
const maxLinks = 40

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// resolve gives name without symbolic links, the last one kept if follow is false. The last element need not exist.
func (f *Files) resolve(name string, follow bool, links int) (string, error) {
	at := "/"
	parts := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	if parts[0] == "" {
		return "/", nil
	}
	for i, part := range parts {
		last := i == len(parts)-1
		at = path.Join(at, part)
		n := f.nodes[at]
		if n != nil && n.mode&fs.ModeSymlink != 0 && (!last || follow) {
			if links++; links > maxLinks {
				return "", pathError("open", name, errors.New("too many levels of symbolic links"))
			}
			to := n.link
			if !path.IsAbs(to) {
				to = path.Join(path.Dir(at), to)
			}
			var err error
			if at, err = f.resolve(to, true, links); err != nil {
				return "", err
			}
			n = f.nodes[at]
		}
		if !last && n == nil {
			return "", pathError("open", name, fs.ErrNotExist)
		}
		if !last && !n.mode.IsDir() {
			return "", pathError("open", name, errors.New("not a directory"))
		}
	}
	return at, nil
}

func (f *Files) get(op, name string, follow bool) (*node, string, error) {
	p, err := f.resolve(name, follow, 0)
	if err != nil {
		return nil, "", err
	}
	n := f.nodes[p]
	if n == nil {
		return nil, p, pathError(op, name, fs.ErrNotExist)
	}
	return n, p, nil
}

// ReadFile reads a regular file.
func (f *Files) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.get("read", name, true)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsRegular() {
		return nil, pathError("read", name, errors.New("not a regular file"))
	}
	return slices.Clone(n.data), nil
}

// place gives the path that a new file or link of that name takes.
func (f *Files) place(op, name string) (string, error) {
	p, err := f.resolve(name, false, 0)
	if err != nil {
		return "", err
	}
	if n := f.nodes[p]; n != nil && n.mode.IsDir() {
		return "", pathError(op, name, errors.New("is a directory"))
	}
	return p, nil
}

// WriteFile replaces the file.
func (f *Files) WriteFile(name string, data []byte, mode fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.mkdir(path.Dir(path.Clean("/"+name)), 0o755); err != nil {
		return err
	}
	p, err := f.place("write", name)
	if err != nil {
		return err
	}
	f.nodes[p] = &node{mode: mode.Perm(), data: slices.Clone(data)}
	return nil
}

// Mkdir makes the directory and missing ones above it.
func (f *Files) Mkdir(name string, mode fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mkdir(name, mode)
}

func (f *Files) mkdir(name string, mode fs.FileMode) error {
	name = path.Clean("/" + name)
	if name != "/" {
		if err := f.mkdir(path.Dir(name), 0o755); err != nil {
			return err
		}
	}
	p, err := f.resolve(name, true, 0)
	if err != nil {
		return err
	}
	switch n := f.nodes[p]; {
	case n == nil:
		f.nodes[p] = &node{mode: fs.ModeDir | mode.Perm()}
	case !n.mode.IsDir():
		return pathError("mkdir", name, errors.New("not a directory"))
	}
	return nil
}

// Symlink makes name a symbolic link.
func (f *Files) Symlink(target, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, err := f.place("symlink", name)
	if err != nil {
		return err
	}
	if f.nodes[path.Dir(p)] == nil {
		return pathError("symlink", name, fs.ErrNotExist)
	}
	f.nodes[p] = &node{mode: fs.ModeSymlink | 0o777, link: target}
	return nil
}

// Readlink gives a symbolic link's target.
func (f *Files) Readlink(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.get("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.mode&fs.ModeSymlink == 0 {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	return n.link, nil
}

func (f *Files) children(p string) []string {
	var out []string
	for name := range f.nodes {
		if name != "/" && path.Dir(name) == p {
			out = append(out, path.Base(name))
		}
	}
	slices.Sort(out)
	return out
}

// Remove removes a file, link or empty directory.
func (f *Files) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, p, err := f.get("remove", name, false)
	if err != nil {
		return err
	}
	if n.mode.IsDir() && len(f.children(p)) > 0 {
		return pathError("remove", name, errors.New("directory not empty"))
	}
	delete(f.nodes, p)
	return nil
}

// Rename renames a file or link.
func (f *Files) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, p, err := f.get("rename", from, false)
	if err != nil {
		return err
	}
	if n.mode.IsDir() {
		return pathError("rename", from, errors.New("directories are not renamed in memory"))
	}
	q, err := f.place("rename", to)
	if err != nil {
		return err
	}
	if f.nodes[path.Dir(q)] == nil {
		return pathError("rename", to, fs.ErrNotExist)
	}
	delete(f.nodes, p)
	f.nodes[q] = n
	return nil
}

// Stat follows links.
func (f *Files) Stat(name string) (fs.FileInfo, error) { return f.stat(name, true) }

// Lstat does not follow the last link.
func (f *Files) Lstat(name string) (fs.FileInfo, error) { return f.stat(name, false) }

func (f *Files) stat(name string, follow bool) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.get("stat", name, follow)
	if err != nil {
		return nil, err
	}
	return info{path.Base(name), *n}, nil
}

// ReadDir gives the names in a directory, sorted.
func (f *Files) ReadDir(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, p, err := f.get("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsDir() {
		return nil, pathError("readdir", name, errors.New("not a directory"))
	}
	return f.children(p), nil
}

// Chmod changes a file's or directory's permissions.
func (f *Files) Chmod(name string, mode fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.get("chmod", name, true)
	if err != nil {
		return err
	}
	n.mode = n.mode.Type() | mode.Perm()
	return nil
}

// Chown changes a file's or directory's owner.
func (f *Files) Chown(name string, uid, gid int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, _, err := f.get("chown", name, true)
	if err != nil {
		return err
	}
	n.uid, n.gid = uid, gid
	return nil
}

// info is what Stat gives.
type info struct {
	name string
	n    node
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(len(i.n.data)) }
func (i info) Mode() fs.FileMode  { return i.n.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.n.mode.IsDir() }
func (i info) Sys() any           { return nil }
