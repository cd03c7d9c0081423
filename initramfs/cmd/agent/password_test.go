package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// TestAgentAsksForThePassword: wrong, then right but too early, then looked at; and the branch out of reach in between.
func TestAgentAsksForThePassword(t *testing.T) {
	b := newBench(t, bootImage("echo"), restartStep)
	b.register = func(int) (client.Registration, error) {
		return client.Registration{Token: "t", Time: start, PasswordWanted: true, WaitSeconds: 7}, nil
	}
	b.typed = []string{"hunter2-wrong", "", "hunter2-right"}
	var given []string
	b.password = func(p string) (client.PasswordAnswer, error) {
		given = append(given, p)
		switch len(given) {
		case 1:
			return client.PasswordAnswer{Checked: true, WaitSeconds: 4}, nil
		case 2:
			return client.PasswordAnswer{}, provisioning.Errorf(provisioning.CodeUnavailable, "", "nobody answers")
		case 3:
			return client.PasswordAnswer{WaitSeconds: 11}, nil
		}
		return client.PasswordAnswer{Checked: true, Right: true, Registration: &client.Registration{Token: "u"}}, nil
	}
	if err := b.run(t, "", ""); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(given) != "[hunter2-wrong hunter2-right hunter2-right hunter2-right]" {
		t.Errorf("the branch was given %q", given)
	}
	for _, d := range []time.Duration{7 * time.Second, 4 * time.Second, 11 * time.Second} {
		if !slices.Contains(b.waits, d) {
			t.Errorf("nobody waited %s: %v", d, b.waits)
		}
	}
	if !b.restarted {
		t.Error("the task sequence did not run")
	}
	if strings.Contains(b.screen.String()+fmt.Sprint(b.fields), "hunter2") {
		t.Error("a password is shown or told")
	}
	if b.hushed != 1 || b.shown != 1 {
		t.Errorf("the terminals were hushed %d times, and shown again %d times", b.hushed, b.shown)
	}
}

func TestAgentWithoutPassword(t *testing.T) {
	b := newBench(t, restartStep)
	b.password = func(string) (client.PasswordAnswer, error) {
		t.Error("a password was given to a branch that wants none")
		return client.PasswordAnswer{}, nil
	}
	if err := b.run(t, "", ""); err != nil || !b.restarted {
		t.Error(err, b.restarted)
	}
}

// TestAgentIsRefusedAtThePassword: a branch that has nothing to do for the computer any more ends the asking.
func TestAgentIsRefusedAtThePassword(t *testing.T) {
	b := newBench(t, restartStep)
	b.register = func(int) (client.Registration, error) {
		return client.Registration{Time: start, PasswordWanted: true}, nil
	}
	b.typed = []string{"hunter2", "hunter2"}
	b.password = func(string) (client.PasswordAnswer, error) {
		return client.PasswordAnswer{}, provisioning.Errorf(provisioning.CodeNotFound, "", "there is nothing to do any more")
	}
	_ = b.run(t, "agent-failed", "nothing to do any more")
	if b.calls["password"] != 1 || b.restarted {
		t.Errorf("it went on: %v", b.calls)
	}
}

// terminal is a pair: what a person types is written to the first, the agent has the second.
func terminal(t *testing.T) (person *os.File, path string) {
	t.Helper()
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	err = conn.Control(func(fd uintptr) {
		if err := unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			t.Error(err)
		}
		if number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, fmt.Sprintf("/dev/pts/%d", number)
}

// echoes reports whether the terminal shows what is typed.
func echoes(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return x.Lflag&unix.ECHO != 0
}

func TestAskPasswordAtATerminal(t *testing.T) {
	_, quiet := terminal(t)
	person, path := terminal(t)
	if !echoes(t, path) {
		t.Fatal("the terminal does not echo to begin with")
	}
	asked := make(chan struct{})
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := askPassword(t.Context(), []string{quiet, "/dev/does-not-exist", path}, "Password: ", func(string) { close(asked) })
		done <- result{text, err}
	}()
	<-asked
	if echoes(t, path) || echoes(t, quiet) {
		t.Error("what is typed is shown")
	}
	if _, err := person.WriteString("pass wordx\x7f\r"); err != nil { // with a correction
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil || r.text != "pass word" {
		t.Errorf("got %q, %v", r.text, r.err)
	}
	if !echoes(t, path) || !echoes(t, quiet) {
		t.Error("the terminals are not as they were")
	}
}

// waitTyped waits until so many bytes can be read from a terminal: what a person types gets there in its own time.
func waitTyped(t *testing.T, path string, want int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d of %d bytes can be read: %v", n, want, err)
		}
		if n >= want {
			return
		}
	}
}

// TestHush: between two passwords nothing that is typed is shown, and nothing of it becomes a part of the next one.
func TestHush(t *testing.T) {
	person, path := terminal(t)
	show := hush([]string{"/dev/does-not-exist", path})
	if echoes(t, path) {
		t.Error("what is typed early is shown")
	}
	if _, err := person.WriteString("too early\r"); err != nil {
		t.Fatal(err)
	}
	waitTyped(t, path, len("too early\n"))
	asked := make(chan struct{})
	done := make(chan string, 1)
	go func() {
		text, err := askPassword(t.Context(), []string{path}, "Password: ", func(string) { close(asked) })
		if err != nil {
			t.Error(err)
		}
		done <- text
	}()
	<-asked
	if _, err := person.WriteString("in time\r"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got != "in time" {
		t.Errorf("got %q", got)
	}
	if echoes(t, path) {
		t.Error("after a password what is typed is shown")
	}
	if show(); !echoes(t, path) {
		t.Error("the terminal is not as it was")
	}
}

func TestAskPasswordEnds(t *testing.T) {
	_, path := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := askPassword(ctx, []string{path}, "", func(string) { cancel() }); err != context.Canceled {
		t.Error(err)
	}
	_, err := askPassword(t.Context(), []string{"/dev/does-not-exist"}, "", func(string) {})
	if provisioning.CodeOf(err) != provisioning.CodeUnavailable {
		t.Error(err)
	}
}
