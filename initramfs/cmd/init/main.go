// Init is PID 1 of both RAM systems. It mounts what every program expects, loads drivers for the devices there are and that
// come, passes events on, and starts and restarts the one program that a layer names in /etc/branchpoint/main. It never
// exits, and it never swallows a failure: what ends badly is shown on every console.
//
// Started as modprobe it loads kernel modules, which is what the kernel does when it wants one.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"branchpoint/initramfs/events"
	"branchpoint/initramfs/kmod"
)

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		quiet, err := modprobe(context.Background(), os.Args[1:])
		if err != nil {
			if !quiet {
				fmt.Fprintln(os.Stderr, "modprobe:", err)
			}
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is PID 1 of a RAM system and does nothing else")
		os.Exit(1)
	}
	s := &system{started: time.Now()}
	// Whatever happens below, this process stays: if PID 1 ends, the kernel panics.
	for {
		guard("init", s.show, func() { s.run(context.Background()) })
		time.Sleep(time.Second)
	}
}

// system is what init knows of the machine it runs.
type system struct {
	started  time.Time
	log      *slog.Logger
	events   *events.Emitter
	children children
}

// run brings the machine up and then supervises for ever. It is run anew if it panics, so each step is safe to repeat.
func (s *system) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			s.show(fmt.Sprintf("init: %v", err))
		}
	}
	s.log = openLog()
	s.events = events.New(time.Now)
	for _, err := range []error{
		os.Setenv("PATH", "/bbin:/usr/sbin:/usr/bin"),
		os.Setenv("HOME", "/root"),
		os.Setenv("TERM", "linux"),
		unix.Sethostname([]byte("branchpoint")),
		loopbackUp(),
	} {
		if err != nil {
			s.show(fmt.Sprintf("init: %v", err))
		}
	}
	s.background(ctx, "reaper", s.children.reap)
	s.background(ctx, "events", func(ctx context.Context) { s.pumpEvents(ctx, events.FIFO) })
	s.background(ctx, "ctrl-alt-del", s.ctrlAltDel)
	s.background(ctx, "random numbers", s.watchRandom)
	s.drivers(ctx)
	facts := platform()
	facts["seconds"] = time.Since(s.started).Seconds()
	s.log.Info("init ready", "facts", facts)
	if err := s.events.Emit("init-ready", facts); err != nil {
		s.log.Warn("event not sent", "err", err)
	}
	s.supervise(ctx)
}

// drivers loads modules for all devices, then goes on in the background for those that come.
func (s *system) drivers(ctx context.Context) {
	loader, err := newLoader(2 * runtime.NumCPU())
	if err != nil {
		s.show(fmt.Sprintf("init: no drivers can be loaded: %v", err))
		return
	}
	listener, err := kmod.Listen()
	if err != nil {
		s.show(fmt.Sprintf("init: devices plugged in later will not be seen: %v", err))
	} else {
		s.background(ctx, "hotplug", func(ctx context.Context) {
			if err := listener.Run(ctx, "/sys", loader, s.log, nil); err != nil && ctx.Err() == nil {
				s.show(fmt.Sprintf("init: devices plugged in from now on will not be seen: %v", err))
			}
		})
	}
	if err := kmod.Coldplug(ctx, "/sys", loader, s.log); err != nil {
		s.show(fmt.Sprintf("init: not all drivers are loaded: %v", err))
	}
	if m := efivars; isEFI() {
		if err := loader.Load(ctx, "efivarfs"); err != nil {
			s.log.Warn("EFI variables cannot be read", "err", err)
		} else if err := m.mount(); err != nil {
			s.log.Warn("EFI variables cannot be read", "err", err)
		}
	}
	s.log.Info("drivers loaded", "seconds", time.Since(s.started).Seconds())
}

// watchRandom says so when the kernel has no random numbers yet, for which every program that uses cryptography waits: on a
// processor without RDRAND and a virtual machine without virtio-rng it may take minutes.
func (s *system) watchRandom(ctx context.Context) {
	const patience = 10 * time.Second
	started := time.Now()
	tick := time.NewTicker(patience)
	defer tick.Stop()
	for told := false; ; told = true {
		_, err := unix.Getrandom(make([]byte, 1), unix.GRND_NONBLOCK)
		if err == nil {
			if told {
				s.log.Info("random numbers are there", "seconds", time.Since(started).Seconds())
			}
			return
		}
		if time.Since(started) >= patience {
			s.show("Programs wait for random numbers: press some keys. A virtual machine wants a virtio-rng device.")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// background runs a part of init beside the others. A panic in it is shown, and the part is started again.
func (s *system) background(ctx context.Context, name string, part func(context.Context)) {
	go func() {
		for delay := time.Second; ctx.Err() == nil; delay = min(2*delay, time.Minute) {
			if !guard(name, s.show, func() { part(ctx) }) {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(delay):
			}
		}
	}()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring loopback interface up: %w", err)
	}
	return nil
}

// ctrlAltDel ends the program in an orderly way and restarts the machine when somebody asks for it at the keyboard.
func (s *system) ctrlAltDel(ctx context.Context) {
	// Without this the kernel restarts at once, in the middle of whatever is being written.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		s.log.Warn("Ctrl-Alt-Del restarts at once", "err", err)
		return
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGINT)
	defer signal.Stop(asked)
	select {
	case <-ctx.Done():
		return
	case <-asked:
	}
	s.show("Ctrl-Alt-Del: restarting")
	if err := s.events.Emit("ctrl-alt-del", nil); err != nil {
		s.log.Warn("event not sent", "err", err)
	}
	s.children.end(10 * time.Second)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		s.show(fmt.Sprintf("init: restart: %v", err))
	}
}
