// Netboot fetches Debian's netboot installer, which the benchmark boot-to-agent measures us beside:
//
//	netboot -o build/netboot
//
// writes the installer's own kernel and RAM file system, linux and initrd.gz, and package.json, which says what they are of.
// The mirror and the verification are those of all boot parts: see branchpoint/initramfs/debian.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"

	"branchpoint/initramfs/debian"
)

const (
	// pkg holds the installer of Debian 13; files are those for text consoles, below dir.
	pkg = "debian-installer-13-netboot-amd64"
	dir = "usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64"
)

var files = []string{"linux", "initrd.gz"}

func main() {
	out := flag.String("o", "build/netboot", "directory to write into")
	cache := flag.String("cache", "build/cache/debian", "package cache")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *cache, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "netboot:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, cache string, log *slog.Logger) error {
	root, err := debian.Open(ctx, cache, log)
	if err != nil {
		return err
	}
	packages, err := root.Fetch(ctx, pkg)
	if err != nil {
		return err
	}
	record, err := json.MarshalIndent(packages[0], "", "  ")
	if err != nil {
		return fmt.Errorf("write what was fetched: %w", err)
	}
	if upToDate(out, record) {
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	work, err := os.MkdirTemp(out, ".unpack-")
	if err != nil {
		return fmt.Errorf("make directory to unpack in: %w", err)
	}
	defer os.RemoveAll(work)
	if err := packages[0].Extract(ctx, work); err != nil {
		return err
	}
	for _, n := range files {
		if err := os.Rename(filepath.Join(work, dir, n), filepath.Join(out, n)); err != nil {
			return fmt.Errorf("keep %s: %w", n, err)
		}
	}
	// Last, so that it only ever describes what is complete.
	if err := renameio.WriteFile(filepath.Join(out, "package.json"), record, 0o644); err != nil {
		return fmt.Errorf("write what was fetched: %w", err)
	}
	log.Info("unpacked", "package", pkg, "version", packages[0].Version, "dir", out)
	return nil
}

// upToDate reports whether the files of this very package are there already.
func upToDate(out string, record []byte) bool {
	old, err := os.ReadFile(filepath.Join(out, "package.json"))
	if err != nil || !bytes.Equal(old, record) {
		return false
	}
	for _, n := range files {
		if _, err := os.Stat(filepath.Join(out, n)); err != nil {
			return false
		}
	}
	return true
}
