package appliance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
)

// shellProgram is the base layer's shell.
var shellProgram = []string{"/bin/sh"}

// consoleRights are what central allows at the consoles, by its last word: it holds while the data disk, and with it the
// configuration, is gone. Its zero value allows nothing. mu of the appliance guards it.
type consoleRights struct {
	// site is whose configuration has said it, "" as long as none has.
	site  string
	shell bool
	// open are the shells that run, each with what ends it.
	open map[*shellSession]context.CancelCauseFunc
	// untold is what central is to know of shells once a site runs again, at most maxUntold; beyond are how many more there were.
	untold []string
	beyond int
}

// maxUntold bounds what waits to be told to central of shells, as long as no site runs.
const maxUntold = 32

// shellSession is one shell on one console.
type shellSession struct{ console string }

// heed shows what a site's document says about its appliance, and lets the consoles allow what it allows.
func (a *appliance) heed(s *provisioning.Site) {
	texts := provisioning.ShownTexts{Organization: s.Spec.Shown().Organization, Admins: s.Spec.Admins}
	a.screen.SetHead(append(texts.Head(headWidth), texts.Contacts(headWidth)...))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.console.site, a.console.shell = s.Name, s.Spec.ShellAllowed()
	if a.console.shell {
		return
	}
	for _, end := range a.console.open {
		end(errShellForbidden)
	}
}

// headWidth is how wide the head of the screen is, in characters.
const headWidth = 79

var errShellForbidden = errors.New("central does not allow a shell any more")

// enterShell decides whether a shell may be opened, and notes it as open until leave is called, or the context ends: because
// central no longer allows it, which then is its cause.
func (a *appliance) enterShell(ctx context.Context, s *shellSession) (_ context.Context, leave func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.console.forbidsShell(); err != nil {
		return nil, nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	if a.console.open == nil {
		a.console.open = map[*shellSession]context.CancelCauseFunc{}
	}
	a.console.open[s] = end
	return ctx, func() {
		end(nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.console.open, s)
	}, nil
}

// forbidsShell says why there may be no shell now, nil where there may.
func (r *consoleRights) forbidsShell() error {
	switch {
	case r.site == "":
		return provisioning.Errorf(provisioning.CodeForbidden, "", "central has not allowed a shell: there is no configuration from central here yet")
	case !r.shell:
		return provisioning.Errorf(provisioning.CodeForbidden, "",
			"central does not allow a shell here; an administrator can, by spec.console: {shell: true} of site %s", r.site)
	}
	return nil
}

// openShell is the command shell: it refuses, or returns what runs the shell on the console.
func (a *appliance) openShell(c screen.Console, args []string) (func(context.Context) error, error) {
	if len(args) > 0 {
		return nil, errors.New("type: shell")
	}
	console, ok := c.ReadWriter.(*os.File)
	if !ok {
		return nil, fmt.Errorf("%s is no terminal", c.Name)
	}
	s := &shellSession{c.Name}
	a.mu.Lock()
	err := a.console.forbidsShell()
	a.mu.Unlock()
	if err != nil {
		a.Log.Warn("a shell was asked for and refused", "console", c.Name, "why", err)
		return nil, err
	}
	return func(ctx context.Context) error { return a.shellOn(ctx, s, console) }, nil
}

// shellOn runs the shell on a console until a person leaves it, ctx ends, or central no longer allows it. Its use is logged,
// and told to central.
func (a *appliance) shellOn(ctx context.Context, s *shellSession, console *os.File) error {
	ctx, leave, err := a.enterShell(ctx, s)
	if err != nil {
		return err
	}
	defer leave()
	opened := a.Now()
	a.noteShell(s, "opened", "a shell was opened at "+s.console)
	fmt.Fprint(console, "\r\nThis shell can do everything on this appliance. Its use is told to central. exit leads back.\r\n")
	err = runOnTerminal(ctx, shellProgram, console)
	how := "left"
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errShellForbidden):
		how, err = "ended, as "+errShellForbidden.Error(), errShellForbidden
	case cause != nil:
		how = "ended with the appliance"
	case err != nil:
		how = "ended: " + err.Error()
	}
	a.noteShell(s, "ended", fmt.Sprintf("the shell at %s was %s, after %s", s.console, how, a.Now().Sub(opened).Round(time.Second)))
	return err
}

// noteShell says in the log that a shell was opened or has ended, and lets central know.
func (a *appliance) noteShell(s *shellSession, state, text string) {
	text = strings.ToValidUTF8(text, "?")
	a.Log.Warn("shell", "console", s.console, "state", state, "what", text)
	a.emit("shell", map[string]any{"console": s.console, "state": state})
	a.mu.Lock()
	desk := a.desk
	if desk == nil { // its data disk is gone, say
		a.console.keep(fmt.Sprintf("%s (at %s, told late)", text, a.Now().UTC().Format(time.RFC3339)))
	}
	a.mu.Unlock()
	if desk != nil {
		desk.NoteConsole(text)
	}
}

// keep keeps what central is to know of shells.
func (r *consoleRights) keep(text string) {
	if len(r.untold) < maxUntold {
		r.untold = append(r.untold, text)
	} else {
		r.beyond++
	}
}

// tell lets central know, by a desk, of what was kept for it. It waits for nothing.
func (r *consoleRights) tell(desk machineDesk) {
	for _, text := range r.untold {
		desk.NoteConsole(text)
	}
	if r.beyond > 0 {
		desk.NoteConsole(fmt.Sprintf("%d more notes of shells were left out, as no site ran for too long", r.beyond))
	}
	r.untold, r.beyond = nil, 0
}
