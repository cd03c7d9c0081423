package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/memory"
	"branchpoint/services/branch/client"
)

// buffer is a console that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bench is an agent on a computer in memory, with a branch that answers as told.
type bench struct {
	agent  *Agent
	screen *buffer
	system *memory.System
	steps  []provisioning.Step // of the task sequence

	mu         sync.Mutex
	events     []string
	fields     []map[string]any
	registered []client.Facts
	stored     []provisioning.StatusMessage
	restarted  bool
	clock      time.Time

	register func(try int) (client.Registration, error)
	password func(given string) (client.PasswordAnswer, error)
	prove    func(try int) error
	typed    []string // what the person types, one line for each time they are asked
	waits    []time.Duration
	// hushed and shown count when what is typed ceased to be shown, and was shown again.
	hushed, shown int
	assignment    func() (*provisioning.Assignment, error)
	report        func(call int) error
	network       func(try int, mac provisioning.MAC) (Interface, error)
	calls         map[string]int
	cards         *network.Cards // told by the watch of the network cards
	private       bool           // that what programs print is to be kept nowhere
}

func (b *bench) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[what]++
	return b.calls[what]
}

func (b *bench) Register(_ context.Context, f client.Facts) (client.Registration, error) {
	n := b.count("register")
	b.mu.Lock()
	b.registered = append(b.registered, f)
	b.mu.Unlock()
	return b.register(n)
}

func (b *bench) Password(_ context.Context, password string) (client.PasswordAnswer, error) {
	b.count("password")
	return b.password(password)
}

func (b *bench) ProveTPM(context.Context, client.TPM) error { return b.prove(b.count("prove")) }

func (b *bench) Assignment(context.Context) (*provisioning.Assignment, error) { return b.assignment() }

func (b *bench) Report(_ context.Context, m []provisioning.StatusMessage) error {
	if err := b.report(b.count("report")); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stored = append(b.stored, m...)
	return nil
}

func (b *bench) Content() steps.Content { return nil }

func (b *bench) codes() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []int
	for _, m := range b.stored {
		out = append(out, m.Code)
	}
	return out
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newBench(t *testing.T, list ...provisioning.Step) *bench {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/cmdline": "quiet BOOTIF=01-52-54-00-12-34-56 console=ttyS0\n", "proc/meminfo": "MemTotal:        2048 kB\n",
		"sys/class/dmi/id/product_uuid": "4C4C4544-0042-3510-8052-B4C04F4D3432\n", "sys/class/dmi/id/sys_vendor": "QEMU\n",
		secureBootVariable: "\x06\x00\x00\x00\x01",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(root, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{
		screen: &buffer{}, system: &memory.System{}, steps: list, calls: map[string]int{},
		register: func(int) (client.Registration, error) { return client.Registration{Token: "t", Time: start}, nil },
		report:   func(int) error { return nil },
		network: func(int, provisioning.MAC) (Interface, error) {
			return Interface{Name: "eth0", Address: "192.0.2.9/24", MAC: "52:54:00:99:99:99"}, nil
		},
	}
	b.assignment = func() (*provisioning.Assignment, error) {
		return &provisioning.Assignment{
			Run: provisioning.Run{ID: strings.Repeat("1", 32), Advertisement: "adv"}, Site: "S01", NextStatus: 1, Computer: provisioning.Computer{Name: "pc-1"},
			Sequence: provisioning.TaskSequence{Name: "seq", Spec: provisioning.TaskSequenceSpec{Steps: b.steps}},
		}, nil
	}
	tries := 0
	b.agent = &Agent{
		ReadBoot: func() (client.Boot, error) { return client.Boot{}, nil },
		Network: func(_ context.Context, mac provisioning.MAC) (Interface, error) {
			tries++
			return b.network(tries, mac)
		},
		WatchCards: func(_ context.Context, tell func(network.Cards)) {
			if b.cards != nil {
				tell(*b.cards)
			}
		},
		Connect:  func(client.Boot) (Branch, error) { return b, nil },
		Hardware: Hardware{Root: root},
		Machine: func(fw steps.Firmware, private bool) steps.System {
			b.system.Boot, b.private = fw, private
			return b.system
		},
		SetClock: func(at time.Time) error {
			b.clock = at
			return nil
		},
		Restart: func() error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.restarted = true
			return nil
		},
		Screen: NewScreen(time.Now, Console{b.screen, true}),
		Emit: func(event string, fields map[string]any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events, b.fields = append(b.events, event), append(b.fields, fields)
		},
		Now: func() time.Time { return start },
		Wait: func(ctx context.Context, d time.Duration) error {
			b.count("wait")
			b.mu.Lock()
			b.waits = append(b.waits, d)
			b.mu.Unlock()
			return ctx.Err()
		},
		AskPassword: func(ctx context.Context, _ string) (string, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.typed) == 0 {
				return "", errors.New("nobody types")
			}
			line := b.typed[0]
			b.typed = b.typed[1:]
			return line, ctx.Err()
		},
		Hush: func() func() {
			b.hushed++
			return func() { b.shown++ }
		},
		Random: rand.Reader, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	return b
}

