package lab

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// commandLimit is how long QEMU may take for a command.
const commandLimit = 30 * time.Second

// QMP runs a command of the QEMU Machine Protocol. The test fails if QEMU refuses it. out may be nil.
func (m *Machine) QMP(command string, args, out any) {
	m.lab.t.Helper()
	if err := m.execute(command, args, out); err != nil {
		m.lab.t.Fatalf("machine %s: %v", m.name, err)
	}
}

func (m *Machine) execute(command string, args, out any) error {
	m.mu.Lock()
	q := m.qmp
	m.mu.Unlock()
	if q == nil {
		return errors.New("it was never started")
	}
	ctx, cancel := m.lab.limit(commandLimit)
	defer cancel()
	return q.execute(ctx, command, args, out)
}

// PowerCut pulls the plug: QEMU is killed where it stands. What the guest has not flushed may be on the disk or not, as with
// real disks.
func (m *Machine) PowerCut() {
	m.mu.Lock()
	p, tpm, readers := m.proc, m.tpm, m.readers
	m.mu.Unlock()
	p.kill()
	tpm.kill()
	if readers != nil {
		readers.Wait()
	}
}

// Reset presses the reset button.
func (m *Machine) Reset() {
	m.lab.t.Helper()
	m.QMP("system_reset", nil, nil)
}

// PowerButton presses the power button for a moment, which asks the operating system to shut down.
func (m *Machine) PowerButton() {
	m.lab.t.Helper()
	m.QMP("system_powerdown", nil, nil)
}

// Shutdown presses the power button and waits until the machine is off. The test fails if it stays on.
func (m *Machine) Shutdown(limit time.Duration) {
	m.lab.t.Helper()
	m.PowerButton()
	m.WaitOff(limit)
}

// StopAtReboot makes the next reset of the guest end QEMU, as Config.NoReboot does from the beginning.
func (m *Machine) StopAtReboot() {
	m.lab.t.Helper()
	m.QMP("set-action", map[string]any{"reboot": "shutdown"}, nil)
}

// SetLink plugs the cable of NIC i in or out, so that the guest sees it.
func (m *Machine) SetLink(i int, up bool) {
	m.lab.t.Helper()
	m.QMP("set_link", map[string]any{"name": fmt.Sprintf("nic%d", i), "up": up}, nil)
}

// SendSerial types text on the serial console.
func (m *Machine) SendSerial(text string) {
	m.lab.t.Helper()
	m.mu.Lock()
	c := m.serialIn
	m.mu.Unlock()
	if c == nil {
		m.lab.t.Fatalf("machine %s: type on the serial console: it was never started", m.name)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		m.lab.t.Fatalf("machine %s: type on the serial console: %v", m.name, err)
	}
}

// PressKeys presses keys at the same time, by QEMU's names: "ret", "esc", "f12", "ctrl", "alt", "delete", "a".
func (m *Machine) PressKeys(keys ...string) {
	m.lab.t.Helper()
	var list []map[string]any
	for _, k := range keys {
		list = append(list, map[string]any{"type": "qcode", "data": k})
	}
	m.QMP("send-key", map[string]any{"keys": list}, nil)
}

// Type presses the keys of a text on the keyboard, one after the other. It knows letters, digits and -./:= space and newline
// on a US keyboard.
func (m *Machine) Type(text string) {
	m.lab.t.Helper()
	for _, r := range text {
		keys, ok := keysOf(r)
		if !ok {
			m.lab.t.Fatalf("machine %s: no key for %q", m.name, r)
		}
		m.PressKeys(keys...)
	}
}

func keysOf(r rune) ([]string, bool) {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		return []string{string(r)}, true
	case r >= 'A' && r <= 'Z':
		return []string{"shift", strings.ToLower(string(r))}, true
	}
	name, ok := map[rune][]string{
		'-': {"minus"}, '.': {"dot"}, '/': {"slash"}, ':': {"shift", "semicolon"}, '=': {"equal"}, ' ': {"spc"}, '\n': {"ret"},
		'_': {"shift", "minus"}, ',': {"comma"},
	}[r]
	return name, ok
}

// Screenshot returns what the screen shows, and keeps it as <name>.png among the artifacts.
func (m *Machine) Screenshot(name string) image.Image {
	m.lab.t.Helper()
	img, err := m.screenshot(safeName(name) + ".png")
	if err != nil {
		m.lab.t.Fatalf("machine %s: %v", m.name, err)
	}
	return img
}

func (m *Machine) screenshot(file string) (image.Image, error) {
	path := filepath.Join(m.dir, file)
	if err := m.execute("screendump", map[string]any{"filename": path, "format": "png"}, nil); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open screenshot: %w", err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("decode screenshot: %w", err)
	}
	return img, nil
}

// saveScreenshot keeps the screen of a failed test.
func (m *Machine) saveScreenshot() {
	if !m.Running() {
		return
	}
	if _, err := m.screenshot("screen.png"); err != nil {
		m.lab.logf("machine %s: no screenshot: %v", m.name, err)
	}
}

// HostAddr returns the address on the host's loopback that leads to a port of the guest, of those in WAN.GuestPorts.
func (m *Machine) HostAddr(guestPort int) string {
	m.lab.t.Helper()
	var out string
	m.QMP("human-monitor-command", map[string]any{"command-line": "info usernet"}, &out)
	addr, ok := findHostForward(out, guestPort)
	if !ok {
		m.lab.t.Fatalf("machine %s: no port of the host leads to port %d:\n%s", m.name, guestPort, out)
	}
	return addr
}

// findHostForward reads QEMU's table of user network connections:
//
//	Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
//	TCP[HOST_FORWARD]  12       127.0.0.1 38475       10.0.2.15    22     0     0
func findHostForward(table string, guestPort int) (string, bool) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[0] == "TCP[HOST_FORWARD]" && f[5] == strconv.Itoa(guestPort) {
			return f[2] + ":" + f[3], true
		}
	}
	return "", false
}

// Reboots returns how often the guest has reset the machine by itself, over all power-ons. Firmware counts as the guest:
// SeaBIOS resets once more after every warm reset (measured: one or two more). Who needs exact numbers counts events.
func (m *Machine) Reboots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reboots()
}

func (m *Machine) reboots() int {
	n := 0
	for _, e := range m.qmpLog {
		if e.Name == "RESET" && e.Data["guest"] == true {
			n++
		}
	}
	return n
}

// awaitQMP waits until f, called with m.mu held, says so.
func (m *Machine) awaitQMP(ctx context.Context, f func() bool) error {
	for {
		m.mu.Lock()
		ok, bell := f(), m.qmpBell
		m.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-bell:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
