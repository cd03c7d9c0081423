package initramfs

// commands are the programs of the base layer's one busybox: what an engineer at a stuck machine's shell reaches for.
// Our own programs are not in it: gobusybox takes packages whose import path has no dot for the standard library. Each must be imported in tools.go, so that go.mod pins it.
var commands = []string{
	"base64", "basename", "cat", "chmod", "chroot", "cmp", "cp", "cpio", "date", "dd", "df", "dirname", "dmesg", "du",
	"echo", "false", "find", "free", "gosh", "grep", "gzip", "head", "hexdump", "hostname", "hwclock", "id", "ip", "kill", "ln",
	"losetup", "ls", "lsmod", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "more", "mount", "mv", "netstat", "ntpdate",
	"pci", "pidof", "ping", "poweroff", "printenv", "ps", "pwd", "readlink", "realpath", "rm", "rmmod", "seq", "shasum", "shutdown",
	"sleep", "sort", "strings", "stty", "switch_root", "sync", "tail", "tar", "tee", "time", "timeout", "touch", "tr", "true", "truncate",
	"tty", "umount", "uname", "uniq", "uptime", "wc", "wget", "which", "xargs", "yes",
}