// run runs the agent until it returns, or until it has emitted the event and the screen says the text: then it waits for
// a person, and is ended.
func (b *bench) run(t *testing.T, event, says string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- b.agent.Run(ctx) }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			b.agent.Screen.Close()
			return err
		case <-ctx.Done():
			t.Fatalf("no event %q or text %q; events %v, screen:\n%s", event, says, b.events, b.screen)
		case <-tick.C:
			b.mu.Lock()
			seen := event != "" && slices.Contains(b.events, event) && strings.Contains(b.screen.String(), says)
			b.mu.Unlock()
			if seen {
				cancel()
				err := <-done
				b.agent.Screen.Close()
				return err
			}
		}
	}
}

func bootImage(command string) provisioning.Step {
	return provisioning.Step{RunCommandLine: &provisioning.RunCommandLine{Command: command, In: provisioning.InBootImage}}
}

var restartStep = provisioning.Step{Restart: &provisioning.Restart{}}

func TestAgentRunsAndRestarts(t *testing.T) {
	b := newBench(t, bootImage("echo %_SMSTSMake% %OSDComputerName%"), restartStep)
	b.register = func(try int) (client.Registration, error) {
		if try < 4 {
			return client.Registration{}, provisioning.Errorf(provisioning.CodeUnavailable, "", "nobody answers")
		}
		return client.Registration{Token: "t", Time: start.Add(time.Hour)}, nil
	}
	b.report = func(call int) error {
		if b.restarted {
			t.Error("restarted before everything was reported")
		}
		if call%2 == 1 {
			return provisioning.Errorf(provisioning.CodeUnavailable, "", "the branch restarts")
		}
		return nil
	}
	if err := b.run(t, "", ""); err != nil {
		t.Fatal(err)
	}
	if !b.restarted {
		t.Error("it did not restart")
	}
	want := []string{"agent-ready", "agent-registered", "sequence-start", "step-start", "step-end", "step-start", "step-end", "sequence-done", "agent-restart"}
	if !slices.Equal(b.events, want) {
		t.Errorf("events %v", b.events)
	}
	codes := b.codes()
	if len(codes) != 8 || codes[7] != provisioning.StatusSequenceDone {
		t.Errorf("codes %v", codes)
	}
	if c := b.system.Commands(); len(c) != 1 || c[0].Args[2] != "echo QEMU pc-1" || c[0].InTarget {
		t.Errorf("%+v", c)
	}
	f := b.registered[0]
	if f.MAC != "52:54:00:12:34:56" || f.GUID != "4c4c4544-0042-3510-8052-b4c04f4d3432" || !f.UEFI || !f.SecureBoot || f.MemoryBytes != 2<<20 || f.Manufacturer != "QEMU" {
		t.Errorf("%+v", f)
	}
	if b.system.Boot != (steps.Firmware{UEFI: true, SecureBoot: true, BootMAC: "52:54:00:12:34:56"}) {
		t.Errorf("%+v", b.system.Boot)
	}
	if !b.clock.Equal(start.Add(time.Hour)) {
		t.Errorf("clock %v", b.clock)
	}
	for _, w := range []string{"nobody answers", "[1/2] Run Command Line", "the branch restarts", "The branch answers again", "This computer restarts."} {
		if !strings.Contains(b.screen.String(), w) {
			t.Errorf("the screen does not say %q:\n%s", w, b.screen)
		}
	}
}

