package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Release is the Debian release every boot part comes from: 13.
const Release = "trixie"

// indexAge is how long a package index counts as fresh. Longer would miss security updates for days, shorter would make
// every build ask the network.
const indexAge = 24 * time.Hour

// Options say where a Root gets its surroundings from. The zero value of each field is the host's own.
type Options struct {
	// Release is the suite's name; empty means the constant Release.
	Release string
	// Mirrors are used as they are when Main is set; otherwise they are found in EtcApt and the environment.
	Mirrors Mirrors
	// EtcApt is the host's apt configuration, usually /etc/apt.
	EtcApt string
	// Keyring is the file of Debian's archive keys; empty: DEBIAN_KEYRING, then the host's debian-archive-keyring.
	Keyring string
	// Now is the clock that decides whether the index is fresh.
	Now func() time.Time
	// Components of the archive; empty means main and non-free-firmware.
	Components []string
}

// Root is a private apt root in a directory of its own. Its methods may be called by several processes at once: they take
// turns by a lock file.
type Root struct {
	dir     string
	conf    string
	sources string
	log     *slog.Logger
	now     func() time.Time
}

// Open makes or reopens the private apt root in cacheDir with the host's surroundings, and brings its index up to date if
// it is older than a day. Without network an older index is used, with a warning.
func Open(ctx context.Context, cacheDir string, log *slog.Logger) (*Root, error) {
	return OpenWith(ctx, cacheDir, log, Options{})
}

// OpenWith is Open with chosen surroundings.
func OpenWith(ctx context.Context, cacheDir string, log *slog.Logger, o Options) (*Root, error) {
	if o.Release == "" {
		o.Release = Release
	}
	if o.EtcApt == "" {
		o.EtcApt = "/etc/apt"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(o.Components) == 0 {
		o.Components = []string{"main", "non-free-firmware"}
	}
	if o.Mirrors.Main == "" {
		m, err := FindMirrors(o.EtcApt, os.Getenv)
		if err != nil {
			return nil, err
		}
		o.Mirrors = m
	}
	if o.Keyring == "" {
		k, err := findKeyring(os.Getenv("DEBIAN_KEYRING"))
		if err != nil {
			return nil, err
		}
		o.Keyring = k
	}
	dir, err := filepath.Abs(cacheDir)
	if err != nil {
		return nil, fmt.Errorf("find package cache: %w", err)
	}
	r := &Root{dir: dir, log: log, now: o.Now, conf: filepath.Join(dir, "apt.conf"), sources: filepath.Join(dir, "debian.sources")}
	for _, d := range []string{"lists/partial", "cache/archives/partial", "log", "debs", "trees"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make package cache: %w", err)
		}
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.configure(ctx, o); err != nil {
		return nil, err
	}
	return r, r.refresh(ctx, false)
}

// findKeyring returns Debian's archive keys: named, or where debian-archive-keyring puts them.
func findKeyring(named string) (string, error) {
	candidates := []string{
		"/usr/share/keyrings/debian-archive-keyring.gpg", // Debian 12 and 13
		"/usr/share/keyrings/debian-archive-keyring.pgp", // newer packages; apt before 2.9 does not read .pgp
	}
	if named != "" {
		candidates = []string{named}
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("no Debian archive keys in %s: install the package debian-archive-keyring, or set DEBIAN_KEYRING", strings.Join(candidates, " or "))
}

// configure writes sources, dpkg status and apt.conf of the private root.
func (r *Root) configure(ctx context.Context, o Options) error {
	var s strings.Builder
	stanza := func(uri, suites string) {
		fmt.Fprintf(&s, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: amd64\nSigned-By: %s\n\n",
			uri, suites, strings.Join(o.Components, " "), o.Keyring)
	}
	if o.Mirrors.Security != "" {
		stanza(o.Mirrors.Main, o.Release+" "+o.Release+"-updates")
		stanza(o.Mirrors.Security, o.Release+"-security")
	} else {
		r.log.Warn("no mirror of security updates is known; set DEBIAN_SECURITY_MIRROR to use one")
		stanza(o.Mirrors.Main, o.Release)
	}
	host, err := hostAcquire(ctx)
	if err != nil {
		return err
	}
	var c strings.Builder
	c.WriteString(host)
	set := func(name, value string) { fmt.Fprintf(&c, "%s %q;\n", name, value) }
	set("Dir::Etc::main", "/dev/null")
	set("Dir::Etc::parts", "/dev/null")
	set("Dir::Etc::sourcelist", r.sources)
	set("Dir::Etc::sourceparts", "/dev/null")
	set("Dir::Etc::preferences", "/dev/null")
	set("Dir::Etc::preferencesparts", "/dev/null")
	set("Dir::Etc::trusted", "/dev/null")
	set("Dir::Etc::trustedparts", "/dev/null")
	// Credentials of a private mirror stay where the host has them.
	set("Dir::Etc::netrc", filepath.Join(o.EtcApt, "auth.conf"))
	set("Dir::Etc::netrcparts", filepath.Join(o.EtcApt, "auth.conf.d"))
	set("Dir::State", r.dir)
	set("Dir::State::status", filepath.Join(r.dir, "status"))
	set("Dir::State::lists", filepath.Join(r.dir, "lists"))
	set("Dir::Cache", filepath.Join(r.dir, "cache"))
	set("Dir::Log", filepath.Join(r.dir, "log"))
	set("APT::Architecture", "amd64")
	c.WriteString("#clear APT::Architectures;\n")
	set("APT::Architectures::", "amd64")
	set("APT::Install-Recommends", "false")
	set("APT::Update::Error-Mode", "any")
	set("Acquire::Languages", "none")
	set("Acquire::AllowInsecureRepositories", "false")
	set("Acquire::AllowWeakRepositories", "false")
	set("Acquire::AllowDowngradeToInsecureRepositories", "false")
	if !sandboxReaches(r.dir) {
		set("APT::Sandbox::User", "root")
	}
	if err := os.WriteFile(filepath.Join(r.dir, "status"), nil, 0o644); err != nil {
		return fmt.Errorf("write dpkg status: %w", err)
	}
	if err := renameio.WriteFile(r.sources, []byte(s.String()), 0o644); err != nil {
		return fmt.Errorf("write apt sources: %w", err)
	}
	// A proxy's address may hold a password.
	if err := renameio.WriteFile(r.conf, []byte(c.String()), 0o600); err != nil {
		return fmt.Errorf("write apt configuration: %w", err)
	}
	return nil
}

// hostAcquire returns the host's settings of how the network is reached (proxies, retries, time limits), and none of those
// that would loosen verification.
func hostAcquire(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "", fmt.Errorf("read the host's apt configuration (is this Debian?): %w", err)
	}
	return filterAcquire(string(out)), nil
}

func filterAcquire(dump string) string {
	var kept strings.Builder
	for _, line := range strings.Split(dump, "\n") {
		name, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(name, "Acquire::") || strings.HasPrefix(name, "Acquire::Allow") ||
			strings.HasPrefix(name, "Acquire::Languages") || strings.HasPrefix(name, "Acquire::cdrom") || !strings.HasSuffix(line, ";") {
			continue
		}
		kept.WriteString(line + "\n")
	}
	return kept.String()
}

// sandboxReaches reports whether apt's unprivileged download user can get into dir.
func sandboxReaches(dir string) bool {
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if d == "/" {
			return true
		}
	}
}

