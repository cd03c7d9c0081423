package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// recipe holds the files that are added to Debian's own.
//
//go:embed all:recipe
var recipe embed.FS

// packages are installed besides Debian's essential ones. The boot loader's packages are there so that whoever deploys
// the tree can install GRUB from inside it, for BIOS and for UEFI with Secure Boot.
var packages = []string{
	"apt", "systemd", "systemd-sysv", "systemd-resolved", "libpam-systemd", "dbus", "udev", "kmod", "login", "passwd", "sudo",
	"util-linux", "iproute2", "tzdata", "openssh-server",
	"linux-image-cloud-amd64", "initramfs-tools", "zstd",
	"shim-signed", "grub-efi-amd64-signed", "grub-efi-amd64-bin", "grub-pc-bin", "grub2-common", "efibootmgr",
	"e2fsprogs", "dosfstools", "fdisk",
}

// dropped are path patterns that dpkg does not unpack. Licence texts stay.
var dropped = []string{
	"path-exclude=/usr/share/man/*",
	"path-exclude=/usr/share/doc/*",
	"path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/lintian/*",
	"path-exclude=/usr/share/locale/*",
	"path-include=/usr/share/locale/locale.alias",
	// Names of vendors and products, which nothing in a headless system reads.
	"path-exclude=/usr/lib/udev/hwdb.d/20-*",
	"path-include=/usr/lib/udev/hwdb.d/20-net-ifname.hwdb",
}

// build is one run.
type build struct {
	log   *slog.Logger
	work  string
	out   string
	index packageIndex
}

// epoch is what SOURCE_DATE_EPOCH is set to: the date of the package index.
func (b build) epoch() string { return strconv.FormatInt(b.index.date.Unix(), 10) }

func (b build) env() []string {
	return []string{"SOURCE_DATE_EPOCH=" + b.epoch(), "LC_ALL=C.UTF-8", "TZ=UTC"}
}

// all builds both forms and measures them.
func (b build) all(ctx context.Context) (record, error) {
	tree := filepath.Join(b.work, "root")
	steps := []struct {
		what string
		do   func(context.Context, string) error
	}{
		{"install Debian", b.bootstrap},
		{"add the recipe's files", b.customise},
		{"pack the root file system", b.pack},
		{"make the disk", b.disk},
	}
	for _, step := range steps {
		started := time.Now()
		if err := step.do(ctx, tree); err != nil {
			return record{}, fmt.Errorf("%s: %w", step.what, err)
		}
		b.log.Info(step.what, "seconds", fmt.Sprintf("%.1f", time.Since(started).Seconds()))
	}
	r := record{Index: b.index.hash(), Files: map[string]fileRecord{}}
	var err error
	if r.Packages, err = installed(ctx, tree); err != nil {
		return record{}, err
	}
	if r.TreeBytes, err = treeBytes(tree); err != nil {
		return record{}, err
	}
	for _, name := range []string{imageName, archiveName} {
		built := filepath.Join(b.work, name)
		f, err := describe(built)
		if err != nil {
			return record{}, err
		}
		r.Files[name] = f
		if err := os.Rename(built, filepath.Join(b.out, name)); err != nil {
			return record{}, fmt.Errorf("put %s in place: %w", name, err)
		}
		b.log.Info("built", "file", name, "bytes", f.Size)
	}
	return r, nil
}

// bootstrap installs the packages into an empty directory. mmdebstrap verifies the archive's signature.
func (b build) bootstrap(ctx context.Context, tree string) error {
	args := []string{
		"--mode=root", "--variant=essential", "--format=directory", "--architectures=amd64",
		"--components=main", "--keyring=" + keyring,
		`--aptopt=Apt::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`,
		"--include=" + strings.Join(packages, ","),
	}
	for _, pattern := range dropped {
		args = append(args, "--dpkgopt="+pattern)
	}
	// The configuration of the initramfs must be there before the kernel's package makes one.
	seed := filepath.Join(b.work, "seed")
	if err := addRecipe(seed, "etc/initramfs-tools"); err != nil {
		return err
	}
	args = append(args, "--essential-hook=sync-in '"+seed+"' /", release, tree, b.index.mirror)
	return command(ctx, b.env(), "mmdebstrap", args...)
}

