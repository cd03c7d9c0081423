package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// The programs of ours that layers bring, as import paths.
const (
	initProgram      = module + "/initramfs/cmd/init"
	agentProgram     = module + "/initramfs/cmd/agent"
	applianceProgram = module + "/appliance/cmd/branchpoint"
)

// Debian packages of which the agent's and the appliance's layer take programs.
var (
	agentPackages     = []string{"fdisk", "util-linux", "e2fsprogs", "dosfstools", "efibootmgr"}
	appliancePackages = []string{"util-linux", "e2fsprogs"}
)

// Programs taken of them. Links, such as mkfs.ext4 to mke2fs, are added by linkedPrograms.
var (
	agentPrograms = []string{
		"usr/sbin/sfdisk", "usr/sbin/blkid", "usr/sbin/wipefs", "usr/sbin/mkswap", "usr/sbin/mke2fs", "usr/sbin/e2fsck",
		"usr/sbin/resize2fs", "usr/sbin/tune2fs", "usr/sbin/mkfs.fat", "usr/sbin/fsck.fat", "usr/bin/efibootmgr",
	}
	appliancePrograms = []string{"usr/sbin/blkid", "usr/sbin/mke2fs", "usr/sbin/e2fsck", "usr/sbin/resize2fs"}
)

var linkedPrograms = map[string][]string{
	"usr/sbin/mke2fs":   {"mkfs.ext2", "mkfs.ext3", "mkfs.ext4"},
	"usr/sbin/e2fsck":   {"fsck.ext2", "fsck.ext3", "fsck.ext4"},
	"usr/sbin/mkfs.fat": {"mkfs.vfat"},
	"usr/sbin/fsck.fat": {"fsck.vfat"},
}

// base fills the base layer.
func (b *Builder) base(ctx context.Context, l *layer) error {
	for _, d := range []string{"dev", "proc", "sys", "run", "mnt", "root", "etc/branchpoint", "var/log", "bbin", "usr/bin", "usr/sbin", "usr/lib64", "usr/share"} {
		l.dir(d, 0o755)
	}
	l.dir("tmp", 0o1777)
	l.dir("root", 0o700)
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		l.link(d, "usr/"+d)
	}
	// Before init has mounted anything, its messages need a console.
	l.add("dev/console", entry{mode: typeDevice | 0o600, major: 5, minor: 1}, "")
	l.add("dev/null", entry{mode: typeDevice | 0o666, major: 1, minor: 3}, "")
	l.add("dev/kmsg", entry{mode: typeDevice | 0o600, major: 1, minor: 11}, "")
	// Without it mke2fs and e2fsck cannot tell whether a file system is mounted.
	l.link("etc/mtab", "/proc/self/mounts")
	l.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"), "")
	l.file("etc/group", 0o644, []byte("root:x:0:\n"), "")
	l.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"), "")
	l.file("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"), "")

	program, names, err := busybox(ctx, b.Source, b.Cache)
	if err != nil {
		return err
	}
	l.file("bbin/bb", 0o755, program, "u-root")
	for _, n := range names {
		l.link("bbin/"+n, "bb")
	}
	if err := b.addOwn(ctx, l, initProgram, "init"); err != nil {
		return err
	}
	l.link("usr/bin/sh", "/bbin/gosh")
	// Where the kernel looks for it (CONFIG_MODPROBE_PATH).
	l.link("usr/sbin/modprobe", "/init")

	chosen, err := b.modules.names(baseModules)
	if err != nil {
		return err
	}
	modules, err := b.modules.closure(chosen)
	if err != nil {
		return err
	}
	b.addModules(l, modules, modules)
	for _, f := range []string{"modules.builtin", "modules.order"} {
		content, err := os.ReadFile(filepath.Join(b.modules.dir, f))
		if err != nil {
			return fmt.Errorf("read %s: %w", f, err)
		}
		l.file(path.Join("usr/lib/modules", b.release, f), 0o644, content, b.image.Name)
	}
	t, err := b.trees(ctx, baseFirmware)
	if err != nil {
		return err
	}
	return addFirmware(l, t, modules, baseFirmwareFiles)
}

// extra fills the extra layer: modules that base lacks, and module indexes of both together, which take the place of base's
// because later layers overwrite earlier ones.
func (b *Builder) extra(ctx context.Context, l *layer) error {
	baseNames, err := b.modules.names(baseModules)
	if err != nil {
		return err
	}
	base, err := b.modules.closure(baseNames)
	if err != nil {
		return err
	}
	extraNames, err := b.modules.names(extraModules)
	if err != nil {
		return err
	}
	all, err := b.modules.closure(append(extraNames, baseNames...))
	if err != nil {
		return err
	}
	own := map[string]kernelModule{}
	for name, m := range all {
		if _, ok := base[name]; !ok {
			own[name] = m
		}
	}
	b.addModules(l, own, all)
	t, err := b.trees(ctx, append(append([]string{}, baseFirmware...), extraFirmware...))
	if err != nil {
		return err
	}
	if err := addFirmware(l, t, all, nil); err != nil {
		return err
	}
	// What base has already need not come twice.
	for file := range l.entries {
		short := strings.TrimPrefix(file, "usr/lib/firmware/")
		for _, p := range baseFirmwareFiles {
			if ok, err := path.Match(p, short); err == nil && ok {
				delete(l.entries, file)
			}
		}
	}
	return nil
}