// refreshed is what lists/refreshed.json records of the last successful update.
type refreshed struct {
	Time    time.Time `json:"time"`
	Sources string    `json:"sources"` // SHA-256 of the sources file it was made from
}

// refresh runs apt-get update unless the index is fresh and of the same sources. The lock must be held.
func (r *Root) refresh(ctx context.Context, force bool) error {
	text, err := os.ReadFile(r.sources)
	if err != nil {
		return fmt.Errorf("read apt sources: %w", err)
	}
	sum := sha256.Sum256(text)
	sources := hex.EncodeToString(sum[:])
	stamp := filepath.Join(r.dir, "lists", "refreshed.json")
	var last refreshed
	if b, err := os.ReadFile(stamp); err == nil {
		if err := json.Unmarshal(b, &last); err != nil {
			last = refreshed{}
		}
	}
	age := r.now().Sub(last.Time)
	usable := last.Sources == sources
	if usable && !force && age >= 0 && age < indexAge {
		return nil
	}
	r.log.Info("refreshing package index", "release", Release)
	if _, err := r.run(ctx, "", "apt-get", "-q", "update"); err != nil {
		if usable && !force && ctx.Err() == nil {
			r.log.Warn("package index not refreshed, going on with the old one", "age", age.Round(time.Minute), "err", err)
			return nil
		}
		return fmt.Errorf("refresh package index: %w", err)
	}
	b, err := json.Marshal(refreshed{Time: r.now().UTC(), Sources: sources})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(stamp, b, 0o644); err != nil {
		return fmt.Errorf("record index refresh: %w", err)
	}
	return nil
}

// run executes a program of apt's under the private configuration and returns its standard output.
func (r *Root) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+r.conf, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// lock waits for the root's lock file, up to the context's end.
func (r *Root) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open package cache lock: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock package cache %s: %w", r.dir, err)
		}
		if !told {
			r.log.Info("waiting for another build that uses the package cache", "dir", r.dir)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock package cache %s: %w", r.dir, ctx.Err())
		case <-tick.C:
		}
	}
}
