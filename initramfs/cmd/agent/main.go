// Agent runs in the boot image. It asks the branch that the computer was started by for a task sequence, runs it, and
// reports every step.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/initramfs/events"
	"branchpoint/initramfs/network"
	"branchpoint/initramfs/target"
	"branchpoint/initramfs/tpm"
	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
	"branchpoint/provisioning/sequence/steps"
	"branchpoint/services/branch/client"
)

// Where the agent works.
const (
	targetDir = "/run/branchpoint/target"
	logFile   = "/run/branchpoint/agent.log"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// run wires the agent to the computer it runs on.
func run(ctx context.Context) error {
	out, err := openLog(logFile)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	screen := NewScreen(time.Now, consoles()...)
	defer screen.Close()
	emitter := events.New(time.Now)
	facts := Hardware{Root: "/"}
	a := &Agent{
		ReadBoot: func() (client.Boot, error) { return client.ReadBoot(client.BootConfigPath) },
		Network:  func(ctx context.Context, mac provisioning.MAC) (Interface, error) { return bringUp(ctx, mac, log) },
		WatchCards: func(ctx context.Context, tell func(network.Cards)) {
			network.WatchCards(ctx, func() (network.Cards, error) { return network.ReadCards("/sys") }, sequence.Wait, tell)
		},
		Connect: func(b client.Boot) (Branch, error) {
			key, err := client.LoadKey(client.KeyPath)
			if err != nil {
				return nil, err
			}
			c, err := client.New(b, key, time.Now())
			if err != nil {
				return nil, err
			}
			return branch{c, func(err error) {
				if screen.Content(err) {
					log.Warn("content", "trouble", err)
				}
			}}, nil
		},
		Hardware: facts,
		Machine: func(fw steps.Firmware, private bool) steps.System {
			output := out
			if private {
				output = nil
			}
			return &target.System{
				Dir: targetDir, Boot: fw, Output: output, Log: log,
				List: func(ctx context.Context) ([]steps.Disk, error) { return settledDisks(ctx, listDisks, sequence.Wait) },
			}
		},
		TPM:      tpm.New(tpm.Device),
		SetClock: setClock,
		Restart:  restart,
		Screen:   screen,
		AskPassword: func(ctx context.Context, prompt string) (string, error) {
			return askPassword(ctx, terminals, prompt, screen.Say)
		},
		Hush: func() func() { return hush(terminals) },
		Emit: func(event string, fields map[string]any) {
			if err := emitter.Emit(event, fields); err != nil {
				log.Warn("event was not sent", "event", event, "error", err)
			}
		},
		Now: time.Now, Wait: sequence.Wait, Random: rand.Reader, Log: log,
	}
	return a.Run(ctx)
}

// openLog opens the agent's log, which is kept in memory.
func openLog(name string) (io.Writer, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the log: %w", err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// setClock sets the system's clock; the kernel carries it to the hardware clock of its own accord when it can.
func setClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// restart restarts the computer at once; everything is written by then.
func restart() error {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}
