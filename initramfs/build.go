// Package initramfs builds the RAM file systems every machine of the product boots from: Debian's signed kernel, and
// layers that are compressed cpio archives of their own, to be given to the boot loader one after the other. The base
// layer alone boots to a shell; the agent's or the appliance's layer on top says what runs; the extra layer adds drivers of
// rare hardware.
package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"branchpoint/initramfs/debian"
)

// BootImageLimit is the most that kernel, base and agent layer may be together, in bytes: 48 MiB.
const BootImageLimit = 48 << 20

// Layers that can be built, in the order in which they are loaded.
const (
	LayerBase      = "base"
	LayerAgent     = "agent"
	LayerAppliance = "appliance"
	LayerExtra     = "extra"
)

// AllLayers are all of them.
var AllLayers = []string{LayerBase, LayerAgent, LayerAppliance, LayerExtra}

// DefaultLevel of zstd.
const DefaultLevel = 19

// Result says what became of one layer.
type Result struct {
	Layer    string
	Path     string // of the compressed layer
	Size     int64  // compressed, bytes
	Unpacked int64  // bytes
	Modules  int
	Firmware int
	Summary  string // what is in it, one line
}

// Builder makes layers. All its directories are absolute.
type Builder struct {
	// Source is the module's root directory.
	Source string
	// Out is where build/boot is; Cache keeps what later builds can use.
	Out, Cache string
	// Manifest is the file that lists packages, Licences the directory of their copyright files.
	Manifest, Licences string
	// Time is the stamp of every file in seconds since 1970 (SOURCE_DATE_EPOCH).
	Time uint32
	// Level is zstd's, 1 to 19.
	Level int
	Log   *slog.Logger

	root     *debian.Root
	packages map[string]debian.Package
	release  string
	image    debian.Package
	modules  *moduleTree
	zstd     zstdProgram
	self     string
}

