package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
	"branchpoint/provisioning/sequence/steps"
	"branchpoint/services/branch/client"
)

// Branch is the branch as the agent uses it.
type Branch interface {
	Register(ctx context.Context, f client.Facts) (client.Registration, error)
	Password(ctx context.Context, password string) (client.PasswordAnswer, error)
	ProveTPM(ctx context.Context, t client.TPM) error
	Assignment(ctx context.Context) (*provisioning.Assignment, error)
	Report(ctx context.Context, messages []provisioning.StatusMessage) error
	Content() steps.Content
}

// Interface is the network interface that was brought up.
type Interface struct {
	Name, Address string
	MAC           provisioning.MAC
}

// Agent runs one task sequence on one computer.
type Agent struct {
	ReadBoot func() (client.Boot, error)
	// Network brings the interface with that address up, or any if it is empty.
	Network func(ctx context.Context, mac provisioning.MAC) (Interface, error)
	// WatchCards calls tell whenever other network cards have no driver, until ctx ends.
	WatchCards func(ctx context.Context, tell func(network.Cards))
	Connect    func(client.Boot) (Branch, error)
	Hardware   Hardware
	// Machine is the computer to deploy to. What programs print is kept in the agent's log, unless it is private.
	Machine func(f steps.Firmware, private bool) steps.System
	// TPM is the computer's; it fails with CodeNotFound where there is none.
	TPM      client.TPM
	SetClock func(time.Time) error
	Restart  func() error
	Screen   *Screen
	// AskPassword asks the person at the computer for a password, after prompt and without showing it.
	AskPassword func(ctx context.Context, prompt string) (string, error)
	// Hush keeps what is typed at the computer from being shown until show is called: who types a password before it is
	// asked for, as while the next one has to wait, must not find it on the screen.
	Hush func() (show func())
	// Emit tells whoever runs the computer in a virtual machine.
	Emit   func(event string, fields map[string]any)
	Now    func() time.Time
	Wait   func(ctx context.Context, d time.Duration) error
	Random io.Reader
	Log    *slog.Logger
}

// Bounds of the agent's patience.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 30 * time.Second
	// helpAfter is after how many failures in a row, beside the first, the screen says once who can help.
	helpAfter = 3
	// clockTolerance is how far the computer's clock may be off the branch's.
	clockTolerance = time.Minute
	// progressEvery is how often progress is emitted as an event.
	progressEvery = 5 * time.Second
	// closeTime bounds unmounting after a failure.
	closeTime = time.Minute
)

// Run does everything there is to do, and returns when the computer restarts or ctx ends. Where it cannot go on it shows
// why, and waits for a person: a restart would only fail again.
func (a *Agent) Run(ctx context.Context) error {
	a.Screen.Say("Branchpoint")
	go a.WatchCards(ctx, a.tellCards)
	boot, err := a.ReadBoot()
	if err != nil {
		return a.stop(ctx, "boot-configuration", err)
	}
	a.Screen.Greet(boot.Texts)
	nic, err := a.network(ctx)
	if err != nil {
		return err
	}
	facts := a.Hardware.Facts(nic.MAC)
	a.Screen.Say(fmt.Sprintf("Network: %s on %s (%s)", nic.Address, nic.Name, nic.MAC))
	a.Emit("agent-ready", map[string]any{
		"mac": string(nic.MAC), "guid": string(facts.GUID), "address": nic.Address, "interface": nic.Name,
		"uefi": facts.UEFI, "secureboot": facts.SecureBoot,
	})
	b, err := a.Connect(boot)
	if err != nil {
		return a.stop(ctx, "connect", err)
	}
	assignment, err := a.assignment(ctx, b, facts)
	if err != nil {
		return a.stop(ctx, "assignment", err)
	}
	return a.sequence(ctx, b, facts, assignment)
}

// tellCards says which network cards have no driver, and what to do.
func (a *Agent) tellCards(c network.Cards) {
	a.Log.Warn("network cards without a driver", "pci", c.IDs(), "others", c.Driven)
	if text := renderCards(c); text != "" {
		a.Screen.Say(text)
	}
	a.Emit("network-no-driver", map[string]any{"pci": c.IDs(), "driven": c.Driven})
}

// stop shows an error and waits for a person.
func (a *Agent) stop(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.Log.Error("cannot go on", "in", what, "error", err)
	a.Screen.Fail("This computer cannot go on.", err)
	a.Emit("agent-failed", map[string]any{"in": what, "error": clip(err.Error()), "code": string(provisioning.CodeOf(err))})
	<-ctx.Done()
	return ctx.Err()
}

