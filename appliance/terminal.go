package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// lastWords is how long the end of what ran on a console is kept by a console that takes no output, as Scroll Lock holds it, or by
// what still has the other side of the terminal that it ran on.
const lastWords = 2 * time.Second

// runOnTerminal runs a program on a console until it ends or ctx does, and ends with it whatever it has left running in its
// session; what was given a session of its own runs on. The program has a pseudo-terminal of its own: if it had the console itself, its end would hang the console up for
// everybody (tty_vhangup_session of the kernel), and its terminal modes would stay. That a program ends with an exit code is no
// error.
func runOnTerminal(ctx context.Context, argv []string, console *os.File) (err error) {
	master, slave, err := openPTY(windowOf(console))
	if err != nil {
		return err
	}
	defer master.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "HOME=/root", "TERM=linux")
	if _, serr := os.Stat("/root"); serr == nil {
		cmd.Dir = "/root"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	restore, err := makeRaw(console)
	if err != nil {
		return errors.Join(err, slave.Close())
	}
	defer func() { err = errors.Join(err, restore()) }()
	err = cmd.Start()
	_ = slave.Close() // the program has it
	if err != nil {
		return fmt.Errorf("start the shell: %w", err)
	}

	ended := make(chan error, 1)
	go func() { ended <- awaitEnd(cmd.Process.Pid) }()
	typed := make(chan error, 1)
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(struct{ io.Writer }{console}, struct{ io.Reader }{master}) }) // ends with EIO, when nobody has the other side any more, or with the deadline
	copies.Go(func() {
		_, err := io.Copy(struct{ io.Writer }{master}, struct{ io.Reader }{console})
		typed <- err
	})
	select {
	case err = <-ended:
	case <-ctx.Done():
	case err = <-typed: // the console is gone
		if err == nil {
			err = io.EOF
		}
		err = fmt.Errorf("read from the console: %w", err)
	}
	err = errors.Join(err, endSession(cmd.Process.Pid))
	if werr := cmd.Wait(); !isExit(werr) {
		err = errors.Join(err, werr)
	}
	// Whoever reads is gone before the console is the screen's again: it would take a line that is not meant for it. What has a
	// session of its own by now has not ended, and may hold the program's terminal for good.
	now := time.Now()
	err = errors.Join(err, console.SetReadDeadline(now), console.SetWriteDeadline(now.Add(lastWords)), master.SetDeadline(now.Add(lastWords)))
	copies.Wait()
	return errors.Join(err, console.SetDeadline(time.Time{}))
}

// isExit reports whether a program ended, however that was.
func isExit(err error) bool {
	_, exited := errors.AsType[*exec.ExitError](err)
	return err == nil || exited
}

// awaitEnd waits for the end of a child and leaves it to be waited for: as long as nobody has, nothing else gets its number.
func awaitEnd(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// endSession kills every process of a session, whose leader has not been waited for yet.
func endSession(leader int) error {
	for range 1000 { // each round may find children that were made during the one before
		alive, err := killSession("/proc", leader)
		if err != nil || alive == 0 {
			return err
		}
		time.Sleep(time.Millisecond) // those that were killed need a moment
	}
	return fmt.Errorf("what runs in the shell's session %d cannot be ended", leader)
}

// killSession kills the processes of a session, and returns how many there were that had not ended.
func killSession(proc string, session int) (alive int, err error) {
	stats, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	if err != nil {
		return 0, fmt.Errorf("list the processes: %w", err)
	}
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): pid (name) state ppid pgrp session …, and the name may hold anything.
		_, rest, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ")")
		f := strings.Fields(rest)
		if !ok || len(f) < 4 || f[3] != strconv.Itoa(session) || f[0] == "Z" || f[0] == "X" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		alive++
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return alive, fmt.Errorf("end process %d of the shell: %w", pid, err)
		}
	}
	return alive, nil
}

// openPTY opens both sides of a pseudo-terminal of a size (pty(7)).
func openPTY(size *unix.Winsize) (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, fmt.Errorf("open a pseudo-terminal: %w", err)
	}
	var number int
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		var err error
		if number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size)
	})
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a pseudo-terminal: %w", err), master.Close())
	}
	return master, slave, nil
}

// windowOf is the size of a console; one that does not know its own, such as a serial line, has 80 columns and 24 rows.
func windowOf(console *os.File) *unix.Winsize {
	size := &unix.Winsize{Row: 24, Col: 80}
	_ = control(console, func(fd int) error {
		if s, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil && s.Row > 0 && s.Col > 0 {
			size = s
		}
		return nil
	})
	return size
}

// makeRaw makes a console pass every key on, until restore.
func makeRaw(console *os.File) (restore func() error, err error) {
	var before *term.State
	err = control(console, func(fd int) (err error) {
		before, err = term.MakeRaw(fd)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the console: %w", err)
	}
	return func() error {
		if err := control(console, func(fd int) error { return term.Restore(fd, before) }); err != nil {
			return fmt.Errorf("make the console as it was: %w", err)
		}
		return nil
	}, nil
}

// control calls f with a file's descriptor. File.Fd would make reads block for good.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}
