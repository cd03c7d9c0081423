package kmod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Modaliases returns the modaliases of all devices below sysfs (usually /sys), sorted, each once. Devices that vanish
// while it looks are left out.
func Modaliases(sysfs string) ([]string, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(sysfs, "devices"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if d.Name() != "modalias" || d.IsDir() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil {
			if alias := strings.TrimSpace(string(b)); alias != "" {
				found[alias] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk devices: %w", err)
	}
	list := make([]string, 0, len(found))
	for a := range found {
		list = append(list, a)
	}
	sort.Strings(list)
	return list, nil
}

// Coldplug loads the modules of all devices that are there now. Errors of single modules are logged and do not stop it.
func Coldplug(ctx context.Context, sysfs string, l *Loader, log *slog.Logger) error {
	aliases, err := Modaliases(sysfs)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, a := range aliases {
		all.Go(func() { l.plug(ctx, a, log) })
	}
	all.Wait()
	return ctx.Err()
}

func (l *Loader) plug(ctx context.Context, modalias string, log *slog.Logger) {
	switch _, err := l.LoadAlias(ctx, modalias); {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBUSY):
		// The driver looked and found the device is not for it, or taken: several may claim one identification.
		log.Debug("driver does not want device", "modalias", modalias, "err", err)
	default:
		log.Warn("driver not loaded", "modalias", modalias, "err", err)
	}
}

// Uevent is one message of the kernel about a device.
type Uevent struct {
	Action string // add, remove, change, bind, …
	Path   string // below /sys
	Env    map[string]string
}

// ParseUevent reads a message of the kernel's uevent socket: "ACTION@PATH", then KEY=VALUE, each ended by a zero byte.
func ParseUevent(message []byte) (Uevent, error) {
	parts := bytes.Split(bytes.TrimSuffix(message, []byte{0}), []byte{0})
	action, path, ok := strings.Cut(string(parts[0]), "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Uevent{}, fmt.Errorf("not a kernel uevent: %.80q", parts[0])
	}
	u := Uevent{Action: action, Path: path, Env: make(map[string]string, len(parts)-1)}
	for _, p := range parts[1:] {
		if key, value, ok := strings.Cut(string(p), "="); ok {
			u.Env[key] = value
		}
	}
	return u, nil
}

// Listener receives the kernel's uevents from the moment it is made, so one made before Coldplug misses nothing.
type Listener struct{ file *os.File }

// Listen opens the uevent socket.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	// A burst at start must not overflow; failing to enlarge the buffer is no reason to go without.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	// Group 1 carries the kernel's own messages (group 2 is udev's).
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	return &Listener{os.NewFile(uintptr(fd), "uevent")}, nil
}

// Close ends the listener and a Run in progress.
func (n *Listener) Close() error { return n.file.Close() }

// Run loads modules for devices that appear until the context ends. Each message is also given to also, if not nil.
func (n *Listener) Run(ctx context.Context, sysfs string, l *Loader, log *slog.Logger, also func(Uevent)) error {
	stop := context.AfterFunc(ctx, func() { _ = n.Close() })
	defer stop()
	var loading sync.WaitGroup
	defer loading.Wait()
	buffer := make([]byte, 64<<10)
	for {
		length, err := n.file.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			log.Warn("kernel's device messages overflowed, looking at all devices again")
			if err := Coldplug(ctx, sysfs, l, log); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read uevent: %w", err)
		}
		u, err := ParseUevent(buffer[:length])
		if err != nil {
			log.Debug("uevent ignored", "err", err)
			continue
		}
		if alias := u.Env["MODALIAS"]; u.Action == "add" && alias != "" {
			loading.Go(func() { l.plug(ctx, alias, log) })
		}
		if also != nil {
			also(u)
		}
	}
}
