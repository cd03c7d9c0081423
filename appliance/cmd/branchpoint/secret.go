package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"branchpoint/provisioning"

	"golang.org/x/term"
)

// maxSecret bounds what people type as a password, in bytes.
const maxSecret = 1 << 10

// readSecret asks for a password, twice where it is a new one. It is never shown, and never an argument: those are seen by
// others. Where standard input is no terminal it is its next line.
func (a *app) readSecret(what string, twice bool) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return a.secretLine(what)
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(a.stderr, prompt+": ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		if err != nil {
			return "", provisioning.Errorf(provisioning.CodeUnavailable, "", "read the %s: %w", what, err)
		}
		return string(b), nil
	}
	first, err := ask(strings.ToUpper(what[:1]) + what[1:])
	if err != nil || !twice {
		return first, err
	}
	again, err := ask("The same again")
	if err == nil && again != first {
		err = provisioning.Errorf(provisioning.CodeInvalid, "Try again.", "the two are not the same")
	}
	return first, err
}

// secretLine reads one line of standard input.
func (a *app) secretLine(what string) (string, error) {
	if a.lines == nil {
		a.lines = bufio.NewReaderSize(a.stdin, maxSecret)
	}
	line, err := a.lines.ReadSlice('\n')
	if err != nil && !(errors.Is(err, io.EOF) && len(line) > 0) {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Type it, or give it on standard input.", "there is no %s", what)
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