// retry calls f until it succeeds, fails for good, or ctx ends, showing why it waits.
func (a *Agent) retry(ctx context.Context, doing string, final func(error) bool, f func(try int) error) error {
	wait := firstRetry
	for try := 0; ; try++ {
		err := f(try)
		if err == nil || ctx.Err() != nil || final(err) {
			return err
		}
		a.Log.Warn("trying again", "doing", doing, "seconds", wait.Seconds(), "error", err)
		a.Screen.Trouble(doing, err)
		if try == helpAfter {
			a.Screen.Help()
		}
		if err := a.Wait(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, lastRetry)
	}
}

// network brings the network up, on the card that the computer was started from where that is known.
func (a *Agent) network(ctx context.Context) (Interface, error) {
	bootMAC := a.Hardware.BootMAC()
	var nic Interface
	err := a.retry(ctx, "bring the network up", func(error) bool { return false }, func(try int) (err error) {
		want := bootMAC
		if try%2 == 1 {
			want = "" // that card may have no driver here, and another one a cable
		}
		nic, err = a.Network(ctx, want)
		return err
	})
	if bootMAC != "" {
		nic.MAC = bootMAC // what the branch knows the computer by
	}
	return nic, err
}

// assignment registers at the branch and fetches what to do.
func (a *Agent) assignment(ctx context.Context, b Branch, facts client.Facts) (*provisioning.Assignment, error) {
	a.Screen.Say("Asking the branch what to do")
	var reg client.Registration
	err := a.retry(ctx, "register at the branch", refused, func(int) (err error) {
		reg, err = b.Register(ctx, facts)
		return err
	})
	if err != nil {
		return nil, withNext(err, "Start the computer from the network again.")
	}
	if off := reg.Time.Sub(a.Now()); !reg.Time.IsZero() && off.Abs() > clockTolerance {
		if err := a.SetClock(reg.Time); err != nil {
			a.Log.Warn("the clock stays wrong", "off", off, "error", err)
		} else {
			a.Log.Info("the clock was set", "off", off)
		}
	}
	a.Emit("agent-registered", map[string]any{"mac": string(facts.MAC), "password": reg.PasswordWanted})
	if reg.TPMWanted {
		a.proveTPM(ctx, b)
	}
	if reg.PasswordWanted {
		if err := a.password(ctx, b, reg.WaitSeconds); err != nil {
			return nil, withNext(err, "Start the computer from the network again.")
		}
	}
	var out *provisioning.Assignment
	err = a.retry(ctx, "fetch the task sequence", refused, func(int) (err error) {
		out, err = b.Assignment(ctx)
		return err
	})
	if err != nil {
		return nil, withNext(err, "There may be nothing to do for this computer any more: start it again, from its own disk.")
	}
	return out, nil
}

// tpmTries is how often it is tried to prove by the TPM which computer this is, and tpmTime how long one try may take: a slow chip makes
// its endorsement key in half a minute.
const (
	tpmTries = 4
	tpmTime  = 2 * time.Minute
)

// proveTPM proves to the branch by the computer's TPM which computer this is. Where that cannot be, the computer goes on without: whether
// it is given what it is to run is the branch's to say.
func (a *Agent) proveTPM(ctx context.Context, b Branch) {
	tries := 0
	err := a.retry(ctx, "prove by the TPM which computer this is", func(err error) bool { return refused(err) || tries >= tpmTries }, func(int) error {
		tries++
		ctx, cancel := context.WithTimeout(ctx, tpmTime)
		defer cancel()
		return b.ProveTPM(ctx, a.TPM)
	})
	if err != nil && ctx.Err() == nil {
		a.Log.Error("the TPM has not proved which computer this is", "error", err)
		a.Screen.Trouble("prove by the TPM which computer this is", err)
	}
	a.Emit("agent-tpm", map[string]any{"proved": err == nil})
}

// refused reports whether the branch understood and said no, so that asking again cannot help.
func refused(err error) bool {
	switch provisioning.CodeOf(err) {
	case provisioning.CodeInvalid, provisioning.CodeUnauthorized, provisioning.CodeForbidden, provisioning.CodeNotFound, provisioning.CodeConflict:
		return true
	}
	return false
}

// withNext gives an error without a next step this one.
func withNext(err error, next string) error {
	if provisioning.NextOf(err) != "" {
		return err
	}
	return provisioning.Errorf(provisioning.CodeOf(err), next, "%w", err)
}

