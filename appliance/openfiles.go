package appliance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openFiles is how many files the appliance may have open at once: each of the machines that load their boot image has
// four connections and as many files, on every interface, and the kernel gives its first processes 4096.
const openFiles = 1 << 16

// allowOpenFiles raises this process's limit of open files to n, where it is lower (setrlimit(2), RLIMIT_NOFILE).
func allowOpenFiles(n uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Cur >= n {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: max(n, limit.Max)}); err != nil {
		return fmt.Errorf("raise the limit of open files from %d to %d: %w", limit.Cur, n, err)
	}
	return nil
}
