// Mkimage makes build/branchpoint.img from what mklayers put into build/boot.
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
	"strconv"
	"strings"
	"syscall"
	"time"

	"branchpoint/appliance/image"
	"branchpoint/provisioning"
)

func main() {
	build := flag.String("build", "build", "directory of built artifacts")
	site := flag.String("site", "", "site.yaml to put in; empty: the template")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *build, *site); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, build, site string) error {
	text := []byte(provisioning.ApplianceTemplate)
	if site != "" {
		var err error
		if text, err = os.ReadFile(site); err != nil {
			return fmt.Errorf("read site.yaml: %w", err)
		}
	}
	date, err := sourceDate(ctx)
	if err != nil {
		return err
	}
	build, err = filepath.Abs(build)
	if err != nil {
		return fmt.Errorf("find build directory: %w", err)
	}
	licences, err := moduleLicences(ctx, "./appliance/cmd/...", "./initramfs/...")
	if err != nil {
		return err
	}
	started := time.Now()
	b := image.Builder{
		Build: build, Version: version(ctx), SiteYAML: text, Time: date, Licences: licences,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	name, err := b.Image(ctx)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("look at the image: %w", err)
	}
	stored := info.Size()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		stored = s.Blocks * 512
	}
	fmt.Printf("%s: %.1f MiB, of which %.1f MiB hold data; %.1f s\n", name, mib(info.Size()), mib(stored), time.Since(started).Seconds())
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// sourceDate is SOURCE_DATE_EPOCH, or the date of the source's last commit, or the first day that FAT can say.
func sourceDate(ctx context.Context) (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), nil
		}
		s = strings.TrimSpace(string(out))
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}

// version names the source: its last tag and commit, where it is a git work tree.
func version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--tags").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// moduleLicences reads the licence texts of every module that the given packages link.
func moduleLicences(ctx context.Context, packages ...string) (map[string][]byte, error) {
	args := append([]string{"list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}{{end}}"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list linked modules: %w", err)
	}
	texts := map[string][]byte{}
	seen := map[string]bool{}
	var without []string
	for line := range strings.Lines(string(out)) {
		module, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || seen[module] {
			continue
		}
		seen[module] = true
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("look for the licence of %s: %w", module, err)
		}
		found := false
		for _, e := range entries {
			upper := strings.ToUpper(e.Name())
			if e.IsDir() || !(strings.HasPrefix(upper, "LICENSE") || strings.HasPrefix(upper, "LICENCE") || strings.HasPrefix(upper, "COPYING") || strings.HasPrefix(upper, "NOTICE")) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("read the licence of %s: %w", module, err)
			}
			found = true
			texts[strings.ReplaceAll(module, "/", "_")+"_"+e.Name()] = data
		}
		if !found {
			without = append(without, module)
		}
	}
	if len(without) > 0 {
		return nil, errors.New("no licence text in the modules " + strings.Join(without, ", "))
	}
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find Go's licence: %w", err)
	}
	if texts["go_LICENSE"], err = os.ReadFile(filepath.Join(strings.TrimSpace(string(goroot)), "LICENSE")); err != nil {
		return nil, fmt.Errorf("find Go's licence: %w", err)
	}
	return texts, nil
}
