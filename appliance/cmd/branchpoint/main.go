// Branchpoint is central, the appliance, and the administrator's command line. This package is flags and wiring only.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	_ "time/tzdata" // windows of time mean the same whatever the machine has installed

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1 // with one message and a next step on standard error
	exitUsage  = 2 // the command line itself is wrong
)

// app is what commands share.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	now    func() time.Time
	// adminFile is the flag --admin.
	adminFile string
	// lines are standard input where passwords are read from it.
	lines *bufio.Reader
	// started is set when a command's own work begins: errors before are faults of the command line.
	started bool
}

// run is the whole program, for tests too.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone
	case !a.started || isUsage(err):
		fmt.Fprintf(stderr, "branchpoint: %s\n→ See branchpoint --help.\n", strings.Join(strings.Fields(err.Error()), " "))
		return exitUsage
	}
	a.report(err)
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "branchpoint",
		Short: "Operating system deployment for branch offices: central, appliance and administration",
		// Errors are shown once, by run.
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.adminFile, "admin", "",
		"administrator's `FILE`, written by central to its data folder (default $BRANCHPOINT_ADMIN, else admin.json in the user's configuration folder)")
	root.AddCommand(a.commands()...)
	return root
}

// commands are the commands of the program.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.accountCommand(),
		a.advertisementCommand(),
		a.apiTokenCommand(),
		a.applianceCommand(),
		a.applyCommand(),
		a.getCommand(),
		a.historyCommand(),
		a.importCommand(),
		a.pxeCommand(),
		a.rollbackCommand(),
		a.settingsCommand(),
		a.auditCommand(),
		a.centralCommand(),
		a.collectionCommand(),
		a.computerCommand(),
		a.conflictsCommand(),
		a.contentCommand(),
		a.deleteCommand(),
		a.diffCommand(),
		a.explainCommand(),
		a.passwordCommand(),
		a.loginCommand(),
		a.siteCommand(),
		a.statusCommand(),
		a.sitesCommand(),
		a.tokenCommand(),
	}
}

// usageError is a fault of the command line that shows only when the command has begun.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// nextByCode is what to do about errors that do not say it themselves.
var nextByCode = map[provisioning.Code]string{
	provisioning.CodeInvalid:      "Correct it and try again.",
	provisioning.CodeNotFound:     "Check the name.",
	provisioning.CodeConflict:     "Look at what is stored, and try again.",
	provisioning.CodeUnauthorized: "Name the right administrator's file with --admin.",
	provisioning.CodeForbidden:    "Ask who administers central.",
	provisioning.CodeCorrupt:      "Get the file anew, or restore it from a backup.",
	provisioning.CodeNoSpace:      "Free space, and try again.",
	provisioning.CodeUnavailable:  "Check that central is running, and try again.",
	provisioning.CodeInternal:     "See the log of the program that failed; please report it.",
}

// report shows an error: what went wrong, and what to do.
func (a *app) report(err error) {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.stderr, "branchpoint: interrupted\n→ Run the command again to go on.")
		return
	}
	if ps, ok := errors.AsType[provisioning.Problems](err); ok {
		for _, p := range ps {
			fmt.Fprintf(a.stderr, "branchpoint: %s\n", p)
		}
		fmt.Fprintln(a.stderr, "→ Correct this and apply again; nothing was stored.")
		return
	}
	next := provisioning.NextOf(err)
	if next == "" {
		next = nextByCode[provisioning.CodeOf(err)]
	}
	// One message is one line, whatever a library put into it.
	fmt.Fprintf(a.stderr, "branchpoint: %s\n→ %s\n", strings.ReplaceAll(err.Error(), "\n", "; "), next)
}

// admin makes the client of an administrator's command.
func (a *app) admin() (*client.Admin, error) {
	f, err := client.ReadAdminFile(a.adminPath())
	if err != nil {
		return nil, err
	}
	return client.NewAdmin(f, a.now)
}

// adminPath says where the administrator's file is: --admin, then the environment, then the user's configuration.
func (a *app) adminPath() string {
	if a.adminFile != "" {
		return a.adminFile
	}
	if f := os.Getenv("BRANCHPOINT_ADMIN"); f != "" {
		return f
	}
	dir, err := os.UserConfigDir() // $XDG_CONFIG_HOME, else ~/.config
	if err != nil {
		return "admin.json"
	}
	return dir + "/branchpoint/admin.json"
}