// Build makes the kernel and the named layers, and records what Debian packages are in them.
func (b *Builder) Build(ctx context.Context, layers []string) ([]Result, error) {
	for _, dir := range []string{b.Out, b.Cache, b.Licences} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make build directory: %w", err)
		}
	}
	var err error
	if b.root, err = debian.Open(ctx, filepath.Join(b.Cache, "debian"), b.Log); err != nil {
		return nil, err
	}
	b.packages = map[string]debian.Package{}
	if b.self, err = hashOfSelf(); err != nil {
		return nil, err
	}
	if b.zstd, err = findZstd(ctx, b.root); err != nil {
		return nil, err
	}
	var results []Result
	kernel, err := b.kernel(ctx)
	if err != nil {
		return nil, err
	}
	results = append(results, kernel)
	makers := map[string]func(context.Context, *layer) error{
		LayerBase: b.base, LayerAgent: b.agent, LayerAppliance: b.appliance, LayerExtra: b.extra,
	}
	var failures []error
	for _, name := range layers {
		if makers[name] == nil {
			return nil, fmt.Errorf("there is no layer %q; layers are %s", name, strings.Join(AllLayers, ", "))
		}
		r, err := b.build(ctx, name, makers[name])
		if err != nil {
			// The other layers are of use without this one.
			failures = append(failures, fmt.Errorf("layer %s: %w", name, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		results = append(results, r)
	}
	return results, errors.Join(failures...)
}

// cached is what a layer's build leaves in the cache beside its bytes.
type cached struct {
	Result   Result
	Packages []debian.Package
}

func (b *Builder) build(ctx context.Context, name string, make func(context.Context, *layer) error) (Result, error) {
	key, err := b.key(ctx, name)
	if err != nil {
		return Result{}, err
	}
	kept := filepath.Join(b.Cache, "layers", name+"-"+key[:16])
	out := filepath.Join(b.Out, name+".cpio.zst")
	var c cached
	if text, err := os.ReadFile(filepath.Join(kept, "result.json")); err == nil && json.Unmarshal(text, &c) == nil {
		b.Log.Info("layer unchanged", "layer", name)
	} else {
		b.Log.Info("building layer", "layer", name)
		if c, err = b.make(ctx, name, make, kept); err != nil {
			return Result{}, err
		}
	}
	for from, to := range map[string]string{"layer.cpio.zst": out, "listing.txt": filepath.Join(b.Out, name+".txt")} {
		if err := copyFile(filepath.Join(kept, from), to); err != nil {
			return Result{}, err
		}
	}
	c.Result.Path = out
	if err := b.record(ctx, "boot/"+name, c.Packages); err != nil {
		return Result{}, err
	}
	return c.Result, nil
}

// make builds a layer and puts it into the directory kept, all or nothing.
func (b *Builder) make(ctx context.Context, name string, fill func(context.Context, *layer) error, kept string) (cached, error) {
	l := newLayer(name)
	if err := fill(ctx, l); err != nil {
		return cached{}, err
	}
	c := cached{Result: Result{Layer: name, Unpacked: l.size(), Summary: summary(l)}}
	used := map[string]bool{}
	for file := range l.entries {
		if strings.HasSuffix(file, ".ko") {
			c.Result.Modules++
		}
		if strings.HasPrefix(file, "usr/lib/firmware/") && l.entries[file].mode&typeMask == typeFile {
			c.Result.Firmware++
		}
		used[l.notes[file]] = true
	}
	for _, p := range sortedKeys(b.packages) {
		if used[p] {
			c.Packages = append(c.Packages, b.packages[p])
		}
	}
	list, err := json.MarshalIndent(c.Packages, "", " ")
	if err != nil {
		return cached{}, err
	}
	// What is in the image is told by the image, too.
	l.file("usr/share/branchpoint/packages-"+name+".json", 0o644, list, "")
	parent := filepath.Dir(kept)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return cached{}, fmt.Errorf("make layer cache: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".make-")
	if err != nil {
		return cached{}, fmt.Errorf("make layer cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	file := filepath.Join(tmp, "layer.cpio.zst")
	if err := b.compress(ctx, l, file); err != nil {
		return cached{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return cached{}, fmt.Errorf("measure layer: %w", err)
	}
	c.Result.Size = info.Size()
	if err := os.WriteFile(filepath.Join(tmp, "listing.txt"), []byte(l.listing()), 0o644); err != nil {
		return cached{}, fmt.Errorf("write listing: %w", err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		return cached{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "result.json"), text, 0o644); err != nil {
		return cached{}, fmt.Errorf("write layer's record: %w", err)
	}
	if err := os.RemoveAll(kept); err != nil {
		return cached{}, fmt.Errorf("replace cached layer: %w", err)
	}
	if err := os.Rename(tmp, kept); err != nil {
		return cached{}, fmt.Errorf("keep layer: %w", err)
	}
	return c, prune(parent, name+"-", kept)
}

// compress writes the layer's archive to file, from the cache if the same bytes have been compressed before: that takes a
// minute, and most changes of this package change no layer.
func (b *Builder) compress(ctx context.Context, l *layer, file string) error {
	h := sha256.New()
	fmt.Fprintln(h, b.Level, b.zstd.version)
	if err := l.writeCPIO(h, b.Time); err != nil {
		return err
	}
	dir := filepath.Join(b.Cache, "compressed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make layer cache: %w", err)
	}
	kept := filepath.Join(dir, l.name+"-"+hex.EncodeToString(h.Sum(nil))[:16])
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		err := b.zstd.compress(ctx, b.Level, kept+".new", func(w io.Writer) error { return l.writeCPIO(w, b.Time) })
		if err == nil {
			err = os.Rename(kept+".new", kept)
		}
		if err != nil {
			return errors.Join(err, os.Remove(kept+".new"))
		}
	}
	if err := prune(dir, l.name+"-", kept); err != nil {
		return err
	}
	return copyFile(kept, file)
}

// prune removes what an earlier build left in a cache directory under a prefix.
func prune(dir, prefix, keep string) error {
	old, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		return fmt.Errorf("clean cache: %w", err)
	}
	for _, o := range old {
		if o != keep {
			if err := os.RemoveAll(o); err != nil {
				return fmt.Errorf("clean cache: %w", err)
			}
		}
	}
	return nil
}

// key is a hash of all that decides a layer's bytes.
func (b *Builder) key(ctx context.Context, name string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, b.self, name, b.Time, b.Level, b.zstd.version)
	if name == LayerBase || name == LayerExtra {
		fmt.Fprintln(h, b.image.SHA256)
	}
	var names, pkgs []string
	switch name {
	case LayerBase:
		names, pkgs = baseFirmware, []string{initProgram}
	case LayerExtra:
		names = append(append([]string{}, baseFirmware...), extraFirmware...)
	case LayerAgent:
		names, pkgs = agentPackages, []string{agentProgram}
	case LayerAppliance:
		names, pkgs = appliancePackages, []string{applianceProgram}
	}
	for _, pkg := range pkgs {
		if _, err := os.Stat(filepath.Join(b.Source, strings.TrimPrefix(pkg, module+"/"))); err != nil {
			return "", fmt.Errorf("its program %s is not there: %w", pkg, err)
		}
	}
	if len(pkgs) > 0 {
		sum, err := sourceHash(ctx, b.Source, pkgs...)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, sum)
	}
	if name == LayerAgent || name == LayerAppliance {
		var err error
		if names, err = b.root.Closure(ctx, names...); err != nil {
			return "", err
		}
	}
	packages, err := b.root.Fetch(ctx, names...)
	if err != nil {
		return "", err
	}
	for _, p := range packages {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// kernel puts vmlinuz into place and opens the module tree.
func (b *Builder) kernel(ctx context.Context) (Result, error) {
	var err error
	if b.image, b.release, err = b.root.Kernel(ctx, "linux-image-amd64"); err != nil {
		return Result{}, err
	}
	dir, err := b.tree(ctx, b.image)
	if err != nil {
		return Result{}, err
	}
	for _, base := range []string{"usr/lib/modules", "lib/modules"} {
		d := filepath.Join(dir, base, b.release)
		if _, err := os.Stat(d); err == nil {
			if b.modules, err = openModuleTree(d); err != nil {
				return Result{}, err
			}
			break
		}
	}
	if b.modules == nil {
		return Result{}, fmt.Errorf("package %s holds no modules of %s", b.image.Name, b.release)
	}
	out := filepath.Join(b.Out, "vmlinuz")
	if err := copyFile(filepath.Join(dir, "boot", "vmlinuz-"+b.release), out); err != nil {
		return Result{}, err
	}
	info, err := os.Stat(out)
	if err != nil {
		return Result{}, fmt.Errorf("measure kernel: %w", err)
	}
	if err := b.record(ctx, "boot/vmlinuz", []debian.Package{b.packages[b.image.Name]}); err != nil {
		return Result{}, err
	}
	return Result{Layer: "vmlinuz", Path: out, Size: info.Size(), Unpacked: info.Size(), Summary: "Debian's signed kernel " + b.release}, nil
}

// tree unpacks a package and remembers it for the manifest.
func (b *Builder) tree(ctx context.Context, p debian.Package) (string, error) {
	dir, err := b.root.Tree(ctx, &p)
	if err != nil {
		return "", err
	}
	b.packages[p.Name] = p
	return dir, nil
}

// trees unpacks packages by name.
func (b *Builder) trees(ctx context.Context, names []string) (trees, error) {
	packages, err := b.root.Fetch(ctx, names...)
	if err != nil {
		return nil, err
	}
	t := trees{}
	for _, p := range packages {
		if t[p.Name], err = b.tree(ctx, p); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// record writes the packages of a part into the manifest and their licences beside it.
func (b *Builder) record(ctx context.Context, part string, packages []debian.Package) error {
	for i, p := range packages {
		dir, err := b.root.Tree(ctx, &packages[i])
		if err != nil {
			return err
		}
		if packages[i].Licence == "" {
			continue
		}
		if err := copyFile(filepath.Join(dir, packages[i].Licence), filepath.Join(b.Licences, p.Name)); err != nil {
			return fmt.Errorf("licence of %s: %w", p.Name, err)
		}
	}
	return debian.RecordPart(b.Manifest, part, packages)
}

// zstdProgram is Debian 13's zstd run by Debian 13's dynamic linker, so that the build host's versions do not show in the
// bytes.
type zstdProgram struct {
	linker, libraries, program, version string
}

func findZstd(ctx context.Context, root *debian.Root) (zstdProgram, error) {
	z := zstdProgram{}
	packages, err := root.Fetch(ctx, "zstd", "libc6", "libgcc-s1", "libstdc++6", "liblzma5", "liblz4-1", "zlib1g", "libxxhash0")
	if err != nil {
		return z, err
	}
	var libraries []string
	for i, p := range packages {
		dir, err := root.Tree(ctx, &packages[i])
		if err != nil {
			return z, err
		}
		libraries = append(libraries, filepath.Join(dir, "usr/lib/x86_64-linux-gnu"))
		switch p.Name {
		case "zstd":
			z.program, z.version = filepath.Join(dir, "usr/bin/zstd"), p.Version
		case "libc6":
			z.linker = filepath.Join(dir, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
		}
	}
	z.libraries = strings.Join(libraries, ":")
	return z, nil
}

// compress writes what fill produces to the file. Bytes do not depend on the number of processors: zstd cuts its input the
// same way for any number of threads above zero.
func (z zstdProgram) compress(ctx context.Context, level int, file string, fill func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, z.linker, "--library-path", z.libraries, z.program, "-q", "-f", "-T2", "-"+strconv.Itoa(level), "--check", "-o", file, "-")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start zstd: %w", err)
	}
	fillErr := fill(stdin)
	closeErr := stdin.Close()
	if fillErr != nil {
		cancel()
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(fillErr, fmt.Errorf("compress with zstd: %w: %s", err, strings.TrimSpace(stderr.String())))
	}
	return errors.Join(fillErr, closeErr)
}

// hashOfSelf is the hash of the running program: whatever changes in this package changes the layers.
func hashOfSelf() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	f, err := os.Open(self)
	if err != nil {
		return "", fmt.Errorf("read own program: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read own program: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// copyFile replaces to with from's content in one step, and leaves it alone if it is equal already.
func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	if old, err := os.ReadFile(to); err == nil && string(old) == string(content) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy: %w", err)
	}
	if err := renameio.WriteFile(to, content, 0o644); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}