// TestAgentShowsTheSite: what the site says stands on the screen from the first moment, with the run and at its end; whom to turn
// to, where something goes on failing.
func TestAgentShowsTheSite(t *testing.T) {
	b := newBench(t, bootImage("true"), restartStep)
	b.agent.ReadBoot = func() (client.Boot, error) {
		return client.Boot{Texts: provisioning.ShownTexts{Organization: "St Mary's", Welcome: "Hands off.", Help: "Ring 4711.", Admins: []string{"Jo"}}}, nil
	}
	b.network = func(try int, _ provisioning.MAC) (Interface, error) {
		if try < 8 {
			return Interface{}, errors.New("no cable")
		}
		return Interface{Name: "eth0", Address: "192.0.2.9/24"}, nil
	}
	if err := b.run(t, "", ""); err != nil {
		t.Fatal(err)
	}
	screen := b.screen.String()
	if !strings.HasPrefix(screen, "Branchpoint\r\nSt Mary's\r\nHands off.\r\n") {
		t.Errorf("the screen begins with\n%.200s", screen)
	}
	for want, times := range map[string]int{"Hands off.": 1, "Who can help:   Ring 4711.\r\n": 1, "Contact: Jo": 1, "St Mary's\r\nComputer pc-1": 1, "St Mary's\r\nThis computer restarts.": 1} {
		if n := strings.Count(screen, want); n != times {
			t.Errorf("%q stands there %d times, want %d:\n%s", want, n, times, screen)
		}
	}
}

func TestAgentStopsAndWaits(t *testing.T) {
	no := func(c provisioning.Code, text string) error { return provisioning.Errorf(c, "", "%s", text) }
	for name, c := range map[string]struct {
		set   func(b *bench)
		event string
		says  []string
		calls map[string]int
	}{
		"no boot configuration": {
			set: func(b *bench) {
				b.agent.ReadBoot = func() (client.Boot, error) { return client.ReadBoot("/nonexistent/boot.json") }
			},
			event: "agent-failed", says: []string{"boot.json is missing", "Start the computer from the network again."},
		},
		"secret spent": {
			set: func(b *bench) {
				b.register = func(int) (client.Registration, error) {
					return client.Registration{}, no(provisioning.CodeUnauthorized, "the secret is spent")
				}
			},
			event: "agent-failed", says: []string{"the secret is spent", "What to do:     Start the computer from the network again."}, calls: map[string]int{"register": 1, "wait": 0},
		},
		"nothing to do": {
			set: func(b *bench) {
				b.assignment = func() (*provisioning.Assignment, error) { return nil, no(provisioning.CodeNotFound, "no run") }
			},
			event: "agent-failed", says: []string{"no run", "nothing to do"},
		},
		"step fails": {
			set: func(b *bench) {
				b.system.OnExec = func(steps.Command, *memory.Files) (steps.Exit, error) {
					return steps.Exit{Code: 9, Output: "why it failed\x1b[2J"}, nil
				}
			},
			event: "sequence-failed", says: []string{"FAILED (exit code 9)", "why it failed[2J", "failed in step 1", "What to do:     Read the command's output"},
		},
		"disk loses what was written": {
			set: func(b *bench) {
				b.steps = []provisioning.Step{bootImage("x")}
				b.system.OnExec = func(steps.Command, *memory.Files) (steps.Exit, error) {
					return steps.Exit{}, b.system.Mount(context.Background(), "/dev/sda1", "ext4", "/", false)
				}
				b.system.OnUnmount = func() error {
					if slices.Contains(b.codes(), provisioning.StatusSequenceDone) {
						t.Error("the branch was told of success before the disk was written")
					}
					return provisioning.Errorf(provisioning.CodeInternal, "Replace the disk.", "write back: input/output error")
				}
			},
			event: "sequence-failed", says: []string{"failed after its last step", "input/output error", "What to do:     Replace the disk."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, bootImage("x"), restartStep)
			c.set(b)
			if err := b.run(t, c.event, "What to do"); !errors.Is(err, context.Canceled) {
				t.Errorf("it did not wait: %v", err)
			}
			if b.restarted {
				t.Error("it restarted")
			}
			for _, w := range c.says {
				if !strings.Contains(b.screen.String(), w) {
					t.Errorf("the screen does not say %q:\n%s", w, b.screen)
				}
			}
			if strings.Contains(b.screen.String(), "\x1b[2J") {
				t.Error("output changed the terminal's state")
			}
			for what, n := range c.calls {
				if b.calls[what] != n {
					t.Errorf("%s: %d times", what, b.calls[what])
				}
			}
		})
	}
}

