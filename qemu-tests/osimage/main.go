// Command osimage makes the Debian 13 that the scenarios deploy: a real system with systemd and Debian's signed kernel,
// made by mmdebstrap from Debian's packages, once as a whole-disk image and once as a root file system archive.
//
//	osimage -o DIR
//
// writes
//
//	DIR/debian-13.img           raw disk: GPT, BIOS boot partition, EFI system partition, ext4 root as the last partition;
//	                            boots under BIOS, UEFI and UEFI with Secure Boot
//	DIR/debian-13-root.tar.zst  the same tree as a PAX archive with numeric owners, extended attributes and ACLs; without
//	                            fstab, boot loader and GRUB configuration, which whoever deploys it installs from the
//	                            tools inside it
//	DIR/debian-13.json          what is in them: package versions, sizes, checksums
//
// The mirror is the one the host's own apt uses for Debian, or DEBIAN_MIRROR. A second run with the same recipe and the
// same package index does nothing. It needs root, and the tools of [hostTools].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hostTools maps each program that is run on the host to the Debian package that brings it.
var hostTools = map[string]string{
	"mmdebstrap": "mmdebstrap",
	"sfdisk":     "fdisk",
	"mformat":    "mtools",
	"mcopy":      "mtools",
	"mmd":        "mtools",
	"tar":        "tar",
	"zstd":       "zstd",
	"chroot":     "coreutils",
	"apt-get":    "apt",
	"fallocate":  "util-linux",
}

func main() {
	out := flag.String("o", "build/os", "directory to write into")
	force := flag.Bool("force", false, "build even where nothing has changed")
	flag.Parse()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, log, *out, *force); err != nil {
		fmt.Fprintln(os.Stderr, "osimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, out string, force bool) error {
	if os.Geteuid() != 0 {
		return errors.New("making a root file system needs root: run it with sudo")
	}
	if err := checkTools(); err != nil {
		return err
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("resolve output directory: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make output directory: %w", err)
	}
	index, err := fetchIndex(ctx, log, out)
	if err != nil {
		return err
	}
	key := recipeKey(index)
	if !force {
		if reason := upToDate(out, key); reason == "" {
			log.Info("up to date", "dir", out)
			return nil
		} else {
			log.Info("building", "because", reason)
		}
	}
	started := time.Now()
	work, err := os.MkdirTemp(out, ".work-")
	if err != nil {
		return fmt.Errorf("make work directory: %w", err)
	}
	defer os.RemoveAll(work)
	b := build{log: log, work: work, out: out, index: index}
	record, err := b.all(ctx)
	if err != nil {
		return err
	}
	record.Key = key
	if err := record.write(out); err != nil {
		return err
	}
	log.Info("done", "dir", out, "seconds", int(time.Since(started).Seconds()))
	return nil
}

// checkTools names all packages that are missing at once.
func checkTools() error {
	var missing []string
	for tool, pkg := range hostTools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", tool, pkg))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs are missing on this host: %s; install them with apt-get", strings.Join(missing, ", "))
	}
	return nil
}

// command runs a program and puts the end of what it printed into the error.
func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		const keep = 4000
		if len(out) > keep {
			out = out[len(out)-keep:]
		}
		return fmt.Errorf("run %s: %w\n%s", name, err, out)
	}
	return nil
}
