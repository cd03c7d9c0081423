package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Machine is a computer of the lab. It is off until [Machine.Start], and can be started again after it went off: its disks,
// firmware variables and TPM keep what they hold.
type Machine struct {
	lab    *Lab
	name   string
	dir    string
	config Config
	accel  Accel

	sockets   sockets
	listeners []net.Listener
	accepted  map[string]chan net.Conn
	nicPorts  []*Port
	nicUp     []<-chan struct{}

	serial  *serialLog
	events  *eventLog
	command []string

	mu       sync.Mutex
	proc     *process
	tpm      *process
	qmp      *qmpClient
	serialIn net.Conn
	readers  *sync.WaitGroup
	qmpLog   []QMPEvent
	qmpBell  chan struct{}
}

// Machine adds a machine to the lab. It does not start it.
func (l *Lab) Machine(c Config) *Machine {
	l.t.Helper()
	m, err := l.newMachine(c)
	if err != nil {
		l.t.Fatalf("machine %s: %v", c.Name, err)
	}
	return m
}

func (l *Lab) newMachine(c Config) (*Machine, error) {
	if err := c.setDefaults(l.t.Name()); err != nil {
		return nil, err
	}
	l.mu.Lock()
	number := len(l.machines)
	for _, o := range l.machines {
		if o.name == c.Name {
			l.mu.Unlock()
			return nil, errors.New("there is one of that name already")
		}
	}
	l.mu.Unlock()
	m := &Machine{
		lab: l, name: c.Name, dir: filepath.Join(l.dir, safeName(c.Name)), config: c,
		accepted: map[string]chan net.Conn{}, qmpBell: make(chan struct{}),
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	var err error
	if m.serial, err = newSerialLog(filepath.Join(m.dir, "serial.log")); err != nil {
		return nil, err
	}
	if m.events, err = newEventLog(filepath.Join(m.dir, "events.jsonl")); err != nil {
		return nil, err
	}
	if err := m.firmwareVariables(); err != nil {
		return nil, err
	}
	if len(c.Initrd) > 0 {
		if err := concatenateLayers(filepath.Join(m.dir, "initrd"), c.Initrd); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		name string
		path *string
	}{{"qmp", &m.sockets.qmp}, {"serial", &m.sockets.serial}, {"events", &m.sockets.events}} {
		*s.path = filepath.Join(l.run, fmt.Sprintf("%d.%s", number, s.name))
		if err := m.listen(s.name, *s.path); err != nil {
			return nil, err
		}
	}
	m.sockets.tpm = filepath.Join(l.run, fmt.Sprintf("%d.tpm", number))
	for i, n := range c.NICs {
		path := filepath.Join(l.run, fmt.Sprintf("%d.net%d", number, i))
		m.sockets.nics = append(m.sockets.nics, path)
		if n.Switch == nil {
			m.nicPorts = append(m.nicPorts, nil)
			continue
		}
		port, up, err := n.Switch.streamPort(fmt.Sprintf("%s.%d", c.Name, i), path)
		if err != nil {
			return nil, err
		}
		m.nicPorts = append(m.nicPorts, port)
		m.nicUp = append(m.nicUp, up)
	}
	l.mu.Lock()
	l.machines = append(l.machines, m)
	l.mu.Unlock()
	return m, nil
}

// firmwareVariables gives the machine its own copy of OVMF's variables.
func (m *Machine) firmwareVariables() error {
	from := ""
	switch m.config.Firmware {
	case BIOS:
		return nil
	case UEFI:
		from = ovmfVars
	case UEFISecureBoot:
		from = ovmfVarsSecure
	default:
		return fmt.Errorf("%v is not a firmware", m.config.Firmware)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read OVMF's variables (Debian's package ovmf): %w", err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "vars.fd"), b, 0o644); err != nil {
		return fmt.Errorf("copy OVMF's variables: %w", err)
	}
	return nil
}

func (m *Machine) listen(name, path string) error {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", name, err)
	}
	m.listeners = append(m.listeners, ln)
	conns := make(chan net.Conn)
	m.accepted[name] = conns
	go func() {
		defer close(conns)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	return nil
}

// startLimit is how long QEMU may take until it has connected to everything; it does so before the guest runs.
const startLimit = 30 * time.Second

// Start powers the machine on. The test fails if QEMU does not come up.
func (m *Machine) Start() {
	m.lab.t.Helper()
	if err := m.start(); err != nil {
		m.lab.t.Fatalf("machine %s: %v", m.name, err)
	}
}