// TestAgentIsDoneWhenHeard: until the branch has heard of the end, the computer neither restarts nor says that it can be
// switched off.
func TestAgentIsDoneWhenHeard(t *testing.T) {
	const off = "can be restarted or switched off"
	for _, c := range []struct {
		name, event, says string
		step              provisioning.Step
		restarted         bool
	}{
		{"restart", "", "", restartStep, true},
		{"no restart", "sequence-done", off, bootImage("true"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.step)
			down := make(chan struct{})
			b.report = func(int) error {
				select {
				case <-down:
					return nil
				default:
					return provisioning.Errorf(provisioning.CodeUnavailable, "", "down")
				}
			}
			waited := 0
			b.agent.Wait = func(ctx context.Context, _ time.Duration) error {
				b.mu.Lock()
				defer b.mu.Unlock()
				if slices.Contains(b.events, "sequence-done") {
					waited++
				}
				if waited == 50 {
					if b.restarted || strings.Contains(b.screen.String(), off) {
						t.Error("it is done although the branch has not heard of the end")
					}
					close(down)
					waited++
				}
				return ctx.Err()
			}
			if err := b.run(t, c.event, c.says); b.restarted != c.restarted || c.restarted && err != nil {
				t.Errorf("%v %v", err, b.restarted)
			}
			if codes := b.codes(); len(codes) == 0 || codes[len(codes)-1] != provisioning.StatusSequenceDone {
				t.Errorf("codes %v", codes)
			}
		})
	}
}

func TestAgentRegistersAgain(t *testing.T) {
	b := newBench(t, restartStep)
	b.report = func(call int) error {
		if call == 1 {
			return provisioning.Errorf(provisioning.CodeUnauthorized, "", "the token has expired")
		}
		return nil
	}
	if err := b.run(t, "", ""); err != nil || b.calls["register"] != 2 {
		t.Errorf("%v, registered %d times", err, b.calls["register"])
	}
}

func TestAgentTriesOtherCards(t *testing.T) {
	b := newBench(t, restartStep)
	var asked []provisioning.MAC
	b.network = func(try int, mac provisioning.MAC) (Interface, error) {
		asked = append(asked, mac)
		if try < 4 {
			return Interface{}, errors.New("no carrier")
		}
		return Interface{Name: "eth1", Address: "192.0.2.9/24", MAC: "52:54:00:99:99:99"}, nil
	}
	if err := b.run(t, "", ""); err != nil {
		t.Fatal(err)
	}
	if want := []provisioning.MAC{"52:54:00:12:34:56", "", "52:54:00:12:34:56", ""}; !slices.Equal(asked, want) {
		t.Errorf("asked %v", asked)
	}
	if b.registered[0].MAC != "52:54:00:12:34:56" {
		t.Errorf("registered as %s", b.registered[0].MAC)
	}
}

