package debian

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Manifest is build/manifest.json: which packages each built artifact holds files of.
type Manifest struct {
	// Release is the Debian release's code name.
	Release string `json:"release"`
	// Parts maps an artifact's path below build/ to the packages in it, sorted by name.
	Parts map[string][]Package `json:"parts"`
}

// RecordPart replaces one part's list in the manifest at path, which is made if missing. Builders of other parts may
// record theirs at the same time.
func RecordPart(path, part string, packages []Package) error {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("lock manifest: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock manifest %s: %w", path, err)
	}
	m := Manifest{}
	switch b, err := os.ReadFile(path); {
	case err == nil:
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("manifest %s is damaged, remove it and build again: %w", path, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read manifest: %w", err)
	}
	if m.Parts == nil {
		m.Parts = map[string][]Package{}
	}
	m.Release = Release
	list := append([]Package{}, packages...)
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	m.Parts[part] = list
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}
