package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoPid reads si_pid, which x/sys/unix leaves in the unnamed part of siginfo_t: the first field of the union, at
// offset 16 (bits/types/siginfo_t.h: three ints and padding come before it on 64 bits).
func siginfoPid(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}