func (b *Builder) addModules(l *layer, modules, indexed map[string]kernelModule) {
	dir := path.Join("usr/lib/modules", b.release)
	for _, m := range modules {
		l.file(path.Join(dir, m.path), 0o644, m.content, b.image.Name)
	}
	for name, content := range indexFiles(indexed) {
		l.file(path.Join(dir, name), 0o644, content, "")
	}
}

// addFirmware adds the files that the modules name and that match one of the patterns (none: all). Files that no package
// has are left out: modules name more than anybody may distribute.
func addFirmware(l *layer, t trees, modules map[string]kernelModule, patterns []string) error {
	for _, m := range modules {
		for _, file := range m.firmware {
			wanted := len(patterns) == 0
			for _, p := range patterns {
				ok, err := path.Match(p, file)
				if err != nil {
					return fmt.Errorf("pattern %s: %w", p, err)
				}
				wanted = wanted || ok
			}
			if !wanted {
				continue
			}
			for _, dir := range []string{"usr/lib/firmware/", "lib/firmware/"} {
				content, origin, err := t.read(dir + file)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return fmt.Errorf("firmware %s: %w", file, err)
				}
				l.file("usr/lib/firmware/"+file, 0o644, content, origin)
				break
			}
		}
	}
	return nil
}

// agent fills the agent's layer.
func (b *Builder) agent(ctx context.Context, l *layer) error {
	if err := b.addOwn(ctx, l, agentProgram, "bbin/agent"); err != nil {
		return err
	}
	l.file("etc/branchpoint/main", 0o644, []byte(`{"argv":["/bbin/agent"]}`+"\n"), "")
	return b.addTools(ctx, l, agentPackages, agentPrograms)
}

// appliance fills the appliance's layer.
func (b *Builder) appliance(ctx context.Context, l *layer) error {
	if err := b.addOwn(ctx, l, applianceProgram, "usr/bin/branchpoint"); err != nil {
		return err
	}
	l.file("etc/branchpoint/main", 0o644, []byte(`{"argv":["/usr/bin/branchpoint","appliance"]}`+"\n"), "")
	return b.addTools(ctx, l, appliancePackages, appliancePrograms)
}

func (b *Builder) addOwn(ctx context.Context, l *layer, pkg, file string) error {
	out := filepath.Join(b.Cache, "program-"+path.Base(pkg))
	if err := goBuild(ctx, b.Source, pkg, out); err != nil {
		return err
	}
	content, err := os.ReadFile(out)
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	l.file(file, 0o755, content, "ours")
	return nil
}

func (b *Builder) addTools(ctx context.Context, l *layer, packages, programs []string) error {
	names, err := b.root.Closure(ctx, packages...)
	if err != nil {
		return err
	}
	t, err := b.trees(ctx, names)
	if err != nil {
		return err
	}
	for _, p := range programs {
		if err := t.addProgram(l, p); err != nil {
			return err
		}
		for _, link := range linkedPrograms[p] {
			l.link(path.Join(path.Dir(p), link), path.Base(p))
		}
	}
	conf, origin, err := t.read("etc/mke2fs.conf")
	if err != nil {
		return fmt.Errorf("defaults of mkfs.ext4: %w", err)
	}
	l.file("etc/mke2fs.conf", 0o644, conf, origin)
	return nil
}

// summary tells in one line what takes the room in a layer.
func summary(l *layer) string {
	sizes := map[string]int{}
	counts := map[string]int{}
	for file, e := range l.entries {
		if e.mode&typeMask != typeFile {
			continue
		}
		kind := "other"
		switch {
		case strings.HasSuffix(file, ".ko"):
			kind = "modules"
		case strings.HasPrefix(file, "usr/lib/firmware/"):
			kind = "firmware"
		case strings.HasPrefix(file, libraryDirs[0]) || strings.HasPrefix(file, "usr/lib64/"):
			kind = "libraries"
		case e.mode&0o111 != 0:
			kind = "programs"
		}
		sizes[kind] += len(e.content)
		counts[kind]++
	}
	kinds := sortedKeys(sizes)
	sort.SliceStable(kinds, func(i, j int) bool { return sizes[kinds[i]] > sizes[kinds[j]] })
	var parts []string
	for _, k := range kinds {
		parts = append(parts, fmt.Sprintf("%d %s %.1f MiB", counts[k], k, float64(sizes[k])/(1<<20)))
	}
	return strings.Join(parts, ", ")
}
