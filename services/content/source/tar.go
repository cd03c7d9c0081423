package source

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strconv"
	"strings"

	"branchpoint/provisioning"
)

// isTar reports whether head begins with a tar header: its checksum is right (POSIX.1-1988, as octal digits).
func isTar(head []byte) bool {
	if len(head) < sector {
		return false
	}
	h := head[:sector]
	want, err := strconv.ParseInt(strings.Trim(string(h[148:156]), " \x00"), 8, 32)
	if err != nil {
		return false
	}
	sum := int64(8 * ' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += int64(b)
		}
	}
	return sum == want && h[0] != 0
}

// archive is the tar of a root file system. Its bytes are passed on as they are; a second reader follows them and checks.
type archive struct {
	io.Reader // uncompressed
	file      *file
	name      string
	check     *io.PipeWriter
	result    chan error
	err       error
	size      int64
	tail      [sector]byte // the last bytes
}

func newTar(r io.Reader, name string, f *file) *archive {
	pr, pw := io.Pipe()
	a := &archive{Reader: r, file: f, name: name, check: pw, result: make(chan error, 1)}
	go func() {
		err := checkTree(name, tar.NewReader(pr))
		if err == nil {
			_, _ = io.Copy(io.Discard, pr) // the padding after the archive's end
		}
		pr.CloseWithError(errRefused)
		a.result <- err
	}()
	return a
}

// errRefused tells the reader that the checker has given up; why comes through the result.
var errRefused = errors.New("refused")

func (a *archive) Format() provisioning.Format { return provisioning.FormatRootFileSystem }

func (a *archive) Position() (int64, int64) { return a.file.read, a.file.size() }

func (a *archive) SkipZeros() (int64, error) { return 0, nil }

func (a *archive) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	n, err := a.Reader.Read(p)
	if n > 0 {
		a.size += int64(n)
		if n >= sector {
			copy(a.tail[:], p[n-sector:n])
		} else {
			copy(a.tail[:], a.tail[n:])
			copy(a.tail[sector-n:], p[:n])
		}
		if _, werr := a.check.Write(p[:n]); werr != nil {
			a.err = <-a.result
			return 0, a.err
		}
	}
	switch {
	case err == io.EOF:
		a.err = a.finish()
	case err != nil:
		a.err = err
	}
	return n, a.err
}

// finish is called at the end: io.EOF if all is well.
func (a *archive) finish() error {
	_ = a.check.Close() // never fails
	if err := <-a.result; err != nil {
		return err
	}
	if a.size%sector != 0 || a.tail != [sector]byte{} { // two blocks of zeros end an archive
		return tarCutOff(a.name)
	}
	if err := a.file.unchanged(); err != nil {
		return err
	}
	return io.EOF
}

func (a *archive) Close() error {
	_ = a.check.CloseWithError(errRefused) // lets the checker end
	if c, ok := a.Reader.(io.Closer); ok && a.Reader != io.Reader(a.file) {
		_ = c.Close() // a decompressor; it is only read from
	}
	return a.file.Close()
}

func tarCutOff(name string) error {
	return refuse(name, nextAgain, "it is cut off: the archive ends before its end")
}

// releases and inits are where a root file system says which it is, and what it starts.
var (
	releases = map[string]bool{"etc/os-release": true, "usr/lib/os-release": true}
	inits    = map[string]bool{
		"sbin/init": true, "usr/sbin/init": true, "usr/bin/init": true, "bin/init": true,
		"lib/systemd/systemd": true, "usr/lib/systemd/systemd": true,
	}
)

// checkTree reads an archive to its end and returns what is wrong with it as a root file system.
func checkTree(name string, t *tar.Reader) error {
	const nextTar = "make it from inside the root directory: tar -C ROOT --xattrs --acls --numeric-owner -cf NAME.tar ."
	var release, init bool
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return tarCutOff(name)
		}
		if err != nil {
			return refuse(name, nextAgain, "the archive is damaged: %w", err)
		}
		if escapes(h.Name) || h.Typeflag == tar.TypeLink && escapes(h.Linkname) {
			return refuse(name, nextTar, "the archive's entry %.200q leads out of the root file system", h.Name)
		}
		p := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeDir {
			release = release || releases[p]
			init = init || inits[p]
		}
	}
	if !release {
		return refuse(name, nextTar, "it is not a root file system: it has neither etc/os-release nor usr/lib/os-release at its top")
	}
	if !init {
		return refuse(name, "install an init system (systemd) into it and pack it again", "the root file system cannot start: it has no init")
	}
	return nil
}

// escapes reports whether a name in an archive has a ".." in it. A leading slash is taken as the archive's own root.
func escapes(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return strings.ContainsRune(name, 0)
}
