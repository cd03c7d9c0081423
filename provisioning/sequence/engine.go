package sequence

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"branchpoint/provisioning"
)

// Result is how a step ended.
type Result struct {
	// ExitCode is a command's exit code. Where Err is set and it is 0, the step is reported with 1.
	ExitCode int
	// Text says for people what was done; Output is the last output of a command.
	Text, Output string
	// Restart asks for a restart of the computer once the sequence has ended.
	Restart bool
	// Err is why the step failed, nil if it succeeded.
	Err error
}

// Progress is how far a step has come.
type Progress struct {
	// Text says what is being done.
	Text string
	// Done and Total are in bytes; Total 0 means that there is nothing to count.
	Done, Total int64
}

// Runner carries out steps.
type Runner interface {
	// Run carries out one step, whose variables are already replaced. It must return soon after ctx ends.
	Run(ctx context.Context, step provisioning.Step, progress func(Progress)) Result
	// Close brings what the steps wrote onto the disks and lets go of them; an error says that the disks may not hold it.
	// It may be called more than once.
	Close(ctx context.Context) error
}

// EventKind is what an Event tells of.
type EventKind int

// The kinds of events, in the order in which they come; EventStepStarted to EventStepEnded once for each step.
const (
	EventSequenceStarted EventKind = iota
	EventStepStarted
	EventProgress
	EventStepEnded
	EventSequenceDone
	EventSequenceFailed
)

// Event is something that whoever shows the run wants to know. Which fields are set depends on Kind.
type Event struct {
	Kind EventKind
	// Step counts from 1 to Steps.
	Step, Steps   int
	Title, Action string
	Progress      Progress
	ExitCode      int
	Text, Output  string
	// Err is why a step or the sequence failed.
	Err error
}

// Engine runs one assignment.
type Engine struct {
	Assignment *provisioning.Assignment
	Variables  Variables
	Runner     Runner
	Queue      *Queue
	// Observe is told of every event, one after the other; it must not block for long.
	Observe func(Event)
	Log     *slog.Logger
	Now     func() time.Time
	// Random is a source of randomness for message ids.
	Random io.Reader

	next int // Sequence number of the next message
	mask Mask
}

// Outcome is how a run ended.
type Outcome struct {
	// Restart says that the sequence asked for a restart as its end.
	Restart bool
	// Err is why it failed, nil if it succeeded; Step and Title say where. Step is 0 if it was after the last one, when what
	// the steps had written was brought onto the disks.
	Err   error
	Step  int
	Title string
}

// Run runs the sequence from its first step: what an interrupted run left on the disk is written again. It returns when
// the sequence has succeeded or failed; its last messages may still wait in the queue. One that has succeeded has let go of
// the disks; after one that has failed, the Runner is still to be closed.
func (e *Engine) Run(ctx context.Context) Outcome {
	steps := e.Assignment.Sequence.Spec.Steps
	e.next, e.mask = max(e.Assignment.NextStatus, 1), NewMask(e.Assignment.Secrets)
	e.Observe(Event{Kind: EventSequenceStarted, Steps: len(steps), Title: e.Assignment.Sequence.Name})
	e.send(provisioning.StatusMessage{Code: provisioning.StatusPolicyReceived, Text: fmt.Sprintf("The agent has received task sequence %s.", e.Assignment.Sequence.Name)})
	started := "The task sequence started."
	if e.Assignment.Run.Spent {
		started = "The task sequence, which was interrupted, started again."
	}
	e.send(provisioning.StatusMessage{Code: provisioning.StatusSequenceStarted, Text: started})

	out := Outcome{}
	for i := range steps {
		r := e.step(ctx, i+1, len(steps), steps[i])
		if r.Err != nil {
			out = Outcome{Err: r.Err, Step: i + 1, Title: steps[i].Title()}
			break
		}
		out.Restart = out.Restart || r.Restart
	}
	if out.Err == nil {
		// Before anybody hears of success: the branch never offers a run again that it takes for a success.
		if err := e.mask.Err(e.Runner.Close(context.WithoutCancel(ctx))); err != nil {
			e.Log.Error("the disks could not be written to the end", "error", err)
			out = Outcome{Err: err}
		}
	}
	if out.Err != nil {
		text := fmt.Sprintf("The task sequence failed in step %d, %s: %v", out.Step, out.Title, out.Err)
		if out.Step == 0 {
			text = "The task sequence failed after its last step: " + withNext(out.Err)
		}
		e.send(provisioning.StatusMessage{Code: provisioning.StatusSequenceFailed, Step: out.Step, Title: out.Title, ExitCode: 1, Text: text})
		e.Observe(Event{Kind: EventSequenceFailed, Step: out.Step, Steps: len(steps), Title: out.Title, Err: out.Err})
		return out
	}
	if out.Restart {
		e.send(provisioning.StatusMessage{Code: provisioning.StatusRestart, Text: "The computer restarts into its installed system."})
	}
	e.send(provisioning.StatusMessage{Code: provisioning.StatusSequenceDone, Text: "The task sequence succeeded."})
	e.Observe(Event{Kind: EventSequenceDone, Steps: len(steps)})
	return out
}

