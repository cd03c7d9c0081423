package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// password asks for the site's password until it is right. wait is how many seconds the first one would not be looked at.
func (a *Agent) password(ctx context.Context, b Branch, wait int) error {
	a.Screen.Say("A password is needed before anything happens on this computer.")
	defer a.Hush()()
	for {
		if err := a.delay(ctx, wait); err != nil {
			return err
		}
		a.Emit("password-wanted", nil)
		given, err := a.AskPassword(ctx, "Password: ")
		if err != nil {
			return err
		}
		if given == "" {
			wait = 0
			continue
		}
		answer, err := a.give(ctx, b, given)
		if err != nil {
			return err
		}
		a.Emit("password-given", map[string]any{"right": answer.Right, "wait": answer.WaitSeconds})
		if answer.Right {
			a.Screen.Say("The password is right.")
			return nil
		}
		a.Screen.Say("This password is wrong.")
		wait = answer.WaitSeconds
	}
}

// give sends a password until the branch has looked at it.
func (a *Agent) give(ctx context.Context, b Branch, password string) (answer client.PasswordAnswer, err error) {
	for {
		err = a.retry(ctx, "have the password checked", refused, func(int) (err error) {
			answer, err = b.Password(ctx, password)
			return err
		})
		if err != nil || answer.Checked || answer.Right {
			return answer, err
		}
		if err := a.delay(ctx, max(1, answer.WaitSeconds)); err != nil { // it is sent again by itself
			return answer, err
		}
	}
}

// delay waits after wrong passwords, and says for how long.
func (a *Agent) delay(ctx context.Context, seconds int) error {
	if seconds <= 0 {
		return ctx.Err()
	}
	a.Screen.Say(fmt.Sprintf("Wrong passwords were given here: the next one can be tried in %s.", clock(time.Duration(seconds)*time.Second)))
	return a.Wait(ctx, time.Duration(seconds)*time.Second)
}

// maxPassword is how long a password can be, in bytes; a terminal takes no longer lines than 4096.
const maxPassword = 512

// terminals are where a person may sit.
var terminals = []string{"/dev/tty1", "/dev/ttyS0"}

// askPassword shows prompt with say, and reads one line from whichever of the terminals it is typed at first. What is typed is
// not shown. Terminals that are not there are left out.
func askPassword(ctx context.Context, paths []string, prompt string, say func(string)) (string, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, len(paths))
	var failed []error
	open := 0
	for _, path := range paths {
		f, restore, err := openTerminal(path)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		open++
		read := make(chan struct{})
		go func() {
			defer close(read)
			text, err := readLine(f)
			lines <- line{text, err}
		}()
		// Whoever reads is gone before the terminal is as it was: it would take a line that belongs to somebody else.
		defer func() {
			_ = f.Close() // ends the reading
			<-read
			restore()
		}()
	}
	if open == 0 {
		return "", provisioning.Errorf(provisioning.CodeUnavailable, "Connect a keyboard and a screen, or a serial console.",
			"there is no terminal to ask for a password at: %w", errors.Join(failed...))
	}
	say(prompt + "(it is not shown while you type)")
	for {
		select {
		case l := <-lines:
			if l.err == nil {
				return l.text, nil
			}
			if failed = append(failed, l.err); len(failed) == len(paths) {
				return "", provisioning.Errorf(provisioning.CodeUnavailable, "Start the computer again.", "read the password: %w", errors.Join(failed...))
			}
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// hush keeps terminals from showing what is typed at them, until show is called. Terminals that are not there are left out.
func hush(paths []string) (show func()) {
	var undo []func()
	for _, path := range paths {
		f, restore, err := openTerminal(path)
		if err != nil {
			continue // asking for the password says so
		}
		undo = append(undo, func() {
			_ = f.Close() // nothing was written
			restore()
		})
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// openTerminal opens a terminal for one line that is not shown; what was typed before is thrown away. restore makes the
// terminal as it was, by a file of its own.
func openTerminal(path string) (f *os.File, restore func(), err error) {
	if f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal %s: %w", path, err)
	}
	var before *unix.Termios
	var failed error
	err = conn.Control(func(fd uintptr) { // f.Fd would make reads block for good
		if before, failed = unix.IoctlGetTermios(int(fd), unix.TCGETS); failed != nil {
			return
		}
		quiet := *before
		quiet.Lflag = quiet.Lflag&^(unix.ECHO|unix.ECHOE|unix.ECHOK|unix.ECHONL|unix.ISIG) | unix.ICANON
		quiet.Iflag |= unix.ICRNL
		if failed = unix.IoctlSetTermios(int(fd), unix.TCSETS, &quiet); failed == nil {
			failed = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, nil, fmt.Errorf("prepare terminal %s: %w", path, err)
	}
	return f, func() { restoreTerminal(path, before) }, nil
}

func restoreTerminal(path string, t *unix.Termios) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return // it is gone
	}
	defer f.Close()
	_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t) // whoever comes next sets what it needs
}

// readLine reads to the end of a line, which is left out.
func readLine(f *os.File) (string, error) {
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		text = append(text, buf[:n]...)
		if line, _, ok := strings.Cut(string(text), "\n"); ok {
			return clipBytes(strings.TrimRight(line, "\r"), maxPassword), nil
		}
		if err != nil {
			return "", err
		}
		if len(text) > 2*len(buf) {
			text = text[:0]
		}
	}
}

// clipBytes bounds a text; what is longer than any password is wrong either way.
func clipBytes(s string, n int) string {
	if len(s) > n {
		return s[:n+1]
	}
	return s
}
