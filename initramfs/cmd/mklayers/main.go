// Mklayers builds the kernel and the RAM file systems into build/boot. Without arguments it builds all layers.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mklayers:", err)
		os.Exit(1)
	}
}

func run() error {
	out := flag.String("build", "build", "directory of built artifacts")
	level := flag.Int("level", initramfs.DefaultLevel, "zstd level, 1 to 19")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: mklayers [options] [layer…]\nlayers: %v\n", initramfs.AllLayers)
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	source, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find source directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(source, "go.mod")); err != nil {
		return fmt.Errorf("start this in the source's root directory: %w", err)
	}
	build, err := filepath.Abs(*out)
	if err != nil {
		return fmt.Errorf("find build directory: %w", err)
	}
	var stamp uint64
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
		if stamp, err = strconv.ParseUint(s, 10, 32); err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
	}
	layers := flag.Args()
	if len(layers) == 0 {
		layers = initramfs.AllLayers
	}
	b := &initramfs.Builder{
		Source: source, Out: filepath.Join(build, "boot"), Cache: filepath.Join(build, "cache"),
		Manifest: filepath.Join(build, "manifest.json"), Licences: filepath.Join(build, "licences"),
		Time: uint32(stamp), Level: *level, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	results, buildErr := b.Build(ctx, layers)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "part\tsize\tunpacked\tmodules\tfirmware\twhat")
	var boot int64
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.Layer, mib(r.Size), mib(r.Unpacked), r.Modules, r.Firmware, r.Summary)
		if r.Layer == "vmlinuz" || r.Layer == initramfs.LayerBase || r.Layer == initramfs.LayerAgent {
			boot += r.Size
		}
	}
	fmt.Fprintf(w, "boot image\t%s\tof %s at most: kernel, base, agent\n", mib(boot), mib(initramfs.BootImageLimit))
	if err := w.Flush(); err != nil {
		return err
	}
	if buildErr != nil {
		return buildErr
	}
	if boot > initramfs.BootImageLimit {
		return fmt.Errorf("kernel, base and agent layer are %d bytes, more than the %d a boot image may have", boot, initramfs.BootImageLimit)
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }
