package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"branchpoint/initramfs/network"
	"branchpoint/services/central/client"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"branchpoint": main})
}

// TestScripts runs testdata/*.txtar: the program as a person uses it, against a central of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("BRANCHPOINT_ADMIN", filepath.Join(e.WorkDir, "data", "admin.json"))
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "hardware": // whether this machine can be recognised by anything
				h, _ := network.Hardware("/sys")
				return !h.Empty(), nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ready": cmdReady, "refused": cmdRefused, "disk": cmdDisk, "cut": cmdCut, "smalldisk": cmdSmallDisk,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// cmdReady waits until the central that was started in the background answers at the address in FILE, which it writes
// when it listens.
func cmdReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready FILE")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if f, err := client.ReadAdminFile(ts.MkAbs(args[0])); err == nil {
			if c, err := net.Dial("tcp", f.Address); err == nil {
				ts.Check(c.Close())
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("central did not start within 30 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// cmdRefused runs the program and wants exit code 1 and exactly one message with exactly one next step, on standard
// error, and that the message matches.
func cmdRefused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: refused REGEXP ARG…")
	}
	err := ts.Exec("branchpoint", args[1:]...)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 {
		ts.Fatalf("ended with %v, want exit code 1", err)
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output is %q, want none", out)
	}
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stderr"), "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "branchpoint: ") || !strings.HasPrefix(lines[1], "→ ") || len(lines[1]) < 10 {
		ts.Fatalf("want one message and one next step, got %d lines", len(lines))
	}
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	if !re.MatchString(lines[0]) {
		ts.Fatalf("the message does not match %q", args[0])
	}
}

// cmdDisk makes a raw disk image of that many MiB: an MBR with one partition, filled with what does not compress.
func cmdDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: disk FILE MIB")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n<<20)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := 1 << 20; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	const start = 2048 // sectors
	sectors := len(b)/512 - start
	copy(b[446:], []byte{
		0x80, 0, 2, 0, 0x83, 0, 2, 0, start & 0xff, start >> 8, 0, 0,
		byte(sectors), byte(sectors >> 8), byte(sectors >> 16), byte(sectors >> 24),
	})
	b[510], b[511] = 0x55, 0xaa
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// cmdCut cuts a file to a part of its length.
func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE PERCENT")
	}
	percent, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), info.Size()*percent/100))
}

// cmdSmallDisk mounts a file system of that size in bytes; it goes with the script.
func cmdSmallDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: smalldisk DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("branchpoint-test", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { ts.Check(syscall.Unmount(dir, syscall.MNT_DETACH)) })
}
