package steps

import (
	"context"
	"log/slog"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// Volume is a partition of the installed system.
type Volume struct {
	// Device is its node, /dev/sda2; UUID its file system's.
	Device string
	UUID   string
	// FileSystem is what it is formatted with, Type what it is for, Mount where the installed system mounts it.
	FileSystem provisioning.FileSystem
	Type       provisioning.PartitionType
	Mount      string
}

// Runner carries out the steps of one run. It remembers what earlier steps did: which disk, which partitions, what is
// mounted. It is not for concurrent use.
type Runner struct {
	system  System
	content Content
	log     *slog.Logger
	// images maps the names of operating system images to their content.
	images map[string]provisioning.ContentRef
	all    []provisioning.Step

	disk      *Disk    // that Partition Disk partitioned
	volumes   []Volume // that it made
	installed bool     // the target's file tree is mounted and holds an operating system
	bootDisk  string   // that the installed system is on
}

var _ sequence.Runner = (*Runner)(nil)

// NewRunner makes a runner for an assignment.
func NewRunner(s System, c Content, a *provisioning.Assignment, log *slog.Logger) *Runner {
	if len(a.Secrets) > 0 {
		s = maskedSystem{s, sequence.NewMask(a.Secrets)}
	}
	return &Runner{system: s, content: c, log: log, images: a.Content, all: a.Sequence.Spec.Steps}
}

// maskedSystem hides secrets in what programs print, before any of it is cut.
type maskedSystem struct {
	System
	mask sequence.Mask
}

// Exec runs a program. Stdout stays as it is: steps read it, and show none of it.
func (m maskedSystem) Exec(ctx context.Context, c Command) (Exit, error) {
	e, err := m.System.Exec(ctx, c)
	e.Output = m.mask.Text(e.Output)
	return e, m.mask.Err(err)
}

// Run carries out one step.
func (r *Runner) Run(ctx context.Context, s provisioning.Step, progress func(sequence.Progress)) sequence.Result {
	switch {
	case s.PartitionDisk != nil:
		return r.partitionDisk(ctx, *s.PartitionDisk, progress)
	case s.ApplyOperatingSystemImage != nil:
		return r.applyImage(ctx, *s.ApplyOperatingSystemImage, progress)
	case s.ApplyNetworkSettings != nil:
		return r.applyNetwork(*s.ApplyNetworkSettings)
	case s.ApplyOperatingSystemSettings != nil:
		return r.applySettings(ctx, *s.ApplyOperatingSystemSettings)
	case s.RunCommandLine != nil:
		return r.runCommand(ctx, *s.RunCommandLine)
	case s.Restart != nil:
		return r.restart(ctx)
	}
	return failed(provisioning.Errorf(provisioning.CodeInvalid,
		"Update the appliance: its boot image is older than the task sequence.", "this boot image does not know the step's action"))
}

// Close unmounts what the run mounted.
func (r *Runner) Close(ctx context.Context) error {
	r.installed = false
	return r.system.Unmount(ctx)
}

// failed is a step's result where err ended it.
func failed(err error) sequence.Result { return sequence.Result{ExitCode: 1, Err: err} }

// needInstalled fails unless an operating system was applied.
func (r *Runner) needInstalled() error {
	if r.installed {
		return nil
	}
	return provisioning.Errorf(provisioning.CodeConflict, "Put the step after Apply Operating System Image.",
		"no operating system has been applied in this task sequence yet")
}

// exec runs a program whose failure is the step's.
func (r *Runner) exec(ctx context.Context, c Command, good ...int) (Exit, error) {
	e, err := r.system.Exec(ctx, c)
	if err != nil {
		return e, provisioning.Errorf(provisioning.CodeInternal, "", "run %s: %w", c.Args[0], err)
	}
	if e.TimedOut {
		return e, &programError{exit: e, err: provisioning.Errorf(provisioning.CodeUnavailable, "", "%s did not end within %s", c.Args[0], c.Timeout)}
	}
	for _, g := range append(good, 0) {
		if e.Code == g {
			return e, nil
		}
	}
	text := strings.TrimSpace(sequence.Tail(e.Output, 1024))
	if text == "" {
		text = "it printed nothing"
	}
	return e, &programError{exit: e, err: provisioning.Errorf(provisioning.CodeInternal, "", "%s failed with exit code %d: %s", c.Args[0], e.Code, text)}
}

// programError is the failure of a program that ran.
type programError struct {
	exit Exit
	err  error
}

func (e *programError) Error() string { return e.err.Error() }
func (e *programError) Unwrap() error { return e.err }
