package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/mkuimage/uimage"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/u-root/uio/llog"
)

// module is our own module's name, which tells its packages from libraries.
const module = "branchpoint"

// busyboxTag builds gosh without its completing line editor, which brings a library for full-screen programs along.
const busyboxTag = "goshsmall"

// goBuild compiles a program of ours for the RAM file systems: static, without paths and version control in it.
func goBuild(ctx context.Context, source, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// sourceHash is a hash of everything a compilation of the packages depends on: our own files, the libraries' versions, the
// compiler's.
func sourceHash(ctx context.Context, source string, pkgs ...string) (string, error) {
	args := append([]string{"list", "-deps", "-tags=" + busyboxTag, "-json=ImportPath,Dir,GoFiles,EmbedFiles,Module"}, pkgs...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("list sources of %s and others: %w\n%s", pkgs[len(pkgs)-1], err, stderr.String())
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version())
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("hash sources: %w", err)
		}
		h.Write(b)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath, Dir     string
			GoFiles, EmbedFiles []string
			Module              *struct{ Path string }
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", fmt.Errorf("list sources: %w", err)
		}
		fmt.Fprintln(h, p.ImportPath)
		if p.Module == nil || p.Module.Path != module {
			continue
		}
		for _, name := range append(p.GoFiles, p.EmbedFiles...) {
			b, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return "", fmt.Errorf("hash sources: %w", err)
			}
			fmt.Fprintf(h, "%s %d\n", name, len(b))
			h.Write(b)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// busybox compiles all commands of the base layer into one program by u-root's means, and returns it and the names it goes
// by. The result is kept in cache by its sources' hash.
func busybox(ctx context.Context, source, cache string) (program []byte, names []string, err error) {
	var pkgs []string
	for _, c := range commands {
		pkgs = append(pkgs, "github.com/u-root/u-root/cmds/core/"+c)
		names = append(names, c)
	}
	sum, err := sourceHash(ctx, source, pkgs...)
	if err != nil {
		return nil, nil, err
	}
	kept := filepath.Join(cache, "busybox-"+sum[:16])
	if program, err = os.ReadFile(kept); err == nil {
		return program, names, nil
	}
	// The directory's name must not get into the program, or equal sources would give different bytes.
	tmp := filepath.Join(cache, "build-busybox")
	if err := os.RemoveAll(tmp); err != nil {
		return nil, nil, fmt.Errorf("clear busybox build: %w", err)
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make busybox build: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	env := golang.Default(golang.DisableCGO(), golang.WithGOARCH("amd64"), golang.WithGOOS("linux"), golang.WithWorkingDir(source),
		golang.WithBuildTag(busyboxTag))
	out := filepath.Join(tmp, "busybox.cpio")
	var messages strings.Builder
	logger := llog.New(slog.LevelInfo, func(format string, args ...any) { fmt.Fprintf(&messages, format+"\n", args...) })
	if err := uimage.Create(logger, uimage.WithReplaceEnv(env), uimage.WithBaseArchive(uimage.DefaultRamfs()),
		uimage.WithBusyboxCommands(pkgs...), uimage.WithTempDir(tmp), uimage.WithCPIOOutput(out)); err != nil {
		return nil, nil, fmt.Errorf("compile commands: %w\n%s", err, messages.String())
	}
	f, err := os.Open(out)
	if err != nil {
		return nil, nil, fmt.Errorf("open commands: %w", err)
	}
	defer func() { _ = f.Close() }()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		return nil, nil, fmt.Errorf("read commands: %w", err)
	}
	for _, r := range records {
		if r.Name == "bbin/bb" {
			program, err = io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				return nil, nil, fmt.Errorf("read commands: %w", err)
			}
		}
	}
	if len(program) == 0 {
		return nil, nil, errors.New("compile commands: u-root left no bbin/bb")
	}
	if err := renameio.WriteFile(kept, program, 0o755); err != nil {
		return nil, nil, fmt.Errorf("keep commands: %w", err)
	}
	return program, names, prune(cache, "busybox-", kept)
}