// step runs step n and reports it.
func (e *Engine) step(ctx context.Context, n, steps int, s provisioning.Step) Result {
	m := provisioning.StatusMessage{Step: n, Title: s.Title(), Action: s.Action()}
	e.Observe(Event{Kind: EventStepStarted, Step: n, Steps: steps, Title: m.Title, Action: m.Action})
	start := m
	start.Code, start.Text = provisioning.StatusStepStarted, fmt.Sprintf("Step %d, %s, started.", n, m.Title)
	id := e.send(start)

	r := e.mask.Result(e.perform(ctx, s, id, func(p Progress) {
		p.Text = e.mask.Text(p.Text)
		e.Observe(Event{Kind: EventProgress, Step: n, Steps: steps, Title: m.Title, Action: m.Action, Progress: p})
	}))
	if r.Err != nil && r.ExitCode == 0 {
		r.ExitCode = 1
	}
	m.Code, m.ExitCode, m.Text, m.Output = provisioning.StatusStepDone, r.ExitCode, r.Text, r.Output
	if m.Text == "" {
		m.Text = fmt.Sprintf("Step %d, %s, was done.", n, m.Title)
	}
	if r.Err != nil {
		m.Code, m.Text = provisioning.StatusStepFailed, withNext(r.Err)
		e.Log.Error("step failed", "step", n, "title", m.Title, "exit_code", r.ExitCode, "error", r.Err)
	}
	e.send(m)
	e.Observe(Event{
		Kind: EventStepEnded, Step: n, Steps: steps, Title: m.Title, Action: m.Action, ExitCode: r.ExitCode,
		Text: r.Text, Output: r.Output, Err: r.Err,
	})
	return r
}

// withNext is an error's text with its next step, if it has one.
func withNext(err error) string {
	if next := provisioning.NextOf(err); next != "" {
		return err.Error() + ". " + next
	}
	return err.Error()
}

// perform runs the step's action. A destructive one begins only once the branch has acknowledged the message id, which
// spends the run: a computer whose disk was begun to be overwritten must not look untouched to its branch.
func (e *Engine) perform(ctx context.Context, s provisioning.Step, id string, progress func(Progress)) (r Result) {
	defer func() {
		if v := recover(); v != nil {
			stack := string(debug.Stack())
			v = e.mask.Text(fmt.Sprint(v))
			e.Log.Error("step panicked", "value", v, "stack", stack)
			r = Result{
				ExitCode: 1, Output: stack,
				Err: provisioning.Errorf(provisioning.CodeInternal, "Report this defect with the computer's log.", "the step's program failed: %v", v),
			}
		}
	}()
	s, err := e.Variables.ExpandStep(s)
	if err != nil {
		return Result{Err: err}
	}
	if s.Destructive() {
		progress(Progress{Text: "Waiting for the branch to note the start"})
		if err := e.Queue.Acknowledged(ctx, id); err != nil {
			return Result{Err: notAcknowledged(err)}
		}
	}
	r = e.Runner.Run(ctx, s, progress)
	if r.Err == nil && ctx.Err() != nil {
		r.Err = fmt.Errorf("the step was interrupted: %w", context.Cause(ctx))
	}
	return r
}

// notAcknowledged is why a destructive step did not begin.
func notAcknowledged(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("wait for the branch to note the start: %w", err)
	}
	next := provisioning.NextOf(err)
	if next == "" {
		next = "Nothing was changed on this computer. Start it from the network again."
	}
	return provisioning.Errorf(provisioning.CodeOf(err), next, "the branch did not note the start of the step: %w", err)
}

// send completes a message, queues it, and gives its id.
func (e *Engine) send(m provisioning.StatusMessage) string {
	var id [16]byte
	if _, err := io.ReadFull(e.Random, id[:]); err != nil {
		panic(fmt.Sprintf("read randomness for a message id: %v", err)) // without ids nothing can be reported exactly once
	}
	m.ID = hex.EncodeToString(id[:])
	m.Site, m.Computer = e.Assignment.Site, e.Assignment.Computer.Name
	m.Run, m.Advertisement, m.TaskSequence = e.Assignment.Run.ID, e.Assignment.Run.Advertisement, e.Assignment.Sequence.Name
	m.Time, m.Sequence = e.Now().UTC(), e.next
	e.next++
	e.Queue.Add(bound(m))
	return m.ID
}