func TestAgentNamesCardsWithoutDriver(t *testing.T) {
	undriven := []network.PCIDevice{{Slot: "0000:00:03.0", Vendor: "10ec", Device: "8029", SubsystemVendor: "1af4", SubsystemDevice: "1100"}}
	for _, c := range []struct {
		name  string
		cards network.Cards
		says  []string
	}{
		{"no card has one", network.Cards{Undriven: undriven}, []string{"There is no driver for this computer's network cards", "[10ec:8029] subsystem [1af4:1100]", "Add a network card"}},
		{"one of two has none", network.Cards{Driven: 1, Undriven: undriven}, []string{"Note: there is no driver", "[10ec:8029] subsystem [1af4:1100]", "not used"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.cards = &c.cards
			// It is said even where the agent cannot begin.
			b.agent.ReadBoot = func() (client.Boot, error) { return client.Boot{}, errors.New("there is no boot configuration") }
			if err := b.run(t, "network-no-driver", c.says[0]); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(b.screen.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, b.screen)
				}
			}
			i := slices.Index(b.events, "network-no-driver")
			if got := b.fields[i]["pci"]; !reflect.DeepEqual(got, []string{"0000:00:03.0 [10ec:8029] subsystem [1af4:1100]"}) || b.fields[i]["driven"] != c.cards.Driven {
				t.Errorf("event's fields are %v", b.fields[i])
			}
		})
	}
}

func TestBootMAC(t *testing.T) {
	for line, want := range map[string]provisioning.MAC{
		"BOOTIF=01-52-54-00-12-34-56":          "52:54:00:12:34:56",
		"quiet BOOTIF=52:54:00:12:34:5A x":     "52:54:00:12:34:5a",
		"BOOTIF=01:52:54:00:12:34:56":          "52:54:00:12:34:56",
		"BOOTIF=525400123456":                  "52:54:00:12:34:56",
		"BOOTIF=20-52-54-00-12-34-56":          "",
		"BOOTIF= BOOTIF=x":                     "",
		"BOOTIF=01-ff-ff-ff-ff-ff-ff":          "",
		"XBOOTIF=01-52-54-00-12-34-56 BOOTIF2": "",
		"":                                     "",
	} {
		root := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(root, "proc"), 0o755), os.WriteFile(filepath.Join(root, "proc/cmdline"), []byte(line+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if got := (Hardware{Root: root}).BootMAC(); got != want {
			t.Errorf("%q: %q", line, got)
		}
	}
	h := Hardware{Root: t.TempDir()}
	if f := h.Facts("52:54:00:12:34:56"); f.UEFI || f.SecureBoot || f.GUID != "" || h.BootMAC() != "" {
		t.Errorf("of nothing: %+v", f)
	}
}

func TestSettledDisks(t *testing.T) {
	one, two := steps.Disk{Path: "/dev/sda", Size: 1}, steps.Disk{Path: "/dev/sdb", Size: 1}
	cd := steps.Disk{Path: "/dev/sr0", Size: 1, CD: true}
	n := 0
	list := func() ([]steps.Disk, error) {
		n++
		switch {
		case n < 10:
			return []steps.Disk{cd}, nil
		case n < 14:
			return []steps.Disk{cd, one}, nil
		}
		return []steps.Disk{cd, one, two}, nil
	}
	wait := func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	got, err := settledDisks(context.Background(), list, wait)
	if err != nil || len(got) != 3 {
		t.Errorf("%v %v: a disk that came late is missing", got, err)
	}
	n = 0
	got, err = settledDisks(context.Background(), func() ([]steps.Disk, error) { n++; return []steps.Disk{cd}, nil }, wait)
	if err != nil || len(got) != 1 || n != diskPatience {
		t.Errorf("%v %v after %d", got, err, n)
	}
}

// told is what the last event of that name says in a field, "" where there was none.
func (b *bench) told(event, field string) string {
	out := ""
	for i, e := range b.events {
		if e == event {
			out = fmt.Sprint(b.fields[i][field])
		}
	}
	return out
}
