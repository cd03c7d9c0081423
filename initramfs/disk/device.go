package disk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// deviceNumber returns "major:minor" of a block device's file.
func deviceNumber(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// Open opens a block device or image for reading and returns its size in bytes. Read errors of a device show as errors of
// ReadAt, never as zeros.
func Open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("open disk: %w", err)
	}
	// SEEK_END tells the size of block devices and files alike; ReadAt does not mind where the file stands.
	size, err := f.Seek(0, 2)
	if err != nil {
		_ = f.Close()
		return nil, 0, fmt.Errorf("measure disk %s: %w", path, err)
	}
	return f, size, nil
}
