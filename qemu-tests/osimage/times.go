package main

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// settleTimes sets every time that is later than date to date, so that two builds of the same inputs do not differ in
// them.
func settleTimes(tree string, date time.Time) error {
	limit := unix.NsecToTimespec(date.UnixNano())
	err := filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		t := unix.NsecToTimespec(info.ModTime().UnixNano())
		if info.ModTime().After(date) {
			t = limit
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{limit, t}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("settle times: %w", err)
	}
	return nil
}