// customise adds the recipe's files and takes away what must not be the same on two machines.
func (b build) customise(ctx context.Context, tree string) error {
	if err := addRecipe(tree, ""); err != nil {
		return err
	}
	keys, err := filepath.Glob(filepath.Join(tree, "etc/ssh/ssh_host_*"))
	if err != nil {
		return fmt.Errorf("list host keys: %w", err)
	}
	for _, name := range append(keys,
		filepath.Join(tree, "etc/hostname"), filepath.Join(tree, "etc/resolv.conf"), filepath.Join(tree, "etc/fstab"),
		filepath.Join(tree, "var/lib/dbus/machine-id"), filepath.Join(tree, "var/lib/systemd/random-seed"),
		filepath.Join(tree, "var/cache/ldconfig/aux-cache"),
	) {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what is one machine's own: %w", err)
		}
	}
	for _, pattern := range []string{"var/log/*.log", "var/log/apt/*", "var/cache/debconf/*-old", "var/lib/dpkg/*-old", "etc/*-"} {
		names, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return fmt.Errorf("list leftovers: %w", err)
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				return fmt.Errorf("remove leftovers: %w", err)
			}
		}
	}
	// Empty: systemd makes one at boot and stores it, without taking that boot for a first one.
	if err := os.WriteFile(filepath.Join(tree, "etc/machine-id"), nil, 0o444); err != nil {
		return fmt.Errorf("empty machine id: %w", err)
	}
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(tree, "etc/resolv.conf")); err != nil {
		return fmt.Errorf("link resolv.conf: %w", err)
	}
	for _, args := range [][]string{
		{"systemctl", "enable", "systemd-networkd.service", "systemd-resolved.service", "sshd-keygen.service", "branchpoint-report.service"},
		// The lab has no package mirror to ask.
		{"systemctl", "mask", "apt-daily.timer", "apt-daily-upgrade.timer"},
	} {
		if err := command(ctx, b.env(), "chroot", append([]string{tree}, args...)...); err != nil {
			return err
		}
	}
	return settleTimes(tree, b.index.date)
}

// addRecipe copies the embedded files whose path begins with prefix. Scripts and hooks become executable.
func addRecipe(tree, prefix string) error {
	files, err := fs.Sub(recipe, "recipe")
	if err != nil {
		return fmt.Errorf("open recipe: %w", err)
	}
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(name, prefix) {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return fmt.Errorf("read recipe: %w", err)
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(string(data), "#!") {
			mode = 0o755
		}
		target := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("add recipe: %w", err)
		}
		if err := os.WriteFile(target, data, mode); err != nil {
			return fmt.Errorf("add recipe: %w", err)
		}
		return os.Chmod(target, mode)
	})
}

// pack writes the archive of the tree.
func (b build) pack(ctx context.Context, tree string) error {
	name := filepath.Join(b.work, archiveName)
	return command(ctx, append(b.env(), "ZSTD_CLEVEL=9", "ZSTD_NBTHREADS=2"), "tar", "--create", "--file", name, "--use-compress-program=zstd",
		"--directory", tree, "--format=pax", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
		"--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--one-file-system", ".")
}

// installed lists the packages in the tree.
func installed(ctx context.Context, tree string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, "chroot", tree, "dpkg-query", "-W", "-f", "${Package} ${Version}\n").Output()
	if err != nil {
		return nil, fmt.Errorf("list installed packages: %w", err)
	}
	versions := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			versions[name] = version
		}
	}
	return versions, nil
}

// treeBytes is the size of the tree's files, as blocks of 4 KiB.
func treeBytes(tree string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() || info.IsDir() {
			sum += (info.Size() + 4095) &^ 4095
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure tree: %w", err)
	}
	return sum, nil
}
