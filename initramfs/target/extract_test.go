package target

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// archive makes a tar of entries; a regular file's content is its Linkname.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1000000000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for owners and devices")
	}
}

// inside gives a tree in a directory with a file beside it that must stay as it is.
func inside(t testing.TB) (dir string, check func()) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "root")
	secret := filepath.Join(top, "secret")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(secret, []byte("untouched"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		if b, err := os.ReadFile(secret); err != nil || string(b) != "untouched" {
			t.Errorf("the file outside: %q %v", b, err)
		}
		list, err := os.ReadDir(top)
		if err != nil || len(list) != 2 {
			t.Errorf("outside are %v %v", list, err)
		}
	}
}

func TestExtractKinds(t *testing.T) {
	needRoot(t)
	dir, check := inside(t)
	when := time.Unix(1234567890, 0)
	b := archive(
		t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when},
		tar.Header{Name: "./closed/", Typeflag: tar.TypeDir, Mode: 0o2500, Uid: 7, Gid: 8, ModTime: when},
		tar.Header{Name: "./closed/file", Typeflag: tar.TypeReg, Linkname: "content", Mode: 0o4751, Uid: 1234567, Gid: 7654321, ModTime: when},
		tar.Header{Name: "./closed/again", Typeflag: tar.TypeLink, Linkname: "./closed/file"},
		tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/absolute/nowhere", Uid: 5, Gid: 6, ModTime: when},
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 300},
		tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
		tar.Header{Name: "no/parents/were/here", Typeflag: tar.TypeReg, Linkname: "x", Mode: 0o644},
		tar.Header{Name: "capable", Typeflag: tar.TypeReg, Linkname: "x", Uid: 9, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.note":           "binary\x01value",
		}},
		tar.Header{Name: "acl", Typeflag: tar.TypeReg, Linkname: "x", Mode: 0o664, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.acl.access": "user::rw-,user:1000:r--,group::r--,group:named:rw-,mask::rw-,other::r--",
		}},
		tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Linkname: "root:x:0:\nnamed:x:4711:\n"},
	)
	var read int64
	if err := NewTree(dir).Extract(context.Background(), bytes.NewReader(b), func(n int64) { read = n }); err != nil {
		t.Fatal(err)
	}
	check()
	if read != int64(len(b)) {
		t.Errorf("read %d of %d bytes", read, len(b))
	}
	for name, want := range map[string]struct {
		mode     uint32
		uid, gid uint32
		rdev     uint64
		time     int64
	}{
		"closed":               {unix.S_IFDIR | 0o2500, 7, 8, 0, when.Unix()},
		"closed/file":          {unix.S_IFREG | 0o4751, 1234567, 7654321, 0, when.Unix()},
		"closed/again":         {unix.S_IFREG | 0o4751, 1234567, 7654321, 0, when.Unix()},
		"link":                 {unix.S_IFLNK | 0o777, 5, 6, 0, when.Unix()},
		"null":                 {unix.S_IFCHR | 0o666, 0, 0, unix.Mkdev(1, 3), 1000000000},
		"disk":                 {unix.S_IFBLK | 0o660, 0, 0, unix.Mkdev(7, 300), 1000000000},
		"pipe":                 {unix.S_IFIFO | 0o600, 0, 0, 0, 1000000000},
		"no/parents/were/here": {unix.S_IFREG | 0o644, 0, 0, 0, 1000000000},
		".":                    {unix.S_IFDIR | 0o755, 0, 0, 0, when.Unix()},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Error(name, err)
			continue
		}
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || st.Rdev != want.rdev || st.Mtim.Sec != want.time {
			t.Errorf("%s: mode %o owner %d:%d device %x time %d", name, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec)
		}
	}
	var one, two unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Join(dir, "closed/file"), &one), unix.Stat(filepath.Join(dir, "closed/again"), &two)); err != nil || one.Ino != two.Ino {
		t.Errorf("the hard link is no link: %v", err)
	}
	v := make([]byte, 64)
	if n, err := unix.Lgetxattr(filepath.Join(dir, "capable"), "security.capability", v); err != nil || n != 20 || v[3] != 2 || v[5] != 0x20 {
		t.Errorf("capability: %x %v", v[:max(n, 0)], err)
	}
	if n, err := unix.Lgetxattr(filepath.Join(dir, "capable"), "user.note", v); err != nil || string(v[:n]) != "binary\x01value" {
		t.Errorf("user attribute: %q %v", v[:max(n, 0)], err)
	}
	out, err := exec.Command("getfacl", "--numeric", "--omit-header", "--absolute-names", filepath.Join(dir, "acl")).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		v := make([]byte, 256)
		n, err := unix.Lgetxattr(filepath.Join(dir, "acl"), "system.posix_acl_access", v)
		// version 2, then entries of 8 octets: user::rw-, user:1000:r--, group::r--, group:4711:rw-, mask, other.
		want := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
			"\x08\x00\x06\x00\x67\x12\x00\x00" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
		if err != nil || string(v[:n]) != want {
			t.Errorf("ACL: %x %v", v[:max(n, 0)], err)
		}
	} else if want := "user::rw-\nuser:1000:r--\ngroup::r--\ngroup:4711:rw-\nmask::rw-\nother::r--\n\n"; err != nil || string(out) != want {
		t.Errorf("ACL: %v\n%s", err, out)
	}
}

