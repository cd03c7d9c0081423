package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// release is Debian 13. It is the only suite used: its index changes with point releases only, so a build is good
	// for weeks.
	release = "trixie"
	// keyring holds the archive's signing keys; package debian-archive-keyring.
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// packageIndex is the state of the archive that a build is made from.
type packageIndex struct {
	mirror string
	// inRelease is the signed index file. It names the checksum of every list of packages. mmdebstrap verifies its
	// signature; here it is only an input of the cache key and the source of the date.
	inRelease []byte
	date      time.Time
}

// fetchIndex gets the archive's current index, or the one of the last build where the mirror cannot be reached.
func fetchIndex(ctx context.Context, log *slog.Logger, out string) (packageIndex, error) {
	cached := filepath.Join(out, ".InRelease")
	mirror, err := findMirror(ctx)
	if err != nil {
		return packageIndex{}, err
	}
	tmp := cached + ".new"
	defer os.Remove(tmp)
	// apt's own downloader knows the host's proxies and certificates.
	url := strings.TrimSuffix(mirror, "/") + "/dists/" + release + "/InRelease"
	err = command(ctx, nil, "/usr/lib/apt/apt-helper", "download-file", url, tmp)
	switch {
	case err == nil:
		if err := os.Rename(tmp, cached); err != nil {
			return packageIndex{}, fmt.Errorf("keep package index: %w", err)
		}
	case ctx.Err() != nil:
		return packageIndex{}, ctx.Err()
	default:
		if _, statErr := os.Stat(cached); statErr != nil {
			return packageIndex{}, fmt.Errorf("fetch the index of Debian %s (set DEBIAN_MIRROR to another mirror): %w", release, err)
		}
		log.Warn("mirror does not answer; using the index of the last build", "error", err)
	}
	data, err := os.ReadFile(cached)
	if err != nil {
		return packageIndex{}, fmt.Errorf("read package index: %w", err)
	}
	date, err := indexDate(data)
	if err != nil {
		return packageIndex{}, err
	}
	return packageIndex{mirror: mirror, inRelease: data, date: date}, nil
}

// hash is the index's checksum in hexadecimal.
func (i packageIndex) hash() string { return fmt.Sprintf("%x", sha256.Sum256(i.inRelease)) }

// indexDate reads the Date field of an InRelease file.
func indexDate(data []byte) (time.Time, error) {
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Date: "); ok {
			date, err := mail.ParseDate(strings.Replace(strings.TrimSpace(value), "UTC", "+0000", 1))
			if err != nil {
				return time.Time{}, fmt.Errorf("read the date of the package index: %w", err)
			}
			return date.UTC(), nil
		}
	}
	return time.Time{}, errors.New("the package index has no date: the mirror sent something that is not an InRelease file")
}

// findMirror gives DEBIAN_MIRROR, or the mirror that the host's apt uses for Debian.
func findMirror(ctx context.Context) (string, error) {
	if mirror := os.Getenv("DEBIAN_MIRROR"); mirror != "" {
		return mirror, nil
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	if mirror := chooseMirror(string(out)); mirror != "" {
		return mirror, nil
	}
	return "", errors.New("the host's apt has no mirror for Debian: set DEBIAN_MIRROR to one")
}

// chooseMirror picks the first repository labelled Debian from lines of "label|URI". A host whose lists were never
// fetched has no labels; there the usual name of the directory decides.
func chooseMirror(lines string) string {
	var byPath string
	for line := range strings.Lines(lines) {
		label, uri, _ := strings.Cut(strings.TrimSpace(line), "|")
		if label == "Debian" && uri != "" {
			return uri
		}
		if byPath == "" && strings.HasSuffix(strings.TrimSuffix(uri, "/"), "/debian") {
			byPath = uri
		}
	}
	return byPath
}
