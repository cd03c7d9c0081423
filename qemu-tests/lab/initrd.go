package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
)

// CPIOFile is a file of a RAM file system.
type CPIOFile struct {
	// Mode holds the permissions; directories on the way are made as 0755.
	Mode     os.FileMode
	Contents []byte
}

// CPIO makes an initramfs layer (format newc, Documentation/driver-api/early-userspace/buffer-format.rst of the kernel) with
// the files, by their paths. As a last element of Config.Initrd it adds to what the other layers have, or replaces it.
func CPIO(files map[string]CPIOFile) []byte {
	var b bytes.Buffer
	inode := 0
	entry := func(name string, mode uint32, contents []byte) {
		inode++
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, mode, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&b)
		b.Write(contents)
		pad(&b)
	}
	const directory, regular = 0o040000, 0o100000
	dirs := map[string]bool{".": true}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, full := range names {
		name := strings.Trim(path.Clean("/"+full), "/")
		parts := strings.Split(path.Dir(name), "/")
		for i := range parts {
			if d := strings.Join(parts[:i+1], "/"); !dirs[d] {
				dirs[d] = true
				entry(d, directory|0o755, nil)
			}
		}
		entry(name, regular|uint32(files[full].Mode.Perm()), files[full].Contents)
	}
	inode = -1
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// concatenateLayers joins layers to one initrd. The kernel looks for the next layer at a multiple of four bytes.
func concatenateLayers(to string, layers []string) error {
	out, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	defer out.Close()
	for _, layer := range layers {
		in, err := os.Open(layer)
		if err != nil {
			return fmt.Errorf("make initrd: %w", err)
		}
		n, err := io.Copy(out, in)
		in.Close()
		if err == nil {
			_, err = out.Write(make([]byte, (4-n%4)%4))
		}
		if err != nil {
			return fmt.Errorf("make initrd of %s: %w", layer, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("make initrd: %w", err)
	}
	return nil
}
