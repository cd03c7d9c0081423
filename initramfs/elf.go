package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// libraryDirs are where Debian's dynamic linker looks without a cache, below the root.
var libraryDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "lib/x86_64-linux-gnu", "lib64", "lib"}

// trees are unpacked packages seen as one file system, name → directory.
type trees map[string]string

// read returns the file's content and the package it is of, following links within the trees.
func (t trees) read(file string) (content []byte, origin string, err error) {
	for depth := 0; depth < 8; depth++ {
		link := ""
		for _, name := range sortedKeys(t) {
			full := filepath.Join(t[name], file)
			info, err := os.Lstat(full)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, "", err
			}
			if info.IsDir() {
				return nil, "", fmt.Errorf("%s is a directory", file)
			}
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(full)
				return content, name, err
			}
			link, err = os.Readlink(full)
			if err != nil {
				return nil, "", err
			}
			break
		}
		if link == "" {
			return nil, "", fmt.Errorf("%s is in none of the packages %s: %w", file, strings.Join(sortedKeys(t), " "), fs.ErrNotExist)
		}
		if path.IsAbs(link) {
			file = strings.TrimPrefix(path.Clean(link), "/")
		} else {
			file = path.Join(path.Dir(file), link)
		}
	}
	return nil, "", fmt.Errorf("%s: too many links", file)
}

// addProgram puts a program of the packages into the layer with the libraries it is linked to and their libraries, and the
// dynamic linker. It returns an error that names the program where something is missing.
func (t trees) addProgram(l *layer, file string) error {
	content, origin, err := t.read(file)
	if err != nil {
		return fmt.Errorf("program %s: %w", file, err)
	}
	l.file(file, 0o755, content, origin)
	needed, interpreter, err := linkage(content)
	if err != nil {
		return fmt.Errorf("program %s: %w", file, err)
	}
	if interpreter != "" {
		// /lib64/ld-linux-x86-64.so.2, where /lib64 is usr/lib64 in a merged system.
		name := "usr/lib64/" + path.Base(interpreter)
		if _, ok := l.entries[name]; !ok {
			content, origin, err := t.read(name)
			if err != nil {
				return fmt.Errorf("dynamic linker of %s: %w", file, err)
			}
			l.file(name, 0o755, content, origin)
		}
	}
	for len(needed) > 0 {
		name := needed[0]
		needed = needed[1:]
		if name == path.Base(interpreter) {
			continue
		}
		target := libraryDirs[0] + "/" + name
		if _, ok := l.entries[target]; ok {
			continue
		}
		content, origin, err := t.library(name)
		if err != nil {
			return fmt.Errorf("program %s: %w", file, err)
		}
		l.file(target, 0o644, content, origin)
		more, _, err := linkage(content)
		if err != nil {
			return fmt.Errorf("library %s of %s: %w", name, file, err)
		}
		needed = append(needed, more...)
	}
	return nil
}

func (t trees) library(name string) ([]byte, string, error) {
	for _, dir := range libraryDirs {
		content, origin, err := t.read(dir + "/" + name)
		if err == nil {
			return content, origin, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("library %s: %w", name, err)
		}
	}
	return nil, "", fmt.Errorf("library %s is in none of the packages %s", name, strings.Join(sortedKeys(t), " "))
}

// linkage returns the names of the libraries an ELF file is linked to and its dynamic linker, "" for none.
func linkage(content []byte) (needed []string, interpreter string, err error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, "", err
	}
	needed, err = f.ImportedLibraries()
	if err != nil {
		return nil, "", err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, "", err
			}
			interpreter = string(bytes.TrimRight(b, "\x00"))
		}
	}
	return needed, interpreter, nil
}
