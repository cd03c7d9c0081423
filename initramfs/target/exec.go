package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning/sequence/steps"
)

// Bounds of what is kept of a program's output, in bytes.
const (
	maxTail   = 64 << 10 // of both streams together: the end
	maxStdout = 4 << 20  // of standard output: the beginning
	maxLog    = 16 << 20 // what one program may write to the log, which is kept in memory
)

// searchPath is where programs are looked for in an installed system.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// killPatience is how long the output of an ended program is still read.
const killPatience = 10 * time.Second

// Exec runs a program and waits. It runs in a process id name space of its own, so that when it ends, everything that
// it started ends too, daemons included.
func (s *System) Exec(ctx context.Context, c steps.Command) (steps.Exit, error) {
	if len(c.Args) == 0 {
		return steps.Exit{}, errors.New("no program to run")
	}
	out := &output{log: s.Output}
	cmd := &exec.Cmd{
		Args: c.Args, Dir: "/", Stdout: out.stdout(), Stderr: out, WaitDelay: killPatience,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWPID},
	}
	if c.Stdin != "" {
		cmd.Stdin = strings.NewReader(c.Stdin)
	}
	cmd.Env = []string{"HOME=/root", "TERM=linux", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	var err error
	if c.InTarget {
		if cmd.Path, err = s.inTarget(c.Args[0]); err != nil {
			return steps.Exit{}, err
		}
		leave, err := s.enter()
		if err != nil {
			return steps.Exit{}, err
		}
		defer leave()
		cmd.SysProcAttr.Chroot = s.Dir
		cmd.Env = append(cmd.Env, "PATH="+searchPath)
	} else {
		if cmd.Path, err = exec.LookPath(c.Args[0]); err != nil {
			return steps.Exit{}, fmt.Errorf("the boot image lacks a program: %w", err)
		}
		// The boot image's programs are links to one, which finds out by the whole path of a link like sh what it is to be.
		cmd.Args = append([]string{cmd.Path}, c.Args[1:]...)
		cmd.Env = append(cmd.Env, "PATH="+strings.Trim(os.Getenv("PATH")+":"+searchPath, ":"))
	}
	timed := ctx
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		timed, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	s.Log.Info("run", "program", c.Args[0], "arguments", len(c.Args)-1, "in_target", c.InTarget)
	if err := cmd.Start(); err != nil {
		return steps.Exit{}, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-timed.Done():
			// The process group, and with the first process of the name space all that have left it.
			unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
			unix.Kill(cmd.Process.Pid, unix.SIGKILL)
		case <-ended:
		}
	})
	err = cmd.Wait()
	close(ended)
	watch.Wait()
	e := steps.Exit{Output: out.tail(), Stdout: out.head.String()}
	if ctx.Err() != nil {
		return e, ctx.Err()
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, exec.ErrWaitDelay) {
		return e, fmt.Errorf("run %s: %w", c.Args[0], err)
	}
	state := cmd.ProcessState.Sys().(syscall.WaitStatus)
	e.Code = state.ExitStatus()
	if state.Signaled() {
		e.Code = 128 + int(state.Signal())
		e.TimedOut = timed.Err() != nil
	}
	return e, nil
}

// inTarget finds a program in the installed system.
func (s *System) inTarget(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	t := NewTree(s.Dir)
	for dir := range strings.SplitSeq(searchPath, ":") {
		p := path.Join(dir, name)
		if fi, err := t.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("the installed system has no program %s", name)
}

// enter mounts what programs in the installed system need, and gives what undoes it.
func (s *System) enter() (leave func(), err error) {
	var points []string
	leave = func() {
		for i := len(points) - 1; i >= 0; i-- {
			// Detached: nothing that ran there is left, see Exec, and what is mounted below goes along.
			if err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				s.Log.Error("unmount in the installed system", "at", points[i], "error", err)
			}
		}
	}
	for _, m := range []struct {
		at, source, kind string
		flags            uintptr
		data             string
	}{
		{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"/proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys", "/sys", "", unix.MS_BIND | unix.MS_REC, ""},
		// Empty: the boot image's own /run is not the installed system's business.
		{"/run", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := s.mountFor(m.at, m.source, m.kind, m.flags, m.data, &points); err != nil {
			leave()
			return nil, err
		}
	}
	return leave, nil
}

func (s *System) mountFor(at, source, kind string, flags uintptr, data string, points *[]string) error {
	point, release, err := s.mountPoint(at)
	if err != nil {
		return err
	}
	defer release()
	where, err := os.Readlink(point)
	if err != nil {
		return fmt.Errorf("find mount point %s: %w", at, err)
	}
	if err := unix.Mount(source, point, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s in the installed system: %w", at, err)
	}
	*points = append(*points, where)
	// Otherwise unmounting it would unmount the original's own.
	if err := unix.Mount("", where, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make %s private: %w", where, err)
	}
	return nil
}

// output keeps bounded parts of what a program prints. Its Write is for both streams.
type output struct {
	mu     sync.Mutex
	end    []byte
	head   bytes.Buffer
	log    io.Writer
	logged int
}

// Write keeps the end, and passes everything to the log.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end = append(o.end, p...)
	if len(o.end) > 2*maxTail {
		o.end = append([]byte(nil), o.end[len(o.end)-maxTail:]...)
	}
	if o.log != nil && o.logged < maxLog {
		n := min(len(p), maxLog-o.logged)
		o.logged += n
		o.log.Write(p[:n]) // a log that cannot be written must not fail the program
	}
	return len(p), nil
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.end[max(0, len(o.end)-maxTail):])
}

// stdout is the writer for standard output, whose beginning is kept as well.
func (o *output) stdout() io.Writer { return stdout{o} }

type stdout struct{ o *output }

func (s stdout) Write(p []byte) (int, error) {
	s.o.mu.Lock()
	if room := maxStdout - s.o.head.Len(); room > 0 {
		s.o.head.Write(p[:min(len(p), room)])
	}
	s.o.mu.Unlock()
	return s.o.Write(p)
}
