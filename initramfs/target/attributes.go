package target

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
)

// paxAttribute begins the key of a PAX record that holds an extended attribute, as GNU tar and star write it.
const paxAttribute = "SCHILY.xattr."

// aclAttributes maps the keys of PAX records that hold ACLs as text to the extended attributes they become.
var aclAttributes = map[string]string{
	"SCHILY.acl.access":  "system.posix_acl_access",
	"SCHILY.acl.default": "system.posix_acl_default",
}

// acl is an ACL that names users or groups; their numbers stand in files of the archive that may come later.
type acl struct{ path, attribute, text string }

// attributes sets an entry's extended attributes, file capabilities and ACLs among them, on p, and gives the ACLs that
// have to wait until accounts are known.
func attributes(p, name string, h *tar.Header) ([]acl, error) {
	var keys []string
	for k := range h.PAXRecords {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var later []acl
	for _, k := range keys {
		attribute, ok := strings.CutPrefix(k, paxAttribute)
		value := []byte(h.PAXRecords[k])
		if a, isACL := aclAttributes[k]; isACL {
			b, err := ParseACL(h.PAXRecords[k], nil)
			if err != nil {
				later = append(later, acl{name, a, h.PAXRecords[k]})
				continue
			}
			attribute, value, ok = a, b, b != nil
		}
		if !ok {
			continue
		}
		if err := unix.Lsetxattr(p, attribute, value, 0); err != nil {
			return nil, fmt.Errorf("set extended attribute %q: %w", attribute, err)
		}
	}
	return later, nil
}

// ParseACL gives an ACL's form as extended attribute (linux/posix_acl_xattr.h) of its text form: lines or
// comma-separated "user:1000:rw-", as in acl(5); star adds the number of a named user as a fourth field. number gives
// the number of a "user" or "group" by name; nil knows none. An ACL without entries gives nil; unknown names are an error.
func ParseACL(s string, number func(kind, name string) (uint32, bool)) ([]byte, error) {
	const version = 2
	tags := map[string][2]uint16{"user": {1, 2}, "group": {4, 8}, "mask": {0x10, 0}, "other": {0x20, 0}}
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	bad := func(e string) error {
		return provisioning.Errorf(provisioning.CodeInvalid, "Make the archive with GNU tar, of a system that has the users and groups its ACLs name.", "ACL entry %q cannot be read", e)
	}
	var entries []entry
	for _, e := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '\n' }) {
		if e = strings.TrimSpace(e); e == "" || strings.HasPrefix(e, "#") {
			continue
		}
		f := strings.Split(e, ":")
		if len(f) < 3 || len(f) > 4 {
			return nil, bad(e)
		}
		t, ok := tags[f[0]]
		if !ok {
			return nil, bad(e)
		}
		n := entry{tag: t[0], id: 0xffffffff}
		if f[1] != "" {
			digits := f[1]
			if len(f) == 4 {
				digits = f[3]
			}
			known := true
			id, err := strconv.ParseUint(digits, 10, 32)
			if n.id = uint32(id); err != nil {
				if known = number != nil; known {
					n.id, known = number(f[0], f[1])
				}
			}
			if !known || t[1] == 0 {
				return nil, bad(e)
			}
			n.tag = t[1]
		}
		if len(f[2]) != 3 {
			return nil, bad(e)
		}
		for i, bit := range []uint16{4, 2, 1} {
			switch f[2][i] {
			case "rwx"[i]:
				n.perm |= bit
			case '-':
			default:
				return nil, bad(e)
			}
		}
		entries = append(entries, n)
	}
	if len(entries) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	out := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out, nil
}

// accounts gives the numbers of the tree's own users and groups.
func (t Tree) accounts() func(kind, name string) (uint32, bool) {
	known := map[string]uint32{}
	for kind, file := range map[string]string{"user": "/etc/passwd", "group": "/etc/group"} {
		b, err := t.ReadFile(file)
		if err != nil {
			continue // the ACL that needs it will say so
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Split(line, ":")
			if len(f) < 3 {
				continue
			}
			if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				known[kind+":"+f[0]] = uint32(id)
			}
		}
	}
	return func(kind, name string) (uint32, bool) {
		id, ok := known[kind+":"+name]
		return id, ok
	}
}