// sequence runs the task sequence and sees its messages delivered.
func (a *Agent) sequence(ctx context.Context, b Branch, facts client.Facts, assignment *provisioning.Assignment) error {
	deliver := func(ctx context.Context, m []provisioning.StatusMessage) error {
		err := b.Report(ctx, m)
		if provisioning.CodeOf(err) != provisioning.CodeUnauthorized {
			return err
		}
		// The token has expired, or the branch has forgotten it.
		if _, err2 := b.Register(ctx, facts); err2 != nil {
			return provisioning.Errorf(provisioning.CodeUnavailable, provisioning.NextOf(err), "%w", errors.Join(err, err2))
		}
		return b.Report(ctx, m)
	}
	queue := sequence.NewQueue(deliver, a.Log, a.Wait, a.Screen.Delivery)
	queueCtx, stopQueue := context.WithCancel(ctx)
	queueEnded := make(chan struct{})
	go func() {
		defer close(queueEnded)
		queue.Run(queueCtx)
	}()
	defer func() {
		stopQueue()
		<-queueEnded
	}()

	system := a.Machine(steps.Firmware{UEFI: facts.UEFI, SecureBoot: facts.SecureBoot, BootMAC: facts.MAC}, len(assignment.Secrets) > 0)
	runner := steps.NewRunner(system, b.Content(), assignment, a.Log)
	engine := &sequence.Engine{
		Assignment: assignment, Variables: sequence.NewVariables(assignment, a.Hardware.Variables(facts)), Runner: runner, Queue: queue,
		Observe: a.observer(assignment), Log: a.Log, Now: a.Now, Random: a.Random,
	}
	outcome := engine.Run(ctx)
	// After a failure there is something left to do here.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if err := runner.Close(closing); err != nil {
		a.Log.Error("the installed system stays mounted", "error", err)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case outcome.Err != nil:
		headline := fmt.Sprintf("The task sequence failed in step %d, %s.", outcome.Step, outcome.Title)
		if outcome.Step == 0 {
			headline = "The task sequence failed after its last step."
		}
		a.Screen.Fail(headline, outcome.Err)
		<-ctx.Done()
		return ctx.Err()
	case outcome.Restart:
		a.Screen.Say("The task sequence succeeded. This computer restarts when the branch has noted it.")
	default:
		a.Screen.Say("The task sequence succeeded. Leave this computer on until the branch has noted it.")
	}
	// However long it takes: a branch that has not heard of the end takes the run for an interrupted one, and would begin
	// it again at the next start from the network.
	if err := queue.Flush(ctx); err != nil {
		return err
	}
	if !outcome.Restart {
		a.Screen.Done("The task sequence succeeded. This computer can be restarted or switched off.")
		<-ctx.Done()
		return ctx.Err()
	}
	a.Screen.Done("This computer restarts.")
	a.Emit("agent-restart", nil)
	if err := a.Restart(); err != nil {
		return a.stop(ctx, "restart", withNext(err, "The operating system is installed. Switch the computer off and on again."))
	}
	return nil
}

// observer shows and emits what happens in a run.
func (a *Agent) observer(assignment *provisioning.Assignment) func(sequence.Event) {
	var emitted time.Time
	return func(e sequence.Event) {
		a.Screen.Show(e, assignment)
		fields := map[string]any{"step": e.Step, "steps": e.Steps, "title": e.Title, "action": e.Action}
		switch e.Kind {
		case sequence.EventSequenceStarted:
			a.Emit("sequence-start", map[string]any{
				"sequence": assignment.Sequence.Name, "computer": assignment.Computer.Name, "run": assignment.Run.ID,
				"steps": e.Steps, "resumed": assignment.Run.Spent,
			})
		case sequence.EventStepStarted:
			emitted = time.Time{}
			a.Emit("step-start", fields)
		case sequence.EventProgress:
			now := a.Now()
			if last := e.Progress.Done == e.Progress.Total; e.Progress.Total == 0 || !last && now.Sub(emitted) < progressEvery {
				return
			}
			emitted = now
			fields["done"], fields["total"] = e.Progress.Done, e.Progress.Total
			a.Emit("progress", fields)
		case sequence.EventStepEnded:
			fields["exit_code"] = e.ExitCode
			if e.Err != nil {
				fields["error"] = clip(e.Err.Error())
			}
			a.Emit("step-end", fields)
		case sequence.EventSequenceDone:
			a.Emit("sequence-done", map[string]any{"run": assignment.Run.ID})
		case sequence.EventSequenceFailed:
			a.Emit("sequence-failed", map[string]any{"run": assignment.Run.ID, "step": e.Step, "title": e.Title, "error": clip(e.Err.Error())})
		}
	}
}

// clip bounds a text for an event, which has to fit a line of 4 KiB.
func clip(s string) string { return sequence.Tail(s, 1000) }
