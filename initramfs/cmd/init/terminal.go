package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownTerminal gives a process a session of its own with the terminal on its standard input as controlling terminal, so
// that Ctrl-C works in a shell. What is not a terminal is left out.
func ownTerminal(terminal *os.File) *syscall.SysProcAttr {
	if _, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS); err != nil {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
}