func (m *Machine) start() error {
	if m.Running() {
		return errors.New("it is running already")
	}
	ctx, cancel := m.lab.limit(startLimit)
	defer cancel()
	m.accel = Acceleration(m.lab.t)
	m.command = m.config.commandLine(m.dir, m.accel, m.sockets, false)
	if err := m.writeRunScript(); err != nil {
		return err
	}
	if m.config.TPM {
		if err := m.startTPM(ctx); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(filepath.Join(m.dir, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("create QEMU's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(m.command[0], m.command[1:]...)
	cmd.Dir = m.dir
	cmd.Stdout, cmd.Stderr = out, out
	p, err := startProcess(spawner(), cmd)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.proc = p
	m.readers = &sync.WaitGroup{}
	m.mu.Unlock()
	if err := m.connect(ctx, p); err != nil {
		p.kill()
		return fmt.Errorf("%w\nQEMU said: %s\ncommand: %s", err, m.qemuSaid(), shellJoin(m.command))
	}
	return nil
}

// connect waits for all of QEMU's connections.
func (m *Machine) connect(ctx context.Context, p *process) error {
	conns := map[string]net.Conn{}
	for _, name := range []string{"serial", "events", "qmp"} {
		select {
		case conns[name] = <-m.accepted[name]:
		case <-p.done:
			return fmt.Errorf("QEMU ended at once: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("QEMU did not connect its %s: %w", name, ctx.Err())
		}
	}
	for _, up := range m.nicUp {
		select {
		case <-up:
		case <-p.done:
			return fmt.Errorf("QEMU ended at once: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("QEMU did not connect its network: %w", ctx.Err())
		}
	}
	m.mu.Lock()
	m.serialIn = conns["serial"]
	m.readers.Go(func() {
		defer conns["serial"].Close()
		if err := m.serial.read(conns["serial"]); err != nil {
			m.lab.logf("machine %s: read serial console: %v", m.name, err)
		}
	})
	m.readers.Go(func() {
		defer conns["events"].Close()
		if err := m.events.read(conns["events"]); err != nil {
			m.lab.logf("machine %s: read events: %v", m.name, err)
		}
	})
	m.mu.Unlock()
	q, err := newQMP(ctx, conns["qmp"], m.onQMP)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.qmp = q
	m.mu.Unlock()
	return nil
}

func (m *Machine) onQMP(e QMPEvent) {
	const kept = 10_000
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.qmpLog) < kept {
		m.qmpLog = append(m.qmpLog, e)
	}
	close(m.qmpBell)
	m.qmpBell = make(chan struct{})
}

// startTPM starts the machine's TPM, which ends when QEMU hangs up.
func (m *Machine) startTPM(ctx context.Context) error {
	state := filepath.Join(m.dir, "tpm")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("make the TPM's directory: %w", err)
	}
	_ = os.Remove(m.sockets.tpm) // of the last power-on
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+m.sockets.tpm,
		"--terminate", "--log", "file="+filepath.Join(m.dir, "tpm.log"))
	p, err := startProcess(spawner(), cmd)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.tpm = p
	m.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(m.sockets.tpm); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("swtpm ended at once: %v, see tpm.log", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("swtpm did not come up: %w", ctx.Err())
		}
	}
}

// ReplaceTPM gives a machine that is off another TPM, which has nothing in it.
func (m *Machine) ReplaceTPM() {
	m.lab.t.Helper()
	if m.Running() {
		m.lab.t.Fatalf("machine %s is on", m.config.Name)
	}
	if err := os.RemoveAll(filepath.Join(m.dir, "tpm")); err != nil {
		m.lab.t.Fatal(err)
	}
}

func (m *Machine) qemuSaid() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "qemu.log"))
	if err != nil {
		return err.Error()
	}
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return strings.TrimSpace(string(b))
}

func (m *Machine) writeRunScript() error {
	alone := m.config.commandLine(m.dir, m.accel, m.sockets, true)
	var b strings.Builder
	fmt.Fprintf(&b, "#!/bin/sh\n# Machine %s of test %s, alone: serial console on this terminal (Ctrl-A x ends it),\n", m.name, m.lab.t.Name())
	fmt.Fprintf(&b, "# NICs on isolated user networks instead of the test's switches.\nexec %s\n", shellJoin(alone))
	if err := os.WriteFile(filepath.Join(m.dir, "run.sh"), []byte(b.String()), 0o755); err != nil {
		return fmt.Errorf("write run.sh: %w", err)
	}
	return nil
}

// end powers the machine off for good.
func (m *Machine) end() {
	m.mu.Lock()
	p, tpm, readers := m.proc, m.tpm, m.readers
	m.mu.Unlock()
	p.kill()
	tpm.kill()
	for _, ln := range m.listeners {
		ln.Close()
	}
	if readers != nil {
		readers.Wait()
	}
	m.serial.file.Close()
	m.events.file.Close()
}

// Name returns the machine's name.
func (m *Machine) Name() string { return m.name }

// Dir returns the machine's directory of artifacts.
func (m *Machine) Dir() string { return m.dir }

// UUID returns the machine's UUID in lower case.
func (m *Machine) UUID() string { return strings.ToLower(m.config.UUID) }

// MAC returns the hardware address of the NIC i.
func (m *Machine) MAC(i int) net.HardwareAddr { return m.config.NICs[i].MAC }

// Port returns the switch's port that the NIC i hangs on, nil if it hangs on none.
func (m *Machine) Port(i int) *Port { return m.nicPorts[i] }

// Running says whether the machine is on.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.proc != nil && !m.proc.exited()
}