func TestExtractStaysInside(t *testing.T) {
	needRoot(t)
	reg := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: "evil", Mode: 0o644}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for name, c := range map[string]struct {
		entries []tar.Header
		fails   bool
		lands   string // where the file ends up in the tree
	}{
		"dot dot":                   {[]tar.Header{reg("../secret")}, true, ""},
		"dot dot in the middle":     {[]tar.Header{reg("a/../../secret")}, true, ""},
		"absolute":                  {[]tar.Header{reg("/secret")}, false, "secret"},
		"through a relative link":   {[]tar.Header{link("up", ".."), reg("up/secret")}, false, "secret"},
		"through an absolute link":  {[]tar.Header{link("a", "/"), reg("a/secret")}, false, "secret"},
		"through a chain":           {[]tar.Header{link("a", "b"), link("b", "../../.."), reg("a/secret")}, false, "secret"},
		"over a link":               {[]tar.Header{link("secret", "../secret"), reg("secret")}, false, "secret"},
		"hard link out":             {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "../secret"}}, true, ""},
		"hard link through a link":  {[]tar.Header{link("up", ".."), {Name: "a", Typeflag: tar.TypeLink, Linkname: "up/secret"}}, true, ""},
		"directory over a link":     {[]tar.Header{link("d", ".."), {Name: "d/", Typeflag: tar.TypeDir, Mode: 0o700}, reg("d/secret")}, false, "d/secret"},
		"link replaced in between":  {[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, link("l", "d"), reg("l/one"), link("l", "/"), reg("l/secret")}, false, "secret"},
		"magic link":                {[]tar.Header{link("p", "/proc/self/root"), reg("p/secret")}, true, ""},
		"file in place of a parent": {[]tar.Header{reg("f"), reg("f/secret")}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, check := inside(t)
			err := NewTree(dir).Extract(context.Background(), bytes.NewReader(archive(t, c.entries...)), nil)
			check()
			if (err != nil) != c.fails {
				t.Fatalf("error: %v", err)
			}
			if c.lands != "" {
				if b, err := os.ReadFile(filepath.Join(dir, c.lands)); err != nil || string(b) != "evil" {
					t.Errorf("%q %v", b, err)
				}
			}
		})
	}
}

func TestExtractSparse(t *testing.T) {
	needRoot(t)
	dir, _ := inside(t)
	data := make([]byte, 3<<20+77)
	copy(data[2<<20:], "in the middle")
	if err := NewTree(dir).Extract(context.Background(), bytes.NewReader(archive(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Linkname: string(data)})), nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("content differs: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "f"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("it takes %d bytes: %v", st.Blocks*512, err)
	}
}

func TestExtractBrokenArchives(t *testing.T) {
	needRoot(t)
	good := archive(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Linkname: strings.Repeat("content ", 5000)})
	source := errors.New("chunk is missing")
	for name, c := range map[string]struct {
		r    io.Reader
		code provisioning.Code
		is   error
	}{
		"cut in a file":   {bytes.NewReader(good[:20000]), provisioning.CodeCorrupt, nil},
		"cut in a header": {bytes.NewReader(good[:300]), provisioning.CodeCorrupt, nil},
		"no tar":          {strings.NewReader(strings.Repeat("nonsense", 1000)), provisioning.CodeCorrupt, nil},
		"empty":           {strings.NewReader(""), provisioning.CodeInvalid, nil},
		"only an end":     {bytes.NewReader(make([]byte, 10240)), provisioning.CodeInvalid, nil},
		"source fails":    {io.MultiReader(bytes.NewReader(good[:20000]), errorReader{source}), "", source},
		"end fails":       {io.MultiReader(bytes.NewReader(good), errorReader{source}), "", source},
		"named ACL":       {bytes.NewReader(archive(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.acl.access": "user:nobody-knows:rwx"}})), provisioning.CodeInvalid, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := inside(t)
			err := NewTree(dir).Extract(context.Background(), c.r, nil)
			if err == nil || (c.code != "" && provisioning.CodeOf(err) != c.code) || (c.is != nil && !errors.Is(err, c.is)) {
				t.Errorf("%v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir, _ := inside(t)
	if err := NewTree(dir).Extract(ctx, bytes.NewReader(good), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

func FuzzExtract(f *testing.F) {
	needRoot(f)
	f.Add(archive(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Linkname: "x"}))
	f.Add(archive(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, tar.Header{Name: "l/secret", Typeflag: tar.TypeReg, Linkname: "x"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, check := inside(t)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = NewTree(dir).Extract(ctx, bytes.NewReader(b), nil) // any error is fine, an escape is not
		check()
	})
}

func FuzzParseACL(f *testing.F) {
	f.Add("user::rw-,user:1000:r--,group::r--,mask::rw-,other::r--")
	f.Add("user:lisa:rw-:1000\n# comment")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseACL(s, nil); err == nil && b != nil && (len(b) < 12 || (len(b)-4)%8 != 0) {
			t.Errorf("%q: %x", s, b)
		}
	})
}
